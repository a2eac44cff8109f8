//! What a route tag may say beside its place: the options of one target.

use std::sync::Arc;

use super::ServiceName;
pub use super::access::Access;
use super::matchers::Matchers;
use super::other_services::Mirror;
use super::policies::Policies;
use super::sticky::StickyCookie;

/// Protocol spoken with the upstream (`proto=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proto {
    /// HTTP/1.1 in clear: the default, also for unknown words.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in clear with prior knowledge (`proto=h2c`).
    H2c,
    /// HTTP/2 over TLS (`proto=h2`).
    H2,
    /// gRPC: HTTP/2 in clear.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
    /// Bytes of TCP, not HTTP.
    Tcp,
}

impl Proto {
    /// Whether the upstream connection is encrypted.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2 | Self::Grpcs)
    }

    /// Whether the upstream speaks HTTP/2.
    #[must_use]
    pub fn is_h2(self) -> bool {
        matches!(self, Self::H2c | Self::H2 | Self::Grpc | Self::Grpcs)
    }

    /// Whether its requests are calls of gRPC.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }

    /// URL scheme, as in Fabio's route language.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::H2 => "h2",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::Tcp => "tcp",
        }
    }
}

/// What becomes of the Host header (`host=`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostRewrite {
    /// Sent as received.
    #[default]
    Keep,
    /// `host=dst`: the target's own `address:port`.
    Target,
    /// `host=NAME`: this name, which is also the TLS server name.
    Name(Arc<str>),
}

/// `redirect=CODE,URL`: respond instead of proxying.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// 300 to 399.
    pub code: u16,
    /// Template; may hold `$path` and `$host`.
    pub url: Arc<str>,
}

/// How a route picks among its targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Two at random, the one with fewer requests in flight (per weight).
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// Any of them, at random.
    Random,
    /// The one with the fewest requests in flight (per weight).
    Least,
    /// Two at random, the one with the lower product of latency and load (peak EWMA).
    Ewma,
    /// The same key meets the same target while the set of targets stays.
    Hash(HashKey),
}

/// What consistent hashing looks at (`strategy=hash:…`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// `hash:ip`: the client's address.
    Ip,
    /// `hash:path`: the request path.
    Path,
    /// `hash:header:NAME` (lower-case).
    Header(Arc<str>),
    /// `hash:cookie:NAME`.
    Cookie(Arc<str>),
}

/// Form of the PROXY header that a TCP target gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `pxyproto=true` or `v1`: a line of text.
    V1,
    /// `pxyproto=v2`: binary.
    V2,
}

/// All options of one target. Two instances of one service may differ: during a rolling update the
/// old and the new tags stand side by side, and each instance is served under its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteOptions {
    /// Upstream protocol.
    pub proto: Proto,
    /// Fixed share of the route's traffic, if above 0 (`weight=`).
    pub weight: Option<f64>,
    /// Text cut from the start of the path; without a `/` in front it cuts nothing.
    pub strip: Option<Arc<str>>,
    /// Text put before the path, after stripping; begins with `/`.
    pub prepend: Option<Arc<str>>,
    /// What becomes of the Host header (`host=`).
    pub host: HostRewrite,
    /// Accept any upstream certificate.
    pub tls_skip_verify: bool,
    /// TLS server name for grpcs (`grpcservername=`).
    pub grpc_server_name: Option<Arc<str>>,
    /// Name of the certificate that is shown to the instance (`cert=`).
    pub client_certificate: Option<Arc<str>>,
    /// Respond with a redirect.
    pub redirect: Option<Redirect>,
    /// Which clients may use the route (`allow=`, `deny=`).
    pub access: Access,
    /// Name of an authentication scheme.
    pub auth: Option<Arc<str>>,
    /// Tell a TCP target about its client in a PROXY header (`pxyproto=`).
    pub proxy_protocol: Option<ProxyHeader>,
    /// Extra name to register the balancer under.
    pub register: Option<Arc<str>>,
    /// Strategy of its own for this route (`strategy=`); the first target that names one decides.
    pub strategy: Option<Strategy>,
    /// What the route wants of a request beside its place.
    pub matchers: Option<Arc<Matchers>>,
    /// Limits, and what else is done to its requests.
    pub policies: Option<Arc<Policies>>,
    /// Name of a policy of the configuration (`policy=`).
    pub policy: Option<Arc<str>>,
    /// A cookie keeps a client with its instance (`sticky=`).
    pub sticky: Option<StickyCookie>,
    /// The service that serves while no instance of the route may (`fallback=`).
    pub fallback: Option<ServiceName>,
    /// The service that gets copies of requests (`mirror=`).
    pub mirror: Option<Mirror>,
    /// Every option as written, in order, known or not: what the API shows and what plain tags
    /// carry.
    pub raw: Vec<(Arc<str>, Arc<str>)>,
    /// Whether `proto` and `weight` among them are shown as options: those of a command, where they
    /// stand beside a destination and a weight.
    pub shown_whole: bool,
}
