//! Counting what Fabio counts, under the names it gives, so that dashboards and alerts made for it
//! go on working.
//!
//! ```text
//! table build ─► RouteSeries, once per target ─┐ workers add            ┌─► collector: Prometheus, at each scrape
//! listeners, exchanges ─► FabioMetrics ────────┴───────────────────────┴─► report ─► lines ─► send: every interval
//! ```
//! None of it exists unless it is configured. The data path knows it as an observer
//! ([`crate::metrics::observer`]). What a request costs then is a few relaxed increments behind
//! pointers that were found when the table was built.

pub(crate) mod collector;
mod counter;
pub(crate) mod families;
pub(crate) mod lines;
pub(crate) mod report;
pub(crate) mod send;
mod series;
mod shape;
mod timer;

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shape::Shape;

use crate::metrics::names::Family;
use crate::metrics::observer::{TargetLabels, TargetObserver, Traffic, TrafficObserver};

pub(crate) use counter::{Counter, Growth};
pub(crate) use series::{RouteSeries, Series, ServiceSeries};
pub(crate) use timer::{Bounds, Histogram, Taken, Timer};

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
pub(crate) struct Names {
    /// First part of every name, as text.
    pub prefix: String,
    /// Second part of Prometheus's names; may be empty.
    pub subsystem: String,
    /// Bounds of histograms.
    pub bounds: Bounds,
}

/// Connections of one kind.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub accepted: Counter,
    /// Those for which no target could be reached.
    pub failed: Counter,
    /// Connections (of gRPC: calls) without a route.
    pub no_route: Counter,
}

/// All counters under Fabio's names.
#[derive(Debug)]
pub(crate) struct FabioMetrics {
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
    /// All at zero. `reports`: durations are kept, because reports send them on.
    #[must_use]
    pub(crate) fn new(names: Names, reports: bool) -> Self {
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
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    fn connections(&self, traffic: Traffic) -> Option<&Connections> {
        match traffic {
            Traffic::Http => None,
            Traffic::Tcp => Some(&self.tcp),
            Traffic::Sni => Some(&self.sni),
            Traffic::Grpc => Some(&self.grpc),
        }
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

    /// Counters without labels, with their families.
    fn plain_counters(&self) -> [(Family<'static>, &Counter); 9] {
        [
            (families::NOT_FOUND, &self.not_found),
            (families::TCP_CONN, &self.tcp.accepted),
            (families::TCP_CONN_FAIL, &self.tcp.failed),
            (families::TCP_NO_ROUTE, &self.tcp.no_route),
            (families::SNI_CONN, &self.sni.accepted),
            (families::SNI_CONN_FAIL, &self.sni.failed),
            (families::SNI_NO_ROUTE, &self.sni.no_route),
            (families::GRPC_CONN, &self.grpc.accepted),
            (families::GRPC_NO_ROUTE, &self.grpc.no_route),
        ]
    }

    /// Open websockets and other upgraded connections.
    fn open_websockets(&self) -> i64 {
        self.websockets.load(Relaxed)
    }
}

impl TrafficObserver for FabioMetrics {
    fn target(&self, labels: TargetLabels) -> Arc<dyn TargetObserver> {
        self.series.route(labels)
    }

    fn remove_targets(&self, gone: &HashSet<TargetLabels>) {
        self.series.remove_routes(gone);
    }

    fn remove_service(&self, name: &str) {
        self.series.remove_service(name);
    }

    fn connection(&self, traffic: Traffic) {
        if let Some(connections) = self.connections(traffic) {
            connections.accepted.add(1);
        }
    }

    fn failure(&self, traffic: Traffic) {
        if let Some(connections) = self.connections(traffic) {
            connections.failed.add(1);
        }
    }

    fn no_route(&self, traffic: Traffic) {
        if let Some(connections) = self.connections(traffic) {
            connections.no_route.add(1);
        }
        if traffic != Traffic::Grpc {
            self.not_found.add(1);
        }
    }

    fn redirect(&self, code: u16) {
        if let Some(counter) = code
            .checked_sub(300)
            .and_then(|at| self.redirects.get(usize::from(at)))
        {
            counter.add(1);
        }
    }

    fn call(&self, status: Option<usize>, took: Duration) {
        self.calls.record(&self.shape.bounds, took);
        let status = status
            .filter(|status| *status < GRPC_CODES.len())
            .unwrap_or(GRPC_UNKNOWN);
        let timer =
            self.calls_by_code[status].get_or_init(|| Box::new(self.shape.timer(CALL_SAMPLES_MAX)));
        timer.record(&self.shape.bounds, took);
    }

    fn upgrade_opened(&self) {
        self.websockets.fetch_add(1, Relaxed);
    }

    fn upgrade_closed(&self) {
        self.websockets.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
