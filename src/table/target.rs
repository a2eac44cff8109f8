//! One place a route can send to, and the state of the instance behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::catalog::InstanceId;
use crate::catalog::options::RouteOptions;
use crate::metrics::ServiceMetrics;

/// What is known of one instance beyond its registration: shared by all workers and all routes, and carried over
/// from table to table as long as the instance (same id, same address) is registered.
#[derive(Debug)]
pub struct TargetState {
    /// Unique in this process, never used twice: upstream pools are keyed by it, so a port that changes owner
    /// never meets the previous owner's connections.
    pub key: u64,
    /// The instance.
    pub id: InstanceId,
    /// Its address.
    pub addr: SocketAddr,
    /// Requests (or TCP connections) in flight, over all workers.
    pub in_flight: AtomicU32,
    /// Failures in a row.
    pub failures: AtomicU32,
    /// Milliseconds (of the process clock) until which the instance is ejected; 0: never was.
    pub ejected_until_ms: AtomicU64,
    /// Ejections in a row; decides the length of the next one.
    pub ejections: AtomicU32,
    /// Peak EWMA of the time to the first byte, in microseconds.
    pub latency_us: AtomicU64,
    /// When (process clock, ms) the instance came in or came back: slow start counts from here; 0: at start.
    pub since_ms: AtomicU64,
    /// Set when the instance left the table: idle connections are closed, TCP connections drain.
    pub retired: AtomicBool,
}

impl TargetState {
    /// A fresh state.
    #[must_use]
    pub fn new(key: u64, id: InstanceId, addr: SocketAddr, since_ms: u64) -> Self {
        Self {
            key,
            id,
            addr,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            since_ms: AtomicU64::new(since_ms),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether the instance is ejected at `now_ms` of the process clock.
    #[must_use]
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Relaxed) > now_ms
    }
}

/// One place a route can send to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The instance behind it.
    pub state: Arc<TargetState>,
    /// Its options: those of the tag that made it.
    pub options: Arc<RouteOptions>,
    /// Counters of its service.
    pub service: Arc<ServiceMetrics>,
    /// Query put before the request's own (route commands only).
    pub query: Option<Arc<str>>,
    /// Share of the route's traffic, 0.0 to 1.0; all targets of a route add up to 1.
    pub share: f64,
}
