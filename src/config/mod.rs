//! The configuration, valid by construction: whatever got past [`load`] needs no second check.
//!
//! ```text
//! file ──► file ─┐                         ┌─► Config (this file)
//! environment ─► overlay ─► Settings ─► build
//! flags ───────┘   (raw: as written)       └─► ConfigErrors, all of them
//! ```
//! A section is declared in a file of its own (`drain.rs`, `proxy.rs`, …) by `section!`; [`keys`]
//! puts the declarations together. Whether files that are named here exist and fit is the business
//! of [`crate::check`].

pub(crate) mod error;
pub mod keys;
pub(crate) mod prefix_template;

mod access_format;
mod acme;
mod acme_reader;
mod admin;
mod auth;
mod auth_jwt;
mod build;
mod certificates;
mod compression;
mod consul;
pub(crate) mod declare;
mod defaults;
mod dns;
mod drain;
pub(crate) mod file;
mod fleet;
mod health;
pub(crate) mod key;
mod level;
mod listener;
mod load;
mod log;
mod mask;
mod metrics;
mod moved;
mod networks;
mod nomad;
mod overlay;
mod policy;
mod policy_parts;
mod ports;
mod proxy;
pub(crate) mod raw;
pub(crate) mod reader;
mod register;
mod reload;
mod retry;
mod routes_http;
mod routing;
pub(crate) mod schema;
mod secret;
pub(crate) mod sections;
mod show;
mod slot;
mod static_route;
mod static_routes;
pub(crate) mod syntax;
mod tags;
pub(crate) mod template;
mod tls;
mod typed;
mod url;
pub(crate) mod value;
mod vault;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;

use declare::{Checked, section};

use std::sync::Arc;

use crate::catalog::error_pages::ErrorPages;
use crate::catalog::static_route::StaticRoute;

pub use crate::catalog::duration::{format_duration, parse_duration};
pub use access_format::{ACCESS_FIELDS, AccessField, AccessFormat, AccessFormatError, AccessItem};
pub use acme::{AcmeChallenge, AcmeConfig, AcmeStore, AcmeStoreKind, hmac_key};
pub use admin::{ADMIN_COLORS, AdminConfig, AdminHome, SourceLinks, is_host};
pub use auth::{AuthConfig, AuthKind, AuthType, ExternalAuth};
pub use auth_jwt::{JwtAuth, JwtKeys, SigningAlgorithm};
pub use certificates::{
    CertificateConfig, CertificateKind, CertificateSource, ClientAuth, ConsulKeys, TokenPlace,
};
pub use compression::{Coding, CompressionConfig, ContentTypes};
pub use consul::ConsulConfig;
pub use dns::DnsConfig;
pub use drain::DrainConfig;
pub use error::{ConfigError, ConfigErrors, Location, nearest};
pub use fleet::FleetConfig;
pub use health::HealthSettings;
pub use listener::{ListenerConfig, ListenerProtocol, overlap};
pub use load::{Draft, Inputs, Loaded, draft, load, read, read_draft};
pub use log::{AccessLog, LogConfig, LogFormat, WantedFormat};
pub use metrics::{MetricsConfig, StandardOutput};
pub use networks::Networks;
pub use nomad::{NomadAddress, NomadConfig};
pub use overlay::consul_variable;
pub use policy::PolicyConfig;
pub use ports::Ports;
pub use prefix_template::PrefixTemplate;
pub use proxy::{ClientAddress, ForwardedHost, ProxyConfig, UpstreamErrors};
pub use raw::{Placed, RawValue};
pub use register::RegisterConfig;
pub use retry::RetryConfig;
pub use routes_http::RoutesHttpConfig;
pub use routing::{AcceptedStatus, ChecksRequired, NodeChecks, RoutingConfig};
pub use secret::Secret;
pub use static_route::StaticRouteConfig;
pub use tags::TagsConfig;
pub use template::template;
pub use tls::{TLS_CIPHERS, TlsLimits, TlsVersion};
pub use typed::{list_items, parse_bool};
pub use value::{Headers, Urls};
pub use vault::VaultConfig;

section! {
    /// Everything a running `lb` needs to know: the keys at the top of the file, and all sections.
    pub struct Config is Top "" {
        /// A file in Fabio's route language (`route add SERVICE PLACE URL ...`), read again
        /// whenever it changes. A source of its own beside Consul and [[static.route]].
        routes_file: Option<PathBuf> = unset "routes.txt" [restart];

        /// The same as text, a command on each line. They act after those of [[static.route]].
        routes: String = unset "route add web www.example.com/ http://10.0.0.5:8080/";

        /// Listen also where another lb of the same user listens already, to relieve it without a
        /// closed port. The kernel deals connections out to both until the other one is stopped,
        /// and both say so. Without it an address in use is an error. Meant for a flag
        /// (--take-over) or the environment (LB_TAKE_OVER=1).
        take_over: bool = "false";
    } and {
        /// `[consul]`; none when the section and every `CONSUL_*` variable are absent and static
        /// sources are given.
        consul: Option<ConsulConfig>;
        /// `[nomad]`; none when neither the section nor one of its keys is given.
        nomad: Option<NomadConfig>;
        /// `[[static.route]]`.
        static_routes: Vec<StaticRoute>;
        /// `[routes_http]`.
        routes_http: Option<RoutesHttpConfig>;
        /// `[routing]`.
        routing: RoutingConfig;
        /// `[tags]`.
        tags: TagsConfig;
        /// `[dns]`.
        dns: DnsConfig;
        /// `[[listener]]`; at least one.
        listeners: Vec<ListenerConfig>;
        /// `[certificates.NAME]`.
        certificates: BTreeMap<String, CertificateConfig>;
        /// `[auth.NAME]`.
        auth: BTreeMap<String, AuthConfig>;
        /// `[policy.NAME]`.
        policies: BTreeMap<String, PolicyConfig>;
        /// `[vault]`.
        vault: VaultConfig;
        /// `[proxy]` and `[retry]`.
        proxy: ProxyConfig;
        /// `[proxy.compression]`.
        compression: CompressionConfig;
        /// `[health]`.
        health: HealthSettings;
        /// `[admin]`.
        admin: AdminConfig;
        /// `[metrics]`.
        metrics: MetricsConfig;
        /// `[drain]`.
        drain: DrainConfig;
        /// `[fleet]`.
        fleet: FleetConfig;
        /// `[log]`.
        log: LogConfig;
    }
}

impl Checked for Config {}

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

    /// The pages of all policies that have some.
    pub fn error_pages(&self) -> impl Iterator<Item = &Arc<ErrorPages>> {
        let policies = self.policies.values().map(|policy| &policy.policies);
        policies.filter_map(|policies| policies.error_pages.as_ref())
    }

    /// The service whose healthy instances share the limits, if they do.
    #[must_use]
    pub fn fleet_service(&self) -> Option<&str> {
        let own = &self.register()?.name;
        let name = self.fleet.name.as_ref().unwrap_or(own);
        self.fleet.share_limits.then_some(name)
    }

    /// How lb registers itself, where there is something to register it in.
    #[must_use]
    pub fn register(&self) -> Option<&RegisterConfig> {
        self.consul.as_ref().map(|consul| &consul.register)
    }
}
