//! Opening a connection to an instance, under a deadline, with TLS when the route says so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::metrics::service::ConnectResult;
use crate::proxy::settings::Settings;
use crate::proxy::splice::Stream;
use crate::proxy::tls::upstream::{Inside, server_name};
use crate::system::lack::{is_exhaustion, is_reserved, none_left};
use crate::table::Target;

/// A connection to an instance.
#[derive(Debug)]
pub enum UpstreamStream {
    /// In clear.
    Plain(TcpStream),
    /// Encrypted. Boxed: TLS state is large, and most upstreams inside a data centre are plain.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused, reset, unreachable.
    #[error("connect: {0}")]
    Io(io::Error),
    /// Nothing was sent to the instance, because this process or machine has no descriptor, port or
    /// memory left.
    #[error("connect: {0}; descriptors, ports or memory are short on this side")]
    Exhausted(io::Error),
    /// Not within `proxy.connect_timeout`.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// Meanwhile the instance left the table, or its connections were lost together: another
    /// process may listen there.
    #[error("the instance went away while it was connected to")]
    Gone,
    /// There is no certificate to show, or none by this name.
    #[error("TLS: there is no certificate `{0}` to show to the instance")]
    Certificate(String),
    /// The name to verify is not a DNS name or address.
    #[error("TLS server name `{0}` is neither a DNS name nor an address")]
    ServerName(String),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        if is_exhaustion(&error) {
            Self::Exhausted(error)
        } else {
            Self::Io(error)
        }
    }
}

impl ConnectError {
    /// Whether the lack is on this side.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        matches!(self, Self::Exhausted(_))
    }

    /// Whether it is ports that are lacking: towards this address alone.
    #[must_use]
    pub fn lacks_ports(&self) -> bool {
        matches!(self, Self::Exhausted(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
    }

    /// Whether it came so far that TLS was spoken, or not, and we did not go on: a certificate that
    /// is not accepted.
    #[must_use]
    pub fn is_refusal_of_ours(&self) -> bool {
        match self {
            Self::Tls(error) => error.kind() == io::ErrorKind::InvalidData,
            Self::ServerName(_) | Self::Certificate(_) => true,
            Self::Io(_) | Self::Exhausted(_) | Self::Timeout(_) | Self::Gone => false,
        }
    }

    /// Whether it speaks against the instance.
    #[must_use]
    pub fn blames_instance(&self) -> bool {
        !matches!(self, Self::Gone | Self::Exhausted(_) | Self::Certificate(_))
    }

    /// For the connects metric.
    #[must_use]
    pub fn result(&self) -> ConnectResult {
        match self {
            Self::Io(_) => ConnectResult::Refused,
            Self::Exhausted(_) => ConnectResult::Exhausted,
            // It was connected to.
            Self::Gone => ConnectResult::Ok,
            Self::Timeout(_) => ConnectResult::Timeout,
            Self::Tls(_) | Self::ServerName(_) | Self::Certificate(_) => ConnectResult::Tls,
        }
    }
}

/// Connects to `target`. Counts the attempt in the service's metrics.
///
/// # Errors
/// Every failure, the deadline included; no request byte has been sent then, so another instance
/// may be tried.
pub async fn connect(target: &Target, settings: &Settings) -> Result<UpstreamStream, ConnectError> {
    connect_with(target, settings, dial(target, settings)).await
}

/// The same in clear whatever the route says: for a client's own TLS, which is passed on as it
/// came.
///
/// # Errors
/// As [`connect`].
pub async fn connect_plain(
    target: &Target,
    settings: &Settings,
) -> Result<UpstreamStream, ConnectError> {
    let dial = async { Ok(UpstreamStream::Plain(dial_tcp(target, settings).await?)) };
    connect_with(target, settings, dial).await
}

async fn connect_with(
    target: &Target,
    settings: &Settings,
    dial: impl Future<Output = Result<UpstreamStream, ConnectError>>,
) -> Result<UpstreamStream, ConnectError> {
    let limit = settings.proxy.connect_timeout;
    let before = target.state.presence();
    let result = match tokio::time::timeout(limit, dial).await {
        Ok(Ok(_)) if target.state.presence() != before => Err(ConnectError::Gone),
        Ok(result) => result,
        Err(_elapsed) => Err(ConnectError::Timeout(limit)),
    };
    target.service.record_connect(match &result {
        Ok(_) => ConnectResult::Ok,
        Err(error) => error.result(),
    });
    result
}

async fn dial_tcp(target: &Target, settings: &Settings) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(target.state.addr).await?;
    if is_reserved(&stream) {
        return Err(none_left().into());
    }
    stream.set_nodelay(true)?;
    let keepalive = settings.proxy.keepalive;
    if !keepalive.is_zero() {
        SockRef::from(&stream).set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(keepalive)
                .with_interval(keepalive),
        )?;
    }
    Ok(stream)
}

async fn dial(target: &Target, settings: &Settings) -> Result<UpstreamStream, ConnectError> {
    let options = &*target.options;
    let upstream_tls = match &options.client_certificate {
        Some(name) if options.proto.is_tls() => settings
            .client_certificates
            .tls(name, &settings.upstream_tls)
            .ok_or_else(|| ConnectError::Certificate(name.to_string()))?,
        _ => &settings.upstream_tls,
    };
    let stream = dial_tcp(target, settings).await?;
    if !options.proto.is_tls() {
        return Ok(UpstreamStream::Plain(stream));
    }
    let name = server_name(target)
        .ok_or_else(|| ConnectError::ServerName(format!("{:?}", options.host)))?;
    let inside = if options.proto.is_h2() {
        Inside::Http2
    } else {
        Inside::Http1
    };
    let config = Arc::clone(upstream_tls.config(options.tls_skip_verify, inside));
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(ConnectError::Tls)?;
    Ok(UpstreamStream::Tls(Box::new(stream)))
}

impl UpstreamStream {
    /// Waits until the socket below can be read, without reading. What TLS has decrypted already
    /// does not count: read until that is pending first.
    ///
    /// # Errors
    /// Those of the runtime.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_read_ready(cx)
    }

    /// The TCP socket, below TLS if there is any.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether nothing has come on an idle connection. Anything that came is its end, or not a
    /// response to any request.
    ///
    /// `surely` costs a system call and sees what the event loop has not seen yet.
    #[must_use]
    pub fn is_quiet(&mut self, surely: bool) -> bool {
        let nothing = |result: io::Result<usize>| matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if surely
            && !nothing(SockRef::from(self.socket()).peek(&mut [std::mem::MaybeUninit::uninit()]))
        {
            return false;
        }
        match self {
            // Costs nothing while the event loop knows of nothing.
            Self::Plain(stream) => nothing(stream.try_read(&mut [0])),
            // What is decrypted already, its end included, no socket tells of.
            Self::Tls(stream) => {
                let (mut byte, mut cx) = ([0], Context::from_waker(std::task::Waker::noop()));
                Pin::new(stream)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
        }
    }
}

impl Stream for UpstreamStream {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_this_side_lacks_is_told_from_what_the_instance_did() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::ADDRNOTAVAIL,
            Errno::NOBUFS,
            Errno::NOMEM,
        ] {
            let error = ConnectError::from(io::Error::from(errno));
            assert_eq!(error.result(), ConnectResult::Exhausted, "{error}");
            assert!(
                error.is_exhaustion() && error.to_string().contains("on this side"),
                "{error}"
            );
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::TIMEDOUT,
        ] {
            let error = ConnectError::from(io::Error::from(errno));
            assert_eq!(
                (error.result(), error.is_exhaustion()),
                (ConnectResult::Refused, false),
                "{error}"
            );
        }
        assert!(!ConnectError::from(io::Error::other("HTTP/2 preface")).is_exhaustion());
    }
}
