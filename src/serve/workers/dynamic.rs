//! `tcp-dynamic`: listeners that are opened and closed with the routes of the table, while
//! everything else goes on.
//!
//! ```text
//! every `refresh`, after a reload:  table ─► plan (which ports) ─► bind and open what is new ─► commands to the workers
//!                                                              └─► close what no route needs any more
//! ```
//! A closed port takes no new connections; those it had go on. What cannot be opened is reported
//! once, tried again each time, and affects nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::ports::{Holder, Plan, Refusal, Taken, plan};
use super::{Bound, Workers, WorkersState, lock, send};
use crate::config::ListenerConfig;
use crate::metrics::Metrics;
use crate::proxy::drain::{Phase, PhaseReceiver};
use crate::proxy::thread::ListenerCommand;
use crate::proxy::tls::CertStore;
use crate::table::{RouteTable, SharedTable};

/// Most ports that one listener has open at a time: each is a socket per worker, and a process has
/// only so many.
const PORTS_OPEN_MAX: usize = 1000;

/// One `tcp-dynamic` listener of the configuration.
#[derive(Debug)]
pub(super) struct Dynamic {
    asked: ListenerConfig,
    store: Option<Arc<CertStore>>,
    open: BTreeMap<u16, Bound>,
    /// What is wrong with ports that it should have: what was said already.
    reported: BTreeMap<u16, String>,
}

impl Dynamic {
    /// One that has nothing open.
    pub(super) fn new(asked: ListenerConfig, store: Option<Arc<CertStore>>) -> Self {
        Self {
            asked,
            store,
            open: BTreeMap::new(),
            reported: BTreeMap::new(),
        }
    }

    /// The ports that it has open.
    pub(super) fn open_ports(&self) -> impl Iterator<Item = &Bound> {
        self.open.values()
    }

    fn is_as(&self, other: &Self) -> bool {
        let same_store = match (&self.store, &other.store) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_store && self.asked == other.asked
    }
}

impl WorkersState {
    /// Takes over dynamic listeners of a new configuration. Ports of those that changed stay until
    /// their successors are open.
    pub(super) fn replace_dynamic(&mut self, next: Vec<Dynamic>) {
        let mut old = std::mem::take(&mut self.dynamic);
        for new in next {
            match old.iter().position(|old| old.is_as(&new)) {
                Some(at) => self.dynamic.push(old.remove(at)),
                None => self.dynamic.push(new),
            }
        }
        self.leaving
            .extend(old.into_iter().flat_map(|gone| gone.open.into_values()));
    }

    fn plan(&self, table: &RouteTable) -> Plan {
        let listeners: Vec<&ListenerConfig> =
            self.dynamic.iter().map(|dynamic| &dynamic.asked).collect();
        let configured = self.listeners.iter().map(|bound| &bound.listener.config);
        let configured = configured.map(|config| Taken {
            address: config.address,
            holder: Holder::Listener(config.protocol),
        });
        let beside = self.beside.iter().map(|(name, address)| Taken {
            address: *address,
            holder: Holder::Beside(name),
        });
        let taken: Vec<Taken> = configured.chain(beside).collect();
        plan(table, &listeners, &taken)
    }

    fn has(&self, address: SocketAddr) -> bool {
        let mut all = self.listeners.iter().chain(
            self.dynamic
                .iter()
                .flat_map(|dynamic| dynamic.open.values()),
        );
        all.any(|bound| bound.listener.config.address == address)
    }

    /// Opens and closes ports so that they match `table`. Ports that no listener may open are
    /// returned.
    fn follow(
        &mut self,
        table: &RouteTable,
        workers: usize,
        metrics: &Metrics,
        commands: &mut [Vec<ListenerCommand>],
    ) -> BTreeMap<u16, Refusal> {
        let plan = self.plan(table);
        let own = self.addresses();
        let mut all = std::mem::take(&mut self.dynamic);
        let mut closed = std::mem::take(&mut self.leaving);
        for (dynamic, wanted) in all.iter_mut().zip(&plan.ports) {
            let gone = dynamic
                .open
                .extract_if(.., |port, _| !wanted.contains(port));
            closed.extend(gone.map(|(_, bound)| bound));
            dynamic.open_missing(wanted, commands, |dynamic, address| {
                self.bind(
                    &dynamic.asked,
                    address,
                    dynamic.store.clone(),
                    (workers, metrics),
                    &own,
                )
            });
        }
        self.dynamic = all;
        for bound in closed {
            bound.close(commands);
            self.closing.extend(&bound.inodes);
            let address = bound.listener.config.address;
            if !self.has(address) {
                metrics.remove_listener(&address.to_string());
            }
        }
        plan.refused
    }
}

impl Dynamic {
    fn open_missing(
        &mut self,
        wanted: &BTreeSet<u16>,
        commands: &mut [Vec<ListenerCommand>],
        mut bind: impl FnMut(&Self, SocketAddr) -> anyhow::Result<Bound>,
    ) {
        let mut failed = BTreeMap::new();
        let missing: Vec<u16> = wanted
            .iter()
            .filter(|port| !self.open.contains_key(port))
            .copied()
            .collect();
        for port in missing {
            let room = self.open.len() < PORTS_OPEN_MAX;
            let problem = self.store.as_ref().and_then(|store| store.problem());
            let opened = if let Some(error) = problem {
                Err(anyhow::anyhow!("its certificates: {error}"))
            } else if room {
                bind(self, SocketAddr::new(self.asked.address.ip(), port))
                    .and_then(|mut bound| bound.open(&[]).map(|sockets| (bound, sockets)))
            } else {
                Err(anyhow::anyhow!("{PORTS_OPEN_MAX} ports are open already"))
            };
            match opened {
                Ok((bound, sockets)) => {
                    for (commands, socket) in commands.iter_mut().zip(sockets) {
                        commands.push(ListenerCommand::Open(
                            bound.number,
                            bound.listener.clone(),
                            socket,
                        ));
                    }
                    self.open.insert(port, bound);
                }
                Err(error) => {
                    failed.insert(port, format!("{error:#}"));
                }
            }
        }
        for (port, error) in failed
            .iter()
            .filter(|(port, error)| self.reported.get(port) != Some(error))
        {
            tracing::warn!(target: "lb::serve", port, error, "a route's TCP port cannot be opened; trying again");
        }
        self.reported = failed;
    }
}

/// Keeps the dynamic listeners in step with the table.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Follower {
    workers: Workers,
    table: SharedTable,
    metrics: Metrics,
    phase: PhaseReceiver,
    reloaded: Arc<Notify>,
    refused: Arc<std::sync::Mutex<BTreeMap<u16, Refusal>>>,
}

impl Workers {
    /// Their follower of `table`.
    pub(in crate::serve) fn follower(
        &self,
        table: SharedTable,
        metrics: Metrics,
        phase: PhaseReceiver,
    ) -> Follower {
        let workers = self.clone();
        Follower {
            workers,
            table,
            metrics,
            phase,
            reloaded: Arc::default(),
            refused: Arc::default(),
        }
    }
}

impl Follower {
    /// Follows until the process drains.
    pub(in crate::serve) async fn run(self) {
        let mut phase = self.phase.clone();
        let follow = async {
            loop {
                let refresh = lock(&self.workers.state)
                    .dynamic
                    .iter()
                    .map(|dynamic| dynamic.asked.refresh)
                    .min();
                tokio::select! {
                    () = tokio::time::sleep(refresh.unwrap_or(Duration::MAX)) => self.follow().await,
                    () = self.reloaded.notified() => {}
                }
            }
        };
        tokio::select! {
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
            () = follow => {}
        }
    }

    /// To be called after a reload.
    pub(in crate::serve) async fn reloaded(&self) {
        self.follow().await;
        // Another refresh may count from now on.
        self.reloaded.notify_one();
    }

    /// Opens and closes ports so that they match the present table.
    pub(in crate::serve) async fn follow(&self) {
        let _deciding = self.workers.deciding.lock().await;
        if *self.phase.borrow() >= Phase::Draining {
            return;
        }
        let (commands, senders) = {
            let mut state = lock(&self.workers.state);
            // Not open yet, or nothing to do.
            if state.commands.is_empty() || (state.dynamic.is_empty() && state.leaving.is_empty()) {
                return;
            }
            let mut commands: Vec<Vec<ListenerCommand>> =
                state.commands.iter().map(|_| Vec::new()).collect();
            let (table, count) = (self.table.load(), self.workers.count);
            self.report(state.follow(&table, count, &self.metrics, &mut commands));
            (commands, state.commands.clone())
        };
        send(commands, &senders).await;
    }

    fn report(&self, refused: BTreeMap<u16, Refusal>) {
        let mut reported = self
            .refused
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (port, reason) in refused
            .iter()
            .filter(|(port, reason)| reported.get(port) != Some(reason))
        {
            tracing::warn!(target: "lb::serve", port, %reason, "a route's TCP port is not served");
        }
        *reported = refused;
    }
}
