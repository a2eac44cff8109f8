//! The Consul source.
//!
//! ```text
//! list ── /v1/catalog/services ── starts and ends ──▶ watch (one per routed service) ── /v1/health/service/NAME
//!   └──────────── poll: pacing, position, retries ─────────────┘        guard: may it be believed?
//!       │         client ─ pool ─ dial ─ settings, tls                  catalog: wire → snapshot
//!   overrides ── /v1/kv/PATH?recurse ── route commands, a source of its own
//!   page ─────── /v1/kv/PATH?recurse ── the page for requests without a route
//! ```
//! `register` writes what the others read: the registration of `lb` itself.
//!
//! An error is never an empty answer: every service keeps its last good instances for as long as Consul cannot be read,
//! and one service's failure touches no other. `blocking`, `guard`, `wire`, `catalog` and `keys` are pure.

pub mod blocking;
pub mod catalog;
pub mod client;
mod dial;
mod edit;
pub mod error;
mod expiry;
pub mod guard;
mod hint;
pub mod keys;
mod list;
mod mesh;
mod overrides;
mod page;
mod poll;
mod pool;
pub mod probe;
pub mod register;
mod rights;
mod roll;
mod settings;
mod shared;
mod tls;
mod trouble;
mod watch;
pub mod wire;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use edit::{KeyEditor, Value};
pub use error::ConsulError;
pub use mesh::is_of_mesh;
pub use page::{Page, PageReceiver};
pub use probe::{ProbeStep, probe};

use crate::config::ConsulConfig;
use crate::metrics::Metrics;
use crate::registry::task::SourceTask;
use crate::registry::{SourceName, Update};

/// Name of the source of route commands that the KV store is: runs along with the catalog's when `consul.kv_path` is set.
pub const OVERRIDES: SourceName = shared::KV_SOURCE;

/// A running source. Ends when dropped.
pub struct ConsulSource {
    shared: Arc<shared::Shared>,
    page: PageReceiver,
    _tasks: Vec<SourceTask>,
}

/// Starts to watch Consul; updates go to `updates`, which may be bounded (a full channel holds the watches back).
/// Must be called inside a Tokio runtime, of any kind.
///
/// # Errors
/// A file that `[consul]` names cannot be used, or an address makes no sense. That Consul cannot be reached is no error:
/// it is tried until it can.
pub fn spawn(
    config: ConsulConfig,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
) -> Result<ConsulSource, ConsulError> {
    let settings = settings::Settings::load(&config)?;
    expiry::report(&settings.certificates, &metrics);
    let client = client::Client::with_settings(settings, config.max_connections);
    init_errors(&metrics);
    let (kv_path, page_path) = (config.kv_path.clone(), config.no_route_kv_path.clone());
    let shared = Arc::new(shared::Shared::new(client, config, metrics, updates));
    // The service watches are owned by the list's task and end with it.
    let mut tasks = vec![SourceTask::spawn(list::run(shared.clone()))];
    tasks.extend(kv_path.map(|path| SourceTask::spawn(overrides::run(shared.clone(), path))));
    let (found, page) = page::channel();
    tasks.extend(page_path.map(|path| SourceTask::spawn(page::run(shared.clone(), path, found))));
    Ok(ConsulSource { shared, page, _tasks: tasks })
}

/// Shows every kind of error from the start: what appears with a count of 1 never rose, to those who watch the rise.
fn init_errors(metrics: &Metrics) {
    let mut control = metrics.control();
    for kind in error::KINDS {
        control.registry_errors.entry(kind).or_default();
    }
}

impl ConsulSource {
    /// Who registers `lb` itself; nothing is registered yet. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn registrar(&self) -> register::Registrar {
        register::Registrar::start(self.shared.clone())
    }

    /// Who reads and changes single keys of the KV store.
    #[must_use]
    pub fn key_editor(&self) -> KeyEditor {
        KeyEditor::new(self.shared.clone())
    }

    /// The page for requests without a route, as `consul.no_route_kv_path` has it; ends at once where that is not set.
    #[must_use]
    pub fn no_route_page(&self) -> PageReceiver {
        self.page.clone()
    }

    /// Takes a new configuration: certificates, token, addresses and rules are used from the next request on, and every
    /// watch reads at once with them. What is known stays meanwhile. `max_connections`, `kv_path` and `no_route_kv_path` need a restart.
    ///
    /// # Errors
    /// As [`spawn`]; then the old configuration stays in force.
    pub fn reload(&self, config: ConsulConfig) -> Result<(), ConsulError> {
        let settings = settings::Settings::load(&config)?;
        expiry::report(&settings.certificates, self.shared.metrics());
        self.shared.client.reload(settings);
        self.shared.reload(config);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_error_has_a_series_before_the_first_error() {
        let metrics = Metrics::default();
        *metrics.control().registry_errors.entry("connect").or_default() = 3;
        init_errors(&metrics);
        let errors = metrics.control().registry_errors.clone();
        assert_eq!((errors["connect"], errors["token"], errors.len()), (3, 0, error::KINDS.len()));
    }
}
