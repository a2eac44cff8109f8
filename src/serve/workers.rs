//! The worker threads and their listeners: sockets are bound early, opened late, and replaced while others serve.
//! Those of [`dynamic`] listeners come and go with the table.

mod dynamic;
mod ports;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context as _;
use socket2::Socket;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, ListenerConfig, ListenerProtocol};
use crate::metrics::Metrics;
use crate::proxy::listener::{self, Listener};
use crate::proxy::tls::CertStore;
use crate::proxy::worker::{self, ListenerNumber, Order, WorkerContext};

use dynamic::Dynamic;
pub(super) use dynamic::Follower;

/// Orders that may wait at a worker; more wait at the reload.
const ORDERS_MAX: usize = 64;

type Stores = std::collections::BTreeMap<String, Arc<CertStore>>;

/// Where the workers stand.
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
    state: Arc<Mutex<State>>,
    /// Held from a decision about listeners until its orders are sent: an order to close must not overtake the one to
    /// open.
    deciding: Arc<tokio::sync::Mutex<()>>,
    stage: Arc<watch::Sender<Stage>>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<Bound>,
    dynamic: Vec<Dynamic>,
    /// Of dynamic listeners that were changed or removed: to be closed as soon as their successors are open.
    leaving: Vec<Bound>,
    next_number: ListenerNumber,
    /// One per worker, once they run.
    orders: Vec<mpsc::Sender<Order>>,
}

/// One listener.
#[derive(Debug)]
struct Bound {
    number: ListenerNumber,
    /// As configured: port 0 is still 0 here.
    asked: ListenerConfig,
    listener: Listener,
    /// One per worker; taken when they are opened.
    sockets: Vec<Socket>,
}

/// What a reload will do to the listeners.
#[derive(Debug)]
pub(super) struct Replacement {
    /// In the new order; `Err` is the number of one that stays.
    listeners: Vec<Result<Bound, ListenerNumber>>,
    /// Without sockets.
    dynamic: Vec<Dynamic>,
}

/// Opens the sockets and starts the workers, once.
pub(super) type Opener = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

/// How many workers a configuration asks for.
pub(super) fn count(config: &Config) -> usize {
    match config.proxy.workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

impl Workers {
    /// Binds all listeners for all workers.
    pub(super) fn bind(config: &Config, stores: &Stores, metrics: &Metrics) -> anyhow::Result<Self> {
        let count = count(config);
        let workers = Self {
            count,
            state: Arc::default(),
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

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Protocol and address of each listener that is not dynamic.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let state = lock(&self.state);
        let listeners = state.listeners.iter().map(|bound| &bound.listener.config);
        listeners.map(|config| (config.protocol.as_str().to_owned(), config.address)).collect()
    }

    /// What opens them.
    pub(super) fn opener(&self, context: WorkerContext) -> Opener {
        let (state, stage, count) = (Arc::clone(&self.state), Arc::clone(&self.stage), self.count);
        Box::new(move || {
            let mut state = lock(&state);
            let mut first: Vec<Vec<Order>> = (0..count).map(|_| Vec::new()).collect();
            for bound in &mut state.listeners {
                for (orders, socket) in first.iter_mut().zip(bound.open()?) {
                    orders.push(Order::Open(bound.number, bound.listener.clone(), socket));
                }
            }
            let mut threads = Vec::new();
            for (number, first) in first.into_iter().enumerate() {
                let (orders, received) = mpsc::channel(ORDERS_MAX);
                let seed = fastrand::u64(..);
                let thread = worker::spawn(number, context.clone(), first, received, seed);
                threads.push(thread.context("cannot start a worker")?);
                state.orders.push(orders);
            }
            stage.send_replace(Stage::Open);
            thread::Builder::new().name("lb-workers-end".to_owned()).spawn(move || {
                for thread in threads {
                    // One that panicked has told by itself.
                    let _ = thread.join();
                }
                stage.send_replace(Stage::Ended);
            })?;
            Ok(())
        })
    }

    /// Finds out which listeners `config` adds, changes and removes, and binds the new sockets. A changed listener is
    /// bound beside its old form: the kernel allows both, so that its address is never closed.
    ///
    /// # Errors
    /// An address that cannot be bound; nothing has changed then.
    pub(super) fn prepare(&self, config: &Config, stores: &Stores, metrics: &Metrics) -> anyhow::Result<Replacement> {
        let mut state = lock(&self.state);
        let (mut listeners, mut dynamic) = (Vec::new(), Vec::new());
        let mut left: Vec<usize> = (0..state.listeners.len()).collect();
        for asked in &config.listeners {
            let store = match &asked.certificates {
                Some(name) => Some(Arc::clone(stores.get(name).with_context(|| format!("no certificates.{name}"))?)),
                None => None,
            };
            if asked.protocol == ListenerProtocol::TcpDynamic {
                dynamic.push(Dynamic::new(asked.clone(), store));
                continue;
            }
            let at = left.iter().position(|at| state.listeners[*at].asked.address == asked.address);
            let old = at.map(|at| left.remove(at)).map(|at| &state.listeners[at]);
            if let Some(old) = old.filter(|old| old.asked == *asked && old.is_with(store.as_ref())) {
                listeners.push(Err(old.number));
                continue;
            }
            let address = old.map_or(asked.address, |old| old.listener.config.address);
            listeners.push(Ok(state.bind(asked, address, store, self.count, metrics)?));
        }
        Ok(Replacement { listeners, dynamic })
    }

    /// Opens what is new, then closes what is gone; dynamic listeners follow with the next [`Follower::follow`]. Connections of a listener that is gone finish what they do.
    ///
    /// # Errors
    /// An address that another process took in between; what could be opened is open, nothing was closed.
    pub(super) async fn commit(&self, replacement: Replacement) -> anyhow::Result<()> {
        let _deciding = self.deciding.lock().await;
        let (orders, senders) = {
            let mut state = lock(&self.state);
            let mut orders: Vec<Vec<Order>> = state.orders.iter().map(|_| Vec::new()).collect();
            let mut old = std::mem::take(&mut state.listeners);
            let mut outcome = Ok(());
            for listener in replacement.listeners {
                match listener {
                    Ok(mut bound) => {
                        if !orders.is_empty() {
                            match bound.open() {
                                Ok(sockets) => {
                                    for (orders, socket) in orders.iter_mut().zip(sockets) {
                                        orders.push(Order::Open(bound.number, bound.listener.clone(), socket));
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
                    Err(number) => {
                        let stays = old.iter().position(|bound| bound.number == number).map(|at| old.remove(at));
                        state.listeners.extend(stays);
                    }
                }
            }
            if outcome.is_err() {
                state.listeners.append(&mut old);
            }
            for bound in &old {
                bound.close(&mut orders);
            }
            outcome.map(|()| {
                state.replace_dynamic(replacement.dynamic);
                (orders, state.orders.clone())
            })?
        };
        send(orders, &senders).await;
        Ok(())
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

/// Hands each worker its orders.
async fn send(orders: Vec<Vec<Order>>, senders: &[mpsc::Sender<Order>]) {
    for (orders, sender) in orders.into_iter().zip(senders) {
        for order in orders {
            // A worker that has ended needs no order any more.
            sender.send(order).await.ok();
        }
    }
}

impl State {
    /// Binds sockets for a listener of this configuration at `address`.
    fn bind(
        &mut self,
        asked: &ListenerConfig,
        address: SocketAddr,
        store: Option<Arc<CertStore>>,
        count: usize,
        metrics: &Metrics,
    ) -> anyhow::Result<Bound> {
        let (address, sockets) = listener::bind(address, count)?;
        let listener = Listener {
            metrics: metrics.listener(&address.to_string()),
            config: Arc::new(ListenerConfig { address, ..asked.clone() }),
            certificates: store,
            fabio: metrics.fabio().cloned(),
        };
        let number = self.next_number;
        self.next_number += 1;
        Ok(Bound { number, asked: asked.clone(), listener, sockets })
    }
}

impl Bound {
    /// Orders its end.
    fn close(&self, orders: &mut [Vec<Order>]) {
        let (listener, address) = (self.listener.config.protocol.as_str(), self.listener.config.address);
        tracing::info!(target: "lb::serve", listener, %address, "listener closed");
        for orders in orders {
            orders.push(Order::Close(self.number));
        }
    }

    /// Makes its sockets listen.
    fn open(&mut self) -> anyhow::Result<Vec<TcpListener>> {
        let (listener, address) = (self.listener.config.protocol.as_str(), self.listener.config.address);
        let sockets = std::mem::take(&mut self.sockets).into_iter().map(listener::open);
        let sockets = sockets.collect::<Result<_, _>>().with_context(|| format!("listener {address}"))?;
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
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
