//! The configuration, valid by construction: whatever got past [`load`] needs no second check.
//!
//! ```text
//! file ──► file ─┐                         ┌─► Config (this file)
//! environment ─► overlay ─► Settings ─► build
//! flags ───────┘   (raw: as written)       └─► Mistakes, all of them
//! ```
//! [`keys`] is the one table behind all of it. Whether files that are named here exist and fit is
//! the business of [`crate::check`].

pub mod duration;
pub mod keys;
pub mod mistake;

mod access_format;
mod admin;
mod agents;
mod auth;
mod build;
mod compression;
mod defaults;
mod file;
mod level;
mod listeners;
mod load;
mod metrics;
mod moved;
mod overlay;
mod ports;
mod raw;
mod reader;
mod reload;
mod routes_http;
mod routing;
mod secret;
mod show;
mod sources;
mod static_routes;
mod template;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::options::Strategy;
use crate::catalog::static_route::StaticRoute;
use crate::table::Matcher;
use crate::table::health::HealthConfig;

pub use access_format::{ACCESS_FIELDS, AccessField, AccessFormat, AccessFormatError, AccessItem};
pub use admin::is_host;
pub use auth::{AuthConfig, AuthKind, ExternalAuth};
pub use compression::{Coding, CompressionConfig, ContentTypes};
pub use duration::{format_duration, parse_duration};
pub use listeners::overlap;
pub use load::{Draft, Inputs, Loaded, draft, load, read, read_draft};
pub use metrics::{MetricsConfig, PrefixTemplate};
pub use mistake::{Mistake, Mistakes, Place, nearest};
pub use overlay::consul_variable;
pub use ports::Ports;
pub use routes_http::RoutesHttpConfig;
pub use routing::RoutingConfig;
pub use secret::Secret;
pub use sources::{CertificateConfig, CertificateSource, ConsulKeys, TokenPlace, VaultConfig};
pub use template::template;

/// Everything a running `lb` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[consul]`; none when the section and every `CONSUL_*` variable are absent and static
    /// sources are given.
    pub consul: Option<ConsulConfig>,
    /// `[[static.route]]`.
    pub static_routes: Vec<StaticRoute>,
    /// `routes_file`.
    pub routes_file: Option<PathBuf>,
    /// `routes`: commands in Fabio's route language, one a line; empty without any.
    pub routes: String,
    /// Addresses may be shared with other processes (`take_over`).
    pub take_over: bool,
    /// `[routes_http]`.
    pub routes_http: Option<RoutesHttpConfig>,
    /// `[routing]`.
    pub routing: RoutingConfig,
    /// `[dns]`.
    pub dns: DnsConfig,
    /// `[[listener]]`; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// `[certificates.NAME]`.
    pub certificates: BTreeMap<String, CertificateConfig>,
    /// `[auth.NAME]`.
    pub auth: BTreeMap<String, AuthConfig>,
    /// `[vault]`.
    pub vault: VaultConfig,
    /// `[proxy]` and `[retry]`.
    pub proxy: ProxyConfig,
    /// `[proxy.compression]`.
    pub compression: CompressionConfig,
    /// `[health]`.
    pub health: HealthConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// `[log]`.
    pub log: LogConfig,
}

impl Config {
    /// Whether there are routes in the configuration itself.
    #[must_use]
    pub fn has_static_source(&self) -> bool {
        !self.static_routes.is_empty() || !self.routes.is_empty()
    }

    /// What `$DC` in a tag stands for, where the configuration says it.
    #[must_use]
    pub fn datacenter(&self) -> Option<&str> {
        self.consul.as_ref()?.datacenter.as_deref()
    }

    /// How lb registers itself, where there is something to register it in.
    #[must_use]
    pub fn register(&self) -> Option<&RegisterConfig> {
        self.consul.as_ref().map(|consul| &consul.register)
    }
}

/// How to reach Consul and what to read there.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulConfig {
    /// Agents, tried in order: `http://`, `https://` or `unix://` URLs (`consul.address`,
    /// comma-separated).
    pub addresses: Vec<String>,
    /// PEM bundle of CAs (`ca_file`).
    pub ca_file: Option<PathBuf>,
    /// The same, written in the configuration itself (`ca_pem`).
    pub ca_pem: Option<String>,
    /// Directory of PEM bundles (`ca_path`).
    pub ca_path: Option<PathBuf>,
    /// Client certificate (`cert_file`).
    pub cert_file: Option<PathBuf>,
    /// Client certificate, written in the configuration itself (`cert_pem`).
    pub cert_pem: Option<String>,
    /// Its key (`key_file`).
    pub key_file: Option<PathBuf>,
    /// Its key, written in the configuration itself (`key_pem`).
    pub key_pem: Option<String>,
    /// Name to verify instead of the address's host (`server_name`).
    pub server_name: Option<String>,
    /// Accept any server certificate (`skip_verify`).
    pub skip_verify: bool,
    /// `USER:PASSWORD` for HTTP basic authentication (`http_auth`).
    pub http_auth: Option<String>,
    /// ACL token (`token`).
    pub token: Option<String>,
    /// File that holds it, read again at every reload (`token_file`).
    pub token_file: Option<PathBuf>,
    /// Enterprise namespace (`namespace`).
    pub namespace: Option<String>,
    /// Enterprise partition (`partition`).
    pub partition: Option<String>,
    /// Datacenter to read; the agent's own when absent (`datacenter`).
    pub datacenter: Option<String>,
    /// Where the KV store holds route commands: a prefix of keys, without a slash at its begin
    /// (`kv_path`).
    pub kv_path: Option<String>,
    /// Where the KV store holds the page for requests without a route: a prefix of keys, without a
    /// slash at its begin (`no_route_kv_path`).
    pub no_route_kv_path: Option<String>,
    /// Stale reads (`stale`).
    pub stale: bool,
    /// Oldest stale answer taken without a second read (`max_stale`).
    pub max_stale: Duration,
    /// How long a blocking query may wait (`wait`).
    pub wait: Duration,
    /// Everything is read again unconditionally this often, jittered (`resync`).
    pub resync: Duration,
    /// Share of all instances (percent) that may vanish in one answer before it is read twice
    /// (`confirm_percent`).
    pub confirm_percent: u32,
    /// Most connections kept to an agent (`max_connections`).
    pub max_connections: usize,
    /// `[consul.register]`.
    pub register: RegisterConfig,
}

/// How `lb` registers itself in Consul.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterConfig {
    /// Under its name (`enabled`).
    pub enabled: bool,
    /// Under every name of a `register=` option of a route (`aliases`).
    pub aliases: bool,
    /// The name (`name`).
    pub name: String,
    /// Address of the admin listener as others reach it; none: as it is bound (`address`).
    pub address: Option<SocketAddr>,
    /// Tags (`tags`).
    pub tags: Vec<String>,
    /// How often the agent checks (`check_interval`).
    pub check_interval: Duration,
    /// Limit for a check (`check_timeout`).
    pub check_timeout: Duration,
    /// Checks accept any certificate (`check_skip_verify`).
    pub check_skip_verify: bool,
}

impl ConsulConfig {
    /// Whether there is a client certificate to be shown, whichever way it is given.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || self.cert_pem.is_some()
    }

    /// Whether what is read lies in a namespace or partition other than the default one, which
    /// holds the service `consul`.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        let other = |name: &Option<String>| {
            name.as_deref()
                .is_some_and(|name| !matches!(name, "" | "default"))
        };
        other(&self.namespace) || other(&self.partition)
    }
}

/// Resolving of names in static sources and in registrations.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsConfig {
    /// Servers `ip:port`; the system's when empty (`servers`).
    pub servers: Vec<SocketAddr>,
    /// Lower bound of a TTL (`min_ttl`).
    pub min_ttl: Duration,
    /// Upper bound of a TTL (`max_ttl`).
    pub max_ttl: Duration,
    /// Limit for one query (`timeout`).
    pub timeout: Duration,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Http,
    /// The same over TLS, HTTP/2 by ALPN.
    Https,
    /// Bytes; route by port. TLS is ended here when the listener names certificates.
    Tcp,
    /// gRPC in clear: as `http`.
    Grpc,
    /// gRPC over TLS: as `https`.
    Grpcs,
    /// TLS, passed on by its server name as it came.
    TcpSni,
    /// The same for names whose routes are TCP; all others are served as `https`.
    HttpsTcpSni,
    /// `tcp` on each port that a route of the catalog names.
    TcpDynamic,
    /// Metrics, and nothing else.
    Prometheus,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// What to speak.
    pub protocol: ListenerProtocol,
    /// Which `[certificates.NAME]`.
    pub certificates: Option<String>,
    /// Accept PROXY v1 and v2 in front (`proxy_protocol`).
    pub proxy_protocol: bool,
    /// How long to wait for the PROXY header (`proxy_protocol_timeout`).
    pub proxy_protocol_timeout: Duration,
    /// Refuse a handshake for a name without certificate instead of showing the first
    /// (`strict_sni`).
    pub strict_sni: bool,
    /// What handshakes may choose (`tls_min`, `tls_max`, `tls_ciphers`).
    pub tls: TlsLimits,
    /// In place of `proxy.header_timeout` (`header_timeout`).
    pub header_timeout: Option<Duration>,
    /// In place of `proxy.idle_timeout`, or of `proxy.tcp_idle_timeout` (`idle_timeout`).
    pub idle_timeout: Option<Duration>,
    /// In place of `proxy.body_timeout` (`body_timeout`).
    pub body_timeout: Option<Duration>,
    /// In place of `proxy.request_timeout` (`request_timeout`).
    pub request_timeout: Option<Duration>,
    /// What a `tcp-dynamic` listener may open (`ports`).
    pub ports: Ports,
    /// How often it looks (`refresh`).
    pub refresh: Duration,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// What handshakes of a listener may choose. One cipher suite at least fits one of the versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Lowest version.
    pub min: TlsVersion,
    /// Highest version.
    pub max: TlsVersion,
    /// Numbers of the cipher suites (IANA), in order; empty: all.
    pub ciphers: std::sync::Arc<[u16]>,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
            ciphers: std::sync::Arc::default(),
        }
    }
}

/// Rules of the data path.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Worker threads; 0: one per core (`workers`).
    pub workers: usize,
    /// Default strategy (`strategy`).
    pub strategy: Strategy,
    /// Path matcher (`matcher`).
    pub matcher: Matcher,
    /// Status when no route matches (`no_route_status`).
    pub no_route_status: u16,
    /// Page sent with it (`no_route_page`).
    pub no_route_page: Option<PathBuf>,
    /// The page itself, where no file is named (`no_route_html`); may be empty.
    pub no_route_html: String,
    /// `Retry-After` of a 503 for a route without healthy instance (`retry_after`).
    pub retry_after: Duration,
    /// Answers for upstreams that cannot be used are Fabio's (`upstream_errors = "bare"`).
    pub bare_errors: bool,
    /// A route whose instances are all out counts as not there (`fall_through`).
    pub fall_through: bool,
    /// Hosts of routes are patterns (`host_patterns`).
    pub host_patterns: bool,
    /// Instances get paths without `//`, as routes are compared with them (`merge_slashes`).
    pub merge_slashes: bool,
    /// X-Forwarded-Host and -Port tell the host that the upstream gets, not the client's
    /// (`forwarded_host = "sent"`).
    pub forwarded_host_sent: bool,
    /// Address for `by=` in Forwarded (`local_ip`).
    pub local_ip: Option<String>,
    /// Header that gets the client address (`client_ip_header`).
    pub client_ip_header: Option<http::HeaderName>,
    /// Header that gets a fresh id each request (`request_id_header`).
    pub request_id_header: Option<http::HeaderName>,
    /// Header set on TLS listeners and removed on plain ones (`tls_header`).
    pub tls_header: Option<http::HeaderName>,
    /// Its value (`tls_header_value`).
    pub tls_header_value: String,
    /// `max-age` of Strict-Transport-Security in seconds; 0: none (`sts_max_age`).
    pub sts_max_age: u64,
    /// `includeSubdomains` (`sts_subdomains`).
    pub sts_subdomains: bool,
    /// `preload` (`sts_preload`).
    pub sts_preload: bool,
    /// PEM bundle of CAs for TLS upstreams; the system's when absent (`upstream_ca_file`).
    pub upstream_ca_file: Option<PathBuf>,
    /// Limit for a client's request head (`header_timeout`): 408 or closed after it.
    pub header_timeout: Duration,
    /// How long an idle client connection is kept (`idle_timeout`).
    pub idle_timeout: Duration,
    /// How long a client may pause inside a request body, or while not reading an answer
    /// (`body_timeout`).
    pub body_timeout: Duration,
    /// Largest request head in bytes (`max_header_bytes`): 431 above it.
    pub max_header_bytes: usize,
    /// Most header fields of a request (`max_headers`): 431 above it.
    pub max_headers: usize,
    /// Most concurrent streams of an HTTP/2 client connection (`max_streams`).
    pub max_streams: u32,
    /// Most client connections per worker; more wait in the kernel's queue (`max_connections`).
    pub max_connections: usize,
    /// Limit to connect to an upstream, TLS included (`connect_timeout`).
    pub connect_timeout: Duration,
    /// Limit from the request to the first byte of the answer (`response_timeout`): 504 after it.
    pub response_timeout: Duration,
    /// How long an instance may pause inside an answer (`response_idle_timeout`); zero: without
    /// end.
    pub response_idle_timeout: Duration,
    /// Limit from the request's head to the end of the answer (`request_timeout`); zero: none.
    pub request_timeout: Duration,
    /// When a GET or HEAD has no first byte after this, another instance is asked too
    /// (`try_timeout`); zero: never.
    pub try_timeout: Duration,
    /// How long an idle upstream connection is kept (`upstream_idle_timeout`): below the common 5 s
    /// of applications.
    pub upstream_idle_timeout: Duration,
    /// Most idle upstream connections per instance and worker (`upstream_max_idle`).
    pub upstream_max_idle: usize,
    /// TCP keep-alive of upstream connections (`keepalive`); zero: the system's.
    pub keepalive: Duration,
    /// TCP: closed after this time without a byte either way; zero: never (`tcp_idle_timeout`).
    pub tcp_idle_timeout: Duration,
    /// TCP and upgraded connections whose instance left the table are cut after this time
    /// (`removed_grace`); zero: kept.
    pub removed_grace: Duration,
    /// Most attempts for one request, the first included (`retry.attempts`).
    pub retry_attempts: u32,
    /// Retries (but for failed connects) as a share of recent requests, in percent
    /// (`retry.budget_percent`).
    pub retry_budget_percent: u32,
    /// Retries per second and worker that the budget always grants (`retry.budget_min`).
    pub retry_budget_min: u32,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Where it listens (`address`).
    pub address: SocketAddr,
    /// Which of the certificates; none: plain HTTP (`certificates`).
    pub certificates: Option<String>,
    /// Refuse a handshake for a name without certificate (`strict_sni`).
    pub strict_sni: bool,
    /// Versions and cipher suites (`tls_min`, `tls_max`, `tls_ciphers`).
    pub tls: TlsLimits,
    /// Route commands in the KV store may be changed there (`writable`).
    pub writable: bool,
    /// What its paths begin with: empty, or `/…` without a slash at the end (`path`).
    pub path: String,
    /// The page at its root (`home`).
    pub home: AdminHome,
    /// Shown on its pages; may be empty (`title`).
    pub title: String,
    /// One of [`keys::ADMIN_COLORS`] (`color`).
    pub color: Option<String>,
    /// Names under which it may be asked, beside addresses, `localhost` and the machine's name
    /// (`hosts`).
    pub hosts: Vec<String>,
    /// Places of routes as links (`link_…`).
    pub links: SourceLinks,
}

/// A page of the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminHome {
    /// Services, their instances, and routes.
    Overview,
    /// The routing table, as Fabio shows it.
    Routes,
}

/// How the places of routes become links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLinks {
    /// Whether they do (`link_sources`).
    pub enabled: bool,
    /// They open a new tab (`link_new_tab`).
    pub new_tab: bool,
    /// `http` or `https` (`link_scheme`).
    pub scheme: String,
    /// Host for routes that have none; else the one of the request for the page (`link_host`).
    pub host: Option<String>,
    /// Port for those (`link_port`).
    pub port: Option<u16>,
}

/// What happens on SIGTERM.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainConfig {
    /// Readiness fails, traffic is still served (`grace`).
    pub grace: Duration,
    /// Then what runs may finish, at most this long (`timeout`).
    pub timeout: Duration,
}

/// Access log format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Apache's common format.
    Common,
    /// Apache's combined format.
    Combined,
    /// One JSON object a line.
    Json,
    /// A form of one's own.
    Custom(std::sync::Arc<AccessFormat>),
}

/// Program format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, on a terminal.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Filter in the usual directive form: `info`, `info,lb::sources=debug` (`level`).
    pub level: String,
    /// Form (`format`).
    pub format: LogFormat,
    /// Access log (`access`), on standard output.
    pub access: AccessLog,
    /// With lines for TCP connections (`access_tcp`).
    pub access_tcp: bool,
}
