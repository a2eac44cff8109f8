//! The admin listener: what `lb` knows, over HTTP/1.1.
//!
//! ```text
//! server (sockets, limits) ── place (path → what) ── router (what → answer) ─┬─ metrics::text
//!                                                                            ├─ routes, services, explain (JSON)
//!                                                                            ├─ page, routes_page (HTML)
//!                                                                            └─ overrides (JSON, HTML; writes)
//! client (the other end: `lb routes`, `lb explain`)
//! ```
//!
//! It runs on the control thread, reads the published table, and asks the control loop through one small trait, so
//! that it knows neither sources nor workers. It changes nothing, whatever it is asked, but for the route commands in a
//! store, through another trait, where the configuration allows that.

mod changes;
pub mod client;
mod dial;
mod explain;
mod held;
mod html;
mod overrides;
mod page;
mod place;
mod query;
mod router;
mod routes;
mod routes_page;
mod seats;
mod server;
mod services;
mod tabular;

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::config::AdminConfig;
use crate::control::{ControlHandle, Readiness, ServiceStatus};
use crate::metrics::Metrics;
use crate::table::SharedTable;
use crate::table::clock::Clock;

pub use overrides::{Override, OverrideStore};
pub use server::serve;

/// What the control loop can be asked.
pub trait ControlView {
    /// All services that are known now, by name.
    fn services(&self) -> LocalBoxFuture<'_, Vec<ServiceStatus>>;
    /// Brings figures up to date that change without the loop's doing; called before metrics are written.
    fn refresh(&self) -> LocalBoxFuture<'_, ()>;
    /// Whether traffic may be sent here, and why not.
    fn readiness(&self) -> Readiness;
}

impl ControlView for ControlHandle {
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

/// What a TLS handshake begins with, by the present configuration; none: plain HTTP. Why it cannot begin.
pub type TlsSettings = Arc<dyn Fn(&AdminConfig) -> Result<Option<Arc<ServerConfig>>, String> + Send + Sync>;

/// Everything the admin listener answers from. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// Routes.
    pub table: SharedTable,
    /// The process clock: ejections are told in it.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Services and readiness.
    pub control: Rc<dyn ControlView>,
    /// Paths, titles and links; the sender replaces it at a reload.
    pub settings: watch::Receiver<Arc<AdminConfig>>,
    /// Asked for every connection, so that new certificates are shown at once.
    pub tls: TlsSettings,
    /// Where route commands are kept that may be changed; none: nowhere.
    pub overrides: Option<Rc<dyn OverrideStore>>,
    /// Effective configuration as JSON text, secrets masked; the sender replaces it at a reload.
    pub config_json: watch::Receiver<Arc<str>>,
    /// From a request's raw path to the form that is looked up: the same the proxy uses.
    pub normalise_path: fn(&str) -> Result<String, String>,
}
