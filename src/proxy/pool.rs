//! Upstream connections of one worker: idle HTTP/1.1 ones, and shared HTTP/2 ones.
//!
//! Keyed by instance (never by address alone) and by how the connection was made (TLS rules, our
//! certificate), so that neither a port's next owner nor a route with other rules meets it. The pool is `Rc`-based: it lives
//! and dies with its thread.
//!
//! ```text
//! checkout ── idle h1 found ─────────────► reused
//!     │  └── h2 with a free stream ──────► reused
//!     └── connect, handshake, spawn driver ► fresh
//! h1: back in by `give_back_h1` once the response was read to its end; out by idle time, FIN, or a retired instance
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::catalog::options::{HostRewrite, RouteOptions};
use crate::proxy::connect::{ConnectError, UpstreamStream, connect, connect_plain};
use crate::proxy::http::upstream::h2::H2Connection;
use crate::proxy::settings::Settings;
use crate::proxy::tls::ClientCertificates;
use crate::table::{Target, TargetState};

/// Streams on one HTTP/2 connection before another one is opened: what most servers allow.
const H2_STREAMS_PER_CONNECTION: u32 = 100;
/// Most HTTP/2 connections to one instance, per worker.
const H2_CONNECTIONS_MAX: usize = 8;

/// A connection that was used so shortly (ms) before it was found closed was not closed because it
/// was idle.
const FRESH_MS: u64 = 1_000;
/// An instance has kept connections open for further requests if one was used again within this
/// time (ms).
const KEEPS_MS: u64 = 10_000;

/// What makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    instance: u64,
    tls: bool,
    h2: bool,
    skip_verify: bool,
    name: Option<Arc<str>>,
    /// Name of the certificate that it was shown, and which one that was.
    certificate: Option<(Arc<str>, u64)>,
}

impl PoolKey {
    /// Whether these connections speak HTTP/2.
    #[must_use]
    pub fn speaks_h2(&self) -> bool {
        self.h2
    }

    /// The key of connections to `target`, with the present one of these certificates.
    #[must_use]
    pub fn of(target: &Target, certificates: &ClientCertificates) -> Self {
        let RouteOptions {
            proto,
            tls_skip_verify,
            grpc_server_name,
            host,
            client_certificate,
            ..
        } = &*target.options;
        let name = match (proto.is_tls(), grpc_server_name, host) {
            (true, Some(name), _) | (true, None, HostRewrite::Name(name)) => Some(Arc::clone(name)),
            _ => None,
        };
        Self {
            instance: target.state.key,
            tls: proto.is_tls(),
            h2: proto.is_h2(),
            skip_verify: *tls_skip_verify,
            name,
            certificate: (client_certificate.as_ref())
                .filter(|_| proto.is_tls())
                .map(|name| (Arc::clone(name), certificates.fingerprint(name))),
        }
    }
}

/// All upstream connections of one worker.
#[derive(Debug, Default)]
pub struct UpstreamPool {
    instances: RefCell<HashMap<PoolKey, Slot, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Slot {
    target: Arc<TargetState>,
    /// HTTP/1.1 connections between two requests.
    idle: Vec<Idle>,
    shared: Vec<SharedH2>,
    /// When a connection was used again.
    reused_ms: u64,
    /// One dial at a time for HTTP/2: a burst of streams must not open a connection each.
    dialing: Rc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Idle {
    stream: UpstreamStream,
    since_ms: u64,
    /// When the instance will have closed it, as it has said.
    until_ms: u64,
}

/// How long (ms) before an instance closes an idle connection that is given up here: a request may
/// be on its way.
const CLOSES_SOON_MS: u64 = 500;

#[derive(Debug)]
struct SharedH2 {
    connection: H2Connection,
    streams: Rc<Cell<usize>>,
    last_used_ms: Cell<u64>,
}

/// Counts a stream on a shared connection; ends with the response's body.
#[derive(Debug)]
pub struct StreamGuard {
    streams: Rc<Cell<usize>>,
}

impl StreamGuard {
    fn enter(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self {
            streams: Rc::clone(streams),
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
    }
}

impl UpstreamPool {
    /// A stream on a shared connection, if there is one that takes more.
    pub fn checkout_h2(&self, key: &PoolKey, now_ms: u64) -> Option<(H2Connection, StreamGuard)> {
        self.instances
            .borrow_mut()
            .get_mut(key)?
            .stream(now_ms, H2_STREAMS_PER_CONNECTION as usize)
    }

    /// Connects to `target`, in clear whatever the route says where `plain`. Where this side has
    /// nothing left to connect with, idle connections give theirs.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(
        &self,
        target: &Target,
        settings: &Settings,
        plain: bool,
    ) -> Result<UpstreamStream, ConnectError> {
        let dial = async || match plain {
            true => connect_plain(target, settings).await,
            false => connect(target, settings).await,
        };
        match dial().await {
            // Ports are short towards one address: closing connections to others would make them no
            // more.
            Err(error) if error.is_exhaustion() && !error.lacks_ports() && self.shed() > 0 => {
                dial().await
            }
            connected => connected,
        }
    }

    /// Closes all idle HTTP/1.1 connections, for their descriptors; returns how many there were.
    pub fn shed(&self) -> usize {
        let mut instances = self.instances.borrow_mut();
        let slots = instances.values_mut();
        slots.map(|slot| slot.idle.drain(..).count()).sum()
    }

    /// Opens a shared connection, or takes the one that another request opened meanwhile.
    ///
    /// # Errors
    /// As [`connect`]; a failed HTTP handshake counts as an I/O error.
    pub async fn open_h2(
        &self,
        key: &PoolKey,
        target: &Target,
        settings: &Settings,
        now_ms: u64,
    ) -> Result<(H2Connection, StreamGuard), ConnectError> {
        let dialing = self.slot(key, target, |slot| Rc::clone(&slot.dialing));
        // Waiting for another request's dial takes no longer than an own one.
        let limit = settings.proxy.connect_timeout;
        let Ok(_one_at_a_time) = tokio::time::timeout(limit, dialing.lock()).await else {
            return Err(ConnectError::Timeout(limit));
        };
        let warm = self.slot(key, target, |slot| {
            let most = if slot.shared.len() < H2_CONNECTIONS_MAX {
                H2_STREAMS_PER_CONNECTION as usize
            } else {
                usize::MAX
            };
            slot.stream(now_ms, most)
        });
        if let Some(connection) = warm {
            return Ok(connection);
        }
        let stream = self.connect(target, settings, false).await?;
        let opened = H2Connection::open(stream, H2_STREAMS_PER_CONNECTION).await;
        let opened = opened.map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        let streams = Rc::default();
        let connection = (opened.clone(), StreamGuard::enter(&streams));
        let shared = SharedH2 {
            connection: opened,
            streams,
            last_used_ms: Cell::new(now_ms),
        };
        self.slot(key, target, |slot| slot.shared.push(shared));
        Ok(connection)
    }

    /// The warmest idle HTTP/1.1 connection; `surely`: see [`UpstreamStream::is_quiet`].
    pub fn checkout_h1(
        &self,
        key: &PoolKey,
        now_ms: u64,
        idle_max_ms: u64,
        surely: bool,
    ) -> Option<UpstreamStream> {
        let mut instances = self.instances.borrow_mut();
        let slot = instances.get_mut(key)?;
        let mut closed_since = None;
        while let Some(mut idle) = slot.idle.pop() {
            if now_ms.saturating_sub(idle.since_ms) >= idle_max_ms {
                // All below are older.
                slot.idle.clear();
                break;
            }
            if idle.until_ms <= now_ms {
                continue;
            }
            if idle.stream.is_quiet(surely) {
                slot.reused_ms = now_ms;
                return Some(idle.stream);
            }
            closed_since.get_or_insert(idle.since_ms);
        }
        slot.all_closed(closed_since, now_ms);
        None
    }

    /// Drops the warmest connections as long as they are closed; when all are, that is noted as a
    /// loss.
    pub fn drop_closed(&self, key: &PoolKey, now_ms: u64) {
        let mut instances = self.instances.borrow_mut();
        let Some(slot) = instances.get_mut(key) else {
            return;
        };
        if key.h2 {
            slot.drop_closed_h2(now_ms);
            return;
        }
        let closed_since = slot.drop_closed_h1(false);
        slot.all_closed(closed_since, now_ms);
    }

    /// A connection to `target` ended under a request. If all others are closed too, that is noted
    /// as a loss.
    pub fn look_for_loss(&self, key: &PoolKey, target: &TargetState, now_ms: u64) {
        let mut instances = self.instances.borrow_mut();
        let Some(slot) = instances.get_mut(key) else {
            return;
        };
        // What has arrived counts, whether or not the event loop knows: it is rare, and worth some
        // system calls.
        slot.drop_closed_h1(true);
        slot.shared.retain(|shared| !shared.connection.is_closed());
        if slot.is_empty() && slot.keeps(now_ms) {
            target.note_loss(now_ms);
        }
    }

    /// Keeps an HTTP/1.1 connection whose last response was read to its end. `keeps_s`: for how
    /// many seconds the instance keeps it open, if it says so.
    pub fn give_back_h1(
        &self,
        key: PoolKey,
        target: &Arc<TargetState>,
        stream: UpstreamStream,
        now_ms: u64,
        idle_max: usize,
        keeps_s: Option<u64>,
    ) {
        if target.retired.load(Relaxed) {
            return;
        }
        let mut instances = self.instances.borrow_mut();
        let slot = instances.entry(key).or_insert_with(|| Slot::new(target));
        if slot.idle.len() < idle_max {
            let keeps_ms = keeps_s.map_or(u64::MAX, |keeps_s| {
                keeps_s.saturating_mul(1000).saturating_sub(CLOSES_SOON_MS)
            });
            slot.idle.push(Idle {
                stream,
                since_ms: now_ms,
                until_ms: now_ms.saturating_add(keeps_ms),
            });
        }
    }

    /// Drops connections that idled too long, were closed by the other side, or lead to instances
    /// that left the table. Run about once a second.
    pub fn sweep(&self, now_ms: u64, idle_max_ms: u64) {
        self.instances.borrow_mut().retain(|_, slot| {
            let retired = slot.target.retired.load(Relaxed);
            let is_old = |since_ms: u64| retired || now_ms.saturating_sub(since_ms) >= idle_max_ms;
            let mut closed_since = None;
            let mut closed = |since_ms: u64, closed: bool| {
                closed_since = closed_since.max(closed.then_some(since_ms));
                closed
            };
            slot.idle.retain_mut(|idle| {
                !is_old(idle.since_ms) && !closed(idle.since_ms, !idle.stream.is_quiet(false))
            });
            slot.all_closed(closed_since, now_ms);
            slot.drop_closed_h2(now_ms);
            slot.shared
                .retain(|shared| shared.streams.get() > 0 || !is_old(shared.last_used_ms.get()));
            !slot.is_empty()
                || Rc::strong_count(&slot.dialing) > 1
                || (!retired && slot.keeps(now_ms))
        });
    }

    fn slot<T>(&self, key: &PoolKey, target: &Target, with: impl FnOnce(&mut Slot) -> T) -> T {
        with(
            self.instances
                .borrow_mut()
                .entry(key.clone())
                .or_insert_with(|| Slot::new(&target.state)),
        )
    }
}

impl Slot {
    fn new(target: &Arc<TargetState>) -> Self {
        Self {
            target: Arc::clone(target),
            idle: Vec::new(),
            shared: Vec::new(),
            reused_ms: 0,
            dialing: Rc::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.shared.is_empty()
    }

    /// Whether the instance has kept connections open.
    fn keeps(&self, now_ms: u64) -> bool {
        self.reused_ms > 0 && now_ms.saturating_sub(self.reused_ms) < KEEPS_MS
    }

    /// Connections were found closed, the warmest of which was last used at `warmest_ms`, if any
    /// was.
    fn all_closed(&self, warmest_ms: Option<u64>, now_ms: u64) {
        let fresh = warmest_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) < FRESH_MS);
        if fresh && self.is_empty() && self.keeps(now_ms) {
            self.target.note_loss(now_ms);
        }
    }

    /// Drops the warmest HTTP/1.1 connections as long as they are closed. When the first of them
    /// was last used, if there was one. `surely`: also what has arrived unnoticed by the event loop
    /// counts.
    fn drop_closed_h1(&mut self, surely: bool) -> Option<u64> {
        let mut warmest_ms = None;
        while let Some(closed) = self.idle.pop_if(|idle| !idle.stream.is_quiet(surely)) {
            warmest_ms.get_or_insert(closed.since_ms);
        }
        warmest_ms
    }

    fn drop_closed_h2(&mut self, now_ms: u64) {
        let closed = self
            .shared
            .iter()
            .filter(|shared| shared.connection.is_closed());
        let warmest_ms = closed.map(|shared| shared.last_used_ms.get()).max();
        if warmest_ms.is_some() {
            self.shared.retain(|shared| !shared.connection.is_closed());
            self.all_closed(warmest_ms, now_ms);
        }
    }

    /// A stream on the least used HTTP/2 connection with fewer than `most` streams.
    fn stream(&mut self, now_ms: u64, most: usize) -> Option<(H2Connection, StreamGuard)> {
        self.drop_closed_h2(now_ms);
        let shared = self
            .shared
            .iter()
            .min_by_key(|shared| shared.streams.get())?;
        // Beyond what the upstream takes only if there may be no other connection.
        let most = if most == usize::MAX {
            most
        } else {
            most.min(shared.connection.streams_max())
        };
        if shared.streams.get() >= most {
            return None;
        }
        shared.last_used_ms.set(now_ms);
        self.reused_ms = now_ms;
        Some((
            shared.connection.clone(),
            StreamGuard::enter(&shared.streams),
        ))
    }
}
