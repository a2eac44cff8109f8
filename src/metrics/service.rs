//! Counters of one service.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::outcomes::Outcomes;

/// Upper bounds of the request duration histogram, in seconds.
pub const DURATION_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The same in microseconds, as the request path compares integers.
const DURATION_BUCKETS_US: [u64; DURATION_BUCKETS.len()] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the histogram of upgraded connections, in seconds: a second to a day.
pub const UPGRADED_BUCKETS: [f64; 7] = [1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0];

/// Methods that get a label of their own; any other word counts as `OTHER`, so that a client cannot
/// make series.
pub const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "OTHER",
];

/// Status codes 100..=599 have a slot each; slot 0 takes everything else.
const CODES: usize = 501;

/// Labels of [`RetryReason`], in its order.
pub const RETRY_REASONS: [&str; 3] = ["connect", "closed", "timeout"];

/// Labels of [`ConnectResult`], in its order.
pub const CONNECT_RESULTS: [&str; 5] = ["ok", "refused", "timeout", "tls", "exhausted"];

/// Why a request was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// The connection could not be made.
    Connect,
    /// The connection ended before any byte of a response.
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
    /// This process or machine had no descriptor, port or memory left for it: says nothing about
    /// the instance.
    Exhausted,
}

/// Counters of one service; written by all workers, read by the admin listener.
#[derive(Debug)]
pub struct ServiceMetrics {
    name: Arc<str>,
    /// Requests by method and code; a method's row is made when first seen.
    requests: [OnceLock<Box<[AtomicU64]>>; METHODS.len()],
    duration_buckets: [AtomicU64; DURATION_BUCKETS.len() + 1],
    duration_sum_us: AtomicU64,
    upgraded_buckets: [AtomicU64; UPGRADED_BUCKETS.len() + 1],
    upgraded_sum_ms: AtomicU64,
    /// HTTP requests in flight.
    pub in_flight: AtomicI64,
    /// Connects by result, in the order of [`ConnectResult`].
    pub connects: [AtomicU64; CONNECT_RESULTS.len()],
    /// Retries by reason, in the order of [`RetryReason`].
    pub retries: [AtomicU64; 3],
    /// Passive ejections.
    pub ejections: AtomicU64,
    /// Copies of requests that it was to get (`mirror=`).
    pub mirrored: AtomicU64,
    /// Those of them that it did not get.
    pub mirror_dropped: AtomicU64,
    /// TCP connections accepted for the service.
    pub tcp_connections: AtomicU64,
    /// TCP connections open now.
    pub tcp_open: AtomicI64,
    /// Bytes from clients to upstreams (bodies and TCP payload).
    pub bytes_in: AtomicU64,
    /// Bytes from upstreams to clients.
    pub bytes_out: AtomicU64,
    /// Responses made here, and calls of gRPC.
    pub outcomes: Outcomes,
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
            upgraded_buckets: Default::default(),
            upgraded_sum_ms: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            connects: Default::default(),
            retries: Default::default(),
            ejections: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            mirror_dropped: AtomicU64::new(0),
            tcp_connections: AtomicU64::new(0),
            tcp_open: AtomicI64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            outcomes: Outcomes::default(),
        }
    }

    /// Name of the service.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts one finished request.
    pub fn record_request(&self, method: &http::Method, code: u16, took: Duration) {
        self.count_request(method, code);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BUCKETS_US
            .iter()
            .position(|&bound| took_us <= bound)
            .unwrap_or(DURATION_BUCKETS_US.len());
        self.duration_buckets[bucket].fetch_add(1, Relaxed);
        self.duration_sum_us.fetch_add(took_us, Relaxed);
    }

    /// Counts one request that made its connection another protocol's, and how long that lasted: it
    /// is not a time that a client has waited for a response.
    pub fn record_upgraded(&self, method: &http::Method, code: u16, lasted: Duration) {
        self.count_request(method, code);
        let seconds = lasted.as_secs_f64();
        let bucket = UPGRADED_BUCKETS
            .iter()
            .position(|&bound| seconds <= bound)
            .unwrap_or(UPGRADED_BUCKETS.len());
        self.upgraded_buckets[bucket].fetch_add(1, Relaxed);
        self.upgraded_sum_ms.fetch_add(
            u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            Relaxed,
        );
    }

    fn count_request(&self, method: &http::Method, code: u16) {
        let row = self.requests[method_index(method)]
            .get_or_init(|| (0..CODES).map(|_| AtomicU64::new(0)).collect());
        let slot = if (100..600).contains(&code) {
            usize::from(code) - 99
        } else {
            0
        };
        row[slot].fetch_add(1, Relaxed);
    }

    /// As [`Self::durations`], of upgraded connections.
    #[must_use]
    pub fn upgraded(&self) -> ([u64; UPGRADED_BUCKETS.len() + 1], f64) {
        let buckets = std::array::from_fn(|index| self.upgraded_buckets[index].load(Relaxed));
        (buckets, self.upgraded_sum_ms.load(Relaxed) as f64 / 1e3)
    }

    /// Counts one attempt to connect.
    pub fn record_connect(&self, result: ConnectResult) {
        self.connects[result as usize].fetch_add(1, Relaxed);
    }

    /// Counts one retry.
    pub fn record_retry(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }

    /// Calls `each` with method, code (0: outside 100..=599) and count of every combination that
    /// was seen.
    pub fn for_each_request_count(&self, mut each: impl FnMut(&'static str, u16, u64)) {
        for (method, row) in METHODS.into_iter().zip(&self.requests) {
            let Some(row) = row.get() else { continue };
            for (code, count) in (99..).zip(row) {
                match count.load(Relaxed) {
                    0 => {}
                    count => each(method, if code == 99 { 0 } else { code }, count),
                }
            }
        }
    }

    /// Requests per bucket of [`DURATION_BUCKETS`] (the last one above all bounds, not cumulated),
    /// and the sum of their durations in seconds.
    #[must_use]
    pub fn durations(&self) -> ([u64; DURATION_BUCKETS.len() + 1], f64) {
        let buckets = std::array::from_fn(|index| self.duration_buckets[index].load(Relaxed));
        (buckets, self.duration_sum_us.load(Relaxed) as f64 / 1e6)
    }

    /// HTTP requests finished so far.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.duration_buckets
            .iter()
            .chain(&self.upgraded_buckets)
            .map(|bucket| bucket.load(Relaxed))
            .sum()
    }

    /// Whether any HTTP request was finished, or is under way.
    #[must_use]
    pub fn had_http(&self) -> bool {
        self.in_flight.load(Relaxed) != 0 || self.requests_total() > 0
    }

    /// Whether copies of requests were made for it.
    #[must_use]
    pub fn had_copies(&self) -> bool {
        self.mirrored.load(Relaxed) > 0
    }

    /// Whether any TCP connection came in.
    #[must_use]
    pub fn had_tcp(&self) -> bool {
        self.tcp_connections.load(Relaxed) > 0
    }

    /// Whether the service was used at all.
    #[must_use]
    pub fn had_traffic(&self) -> bool {
        self.had_http()
            || self.had_tcp()
            || self.connects.iter().any(|count| count.load(Relaxed) > 0)
    }
}

fn method_index(method: &http::Method) -> usize {
    METHODS
        .iter()
        .position(|&name| name == method.as_str())
        .unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lists_of_bounds_agree() {
        for (seconds, microseconds) in DURATION_BUCKETS.iter().zip(DURATION_BUCKETS_US) {
            assert_eq!((seconds * 1e6).round() as u64, microseconds);
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_next_microsecond_does_not() {
        for (index, bound) in DURATION_BUCKETS_US.into_iter().enumerate() {
            let service = ServiceMetrics::new(Arc::from("s"));
            service.record_request(&http::Method::GET, 200, Duration::from_micros(bound));
            service.record_request(&http::Method::GET, 200, Duration::from_micros(bound + 1));
            let (buckets, _) = service.durations();
            assert_eq!(
                (buckets[index], buckets[index + 1]),
                (1, 1),
                "bound {bound}"
            );
        }
    }

    #[test]
    fn labels_stand_in_the_order_of_the_enums() {
        assert_eq!(CONNECT_RESULTS[ConnectResult::Refused as usize], "refused");
        assert_eq!(CONNECT_RESULTS[ConnectResult::Tls as usize], "tls");
        assert_eq!(
            CONNECT_RESULTS[ConnectResult::Exhausted as usize],
            "exhausted"
        );
        assert_eq!(RETRY_REASONS[RetryReason::Connect as usize], "connect");
        assert_eq!(RETRY_REASONS[RetryReason::Timeout as usize], "timeout");
    }

    #[test]
    fn strange_methods_and_codes_make_no_series_of_their_own() {
        let service = ServiceMetrics::new(Arc::from("s"));
        for index in 0..50 {
            let method = http::Method::from_bytes(format!("M{index}").as_bytes()).unwrap();
            service.record_request(&method, 600 + index, Duration::ZERO);
        }
        let mut seen = Vec::new();
        service.for_each_request_count(|method, code, count| seen.push((method, code, count)));
        assert_eq!(seen, [("OTHER", 0, 50)]);
    }

    #[test]
    fn the_ends_of_the_code_range_have_their_own_slots() {
        let service = ServiceMetrics::new(Arc::from("s"));
        for code in [99, 100, 599, 600] {
            service.record_request(&http::Method::GET, code, Duration::ZERO);
        }
        let mut seen = Vec::new();
        service.for_each_request_count(|_, code, count| seen.push((code, count)));
        assert_eq!(seen, [(0, 2), (100, 1), (599, 1)]);
    }
}
