//! The worker threads and their listeners: sockets are bound early, opened late, and replaced while
//! others serve. Those of [`dynamic`] listeners come and go with the table.

mod dynamic;
mod ports;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, ListenerConfig, ListenerProtocol};
use crate::metrics::Metrics;
use crate::proxy::listener::{self, Listener, Sharing, Sockets};
use crate::proxy::sharing::{Listening, meet};
use crate::proxy::thread::{self as worker_thread, ListenerCommand, ListenerNumber};
use crate::proxy::tls::CertStore;
use crate::proxy::worker::WorkerContext;

use dynamic::Dynamic;
pub(super) use dynamic::Follower;

/// Orders that may wait at a worker; more wait at the reload.
const COMMANDS_MAX: usize = 64;

type Stores = std::collections::BTreeMap<String, Arc<CertStore>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Bound,
    Open,
    Ended,
}

/// All workers of a balancer. Clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    count: usize,
    state: Arc<Mutex<WorkersState>>,
    /// Held from a decision about listeners until its commands are sent: a command to close must not
    /// overtake the one to open.
    deciding: Arc<tokio::sync::Mutex<()>>,
    stage: Arc<watch::Sender<Stage>>,
}

/// How long after the start addresses are bound beside a predecessor, where that is configured.
const TAKE_OVER_FOR: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct WorkersState {
    listeners: Vec<Bound>,
    dynamic: Vec<Dynamic>,
    /// Of dynamic listeners that were changed or removed: to be closed as soon as their successors
    /// are open.
    leaving: Vec<Bound>,
    /// Sockets of listeners that were told to close.
    closing: Vec<u64>,
    /// Listeners of the control thread: what they are called, and where they are.
    beside: Vec<(&'static str, SocketAddr)>,
    next_number: ListenerNumber,
    /// Addresses are shared with other processes that allow it, for some minutes from the start.
    take_over: bool,
    started: Instant,
    /// One per worker, once they run.
    commands: Vec<mpsc::Sender<ListenerCommand>>,
}

#[derive(Debug)]
struct Bound {
    number: ListenerNumber,
    /// As configured: port 0 is still 0 here.
    asked: ListenerConfig,
    listener: Listener,
    /// Taken when they are opened.
    sockets: Option<Sockets>,
    /// By which numbers the kernel's tables know them.
    inodes: Vec<u64>,
}

/// A listener that is open: its name in metrics, what is spoken there, where, and by which numbers
/// the kernel knows it.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) protocol: &'static str,
    pub(super) address: SocketAddr,
    pub(super) inodes: Vec<u64>,
}

/// What a reload will do to the listeners.
#[derive(Debug)]
pub(super) struct Replacement {
    /// In the new sequence; `Err` is the number of one that stays.
    listeners: Vec<Result<Bound, ListenerNumber>>,
    /// Without sockets.
    dynamic: Vec<Dynamic>,
}

/// Opens the sockets and starts the workers, once.
pub(super) type Opener = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

/// How many workers a configuration has.
pub(super) fn count(config: &Config) -> usize {
    match config.proxy.workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

impl Workers {
    /// Binds all listeners for all workers.
    pub(super) fn bind(
        config: &Config,
        stores: &Stores,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let count = count(config);
        let workers = Self {
            count,
            state: Arc::new(Mutex::new(WorkersState::new())),
            deciding: Arc::default(),
            stage: Arc::new(watch::Sender::new(Stage::Bound)),
        };
        let first = workers.prepare(config, stores, metrics)?;
        let mut state = lock(&workers.state);
        state.listeners = first.listeners.into_iter().filter_map(Result::ok).collect();
        state.dynamic = first.dynamic;
        drop(state);
        Ok(workers)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes note of where a listener of the control thread is.
    pub(super) fn note(&self, name: &'static str, address: SocketAddr) {
        lock(&self.state).beside.push((name, address));
    }

    /// Protocol and address of each listener that is not dynamic.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let state = lock(&self.state);
        let listeners = state.listeners.iter().map(|bound| &bound.listener.config);
        listeners
            .map(|config| (config.protocol.as_str().to_owned(), config.address))
            .collect()
    }

    pub(super) fn opener(&self, context: WorkerContext) -> Opener {
        let (state, stage, count) = (Arc::clone(&self.state), Arc::clone(&self.stage), self.count);
        Box::new(move || {
            let mut state = lock(&state);
            let mut first: Vec<Vec<ListenerCommand>> = (0..count).map(|_| Vec::new()).collect();
            let own = state.addresses();
            for bound in &mut state.listeners {
                if bound.is_held() {
                    continue;
                }
                for (commands, socket) in first.iter_mut().zip(bound.open(&own)?) {
                    commands.push(ListenerCommand::Open(
                        bound.number,
                        bound.listener.clone(),
                        socket,
                    ));
                }
            }
            let mut threads = Vec::new();
            for (number, first) in first.into_iter().enumerate() {
                let (commands, received) = mpsc::channel(COMMANDS_MAX);
                let seed = fastrand::u64(..);
                let thread = worker_thread::spawn(number, context.clone(), first, received, seed);
                threads.push(thread.context("cannot start a worker")?);
                state.commands.push(commands);
            }
            stage.send_replace(Stage::Open);
            thread::Builder::new()
                .name("lb-workers-end".to_owned())
                .spawn(move || {
                    for thread in threads {
                        // A worker that panicked has reported that itself.
                        let _ = thread.join();
                    }
                    stage.send_replace(Stage::Ended);
                })?;
            Ok(())
        })
    }

    /// Finds out which listeners `config` adds, changes and removes, and binds the new sockets. A
    /// changed listener is bound beside its old form: the kernel allows both, so that its address
    /// is never closed.
    ///
    /// # Errors
    /// An address that cannot be bound; nothing has changed then.
    pub(super) fn prepare(
        &self,
        config: &Config,
        stores: &Stores,
        metrics: &Metrics,
    ) -> anyhow::Result<Replacement> {
        let mut state = lock(&self.state);
        state.take_over = config.take_over;
        let (mut listeners, mut dynamic) = (Vec::new(), Vec::new());
        let mut left: Vec<usize> = (0..state.listeners.len()).collect();
        for asked in &config.listeners {
            let store = match &asked.certificates {
                Some(name) => Some(Arc::clone(stores.get(name).with_context(|| {
                    format!("there is no [certificates.{name}] in the configuration")
                })?)),
                None => None,
            };
            if asked.protocol == ListenerProtocol::TcpDynamic {
                dynamic.push(Dynamic::new(asked.clone(), store));
                continue;
            }
            let at = left
                .iter()
                .position(|at| state.listeners[*at].asked.address == asked.address);
            let old = at.map(|at| left.remove(at)).map(|at| &state.listeners[at]);
            if let Some(old) = old.filter(|old| old.asked == *asked && old.is_with(store.as_ref()))
            {
                listeners.push(Err(old.number));
                continue;
            }
            let address = old.map_or(asked.address, |old| old.listener.config.address);
            let mut own = state.addresses();
            own.extend(
                listeners
                    .iter()
                    .filter_map(|new: &Result<Bound, _>| Some(new.as_ref().ok()?.address())),
            );
            listeners.push(Ok(state.bind(
                asked,
                address,
                store,
                (self.count, metrics),
                &own,
            )?));
        }
        Ok(Replacement { listeners, dynamic })
    }

    /// Opens what is new, then closes what is gone; dynamic listeners follow with the next
    /// [`Follower::follow`]. Connections of a listener that is gone finish what they do.
    ///
    /// # Errors
    /// An address that another process took in between; what could be opened is open, nothing was
    /// closed.
    pub(super) async fn commit(&self, replacement: Replacement) -> anyhow::Result<()> {
        let _deciding = self.deciding.lock().await;
        let (commands, senders, outcome) = {
            let mut state = lock(&self.state);
            let mut commands: Vec<Vec<ListenerCommand>> =
                state.commands.iter().map(|_| Vec::new()).collect();
            let mut own = state.addresses();
            own.extend(
                replacement
                    .listeners
                    .iter()
                    .filter_map(|new| Some(new.as_ref().ok()?.address())),
            );
            let mut old = std::mem::take(&mut state.listeners);
            let mut outcome = Ok(());
            for listener in replacement.listeners {
                let listener = match listener {
                    Ok(bound) => Some(bound),
                    Err(number) => old
                        .iter()
                        .position(|bound| bound.number == number)
                        .map(|at| old.remove(at)),
                };
                let Some(mut bound) = listener else { continue };
                // One that stays may have waited for its certificates.
                if !commands.is_empty() && !bound.is_open() && !bound.is_held() {
                    match bound.open(&own) {
                        Ok(sockets) => {
                            for (commands, socket) in commands.iter_mut().zip(sockets) {
                                commands.push(ListenerCommand::Open(
                                    bound.number,
                                    bound.listener.clone(),
                                    socket,
                                ));
                            }
                        }
                        Err(error) => {
                            outcome = Err(error);
                            continue;
                        }
                    }
                }
                state.listeners.push(bound);
            }
            // Those that were to be replaced or closed stay; the next reload finds them again.
            if outcome.is_err() {
                state.listeners.append(&mut old);
            }
            for bound in &old {
                bound.close(&mut commands);
                state.closing.extend(&bound.inodes);
            }
            if outcome.is_ok() {
                state.replace_dynamic(replacement.dynamic);
            }
            (commands, state.commands.clone(), outcome)
        };
        send(commands, &senders).await;
        outcome
    }

    /// How an address beside theirs is to be bound: with them, if it meets one of them, and else
    /// alone unless taking over is configured.
    pub(super) fn sharing(&self, address: SocketAddr) -> Sharing {
        let state = lock(&self.state);
        state.sharing(address, &state.addresses())
    }

    pub(super) fn open_listeners(&self) -> Vec<Open> {
        let state = lock(&self.state);
        let open = state
            .all()
            .filter(|bound| bound.is_open())
            .map(|bound| Open {
                protocol: bound.listener.config.protocol.as_str(),
                address: bound.address(),
                inodes: bound.inodes.clone(),
            });
        open.collect()
    }

    /// By which numbers the kernel knows all their sockets, those of listeners that are being
    /// closed included: as long as they are among these.
    pub(super) fn inodes(&self, listening: &[Listening]) -> Vec<u64> {
        let mut state = lock(&self.state);
        let mut inodes: Vec<u64> = state
            .all()
            .flat_map(|bound| bound.inodes.iter().copied())
            .collect();
        state
            .closing
            .retain(|inode| listening.iter().any(|it| it.inode == *inode));
        inodes.extend(&state.closing);
        inodes
    }

    /// Waits until they are open; false when they have ended.
    pub(super) async fn opened(&self) -> bool {
        let mut stage = self.stage.subscribe();
        let reached = stage.wait_for(|stage| *stage != Stage::Bound).await;
        reached.is_ok_and(|stage| *stage == Stage::Open)
    }

    /// Waits until all have ended; at once if they never started.
    pub(super) async fn ended(&self) {
        let mut stage = self.stage.subscribe();
        if *stage.borrow() == Stage::Bound {
            return;
        }
        stage.wait_for(|stage| *stage == Stage::Ended).await.ok();
    }
}

/// Hands each worker its commands.
async fn send(commands: Vec<Vec<ListenerCommand>>, senders: &[mpsc::Sender<ListenerCommand>]) {
    for (commands, sender) in commands.into_iter().zip(senders) {
        for command in commands {
            // A worker that has ended needs no command any more.
            sender.send(command).await.ok();
        }
    }
}

impl WorkersState {
    fn new() -> Self {
        Self {
            listeners: Vec::new(),
            dynamic: Vec::new(),
            leaving: Vec::new(),
            closing: Vec::new(),
            beside: Vec::new(),
            next_number: ListenerNumber::default(),
            take_over: false,
            started: Instant::now(),
            commands: Vec::new(),
        }
    }

    /// Every listener, dynamic ones and those that are about to leave included.
    fn all(&self) -> impl Iterator<Item = &Bound> {
        let dynamic = self.dynamic.iter().flat_map(Dynamic::open_ports);
        self.listeners.iter().chain(dynamic).chain(&self.leaving)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let beside = self.beside.iter().map(|(_, address)| *address);
        self.all().map(Bound::address).chain(beside).collect()
    }

    fn sharing(&self, address: SocketAddr, own: &[SocketAddr]) -> Sharing {
        let is_ours = own.iter().any(|own| meet(*own, address));
        // Next to one of our own addresses, this one cannot be had alone. A predecessor is relieved
        // in the first minutes; a process that has the address later is not one.
        let takes_over = self.take_over && self.started.elapsed() < TAKE_OVER_FOR;
        if takes_over || is_ours {
            Sharing::WithOthers
        } else {
            Sharing::Alone
        }
    }

    /// Binds sockets for a listener of this configuration at `address`, beside listeners at these
    /// addresses of ours.
    fn bind(
        &mut self,
        asked: &ListenerConfig,
        address: SocketAddr,
        store: Option<Arc<CertStore>>,
        (count, metrics): (usize, &Metrics),
        own: &[SocketAddr],
    ) -> anyhow::Result<Bound> {
        let sockets = listener::bind(address, count, self.sharing(address, own))?;
        let (address, inodes) = (sockets.address, sockets.inodes());
        let listener = Listener {
            metrics: metrics.listener(&address.to_string()),
            config: Arc::new(ListenerConfig {
                address,
                ..asked.clone()
            }),
            certificates: store,
            observer: metrics.observer().cloned(),
        };
        let number = self.next_number;
        self.next_number += 1;
        Ok(Bound {
            number,
            asked: asked.clone(),
            listener,
            sockets: Some(sockets),
            inodes,
        })
    }
}

impl Bound {
    /// Orders its end.
    fn close(&self, commands: &mut [Vec<ListenerCommand>]) {
        let (listener, address) = (
            self.listener.config.protocol.as_str(),
            self.listener.config.address,
        );
        tracing::info!(target: "lb::serve", listener, %address, "listener closed");
        for commands in commands {
            commands.push(ListenerCommand::Close(self.number));
        }
    }

    fn is_open(&self) -> bool {
        self.sockets.is_none()
    }

    fn address(&self) -> SocketAddr {
        self.listener.config.address
    }

    /// Whether it must stay closed: none of its clients could be served, or they would not be
    /// verified. Says so.
    fn is_held(&self) -> bool {
        let Some(error) = self
            .listener
            .certificates
            .as_ref()
            .and_then(|store| store.problem())
        else {
            return false;
        };
        let ListenerConfig {
            address,
            protocol,
            certificates,
            ..
        } = &*self.listener.config;
        let (listener, certificates) = (protocol.as_str(), certificates.as_deref());
        tracing::error!(target: "lb::serve", listener, %address, certificates, %error, "listener not opened; it opens when the files of its certificates are mended");
        true
    }

    /// Makes its sockets listen. `own` are the addresses of this process, its own one among them:
    /// what meets another of them cannot be had alone.
    fn open(&mut self, own: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
        let (listener, address) = (
            self.listener.config.protocol.as_str(),
            self.listener.config.address,
        );
        let meets = own.iter().filter(|own| meet(**own, address));
        let meets_another = meets.count() > 1;
        let Some(sockets) = self.sockets.take() else {
            return Ok(Vec::new());
        };
        let sockets = if meets_another {
            sockets.with_others()
        } else {
            sockets
        }
        .open()?;
        tracing::info!(target: "lb::serve", listener, %address, "listening");
        Ok(sockets)
    }

    fn is_with(&self, store: Option<&Arc<CertStore>>) -> bool {
        match (&self.listener.certificates, store) {
            (Some(present), Some(next)) => Arc::ptr_eq(present, next),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A panic while it was held leaves a list that is still whole.
fn lock(state: &Mutex<WorkersState>) -> MutexGuard<'_, WorkersState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
