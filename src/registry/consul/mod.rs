//! The Consul source.
//!
//! ```text
//! list ── /v1/catalog/services ── starts and ends ──▶ watch (one per routed service) ── /v1/health/service/NAME
//!   └──────────── poll: pacing, position, retries ─────────────┘        guard: may it be believed?
//!                 client ─ pool ─ dial ─ settings, tls                  catalog: wire → snapshot
//! ```
//! An error is never an empty answer: every service keeps its last good instances for as long as Consul cannot be read,
//! and one service's failure touches no other. `blocking`, `guard`, `wire` and `catalog` are pure.

pub mod blocking;
pub mod catalog;
pub mod client;
mod dial;
pub mod error;
pub mod guard;
mod hint;
mod list;
mod poll;
mod pool;
pub mod probe;
mod roll;
mod settings;
mod shared;
mod tls;
mod watch;
pub mod wire;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use error::ConsulError;
pub use probe::{ProbeStep, probe};

use crate::config::ConsulConfig;
use crate::metrics::Metrics;
use crate::registry::Update;

/// A running source. Ends when dropped.
pub struct ConsulSource {
    shared: Arc<shared::Shared>,
    task: JoinHandle<()>,
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
    let client = client::Client::new(&config)?;
    let shared = Arc::new(shared::Shared::new(client, config, metrics, updates));
    let task = tokio::spawn(list::run(shared.clone()));
    Ok(ConsulSource { shared, task })
}

impl ConsulSource {
    /// Takes a new configuration: certificates, token, addresses and rules are used from the next request on, and every
    /// watch reads at once with them. What is known stays meanwhile. `max_connections` alone needs a restart.
    ///
    /// # Errors
    /// As [`spawn`]; then the old configuration stays in force.
    pub fn reload(&self, config: ConsulConfig) -> Result<(), ConsulError> {
        self.shared.client.reload(settings::Settings::load(&config)?);
        self.shared.reload(config);
        Ok(())
    }
}

impl Drop for ConsulSource {
    fn drop(&mut self) {
        // The service watches are owned by this task and end with it.
        self.task.abort();
    }
}
