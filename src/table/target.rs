//! One place a route can send to, and the state of the instance behind it.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use foldhash::fast::FixedState;

use crate::catalog::InstanceId;
use crate::catalog::options::{Proto, RouteOptions};
use crate::metrics::ServiceMetrics;
use crate::metrics::observer::TargetObserver;

/// What is known of one instance beyond its registration: shared by all workers and all routes, and
/// carried over from table to table as long as the instance (same id, same address) is registered.
#[derive(Debug)]
pub struct TargetState {
    /// Unique in this process, never used twice: upstream pools are keyed by it, so a port that
    /// changes owner never meets the previous owner's connections.
    pub key: u64,
    /// The instance.
    pub id: InstanceId,
    /// Its address.
    pub addr: SocketAddr,
    /// Hash of id and address: the same in every process, so that consistent hashing agrees between
    /// balancers.
    pub hash: u64,
    /// Requests (or TCP connections) in flight, over all workers.
    pub in_flight: AtomicU32,
    /// Failures in a row.
    pub failures: AtomicU32,
    /// Milliseconds (of the process clock) until which the instance is ejected; 0: never was.
    pub ejected_until_ms: AtomicU64,
    /// Set by an ejection, until a request that was sent after it succeeds: meanwhile one failure
    /// ejects again.
    pub probation: AtomicBool,
    /// Until when (process clock, ms) the one request that tries an instance on probation keeps
    /// others away.
    pub trial_until_ms: AtomicU64,
    /// Ejections in a row; decides the length of the next one.
    pub ejections: AtomicU32,
    /// Peak EWMA of the time to the first byte, in microseconds.
    pub latency_us: AtomicU64,
    /// When (process clock, ms) `latency_us` was written: it counts for less and less from there.
    pub latency_at_ms: AtomicU64,
    /// When (process clock, ms) the instance came in or came back: slow start counts from here; 0:
    /// at start.
    pub since_ms: AtomicU64,
    /// Until when (process clock, ms) others are preferred, for whatever reason: the later end of
    /// an ejection and of the time after lost connections, and for ever once it is retired.
    /// Derived, so that a pick reads one figure.
    pub closed_until_ms: AtomicU64,
    /// When the head of a response came last, and how long it took: see `silence`.
    pub heard: AtomicU64,
    /// How many responses came, about; wraps around.
    pub answers: AtomicU32,
    /// The last 64 responses, the latest in the lowest bit; set: it counts as a failure. See
    /// `bad_responses`.
    pub outcomes: AtomicU64,
    /// When (process clock, ms) the present run of such responses began.
    pub bad_since_ms: AtomicU64,
    /// When (process clock, ms) the last one came.
    pub bad_at_ms: AtomicU64,
    /// Since when (process clock, ms) it is watched because a response is late; 0: it is not. See
    /// `silence`.
    pub doubt_ms: AtomicU64,
    /// How many responses the others of the route had given then.
    pub doubt_answers: AtomicU32,
    /// When (process clock, ms) it was given the last request that shall tell whether it responds;
    /// 0: none.
    pub probe_ms: AtomicU64,
    /// How many of them it was given.
    pub probes: AtomicU32,
    /// When (process clock, ms) its connections were lost together; 0: never. See `loss`.
    pub lost_ms: AtomicU64,
    /// Tunnels (TCP connections, websockets) among what is in flight: nothing is owed on them.
    pub tunnels: AtomicU32,
    /// Tunnels that the instance ended shortly after one another: when the first of them ended, and
    /// how many.
    pub tunnel_ends: AtomicU64,
    /// Set when the instance left the table: idle connections are closed, TCP connections drain.
    pub retired: AtomicBool,
}

impl TargetState {
    /// The state of an instance that had no traffic so far.
    #[must_use]
    pub fn new(key: u64, id: InstanceId, addr: SocketAddr, since_ms: u64) -> Self {
        let hash = FixedState::with_seed(0x7461_7267_6574).hash_one((&id.node, &id.id, addr));
        Self {
            key,
            id,
            addr,
            hash,
            probation: AtomicBool::new(false),
            trial_until_ms: AtomicU64::new(0),
            latency_at_ms: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            since_ms: AtomicU64::new(since_ms),
            closed_until_ms: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            answers: AtomicU32::new(0),
            outcomes: AtomicU64::new(0),
            bad_since_ms: AtomicU64::new(0),
            bad_at_ms: AtomicU64::new(0),
            doubt_ms: AtomicU64::new(0),
            doubt_answers: AtomicU32::new(0),
            probe_ms: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            lost_ms: AtomicU64::new(0),
            tunnels: AtomicU32::new(0),
            tunnel_ends: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether the instance is ejected at `now_ms` of the process clock.
    #[must_use]
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Relaxed) > now_ms
    }

    /// The instance left the table for good: no pick from an older table sends it anything while
    /// there are others.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.closed_until_ms.store(u64::MAX, Relaxed);
    }

    /// Its state in a word: `healthy`, `probation` or `ejected`.
    #[must_use]
    pub fn word(&self, now_ms: u64) -> &'static str {
        match (self.is_ejected(now_ms), self.probation.load(Relaxed)) {
            (true, _) => "ejected",
            (false, true) => "probation",
            (false, false) => "healthy",
        }
    }
}

/// One place a route can send to. What each request looks at comes first, and in this order: see
/// [`Route`](super::Route).
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Target {
    /// The instance behind it.
    pub state: Arc<TargetState>,
    /// Share of the route's traffic, 0.0 to 1.0; all targets of a route add up to 1.
    pub share: f64,
    /// Its options: those of the tag that made it.
    pub options: Arc<RouteOptions>,
    /// Counters of its service.
    pub service: Arc<ServiceMetrics>,
    /// What counts its traffic a second time, where that is wanted.
    pub observer: Option<Arc<dyn TargetObserver>>,
    /// Query put before the request's own (route commands only).
    pub query: Option<Arc<str>>,
    /// Fixed share as configured (`weight=` of the tag, or `route weight`), if any: only for
    /// display.
    pub fixed: Option<f64>,
    /// Plain tags of the instance.
    pub tags: Arc<[Arc<str>]>,
    /// Destination as written in a route command; none for an instance of the catalog.
    pub url: Option<Arc<str>>,
}

impl Target {
    /// The destination as Fabio writes it: `http://1.2.3.4:5000/`.
    #[must_use]
    pub fn destination(&self) -> String {
        if let Some(url) = &self.url {
            return url.to_string();
        }
        if let Some(redirect) = &self.options.redirect {
            return redirect.url.to_string();
        }
        let slash = if self.options.proto == Proto::Http {
            "/"
        } else {
            ""
        };
        format!(
            "{}://{}{slash}",
            self.options.proto.scheme(),
            self.state.addr
        )
    }
}

/// One request (or TCP connection) that an instance is busy with; counted as long as this lives.
#[derive(Debug)]
pub struct InFlight(Arc<TargetState>);

impl InFlight {
    /// Raises the count of `state`, and lowers it when dropped.
    #[must_use]
    pub fn new(state: Arc<TargetState>) -> Self {
        state.in_flight.fetch_add(1, Relaxed);
        Self(state)
    }

    /// The instance.
    #[must_use]
    pub fn state(&self) -> &Arc<TargetState> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Every lowering has its raising, so the count cannot fall below 0.
        let before = self.0.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "in-flight count of {} fell below 0", self.0.id);
    }
}
