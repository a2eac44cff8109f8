//! The Consul source.
//!
//! ```text
//! list ── /v1/catalog/services ── starts and ends ──▶ watch (one per routed service) ── /v1/health/service/NAME
//!   └──────────── poll: pacing, position, retries ─────────────┘        guard: may it be believed?
//!       │         client ─ pool ─ dial ─ settings, tls                  catalog: wire → snapshot
//!       │                  room, grant: how many fit?
//!       ├─ feed ── tells watches which services changed, where there is no room for a blocking query each
//!   overrides ── /v1/kv/PATH?recurse ── route commands, a source of its own
//!   page ─────── /v1/kv/PATH?recurse ── the page for requests without a route
//! ```
//! `register` writes what the others read: the registration of `lb` itself.
//!
//! An error is never an empty answer: every service keeps its last good instances for as long as
//! Consul cannot be read, and one service's failure touches no other. `blocking`, `guard`, `wire`,
//! `catalog` and `keys` are pure.

pub mod blocking;
pub mod catalog;
pub mod client;
mod dial;
mod edit;
pub mod error;
mod expiry;
mod feed;
mod grant;
pub mod guard;
mod hint;
mod key_file;
pub mod keys;
mod list;
mod mesh;
mod notices;
mod overrides;
mod pace;
mod page;
mod poll;
mod pool;
pub mod probe;
pub mod register;
mod rights;
mod roll;
mod room;
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

use crate::catalog::source::CONSUL;
use crate::config::ConsulConfig;
use crate::metrics::Metrics;
use crate::sources::Update;
use crate::sources::task::SourceTask;

/// A running source. Ends when dropped.
pub struct ConsulSource {
    shared: Arc<shared::Shared>,
    page: PageReceiver,
    _tasks: Vec<SourceTask>,
}

/// Starts to watch Consul; updates go to `updates`, which may be bounded (a full channel holds the
/// watches back). Must be called inside a Tokio runtime, of any kind.
///
/// # Errors
/// An address makes no sense. That Consul cannot be reached is not an error: it is tried until it
/// can. Nor is a file that cannot be used: nothing is dialled until a [`ConsulSource::reload`]
/// finds it mended.
pub fn spawn(
    config: ConsulConfig,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
) -> Result<ConsulSource, ConsulError> {
    let settings = settings::Settings::load_or_wait(&config)?;
    report(&settings, &metrics);
    let client = client::Client::with_settings(settings, config.max_connections, metrics.clone());
    init_errors(&metrics);
    let (kv_path, page_path) = (config.kv_path.clone(), config.no_route_kv_path.clone());
    let shared = Arc::new(shared::Shared::new(client, config, metrics, updates));
    // The service watches are owned by the list's task and end with it.
    let mut tasks = vec![
        SourceTask::spawn(list::run(shared.clone())),
        SourceTask::spawn(feed::run(shared.clone())),
    ];
    tasks.extend(kv_path.map(|path| SourceTask::spawn(overrides::run(shared.clone(), path))));
    let (found, page) = page::channel();
    tasks.extend(page_path.map(|path| SourceTask::spawn(page::run(shared.clone(), path, found))));
    Ok(ConsulSource {
        shared,
        page,
        _tasks: tasks,
    })
}

/// Says what is wrong with the files of `[consul]`, and sets the metrics of its certificates.
fn report(settings: &settings::Settings, metrics: &Metrics) {
    expiry::report(&settings.certificates, metrics);
    if let Some(error) = &settings.broken {
        tracing::error!(%error, "Consul is not dialled until this file is mended");
    } else if !settings.problems.is_empty() {
        let problems = settings.problems.join("; ");
        tracing::warn!(
            problems,
            "certificates towards Consul: what cannot be used is left out"
        );
    }
    metrics
        .control()
        .certificate_errors
        .insert(CONSUL.to_owned(), settings.problems.len() as u64);
}

/// Shows every kind of error from the start: what appears with a count of 1 never rose, to those
/// who watch the rise.
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

    /// The page for requests without a route, as `consul.no_route_kv_path` has it; ends at once
    /// where that is not set.
    #[must_use]
    pub fn no_route_page(&self) -> PageReceiver {
        self.page.clone()
    }

    /// Takes a new configuration: certificates, token, addresses and rules are used from the next
    /// request on, and every watch reads at once with them. What is known stays meanwhile.
    /// `max_connections`, `kv_path` and `no_route_kv_path` need a restart.
    ///
    /// # Errors
    /// As [`spawn`]; then the old configuration stays in force.
    pub fn reload(&self, config: ConsulConfig) -> Result<(), ConsulError> {
        self.take_over(prepare(config)?)
    }

    /// The same with files that were read already: blocks nothing.
    ///
    /// # Errors
    /// A file cannot be used, and those in force can; then these stay. What was broken before may
    /// be so again: that is not a reason to refuse the rest of a configuration.
    pub fn take_over(&self, Prepared { config, settings }: Prepared) -> Result<(), ConsulError> {
        if let Some(error) = &settings.broken
            && !self.shared.client.is_broken()
        {
            return Err(error.clone());
        }
        report(&settings, self.shared.metrics());
        self.shared.client.reload(settings);
        // The paths need a restart: their watches run on as they are.
        let before = self.shared.config();
        let (kv_path, no_route_kv_path) = (before.kv_path.clone(), before.no_route_kv_path.clone());
        self.shared.reload(ConsulConfig {
            kv_path,
            no_route_kv_path,
            ..config
        });
        Ok(())
    }
}

/// A configuration whose files are read.
#[derive(Debug)]
pub struct Prepared {
    config: ConsulConfig,
    settings: settings::Settings,
}

/// Reads the files that `config` names. Blocks as long as they do: not for the thread on which the
/// source lives.
///
/// # Errors
/// An address that makes no sense. A file that cannot be used is an error of
/// [`ConsulSource::take_over`].
pub fn prepare(config: ConsulConfig) -> Result<Prepared, ConsulError> {
    let settings = settings::Settings::load_or_wait(&config)?;
    Ok(Prepared { config, settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_error_has_a_series_before_the_first_error() {
        let metrics = Metrics::default();
        *metrics
            .control()
            .registry_errors
            .entry("connect")
            .or_default() = 3;
        init_errors(&metrics);
        let errors = metrics.control().registry_errors.clone();
        assert_eq!(
            (errors["connect"], errors["token"], errors.len()),
            (3, 0, error::KINDS.len())
        );
    }
}
