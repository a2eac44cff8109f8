//! Counting what Fabio counts, under the names it gives, so that dashboards and alerts made for it
//! go on working.
//!
//! ```text
//! table build ─► RouteSeries, once per target ─┐ workers add            ┌─► exposition: Prometheus, when asked
//! listeners, exchanges ─► FabioMetrics ────────┴───────────────────────┴─► report ─► lines ─► send: every interval
//! ```
//! None of it exists unless it is configured. What a request costs then is a few relaxed increments
//! behind pointers that were found when the table was built.

mod counter;
mod exposition;
pub mod lines;
pub mod report;
pub mod send;
mod series;
mod shape;
mod template;
mod timer;

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shape::Shape;

pub use counter::{Counter, Growth};
pub(super) use exposition::write;
pub use series::{RouteLabels, RouteSeries, Series, ServiceSeries};
pub use template::{PrefixTemplate, TEMPLATE_ADVICE, TemplateError, clean};
pub use timer::{Bounds, Histogram, Taken, Timer};

/// Durations kept between two reports, of all gRPC calls and of each of their results.
const CALL_SAMPLES_MAX: usize = 512;

/// Names of gRPC's status codes, in the order of their numbers.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// Number of `Unknown`.
const GRPC_UNKNOWN: usize = 2;

/// How names and histograms are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    /// First part of every name, as text.
    pub prefix: String,
    /// Second part of Prometheus's names; may be empty.
    pub subsystem: String,
    /// Bounds of histograms.
    pub bounds: Bounds,
    /// Where Prometheus finds it; none: it is not asked to.
    pub path: Option<String>,
}

/// Which counters a connection or a request without a route belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// HTTP.
    Http,
    /// TCP by port.
    Tcp,
    /// TLS by server name.
    Sni,
    /// gRPC.
    Grpc,
}

/// Connections of one family.
#[derive(Debug, Default)]
pub struct Connections {
    /// Accepted.
    pub accepted: Counter,
    /// Those for which no target could be reached.
    pub failed: Counter,
    /// Connections (of gRPC: calls) without a route.
    pub no_route: Counter,
}

/// All counters under Fabio's names.
#[derive(Debug)]
pub struct FabioMetrics {
    names: Names,
    shape: Arc<Shape>,
    /// Those with labels of services and routes.
    pub series: Series,
    not_found: Counter,
    /// Redirects by code, from 300.
    redirects: [Counter; 100],
    websockets: AtomicI64,
    tcp: Connections,
    sni: Connections,
    grpc: Connections,
    calls: Timer,
    calls_by_code: [OnceLock<Box<Timer>>; GRPC_CODES.len()],
}

impl FabioMetrics {
    /// All at zero. `reports`: durations are kept for somebody who sends them on.
    #[must_use]
    pub fn new(names: Names, reports: bool) -> Self {
        let shape = Arc::new(Shape {
            bounds: names.bounds.clone(),
            reports,
        });
        Self {
            series: Series::new(&shape),
            not_found: Counter::default(),
            redirects: std::array::from_fn(|_| Counter::default()),
            websockets: AtomicI64::new(0),
            tcp: Connections::default(),
            sni: Connections::default(),
            grpc: Connections::default(),
            calls: shape.timer(CALL_SAMPLES_MAX),
            calls_by_code: Default::default(),
            shape,
            names,
        }
    }

    /// How names are made.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    fn connections(&self, family: Family) -> Option<&Connections> {
        match family {
            Family::Http => None,
            Family::Tcp => Some(&self.tcp),
            Family::Sni => Some(&self.sni),
            Family::Grpc => Some(&self.grpc),
        }
    }

    /// A connection came in.
    pub fn record_connection(&self, family: Family) {
        if let Some(connections) = self.connections(family) {
            connections.accepted.add(1);
        }
    }

    /// No target could be reached, or the client did not say for whom it came.
    pub fn record_failure(&self, family: Family) {
        if let Some(connections) = self.connections(family) {
            connections.failed.add(1);
        }
    }

    /// There was no route.
    pub fn record_no_route(&self, family: Family) {
        if let Some(connections) = self.connections(family) {
            connections.no_route.add(1);
        }
        if family != Family::Grpc {
            self.not_found.add(1);
        }
    }

    /// A request was answered with a redirect.
    pub fn record_redirect(&self, code: u16) {
        if let Some(counter) = code
            .checked_sub(300)
            .and_then(|at| self.redirects.get(usize::from(at)))
        {
            counter.add(1);
        }
    }

    /// A gRPC call is over, with this status (none: nobody said one).
    pub fn record_call(&self, status: Option<usize>, took: Duration) {
        self.calls.record(&self.shape.bounds, took);
        let status = status
            .filter(|status| *status < GRPC_CODES.len())
            .unwrap_or(GRPC_UNKNOWN);
        let timer =
            self.calls_by_code[status].get_or_init(|| Box::new(self.shape.timer(CALL_SAMPLES_MAX)));
        timer.record(&self.shape.bounds, took);
    }

    /// Results of gRPC calls that occurred, with their durations.
    fn call_codes(&self) -> impl Iterator<Item = (&'static str, &Timer)> {
        GRPC_CODES
            .iter()
            .zip(&self.calls_by_code)
            .filter_map(|(name, timer)| Some((*name, timer.get()?.as_ref())))
    }

    /// Redirects that occurred, by code.
    fn redirect_codes(&self) -> impl Iterator<Item = (String, &Counter)> {
        let coded = (300..)
            .zip(&self.redirects)
            .filter(|(_, counter)| counter.total() > 0);
        coded.map(|(code, counter): (u16, _)| (code.to_string(), counter))
    }

    /// Counters without labels; the first is always told, the others once there was one.
    fn plain_counters(&self) -> [(&'static str, &'static str, &Counter); 9] {
        [
            (
                "notfound",
                "Requests and connections without a route.",
                &self.not_found,
            ),
            ("tcp.conn", "TCP connections.", &self.tcp.accepted),
            (
                "tcp.connfail",
                "TCP connections for which no target could be reached.",
                &self.tcp.failed,
            ),
            (
                "tcp.noroute",
                "TCP connections without a route.",
                &self.tcp.no_route,
            ),
            (
                "tcp_sni.conn",
                "TLS connections passed on by server name.",
                &self.sni.accepted,
            ),
            (
                "tcp_sni.connfail",
                "Of those, without a name or a target in reach.",
                &self.sni.failed,
            ),
            (
                "tcp_sni.noroute",
                "Of those, without a route.",
                &self.sni.no_route,
            ),
            (
                "grpc.conn",
                "Client connections of gRPC.",
                &self.grpc.accepted,
            ),
            (
                "grpc.noroute",
                "gRPC calls without a route.",
                &self.grpc.no_route,
            ),
        ]
    }

    /// Open websockets and other upgraded connections.
    fn open_websockets(&self) -> i64 {
        self.websockets.load(Relaxed)
    }
}

/// One upgraded connection; counted while it lives.
#[derive(Debug)]
pub struct OpenWebsocket(Arc<FabioMetrics>);

impl OpenWebsocket {
    /// Counts one more.
    #[must_use]
    pub fn new(metrics: &Arc<FabioMetrics>) -> Self {
        metrics.websockets.fetch_add(1, Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for OpenWebsocket {
    fn drop(&mut self) {
        self.0.websockets.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
