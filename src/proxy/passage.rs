//! The record of one TCP connection: what is known of it gathers here, and its line in the access
//! log is written when it is over, however it ends.
//!
//! Where no line is wanted it is empty and costs nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::Version;

use crate::log::{AccessRecord, Connection, More};
use crate::proxy::listener::Listener;
use crate::proxy::tcp::{End, Pumped, Side};
use crate::proxy::worker::Worker;
use crate::table::{Route, Target};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client ended first, in good order.
    ClientClosed,
    /// The instance ended first, in good order.
    InstanceClosed,
    /// The client's connection failed.
    ClientReset,
    /// The instance's connection failed.
    InstanceReset,
    /// No byte went either way for the idle time.
    IdleTimeout,
    /// What still ran at the end of the drain was cut.
    Drain,
    /// The instance left the table.
    InstanceRemoved,
    /// No instance could be connected to.
    ConnectFailed,
    /// No instance of the route may serve.
    NoInstance,
    /// An access rule refused the client.
    AccessDenied,
    /// As many connections at once as the route takes.
    RouteBusy,
    /// No route for the port or the server name.
    NoRoute,
    /// A malformed or unfinished PROXY header.
    ProxyHeader,
    /// No whole ClientHello, or a handshake that failed.
    Tls,
}

impl Ended {
    /// Its word in the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::InstanceClosed => "instance_closed",
            Self::ClientReset => "client_reset",
            Self::InstanceReset => "instance_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::Drain => "drain",
            Self::InstanceRemoved => "instance_removed",
            Self::ConnectFailed => "connect_failed",
            Self::NoInstance => "no_instance",
            Self::AccessDenied => "access_denied",
            Self::RouteBusy => "route_busy",
            Self::NoRoute => "no_route",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
        }
    }

    /// What nginx logs for it (`$status` of its stream module): 200 for every connection whose
    /// bytes were passed on.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::ConnectFailed => 502,
            Self::NoInstance | Self::RouteBusy => 503,
            Self::AccessDenied => 403,
            Self::NoRoute => 404,
            Self::ProxyHeader | Self::Tls => 400,
            _ => 200,
        }
    }

    /// The end of a pump. `drained`: the process was told to cut what still runs.
    #[must_use]
    pub fn of(pumped: &Pumped, drained: bool) -> Self {
        match pumped.end {
            End::Closed if pumped.first == Some(Side::Upstream) => Self::InstanceClosed,
            End::Closed => Self::ClientClosed,
            End::Idle => Self::IdleTimeout,
            End::Stopped if drained => Self::Drain,
            End::Stopped => Self::InstanceRemoved,
            End::ClientFailed(_) => Self::ClientReset,
            End::UpstreamFailed(_) => Self::InstanceReset,
        }
    }
}

/// The record; dropped, it is written.
#[derive(Debug)]
pub struct Passage(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    listener: SocketAddr,
    peer: SocketAddr,
    started: Instant,
    server_name: Option<String>,
    tls: Option<&'static str>,
    route: Option<Arc<Route>>,
    target: Option<Target>,
    attempts: u32,
    bytes: (u64, u64),
    ended: Ended,
}

impl Passage {
    /// Of a connection that was accepted from `peer` just now.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, listener: &Listener, peer: SocketAddr) -> Self {
        let open = || Open {
            worker: Rc::clone(worker),
            listener: listener.config.address,
            peer,
            started: Instant::now(),
            server_name: None,
            tls: None,
            route: None,
            target: None,
            attempts: 0,
            bytes: (0, 0),
            // Until more is known: dropped before its end, it was cut.
            ended: Ended::Drain,
        };
        Self(
            worker
                .access
                .tells_of_connections()
                .then(|| Box::new(open())),
        )
    }

    /// Of a connection that has no record.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    fn note(&mut self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = &mut self.0 {
            change(open);
        }
    }

    /// The client, as a PROXY header names it.
    pub fn comes_from(&mut self, peer: SocketAddr) {
        self.note(|open| open.peer = peer);
    }

    /// The server name of its TLS.
    pub fn set_server_name(&mut self, name: Option<&str>) {
        self.note(|open| open.server_name = name.map(str::to_owned));
    }

    /// Its TLS ends here, in this version.
    pub fn speaks(&mut self, tls: &'static str) {
        self.note(|open| open.tls = Some(tls));
    }

    /// The route that matched.
    pub fn takes(&mut self, route: &Arc<Route>) {
        self.note(|open| open.route = Some(Arc::clone(route)));
    }

    /// The target whose options decide about it.
    pub fn set_service(&mut self, target: &Target) {
        self.note(|open| open.target = Some(target.clone()));
    }

    /// One more attempt goes to `target`.
    pub fn attempt_started(&mut self, target: &Target) {
        self.note(|open| {
            open.attempts += 1;
            open.target = Some(target.clone());
        });
    }

    /// How it ended, as far as is known.
    pub fn ends(&mut self, ended: Ended) {
        self.note(|open| open.ended = ended);
    }

    /// Bytes both ways, and how the connection ended.
    pub fn carried(&mut self, pumped: &Pumped, drained: bool) {
        self.note(|open| {
            open.bytes = (pumped.bytes_in, pumped.bytes_out);
            open.ended = Ended::of(pumped, drained);
        });
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.log();
        }
    }
}

impl Open {
    fn log(&self) {
        let status = self.ended.status();
        let listener = self.listener.to_string();
        let scheme = if self.tls.is_some() { "tls" } else { "tcp" };
        self.worker.access.log(&AccessRecord {
            time: SystemTime::now(),
            remote: self.peer.ip().to_canonical(),
            method: "TCP",
            host: self.server_name.as_deref().unwrap_or_default(),
            uri: &listener,
            version: Version::HTTP_11,
            status,
            bytes_out: self.bytes.1,
            duration: self.started.elapsed(),
            service: self.target.as_ref().map(|target| &**target.service.name()),
            instance: self.target.as_ref().map(|target| &target.state.id),
            upstream: self.target.as_ref().map(|target| target.state.addr),
            attempts: self.attempts,
            upstream_duration: None,
            route: self.route.as_ref().map(|route| &route.key),
            error: (status != 200).then(|| self.ended.word()),
            request_id: None,
            user_agent: None,
            referer: None,
            tls: self.tls,
            grpc_status: None,
            tcp: Some(Connection {
                listener: self.listener,
                bytes_in: self.bytes.0,
                end: self.ended.word(),
            }),
            more: Some(More {
                remote_port: self.peer.port(),
                headers: &[],
                scheme,
                host_sent: "",
                upstream_scheme: if self.target.is_some() { "tcp" } else { "" },
                upstream_uri: "",
            }),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn each_end_has_its_word_and_status() {
        let pumped = |end, first| Pumped {
            bytes_in: 1,
            bytes_out: 2,
            end,
            first,
        };
        for (end, first, drained, word) in [
            (End::Closed, Some(Side::Client), false, "client_closed"),
            (End::Closed, Some(Side::Upstream), false, "instance_closed"),
            (End::Closed, None, false, "client_closed"),
            (End::Idle, None, false, "idle_timeout"),
            (End::Stopped, None, true, "drain"),
            (End::Stopped, None, false, "instance_removed"),
            (
                End::ClientFailed(ErrorKind::ConnectionReset),
                None,
                false,
                "client_reset",
            ),
            (
                End::UpstreamFailed(ErrorKind::ConnectionReset),
                Some(Side::Client),
                false,
                "instance_reset",
            ),
        ] {
            let ended = Ended::of(&pumped(end, first), drained);
            assert_eq!((ended.word(), ended.status()), (word, 200), "{end:?}");
        }
        for (ended, status) in [
            (Ended::ConnectFailed, 502),
            (Ended::NoInstance, 503),
            (Ended::AccessDenied, 403),
            (Ended::RouteBusy, 503),
            (Ended::NoRoute, 404),
            (Ended::Tls, 400),
            (Ended::ProxyHeader, 400),
        ] {
            assert_eq!(ended.status(), status, "{ended:?}");
        }
    }
}
