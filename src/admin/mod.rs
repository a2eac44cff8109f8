//! The admin listener: what `lb` knows, over HTTP/1.1.
//!
//! ```text
//! server (sockets, limits) ── route_path (path → what) ── router (→ response) ┬─ metrics::exposition
//!                                                                            ├─ routes, services, explain (JSON)
//!                                                                            ├─ page, routes_page (HTML)
//!                                                                            └─ overrides (JSON, HTML; writes)
//! scrape (the listener for scrapers: the same sockets, /metrics alone)
//! client (the other end: `lb routes`, `lb explain`)
//! ```
//!
//! It runs on the control thread, reads the published table, and reaches the control loop through
//! one small trait, so that it knows neither sources nor workers. No request changes anything but
//! the route commands in a store, through another trait, where the configuration allows that.

mod body;
mod certificates;
mod changes;
pub mod client;
mod events;
mod explain;
mod held;
mod host;
mod html;
mod http;
mod overrides;
mod page;
mod query;
mod response;
mod route_path;
mod router;
mod routes;
mod routes_page;
mod scrape;
mod seats;
mod server;
mod services;
mod site;
mod sources;
mod summary;
mod tabular;
mod transfer;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use prometheus::Registry;
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::config::AdminConfig;
use crate::control::{ControlHandle, Readiness, RejectedPlace, ServiceStatus};
use crate::metrics::Metrics;
use crate::table::SharedTable;
use crate::table::clock::Clock;
use crate::table::explain::{Asked, Decision, ExplainedRequest};

pub use certificates::{CertificateList, CertificateRow};
pub use overrides::{Override, OverrideStore};
pub use scrape::ScrapeTls;
pub use server::{serve, serve_metrics};

/// What the control loop can tell.
pub trait ControlView {
    /// All services that are known now, by name.
    fn services(&self) -> LocalBoxFuture<'_, Vec<ServiceStatus>>;
    /// Tags and route commands that make no route, and would match this if they did.
    fn rejected(&self, asked: Asked) -> LocalBoxFuture<'_, Vec<RejectedPlace>>;
    /// Brings figures up to date that change without the loop's doing; called before metrics are
    /// written.
    fn refresh(&self) -> LocalBoxFuture<'_, ()>;
    /// Whether traffic may be sent here, and why not.
    fn readiness(&self) -> Readiness;
}

/// What the data path would do, decided by the functions that decide about real requests.
pub trait DataPath {
    /// With a request. Nothing is sent to an instance.
    fn decide<'a>(&'a self, asked: &'a ExplainedRequest) -> LocalBoxFuture<'a, Decision>;
    /// With a TCP connection from `from` to `local`, or, where TCP is routed so, for a server name.
    fn decide_connection(
        &self,
        local: SocketAddr,
        server_name: Option<&str>,
        from: SocketAddr,
    ) -> Decision;
}

impl ControlView for ControlHandle {
    fn rejected(&self, asked: Asked) -> LocalBoxFuture<'_, Vec<RejectedPlace>> {
        Box::pin(Self::rejected(self, asked))
    }

    fn services(&self) -> LocalBoxFuture<'_, Vec<ServiceStatus>> {
        Box::pin(Self::services(self))
    }

    fn refresh(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.refresh_targets())
    }

    fn readiness(&self) -> Readiness {
        Self::readiness(self)
    }
}

/// What a TLS handshake begins with, by the present configuration; none: plain HTTP. Why it cannot
/// begin.
pub type TlsSettings =
    Arc<dyn Fn(&AdminConfig) -> Result<Option<Arc<ServerConfig>>, String> + Send + Sync>;

/// Everything the admin listener makes its responses from. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// Routes.
    pub table: SharedTable,
    /// The process clock: ejections are told in it.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Services and readiness.
    pub control: Rc<dyn ControlView>,
    /// Paths, titles and links; the sender replaces it at a reload.
    pub settings: watch::Receiver<Arc<AdminConfig>>,
    /// Called for every connection, so that new certificates are shown at once.
    pub tls: TlsSettings,
    /// Which certificates there are.
    pub certificates: CertificateList,
    /// Where route commands are kept that may be changed; none: nowhere.
    pub overrides: Option<Rc<dyn OverrideStore>>,
    /// Effective configuration as JSON text, secrets masked; the sender replaces it at a reload.
    pub config_json: watch::Receiver<Arc<str>>,
    /// What decides about requests.
    pub data_path: Rc<dyn DataPath>,
}
