//! One thread of the data path.
//!
//! ```text
//! thread lb-worker-N: current_thread runtime + LocalSet
//!   accept loop per listener ─► task per connection ─► exchange ─► pool / connect
//!   phase follower (drain)      tick, once a second: pool sweep, tunnels of vanished instances
//! ```
//! No work stealing: a connection, its upstream connections and all their state stay on one core.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::sync::Notify;

use crate::journal::Ejection;
use crate::log::access::{AccessLogger, AccessLoggers};
use crate::metrics::Metrics;
use crate::proxy::budget::RetryBudget;
use crate::proxy::copies::Copies;
use crate::proxy::drain::{LocalPhase, Phase, PhaseReceiver};
use crate::proxy::http::compression;
use crate::proxy::http::scratch::WorkerScratch;
use crate::proxy::pool::UpstreamPool;
use crate::proxy::settings::{Settings, SettingsReader, SharedSettings};
use crate::proxy::splice::Pipes;
use crate::proxy::tcp::BufferPool;
use crate::proxy::tunnels::Tunnels;
use crate::system::throttle::Throttle;
use crate::table::balancer::PickState;
use crate::table::clock::Clock;
use crate::table::{Probe, Route, SharedTable, TableReader, Target};

/// What all workers get.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    /// The table.
    pub table: SharedTable,
    /// What a reload may change.
    pub settings: SharedSettings,
    /// The counters.
    pub metrics: Metrics,
    /// The access log.
    pub access: AccessLoggers,
    /// The process clock.
    pub clock: Clock,
    /// The instance of which the workers find out whether it responds.
    pub probe: Probe,
    /// How far the drain of the process is.
    pub phase: PhaseReceiver,
}

/// State of one worker; lives on its thread.
#[derive(Debug)]
pub struct Worker {
    /// The table, cached.
    pub table: RefCell<TableReader>,
    settings: RefCell<SettingsReader>,
    /// Randomness of picks.
    pub picker: RefCell<PickState>,
    /// Upstream connections.
    pub pool: UpstreamPool,
    /// Retries left to give.
    pub budget: RefCell<RetryBudget>,
    /// Buffers for byte tunnels.
    pub buffers: BufferPool,
    /// For long transfers between plain sockets.
    pub pipes: Pipes,
    /// What its requests share and use again.
    pub scratch: WorkerScratch,
    /// Open byte tunnels.
    pub tunnels: Rc<Tunnels>,
    /// Copies of requests that are under way.
    pub copies: Rc<Copies>,
    /// What encoders of responses hold.
    pub compressing: compression::Memory,
    /// The process clock.
    pub clock: Clock,
    /// The instance of which it is to be found out whether it responds.
    pub probe: Probe,
    /// The access log.
    pub access: AccessLogger,
    /// The counters.
    pub metrics: Metrics,
    /// How far the drain is, as this worker sees it.
    pub phase: Rc<LocalPhase>,
    connections: Cell<usize>,
    connection_ended: Notify,
    /// When it last said that something is short.
    told_exhaustion: Throttle,
}

/// One admitted connection; ends with it.
#[derive(Debug)]
pub struct ConnectionPermit(Rc<Worker>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        // All of them: each listener with a waiting client may go on. A waiter registers in the
        // same turn of this thread in which it looked, so none misses it.
        self.0.connection_ended.notify_waiters();
    }
}

impl Worker {
    /// A worker's state; `seed` must differ between workers.
    #[must_use]
    pub fn new(context: &WorkerContext, seed: u64) -> Rc<Self> {
        let proxy = &context.settings.load().proxy;
        Rc::new(Self {
            table: RefCell::new(context.table.reader()),
            settings: RefCell::new(SettingsReader::new(Arc::clone(&context.settings))),
            picker: RefCell::new(PickState::new(seed)),
            pool: UpstreamPool::default(),
            budget: RefCell::new(RetryBudget::new(
                proxy.retry.budget_percent,
                proxy.retry.budget_min,
            )),
            buffers: BufferPool::default(),
            pipes: Pipes::default(),
            scratch: WorkerScratch::default(),
            tunnels: Rc::default(),
            copies: Rc::default(),
            compressing: compression::Memory::default(),
            clock: context.clock,
            probe: context.probe.clone(),
            access: context.access.logger(),
            metrics: context.metrics.clone(),
            phase: Rc::default(),
            connections: Cell::new(0),
            connection_ended: Notify::new(),
            told_exhaustion: Throttle::default(),
        })
    }

    /// A number of the present table: another one has another.
    #[must_use]
    pub fn table_number(&self) -> usize {
        Arc::as_ptr(self.table.borrow_mut().load()).addr()
    }

    /// The present settings.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(self.settings.borrow_mut().load())
    }

    /// Waits for room for one more connection; false once `phase`, the listener's, is past serving.
    /// Room is not kept: a listener without clients must not hold it. Listeners that accept at the
    /// same time may exceed the limit by one each.
    ///
    /// `extra`: connections above the limit that this listener may have all the same.
    pub async fn has_room(&self, phase: &LocalPhase, extra: usize) -> bool {
        loop {
            if phase.get() >= Phase::Draining {
                return false;
            }
            if self.connections.get() < self.settings().proxy.max_connections.saturating_add(extra)
            {
                return true;
            }
            tokio::select! {
                () = self.connection_ended.notified() => {}
                () = phase.reached(Phase::Draining) => return false,
            }
        }
    }

    /// How many connections it has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Completes when one of them ends, from its first poll on.
    pub async fn connection_ends(&self) {
        self.connection_ended.notified().await;
    }

    /// Counts an accepted connection until the permit is dropped.
    #[must_use]
    pub fn admit(self: &Rc<Self>) -> ConnectionPermit {
        self.connections.set(self.connections.get() + 1);
        ConnectionPermit(Rc::clone(self))
    }

    /// Notes a failure of `target`, which may eject it.
    pub fn note_failure(&self, route: &Route, target: &Target) {
        let now_ms = self.clock.now_ms();
        let (ejected, total) = (route.ejected_count(now_ms), route.targets.len());
        if target
            .state
            .record_failure(now_ms, &self.settings().health, ejected, total)
        {
            self.tell_ejection(target, now_ms, None);
        }
    }

    /// Notes that `target` is frozen, which ejects it.
    pub fn note_frozen(&self, route: &Route, target: &Target) {
        let now_ms = self.clock.now_ms();
        let (ejected, total) = (route.ejected_count(now_ms), route.targets.len());
        if target
            .state
            .record_frozen(now_ms, &self.settings().health, ejected, total)
        {
            self.tell_ejection(target, now_ms, Some("it answers nothing while others do"));
        }
    }

    /// Notes a response of `target` that counts as its failure, which may eject it.
    pub fn note_bad_response(&self, route: &Route, target: &Target, latency_us: u64, now_ms: u64) {
        if target.state.record_bad_response(
            now_ms,
            latency_us,
            &self.settings().health,
            &route.targets,
        ) {
            self.tell_ejection(
                target,
                now_ms,
                Some("it answers with errors while others do not"),
            );
        }
    }

    /// Notes that `target` did not respond within the limit, which may eject it.
    pub fn note_no_response(&self, route: &Route, target: &Target) {
        let now_ms = self.clock.now_ms();
        if target
            .state
            .record_no_response(now_ms, &self.settings().health, &route.targets)
        {
            self.tell_ejection(
                target,
                now_ms,
                Some("it does not answer in time while others do"),
            );
        }
    }

    /// Counts an ejection, and passes it on. `why`: what was seen, beside failures in a row.
    fn tell_ejection(&self, target: &Target, now_ms: u64, why: Option<&'static str>) {
        target.service.ejections.fetch_add(1, Relaxed);
        // The control loop logs it: a worker neither waits for a log nor takes a lock.
        self.metrics.journal().ejected(Ejection {
            service: Arc::clone(target.service.name()),
            node: Arc::clone(&target.state.id.node),
            id: Arc::clone(&target.state.id.id),
            address: target.state.addr,
            failures: target.state.failures.load(Relaxed),
            why,
            for_ms: target
                .state
                .ejected_until_ms
                .load(Relaxed)
                .saturating_sub(now_ms),
        });
    }

    /// Logs that this process or machine lacks something, not more often than is of use. It counts
    /// against no instance.
    pub fn note_exhaustion(&self, lack: &dyn fmt::Display) {
        if self.told_exhaustion.is_due(Instant::now()) {
            tracing::warn!(
                %lack,
                "out of descriptors, ports or memory: requests are refused with 503; raise the limit of open files \
                 (LimitNOFILE, ulimit -n) or lower proxy.max_connections"
            );
        }
    }
}
