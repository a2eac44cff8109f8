//! What all watches of one source share: the client, what is believed, budgets, and what is wrong
//! at present.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, info, warn};

use super::catalog::outputs;
use super::client::Client;
use super::error::ConsulError;
use super::notices::Notices;
use super::visibility::{Visibility, WholeSeenBy};
use super::wire::HealthEntry;
use crate::catalog::command::CommandError;
use crate::catalog::command_list::CommandList;
use crate::catalog::source::{CONSUL, OVERRIDES};
use crate::catalog::{InstanceId, ServiceName, ServiceSnapshot};
use crate::config::{ChecksRequired, ConsulConfig, RoutingConfig};
use crate::journal::{Draft, Kind};
use crate::metrics::Metrics;
use crate::sources::blocking::TokenBucket;
use crate::sources::initial_sync::InitialSync;
use crate::sources::loss_guard::LossGuard;
use crate::sources::outage::Outage;
use crate::sources::update::Update;

/// Name of the page for requests without a route that the KV store holds, among the sources.
const PAGE_SOURCE: &str = "no_route_page";
/// Unconditional reads under way at once: enough to fill a round trip, few enough not to flood an
/// agent at the start.
const FIRST_READS_MAX: usize = 64;
/// Reads of all watches together: a burst, and a rate (1/s).
const BUDGET: (u32, f64) = (1000, 500.0);
/// One watch that reads again wakes the others no more often than this.
const RECOVERIES_APART: Duration = Duration::from_millis(300);
/// While services are read when a change is reported, each is read this often all the same.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same where an instance has to have a check, or one that passes is enough.
const LOOK_EVERY_CHECKS: Duration = Duration::from_secs(10);
/// The same while some changes are not reported.
const LOOK_EVERY_BLIND: Duration = Duration::from_secs(5);
/// After a default read failed for want of a leader, stale responses are taken as they are for this
/// long.
const LEADERLESS: Duration = Duration::from_secs(10);

/// Shared by the list watch and all service watches.
pub(super) struct Shared {
    pub(super) client: Arc<Client>,
    pub(super) first_reads: Semaphore,
    /// What changed, by service, for the watches.
    pub(super) notices: Arc<Notices>,
    config: Mutex<Arc<ConsulConfig>>,
    routing: Mutex<Arc<RoutingConfig>>,
    /// Moves at every reload.
    generation: watch::Sender<u64>,
    /// Moves when a watch reads again that could not.
    recovered: watch::Sender<u64>,
    recovered_at: Mutex<Option<Instant>>,
    /// All changes are reported.
    complete: AtomicBool,
    guard: Mutex<LossGuard>,
    whole_seen_by: Mutex<WholeSeenBy>,
    budget: Mutex<TokenBucket>,
    leaderless_until: Mutex<Option<Instant>>,
    trouble: Mutex<Outage>,
    waiting: Mutex<Waiting>,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
}

/// Nothing takes updates any more: the source may end.
#[derive(Debug)]
pub(super) struct Closed;

/// What still has to respond before the source counts as synced.
enum Waiting {
    List,
    For(InitialSync),
    Nothing,
}

impl Shared {
    pub(super) fn new(
        client: Client,
        (config, routing): (ConsulConfig, RoutingConfig),
        metrics: Metrics,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        expect_sources(&metrics, &config);
        Self {
            client: Arc::new(client),
            first_reads: Semaphore::new(FIRST_READS_MAX),
            notices: Arc::default(),
            config: Mutex::new(Arc::new(config)),
            routing: Mutex::new(Arc::new(routing)),
            generation: watch::Sender::new(0),
            recovered: watch::Sender::new(0),
            recovered_at: Mutex::new(None),
            complete: AtomicBool::new(false),
            guard: Mutex::default(),
            whole_seen_by: Mutex::default(),
            budget: Mutex::new(TokenBucket::new(BUDGET.0, BUDGET.1, Instant::now())),
            leaderless_until: Mutex::new(None),
            trouble: Mutex::default(),
            waiting: Mutex::new(Waiting::List),
            metrics,
            updates,
        }
    }

    pub(super) fn config(&self) -> Arc<ConsulConfig> {
        lock(&self.config).clone()
    }

    /// The rules that decide what is read.
    pub(super) fn routing(&self) -> Arc<RoutingConfig> {
        lock(&self.routing).clone()
    }

    /// Takes a new configuration, and wakes every watch to read with it.
    pub(super) fn reload(&self, config: ConsulConfig, routing: RoutingConfig) {
        expect_sources(&self.metrics, &config);
        *lock(&self.config) = Arc::new(config);
        *lock(&self.routing) = Arc::new(routing);
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Changes when a watch reads again after failures.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.recovered.subscribe()
    }

    /// Watches that cannot read at present.
    pub(super) fn failing(&self) -> u32 {
        u32::try_from(lock(&self.trouble).failing()).unwrap_or(u32::MAX)
    }

    /// Whether every change of a service is reported while blocking queries are scarce.
    pub(super) fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Relaxed);
    }

    /// How often a service is read without a reported change, while blocking queries are scarce.
    pub(super) fn look_every(&self) -> Duration {
        let complete = self.complete.load(Relaxed);
        match complete {
            false => LOOK_EVERY_BLIND,
            // A check that is added and passes at once is not reported, and decides only here.
            true => {
                let rules = self.routing();
                if rules.require_check || rules.checks_required != ChecksRequired::All {
                    LOOK_EVERY_CHECKS
                } else {
                    LOOK_EVERY
                }
            }
        }
    }

    pub(super) fn guard(&self) -> MutexGuard<'_, LossGuard> {
        lock(&self.guard)
    }

    /// Notes what a list shows to the present reader; returns whether the same reader saw `consul`
    /// before.
    pub(super) fn note_sight(&self, sight: Visibility) -> bool {
        lock(&self.whole_seen_by).note(sight, self.client.reader())
    }

    /// Takes one read from the budget of all; returns how long to wait first.
    pub(super) fn take_budget(&self, now: Instant) -> Duration {
        lock(&self.budget).take(now)
    }

    pub(super) fn is_leaderless(&self, now: Instant) -> bool {
        lock(&self.leaderless_until).is_some_and(|until| now < until)
    }

    pub(super) fn note_leaderless(&self, now: Instant) {
        *lock(&self.leaderless_until) = Some(now + LEADERLESS);
    }

    /// The watch of `label` (empty: the list) read something that is believed. `listed`: the
    /// metrics have a series for it.
    pub(super) fn succeeded(&self, label: &ServiceName, listed: bool) {
        if listed {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64();
            self.metrics
                .control()
                .registry_success
                .insert(label.clone(), now);
        }
        self.metrics
            .journal()
            .source_read(self.source_of(label), label);
        self.note_end(label);
    }

    /// An instance is registered that cannot be dialled.
    pub(super) fn report_left_out(&self, service: &ServiceName, id: &InstanceId, reason: &str) {
        let event = Draft::new(Kind::Instance)
            .of(service)
            .states("new", "excluded")
            .because(reason);
        let event = Draft {
            instance: Some(id.to_string()),
            ..event
        };
        self.metrics.journal().events().push(event);
    }

    /// Keeps what the checks of a service say, for reasons.
    pub(super) fn note_outputs(&self, service: &ServiceName, entries: &[HealthEntry]) {
        self.metrics
            .journal()
            .outputs()
            .set(service, outputs(entries));
    }

    /// The source that a watch belongs to.
    fn source_of(&self, label: &str) -> &'static str {
        match label.strip_prefix("kv:") {
            None => CONSUL,
            Some(path) if lock(&self.config).kv_path.as_deref() == Some(path) => OVERRIDES,
            Some(_) => PAGE_SOURCE,
        }
    }

    /// The watch of `label` failed, or read something that is not believed.
    pub(super) fn failed(&self, label: &ServiceName, error: &ConsulError) {
        self.count(error);
        self.metrics
            .journal()
            .source_failed(self.source_of(label), label, &error.to_string());
        let kind = error.kind();
        let watch = if label.is_empty() {
            "list of services"
        } else {
            label
        };
        if lock(&self.trouble).failed(label, kind, Instant::now()) {
            warn!(watch, kind, %error, "Consul: cannot read; what is known is kept");
        } else {
            debug!(watch, kind, %error, "Consul: still failing");
        }
    }

    /// The watch of `label` does not exist any more.
    pub(super) fn ended(&self, label: &ServiceName) {
        let journal = self.metrics.journal();
        journal.source_watch_ended(self.source_of(label), label);
        journal.outputs().set(label, []);
        self.note_end(label);
    }

    /// The watch of `label` does not fail any more.
    fn note_end(&self, label: &ServiceName) {
        let now = Instant::now();
        let (was_failing, outage) = {
            let mut trouble = lock(&self.trouble);
            (trouble.is_failing(label), trouble.ended(label, now))
        };
        if was_failing {
            let mut last = lock(&self.recovered_at);
            if label.is_empty() || last.is_none_or(|last| now - last >= RECOVERIES_APART) {
                *last = Some(now);
                self.recovered.send_modify(|times| *times += 1);
            }
        }
        if let Some(outage) = outage {
            info!(after_s = outage.as_secs_f64(), "Consul responds again");
        }
    }

    /// Counts an error that has no consequence for its watch. Connections that could not be made,
    /// or broke, are counted by the pool: once, and not for each request that waited for them.
    pub(super) fn count(&self, error: &ConsulError) {
        if error.is_dial() || matches!(error, ConsulError::Transport { .. }) {
            return;
        }
        *self
            .metrics
            .control()
            .registry_errors
            .entry(error.kind())
            .or_default() += 1;
    }

    /// Passes on the present state of a service.
    pub(super) async fn publish(
        &self,
        snapshot: Arc<ServiceSnapshot>,
        seen_at: Instant,
    ) -> Result<(), Closed> {
        self.guard()
            .believe(&snapshot.name, snapshot.instances.len());
        self.send(Update::Service {
            source: CONSUL,
            snapshot,
            seen_at,
        })
        .await
    }

    /// Passes on that a service left. Its watch must have ended.
    pub(super) async fn gone(&self, service: ServiceName, seen_at: Instant) -> Result<(), Closed> {
        self.guard().forget(&service);
        self.ended(&service);
        self.metrics.control().registry_success.remove(&service);
        self.send(Update::Gone {
            source: CONSUL,
            service: service.clone(),
            seen_at,
        })
        .await?;
        self.update_sync(|sync| sync.gone(&service)).await
    }

    /// The first list is known: these watches have to respond. Later lists change nothing.
    pub(super) async fn listed(
        &self,
        names: impl Iterator<Item = ServiceName>,
    ) -> Result<(), Closed> {
        {
            let mut waiting = lock(&self.waiting);
            if matches!(*waiting, Waiting::List) {
                *waiting = Waiting::For(InitialSync::new(names));
            }
        }
        self.update_sync(|_| ()).await
    }

    /// Notes news of the services of the first list; the source is synced as soon as that is
    /// enough.
    pub(super) async fn update_sync(
        &self,
        note: impl FnOnce(&mut InitialSync),
    ) -> Result<(), Closed> {
        let instances = self.guard().instances();
        let over = {
            let mut waiting = lock(&self.waiting);
            let over = match &mut *waiting {
                Waiting::For(sync) => {
                    note(sync);
                    sync.is_over(instances)
                }
                Waiting::List | Waiting::Nothing => false,
            };
            if over {
                *waiting = Waiting::Nothing;
            }
            over
        };
        if over {
            self.send(Update::Synced { source: CONSUL }).await
        } else {
            Ok(())
        }
    }

    /// Passes on the route commands of the KV store.
    pub(super) async fn commands(
        &self,
        commands: CommandList,
        errors: Arc<[CommandError]>,
        seen_at: Instant,
    ) -> Result<(), Closed> {
        self.send(Update::Commands {
            source: OVERRIDES,
            commands,
            errors,
            seen_at,
        })
        .await
    }

    /// Passes on that the commands of the KV store are known, or that the start shall not wait for
    /// them.
    pub(super) async fn commands_synced(&self) -> Result<(), Closed> {
        self.send(Update::Synced { source: OVERRIDES }).await
    }

    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.updates.send(update).await.map_err(|_| Closed)
    }
}

/// Makes the sources known before they have responded.
fn expect_sources(metrics: &Metrics, config: &ConsulConfig) {
    let sources = metrics.journal().sources();
    let transport = || {
        Some(
            config
                .addresses
                .iter()
                .map(|address| without_user(address))
                .collect::<Vec<_>>()
                .join(", "),
        )
    };
    sources.expect(CONSUL, transport());
    if config.kv_path.is_some() {
        sources.expect(OVERRIDES, transport());
    }
    if config.no_route_kv_path.is_some() {
        sources.expect(PAGE_SOURCE, transport());
        // The start does not wait for the page.
        sources.synced(PAGE_SOURCE);
    }
}

/// An address without what stands before an `@`: that may be a password.
fn without_user(address: &str) -> String {
    let (scheme, rest) = address
        .split_once("://")
        .map_or(("", address), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    if scheme.is_empty() {
        rest.to_owned()
    } else {
        format!("{scheme}://{rest}")
    }
}

/// Whatever panicked left these small values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
