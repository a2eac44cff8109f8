//! The cases: what is asked of a proxy, by which name, and what the answer has to weigh.

use crate::ports::Door;

/// How a case loads the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// HTTP/1.1 requests for this path; `close`: a connection for each.
    Http { path: &'static str, post: bool, close: bool },
    /// HTTP/2 requests, in the clear for gRPC, over TLS else: so many streams at a time on each of so many connections.
    H2 { grpc: bool, connections: u32, streams: u32 },
    /// Full TLS 1.3 handshakes, each with one request, so many at a time.
    Handshake { at_once: usize },
    /// Messages of 64 bytes over TCP, answered with 64 bytes, or with 1 MiB.
    Tcp { bulk: bool },
    /// HTTP/1.1 requests that rotate through this many hosts.
    Hosts(usize),
    /// Idle keep-alive connections, this many: resident memory is the figure.
    Idle(usize),
    /// HTTP/1.1 requests at this constant rate per second.
    Rate(u64),
    /// HTTP/1.1 requests at this percentage of what the weaker of HAProxy and nginx can take: the 99th percentile of the
    /// time to an answer is the figure.
    Tail { percent: u32 },
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
    /// The goal, as a ratio to the best of HAProxy and nginx, where it is one.
    pub(crate) goal: Option<f64>,
}

const fn http(path: &'static str) -> Kind {
    Kind::Http { path, post: false, close: false }
}

const fn h2(grpc: bool, connections: u32, streams: u32) -> Kind {
    Kind::H2 { grpc, connections, streams }
}

const fn case(name: &'static str, kind: Kind, door: Door, floor: bool, goal: Option<f64>) -> Case {
    Case { name, kind, door, floor, goal }
}

/// One worker and two under the same constant load: CPU per request.
pub(crate) const WORKERS_CPU: &str = "workers-2";
/// One worker and two under handshakes with an RSA-4096 key, which cost the server many times what they cost the client:
/// what gets done in a second.
pub(crate) const WORKERS_THROUGHPUT: &str = "workers-2-rsa4096";

/// Every case, in the order of the table.
pub(crate) const ALL: &[Case] = &[
    case("h1-64", http("/64"), Door::Http, true, Some(0.75)),
    case("h1-10k", http("/10k"), Door::Http, true, Some(0.75)),
    case("h1-1m", http("/1m"), Door::Http, true, Some(0.77)),
    case("post-10k", Kind::Http { path: "/post", post: true, close: false }, Door::Http, true, Some(0.75)),
    case("close", Kind::Http { path: "/64", post: false, close: true }, Door::Http, false, Some(1.0)),
    case("tls-64", http("/64"), Door::TlsEcdsa, false, Some(0.85)),
    case("tls-handshake-ecdsa", Kind::Handshake { at_once: 8 }, Door::TlsEcdsa, false, None),
    case("tls-handshake-rsa", Kind::Handshake { at_once: 8 }, Door::TlsRsa, false, None),
    case("tls-1m", http("/1m"), Door::TlsEcdsa, false, Some(0.83)),
    case("h2-h1", h2(false, 8, 8), Door::TlsEcdsa, false, Some(1.0)),
    case("h2-1", h2(false, 64, 1), Door::TlsEcdsa, false, Some(1.0)),
    case("grpc", h2(true, 8, 8), Door::Grpc, false, Some(0.9)),
    case("grpc-1", h2(true, 64, 1), Door::Grpc, false, Some(0.9)),
    case("tcp-64", Kind::Tcp { bulk: false }, Door::Tcp, true, Some(1.0)),
    case("tcp-1m", Kind::Tcp { bulk: true }, Door::Tcp, true, Some(0.87)),
    case("hosts-1", Kind::Hosts(1), Door::Http, false, None),
    case("hosts-10k", Kind::Hosts(10_000), Door::Http, false, None),
    case("hosts-100k", Kind::Hosts(100_000), Door::Http, false, None),
    case("idle-5000", Kind::Idle(5_000), Door::Http, false, None),
    case("low-2000rps", Kind::Rate(2_000), Door::Http, true, Some(1.0)),
    case("p99-80", Kind::Tail { percent: 80 }, Door::Http, true, Some(1.0)),
    case(WORKERS_CPU, Kind::Rate(8_000), Door::Http, false, None),
    case(WORKERS_THROUGHPUT, Kind::Handshake { at_once: 64 }, Door::TlsRsa, false, None),
];

impl Case {
    /// How many host routes the proxy holds: 0 means one route for every host.
    pub(crate) fn hosts(&self) -> usize {
        if let Kind::Hosts(count) = self.kind { count } else { 0 }
    }

    /// Whether `lb` with one worker stands beside `lb` with two, and nobody else.
    pub(crate) fn is_of_workers(&self) -> bool {
        self.name == WORKERS_CPU || self.name == WORKERS_THROUGHPUT
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
