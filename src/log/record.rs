//! What one line of the access log tells.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Version};

use crate::catalog::InstanceId;
use crate::catalog::tag::RouteKey;

/// One request that got its response, or one closed connection. Borrows everything.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// The client.
    pub remote: IpAddr,
    /// Method as sent.
    pub method: &'a str,
    /// Host as sent.
    pub host: &'a str,
    /// Path and query as sent.
    pub uri: &'a str,
    /// `HTTP/1.1`, `HTTP/2.0`, …
    pub version: http::Version,
    /// Status sent to the client.
    pub status: u16,
    /// Body bytes sent to the client.
    pub bytes_out: u64,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// Service that was chosen.
    pub service: Option<&'a str>,
    /// Instance that responded, or was tried last.
    pub instance: Option<&'a InstanceId>,
    /// Address of that instance.
    pub upstream: Option<SocketAddr>,
    /// Attempts made, the first included; 0: none.
    pub attempts: u32,
    /// From the last attempt's start to its first byte.
    pub upstream_duration: Option<Duration>,
    /// Route that matched.
    pub route: Option<&'a RouteKey>,
    /// Class of the failure, when the response was made here (`no_route`, `connect`, `timeout`, …).
    pub error: Option<&'a str>,
    /// Request id.
    pub request_id: Option<&'a str>,
    /// `User-Agent`, raw.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`, raw.
    pub referer: Option<&'a [u8]>,
    /// TLS version on the client's side (`TLSv1.3`).
    pub tls: Option<&'a str>,
    /// Of a call of gRPC: its own status.
    pub grpc_status: Option<u32>,
    /// Of a connection of TCP. The method is then `TCP`, the target the listener, the host the
    /// server name of the client's TLS handshake, and the status what nginx logs for such a
    /// connection: 200, 400, 403, 404 or 502.
    pub tcp: Option<Connection>,
    /// Fields that only a custom format has.
    pub more: Option<More<'a>>,
}

/// What is known of a connection of TCP alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where it was accepted.
    pub listener: SocketAddr,
    /// Bytes from the client that the instance took.
    pub bytes_in: u64,
    /// How it ended, in a word (`client_closed`, `idle_timeout`, …).
    pub end: &'static str,
}

/// Fields of a request that only a custom format has. What is not known is empty.
#[derive(Clone, Copy, Debug)]
pub struct More<'a> {
    /// The client's port.
    pub remote_port: u16,
    /// Values of [`crate::config::AccessFormat::headers`].
    pub headers: &'a [Option<HeaderValue>],
    /// Scheme of the request.
    pub scheme: &'a str,
    /// The host that the instance was told.
    pub host_sent: &'a str,
    /// Scheme of the request to the instance.
    pub upstream_scheme: &'a str,
    /// Path and query of that.
    pub upstream_uri: &'a str,
}

/// The request target. CONNECT has no path: its target is the authority alone (RFC 9110, 9.3.6).
pub(super) fn target_of<'a>(record: &AccessRecord<'a>) -> &'a str {
    if record.uri.is_empty() && record.method == "CONNECT" {
        record.host
    } else {
        record.uri
    }
}

/// `HTTP/1.1` and its like.
pub(super) fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => b"HTTP/0.9",
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2.0",
        Version::HTTP_3 => b"HTTP/3.0",
        _ => b"HTTP/1.1",
    }
}
