//! Counters of one service.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the request duration histogram, in seconds.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Methods that get a label of their own; any other word counts as `OTHER`, so that a client cannot make series.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "OTHER"];

/// Status codes 100..=599 have a slot each; slot 0 takes everything else.
const CODES: usize = 501;

/// Why a request was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// The connection could not be made.
    Connect,
    /// The connection ended before any byte of an answer.
    Closed,
    /// No first byte within the limit of one try.
    Timeout,
}

/// How an attempt to connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectResult {
    /// Connected.
    Ok,
    /// Refused, reset or unreachable.
    Refused,
    /// Not within `proxy.connect_timeout`.
    Timeout,
    /// TLS failed.
    Tls,
}

/// Counters of one service; written by all workers, read by the admin listener.
#[derive(Debug)]
pub struct ServiceMetrics {
    name: Arc<str>,
    /// Requests by method and code; a method's row is made when first seen.
    requests: [OnceLock<Box<[AtomicU64]>>; METHODS.len()],
    duration_buckets: [AtomicU64; DURATION_BUCKETS.len() + 1],
    duration_sum_us: AtomicU64,
    /// HTTP requests in flight.
    pub in_flight: AtomicI64,
    /// Connects by result, in the order of [`ConnectResult`].
    pub connects: [AtomicU64; 4],
    /// Retries by reason, in the order of [`RetryReason`].
    pub retries: [AtomicU64; 3],
    /// Passive ejections.
    pub ejections: AtomicU64,
    /// TCP connections accepted for the service.
    pub tcp_connections: AtomicU64,
    /// TCP connections open now.
    pub tcp_open: AtomicI64,
    /// Bytes from clients to upstreams (bodies and TCP payload).
    pub bytes_in: AtomicU64,
    /// Bytes from upstreams to clients.
    pub bytes_out: AtomicU64,
}

impl ServiceMetrics {
    /// All at zero.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            requests: Default::default(),
            duration_buckets: Default::default(),
            duration_sum_us: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            connects: Default::default(),
            retries: Default::default(),
            ejections: AtomicU64::new(0),
            tcp_connections: AtomicU64::new(0),
            tcp_open: AtomicI64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// Name of the service.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts one finished request.
    pub fn record_request(&self, method: &http::Method, code: u16, took: Duration) {
        let row = self.requests[method_index(method)].get_or_init(|| (0..CODES).map(|_| AtomicU64::new(0)).collect());
        let slot = if (100..600).contains(&code) { usize::from(code) - 99 } else { 0 };
        row[slot].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BUCKETS.iter().position(|&bound| seconds <= bound).unwrap_or(DURATION_BUCKETS.len());
        self.duration_buckets[bucket].fetch_add(1, Relaxed);
        self.duration_sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts one attempt to connect.
    pub fn record_connect(&self, result: ConnectResult) {
        self.connects[result as usize].fetch_add(1, Relaxed);
    }

    /// Counts one retry.
    pub fn record_retry(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }
}

fn method_index(method: &http::Method) -> usize {
    METHODS.iter().position(|&name| name == method.as_str()).unwrap_or(METHODS.len() - 1)
}
