//! The cases: what is sent to a proxy, by which name, and what the response has to weigh.

use crate::ports::Door;
use crate::proxies::Proxy;
use crate::requests::Request;

/// How a case loads the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// HTTP/1.1 requests for this path; `close`: a connection for each.
    Http {
        path: &'static str,
        post: bool,
        close: bool,
    },
    /// HTTP/2 requests, in the clear for gRPC, over TLS else: so many streams at a time on each of
    /// so many connections.
    H2 {
        grpc: bool,
        connections: u32,
        streams: u32,
    },
    /// Full TLS 1.3 handshakes, each with one request, so many at a time.
    Handshake { at_once: usize },
    /// Messages of 64 bytes over TCP; the reply is 64 bytes, or 1 MiB.
    Tcp { bulk: bool },
    /// HTTP/1.1 requests that rotate through this many hosts.
    Hosts(usize),
    /// Idle keep-alive connections, this many: resident memory is the figure.
    Idle(usize),
    /// HTTP/1.1 requests at this constant rate per second.
    Rate(u64),
    /// HTTP/1.1 requests at this percentage of what the weaker of HAProxy and nginx can take: the
    /// 99th percentile of the time to a response is the figure.
    Tail { percent: u32 },
    /// HTTP/1.1 requests of which one in `every` is another one; the plain form of `lb` gets the
    /// usual ones alone.
    Mixed {
        usual: Request,
        other: Request,
        every: u64,
    },
    /// Requests as in `h1-64`; the varied form of `lb` has one setting more than the plain one.
    Set(Setting),
}

/// A setting that the requests of a case have no use for, and that should cost them nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setting {
    /// A limit for requests as a whole.
    RequestTimeout,
    /// An access log in a form of one's own, where the plain one writes JSON.
    LogForm,
    /// Another route demands credentials.
    AuthElsewhere,
    /// Responses of other types than the requested one are compressed.
    Compression,
    /// The route is open to the network that the clients come from, and to no other.
    Allow,
}

/// One row of the result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Where the clients connect.
    pub(crate) door: Door,
    /// Whether the plain byte pump is a fair bottom line.
    pub(crate) floor: bool,
    /// The goal, where it is a ratio: to the best of HAProxy and nginx, or of the varied form of
    /// `lb` to the plain one.
    pub(crate) goal: Option<f64>,
}

const fn http(path: &'static str) -> Kind {
    Kind::Http {
        path,
        post: false,
        close: false,
    }
}

const fn h2(grpc: bool, connections: u32, streams: u32) -> Kind {
    Kind::H2 {
        grpc,
        connections,
        streams,
    }
}

const fn case(name: &'static str, kind: Kind, door: Door, floor: bool, goal: Option<f64>) -> Case {
    Case {
        name,
        kind,
        door,
        floor,
        goal,
    }
}

/// A case in which `lb` is compared with itself: one request in `every` is `other`.
const fn mixed(name: &'static str, usual: Request, other: Request, every: u64, goal: f64) -> Case {
    case(
        name,
        Kind::Mixed {
            usual,
            other,
            every,
        },
        Door::Http,
        false,
        Some(goal),
    )
}

/// A case in which `lb` is compared with itself: with this setting and without.
const fn set(name: &'static str, setting: Setting) -> Case {
    case(name, Kind::Set(setting), Door::Http, false, Some(1.05))
}

/// One worker and two under the same constant load: CPU per request.
pub(crate) const WORKERS_CPU: &str = "workers-2";
/// One worker and two under handshakes with an RSA-4096 key, which cost the server many times what
/// they cost the client: what gets done in a second.
pub(crate) const WORKERS_THROUGHPUT: &str = "workers-2-rsa4096";

/// Every case, in the order of the table.
pub(crate) const ALL: &[Case] = &[
    case("h1-64", http("/64"), Door::Http, true, Some(0.75)),
    case("h1-10k", http("/10k"), Door::Http, true, Some(0.75)),
    case("h1-1m", http("/1m"), Door::Http, true, Some(0.77)),
    case(
        "post-10k",
        Kind::Http {
            path: "/post",
            post: true,
            close: false,
        },
        Door::Http,
        true,
        Some(0.75),
    ),
    case(
        "close",
        Kind::Http {
            path: "/64",
            post: false,
            close: true,
        },
        Door::Http,
        false,
        Some(1.0),
    ),
    case("tls-64", http("/64"), Door::TlsEcdsa, false, Some(0.85)),
    case(
        "tls-handshake-ecdsa",
        Kind::Handshake { at_once: 8 },
        Door::TlsEcdsa,
        false,
        None,
    ),
    case(
        "tls-handshake-rsa",
        Kind::Handshake { at_once: 8 },
        Door::TlsRsa,
        false,
        None,
    ),
    case("tls-1m", http("/1m"), Door::TlsEcdsa, false, Some(0.83)),
    case("h2-h1", h2(false, 8, 8), Door::TlsEcdsa, false, Some(1.0)),
    case("h2-1", h2(false, 64, 1), Door::TlsEcdsa, false, Some(1.0)),
    case("grpc", h2(true, 8, 8), Door::Grpc, false, Some(0.9)),
    case("grpc-1", h2(true, 64, 1), Door::Grpc, false, Some(0.9)),
    case(
        "tcp-64",
        Kind::Tcp { bulk: false },
        Door::Tcp,
        true,
        Some(1.0),
    ),
    case(
        "tcp-1m",
        Kind::Tcp { bulk: true },
        Door::Tcp,
        true,
        Some(0.87),
    ),
    case("hosts-1", Kind::Hosts(1), Door::Http, false, None),
    case("hosts-10k", Kind::Hosts(10_000), Door::Http, false, None),
    case("hosts-100k", Kind::Hosts(100_000), Door::Http, false, None),
    case("idle-5000", Kind::Idle(5_000), Door::Http, false, None),
    case(
        "low-2000rps",
        Kind::Rate(2_000),
        Door::Http,
        true,
        Some(1.0),
    ),
    case(
        "p99-80",
        Kind::Tail { percent: 80 },
        Door::Http,
        true,
        Some(1.0),
    ),
    case(WORKERS_CPU, Kind::Rate(8_000), Door::Http, false, None),
    case(
        WORKERS_THROUGHPUT,
        Kind::Handshake { at_once: 64 },
        Door::TlsRsa,
        false,
        None,
    ),
    mixed("mix-404", Request::Get, Request::NoRoute, 50, 1.05),
    mixed("mix-redirect", Request::Get, Request::Redirected, 50, 1.05),
    mixed("mix-auth", Request::Get, Request::Challenged, 50, 1.05),
    mixed("mix-chunked", Request::Get, Request::PutChunked, 50, 1.05),
    set("set-timeout", Setting::RequestTimeout),
    set("set-log", Setting::LogForm),
    set("set-auth", Setting::AuthElsewhere),
    set("set-compression", Setting::Compression),
    set("set-access", Setting::Allow),
    mixed("put-10k", Request::Post, Request::Put, 1, 1.05),
    mixed("put-chunked-10k", Request::Put, Request::PutChunked, 1, 1.2),
];

impl Case {
    /// How many host routes the proxy holds: 0 means one route for every host.
    pub(crate) fn hosts(&self) -> usize {
        if let Kind::Hosts(count) = self.kind {
            count
        } else {
            0
        }
    }

    /// The two forms of `lb` that are compared with each other alone, the plain one first. None
    /// where `lb` is compared with its peers.
    pub(crate) fn pair(&self) -> Option<[Proxy; 2]> {
        match self.kind {
            _ if self.name == WORKERS_CPU || self.name == WORKERS_THROUGHPUT => {
                Some([Proxy::Lb, Proxy::LbTwo])
            }
            Kind::Set(Setting::LogForm) => Some([Proxy::LbLog, Proxy::LbVaried]),
            Kind::Set(_) | Kind::Mixed { .. } => Some([Proxy::Lb, Proxy::LbVaried]),
            _ => None,
        }
    }

    /// Whether the varied form of `lb` stands beside a plain one.
    pub(crate) fn is_varied(&self) -> bool {
        self.pair()
            .is_some_and(|pair| pair.contains(&Proxy::LbVaried))
    }

    /// The case as this proxy gets it: only the varied form gets what is not usual.
    pub(crate) fn asked_of(&self, proxy: Proxy) -> Self {
        match self.kind {
            Kind::Mixed { usual, .. } if proxy != Proxy::LbVaried => Self {
                kind: Kind::Mixed {
                    usual,
                    other: usual,
                    every: 1,
                },
                ..*self
            },
            _ => *self,
        }
    }

    /// What the figure of this case is.
    pub(crate) fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Idle(_) => "MB",
            Kind::Tail { .. } => "ms",
            _ => "µs",
        }
    }
}

/// The name of host number `i`.
pub(crate) fn host(i: usize) -> String {
    format!("h{i}.bench.test")
}
