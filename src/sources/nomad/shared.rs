//! What the namespaces of the source share: the API, what is believed, and what is wrong at present.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::api::Api;
use super::error::{KINDS, NomadError};
use super::snapshot::Rejected;
use crate::catalog::source::NOMAD;
use crate::catalog::{ServiceName, ServiceSnapshot};
use crate::journal::{Draft, Kind};
use crate::metrics::Metrics;
use crate::sources::initial_sync::InitialSync;
use crate::sources::loss_guard::LossGuard;
use crate::sources::outage::Outage;
use crate::sources::update::Update;

/// Short reads under way at once, of all namespaces together: an agent grants 100 connections to a
/// host (`limits.http_max_conns_per_client`).
const READS_MAX: usize = 16;
/// How long the namespaces have to respond at the start before those that did not are excused.
const FIRST_RESPONSES: Duration = Duration::from_secs(5);

/// Shared by all namespaces.
pub(super) struct Shared {
    live: Mutex<Arc<Live>>,
    /// Moves when there is another API or prefix.
    changed: watch::Sender<u64>,
    reads: Semaphore,
    guard: Mutex<LossGuard>,
    trouble: Mutex<Outage>,
    sync: Mutex<Sync>,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
}

/// What a reload may replace.
#[derive(Debug)]
pub(super) struct Live {
    pub api: Arc<Api>,
    /// What routing tags start with.
    pub tag_prefix: String,
}

/// Nothing takes updates any more: the source may end.
#[derive(Debug)]
pub(super) struct Closed;

/// Which namespaces still have to respond.
#[derive(Debug)]
struct Sync {
    waiting: InitialSync,
    any_responded: bool,
    is_over: bool,
}

impl Shared {
    pub(super) fn new(
        live: Live,
        labels: impl Iterator<Item = ServiceName>,
        metrics: Metrics,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        // Shown before the first error: a series that begins with it never rises.
        for (_, metric) in KINDS {
            metrics.control().registry_errors.entry(metric).or_default();
        }
        Self {
            live: Mutex::new(Arc::new(live)),
            changed: watch::Sender::new(0),
            reads: Semaphore::new(READS_MAX),
            guard: Mutex::default(),
            trouble: Mutex::default(),
            sync: Mutex::new(Sync {
                waiting: InitialSync::new(labels),
                any_responded: false,
                is_over: false,
            }),
            metrics,
            updates,
        }
    }

    pub(super) fn api(&self) -> Arc<Api> {
        self.live().api.clone()
    }

    pub(super) fn live(&self) -> Arc<Live> {
        lock(&self.live).clone()
    }

    /// Takes what a reload brings, and wakes all that read.
    pub(super) fn reload(&self, live: Live) {
        *lock(&self.live) = Arc::new(live);
        self.changed.send_modify(|times| *times += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A place for a short read.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.reads.acquire().await.ok()
    }

    pub(super) fn guard(&self) -> MutexGuard<'_, LossGuard> {
        lock(&self.guard)
    }

    /// What `watch` reads was read, and is believed.
    pub(super) fn succeeded(&self, watch: &ServiceName) {
        self.metrics.journal().source_read(NOMAD, watch);
        self.note_end(watch);
    }

    /// What is known of a service is what Nomad says now.
    pub(super) fn is_fresh(&self, service: &ServiceName) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        let mut figures = self.metrics.control();
        figures.registry_success.insert(service.clone(), now);
    }

    /// What `watch` reads could not be read, or is not believed.
    pub(super) fn failed(&self, watch: &ServiceName, error: &NomadError) {
        *self
            .metrics
            .control()
            .registry_errors
            .entry(error.metric())
            .or_default() += 1;
        let text = format!("{watch}: {error}");
        self.metrics.journal().source_failed(NOMAD, watch, &text);
        let kind = error.kind();
        if lock(&self.trouble).failed(watch, kind, Instant::now()) {
            warn!(%watch, kind, %error, "Nomad: cannot read; what is known is kept");
        } else {
            debug!(%watch, kind, %error, "Nomad: still failing");
        }
    }

    /// There is no such watch any more.
    pub(super) fn ended(&self, watch: &ServiceName) {
        self.metrics.journal().source_watch_ended(NOMAD, watch);
        self.note_end(watch);
    }

    fn note_end(&self, watch: &ServiceName) {
        if let Some(outage) = lock(&self.trouble).ended(watch, Instant::now()) {
            info!(after_s = outage.as_secs_f64(), "Nomad responds again");
        }
    }

    /// An instance is registered that cannot be dialled.
    pub(super) fn report_left_out(&self, service: &ServiceName, rejected: &Rejected) {
        let Rejected { id, reason } = rejected;
        warn!(%service, instance = %id, reason, "Nomad: instance cannot be dialled and is left out");
        let event = Draft::new(Kind::Instance)
            .of(service)
            .states("new", "excluded")
            .because(reason);
        self.metrics.journal().events().push(Draft {
            instance: Some(id.to_string()),
            ..event
        });
    }

    /// Passes on the present state of a service.
    pub(super) async fn publish(
        &self,
        snapshot: Arc<ServiceSnapshot>,
        seen_at: Instant,
    ) -> Result<(), Closed> {
        let count = snapshot.instances.len();
        self.guard().believe(&snapshot.name, count);
        self.send(Update::Service {
            source: NOMAD,
            snapshot,
            seen_at,
        })
        .await
    }

    /// Passes on that a service left.
    pub(super) async fn gone(&self, service: ServiceName, seen_at: Instant) -> Result<(), Closed> {
        self.guard().forget(&service);
        self.ended(&service);
        self.send(Update::Gone {
            source: NOMAD,
            service,
            seen_at,
        })
        .await
    }

    /// All services of a namespace are known.
    pub(super) async fn namespace_read(&self, watch: &ServiceName) -> Result<(), Closed> {
        self.note_sync(|sync| {
            sync.any_responded = true;
            sync.waiting.responded(watch);
        })
        .await
    }

    /// A namespace could not be read.
    pub(super) async fn namespace_failed(
        &self,
        watch: &ServiceName,
        error: &NomadError,
    ) -> Result<(), Closed> {
        self.failed(watch, error);
        self.note_sync(|sync| match error.is_denied() {
            true => sync.waiting.lacks_rights(watch),
            false => sync.waiting.failed(watch),
        })
        .await
    }

    /// Ends the time for first responses.
    pub(super) async fn end_patience(&self) {
        sleep(FIRST_RESPONSES).await;
        // When nothing takes updates any more, all is over.
        let _ = self.note_sync(|sync| sync.waiting.overdue()).await;
    }

    async fn note_sync(&self, note: impl FnOnce(&mut Sync)) -> Result<(), Closed> {
        let is_over = {
            let mut sync = lock(&self.sync);
            if sync.is_over {
                return Ok(());
            }
            note(&mut sync);
            // A namespace that could be read shows that this is Nomad and that the token is one,
            // whether or not anything is registered there.
            sync.is_over = sync.waiting.is_over(usize::from(sync.any_responded));
            sync.is_over
        };
        match is_over {
            true => self.send(Update::Synced { source: NOMAD }).await,
            false => Ok(()),
        }
    }

    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.updates.send(update).await.map_err(|_| Closed)
    }
}

/// Whatever panicked left these small values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
