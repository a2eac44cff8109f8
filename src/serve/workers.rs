//! The worker threads: their sockets are bound early and opened late.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::Socket;
use tokio::sync::watch;

use super::settings::Certificates;
use crate::config::{Config, ListenerProtocol};
use crate::metrics::Metrics;
use crate::proxy::listener::{self, Listener};
use crate::proxy::worker::{self, WorkerContext};

/// Where the workers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Bound,
    Open,
    Ended,
}

/// All workers of a balancer.
#[derive(Debug)]
pub(super) struct Workers {
    listeners: Vec<Listener>,
    /// Sockets by worker, each with the listener at the same place in `listeners`; taken when they are opened.
    sockets: Arc<Mutex<Vec<Vec<Socket>>>>,
    stage: Arc<watch::Sender<Stage>>,
}

/// Opens the sockets and starts the workers, once.
pub(super) type Opener = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

impl Workers {
    /// Binds all listeners for all workers.
    pub(super) fn bind(config: &Config, certificates: &Certificates, metrics: &Metrics) -> anyhow::Result<Self> {
        let count = match config.proxy.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let mut listeners = Vec::new();
        let mut sockets: Vec<Vec<Socket>> = (0..count).map(|_| Vec::new()).collect();
        for configured in &config.listeners {
            let (address, bound) = listener::bind(configured.address, count)?;
            let mut configured = configured.clone();
            configured.address = address;
            let store = match &configured.certificates {
                Some(name) => Some(certificates.get(name).with_context(|| format!("no certificates.{name}"))?),
                None => None,
            };
            listeners.push(Listener {
                metrics: metrics.listener(&address.to_string()),
                config: Arc::new(configured),
                certificates: store,
            });
            for (worker, socket) in sockets.iter_mut().zip(bound) {
                worker.push(socket);
            }
        }
        let stage = Arc::new(watch::Sender::new(Stage::Bound));
        Ok(Self { listeners, sockets: Arc::new(Mutex::new(sockets)), stage })
    }

    /// Protocol and address of each listener.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.iter().map(|listener| (protocol(listener).to_owned(), listener.config.address)).collect()
    }

    /// What opens them.
    pub(super) fn opener(&self, context: WorkerContext) -> Opener {
        let (listeners, sockets, stage) = (self.listeners.clone(), Arc::clone(&self.sockets), Arc::clone(&self.stage));
        Box::new(move || {
            let sockets = std::mem::take(&mut *sockets.lock().unwrap_or_else(PoisonError::into_inner));
            let mut threads = Vec::new();
            for (number, sockets) in sockets.into_iter().enumerate() {
                let mut open = Vec::new();
                for (listener, socket) in listeners.iter().zip(sockets) {
                    let address = listener.config.address;
                    let socket = listener::open(socket).with_context(|| format!("listener {address}"))?;
                    open.push((listener.clone(), socket));
                }
                let seed = fastrand::u64(..);
                threads.push(worker::spawn(number, context.clone(), open, seed).context("cannot start a worker")?);
            }
            for listener in &listeners {
                let (listener, address) = (protocol(listener), listener.config.address);
                tracing::info!(target: "lb::serve", listener, %address, "listening");
            }
            stage.send_replace(Stage::Open);
            thread::Builder::new().name("lb-workers-end".to_owned()).spawn(move || {
                for thread in threads {
                    if thread.join().is_err() {
                        tracing::error!("a worker panicked");
                    }
                }
                stage.send_replace(Stage::Ended);
            })?;
            Ok(())
        })
    }

    /// Waits until they are open; false when they have ended.
    pub(super) async fn opened(&self) -> bool {
        let mut stage = self.stage.subscribe();
        let reached = stage.wait_for(|stage| *stage != Stage::Bound).await;
        reached.is_ok_and(|stage| *stage == Stage::Open)
    }

    /// The same, blocking.
    pub(super) fn wait_opened(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let stage = self.stage.subscribe();
        while Instant::now() < deadline {
            if *stage.borrow() == Stage::Open {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
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

fn protocol(listener: &Listener) -> &'static str {
    match listener.config.protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https => "https",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::Grpc => "grpc",
        ListenerProtocol::Grpcs => "grpcs",
    }
}
