//! The access log as workers see it: fill in an [`AccessRecord`], hand it to [`AccessLogger::log`].
//!
//! ```text
//! worker ── log(&record) ──> its bounded queue ──> writer thread ──> stdout
//!                            │ full
//!                            └─> dropped and counted
//! ```
//!
//! A worker never waits: when the reader of standard output is slow, lines are lost and
//! `lb_access_log_dropped_total` says how many.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use super::format;
use super::queue::{Queue, Shared};
use super::time::TimeCache;
use crate::catalog::InstanceId;
use crate::catalog::tag::RouteKey;
use crate::config::{AccessFormat, AccessLog};

/// One answered request, or one closed connection. Borrows everything.
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
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// Service that was chosen.
    pub service: Option<&'a str>,
    /// Instance that answered, or was tried last.
    pub instance: Option<&'a InstanceId>,
    /// Its address.
    pub upstream: Option<SocketAddr>,
    /// Attempts made, the first included; 0: none.
    pub attempts: u32,
    /// From the last attempt's start to its first byte.
    pub upstream_duration: Option<Duration>,
    /// Route that matched.
    pub route: Option<&'a RouteKey>,
    /// Class of the failure, when the answer was made here (`no_route`, `connect`, `timeout`, …).
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
    /// Of a connection of TCP. The method is then `TCP`, the target the listener, the host the server name that the client's
    /// TLS asked for, and the status what nginx logs for such a connection: 200, 400, 403, 404 or 502.
    pub tcp: Option<Connection>,
    /// What only a form of one's own tells.
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

/// What only a form of one's own tells of a request. What is not known is empty.
#[derive(Clone, Copy, Debug)]
pub struct More<'a> {
    /// The client's port.
    pub remote_port: u16,
    /// Values of [`AccessFormat::headers`].
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

/// Makes a logger for each worker.
#[derive(Clone, Debug)]
pub struct AccessLoggers {
    /// None: no log.
    on: Option<(format::Form, Arc<Shared>)>,
    connections: bool,
}

impl AccessLoggers {
    /// Loggers into `queues`.
    pub(super) fn new(format: AccessLog, queues: Arc<Shared>) -> Self {
        Self { on: format::Form::of(format).map(|form| (form, queues)), connections: true }
    }

    /// Loggers that log nothing.
    pub(super) fn off() -> Self {
        Self { on: None, connections: false }
    }

    /// The same, with lines for connections of TCP or without.
    #[must_use]
    pub fn with_connections(self, connections: bool) -> Self {
        Self { connections, ..self }
    }

    /// One more, with a queue of its own.
    #[must_use]
    pub fn logger(&self) -> AccessLogger {
        let on = self.on.as_ref().map(|(form, queues)| (form.clone(), Queue::new(queues)));
        AccessLogger { on, connections: self.connections, time: RefCell::default() }
    }
}

/// A worker's handle, with a queue and a time cache of its own.
pub struct AccessLogger {
    on: Option<(format::Form, Queue)>,
    connections: bool,
    time: RefCell<TimeCache>,
}

impl fmt::Debug for AccessLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogger").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

impl AccessLogger {
    /// Whether lines are written at all: lets the caller skip making the record.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Whether lines are written for connections of TCP.
    #[must_use]
    pub fn tells_of_connections(&self) -> bool {
        self.connections && self.is_on()
    }

    /// The form of one's own, if it is one: says what [`AccessRecord::more`] has to hold.
    #[must_use]
    pub fn custom(&self) -> Option<&AccessFormat> {
        self.on.as_ref().and_then(|(form, _)| form.custom())
    }

    /// Writes one line, or drops and counts it when the queue is full. Never waits.
    pub fn log(&self, record: &AccessRecord<'_>) {
        let Some((form, queue)) = &self.on else { return };
        queue.push(|line| form.push(line, record, &mut self.time.borrow_mut()));
    }
}
