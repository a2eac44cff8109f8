//! What changed since the last report: taken once, for all receivers.

use std::sync::Arc;

use super::families::{
    CALL_STATUS, CALLS, REDIRECTS, REQUESTS, ROUTE, ROUTE_RX, ROUTE_TX, STATUS, WEBSOCKETS,
};
use super::{Counter, FabioMetrics, Growth, RouteSeries, ServiceSeries, Taken, Timer};
use crate::metrics::observer::TargetLabels;

/// One series and its news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Fabio's name, with dots.
    pub name: &'static str,
    /// Labels in Fabio's order.
    pub labels: Labels,
    /// The news.
    pub value: Value,
}

/// Labels of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Labels {
    /// A list of names and values; empty for most.
    Pairs(Vec<(&'static str, Arc<str>)>),
    /// Those of a target of a route.
    Route(TargetLabels),
}

impl Labels {
    #[must_use]
    pub(crate) fn pairs(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Pairs(pairs) => pairs
                .iter()
                .map(|(name, value)| (*name, &**value))
                .collect(),
            Self::Route(TargetLabels {
                service,
                host,
                path,
                target,
            }) => {
                vec![
                    ("service", service),
                    ("host", host),
                    ("path", path),
                    ("target", target),
                ]
            }
        }
    }

    /// Whether there are none.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Pairs(pairs) if pairs.is_empty())
    }
}

/// What happened to a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// It grew, or not.
    Counter(Growth),
    /// It is.
    Gauge(i64),
    /// Durations came in.
    Times(Taken),
}

/// Takes the news of all series. Those that never had any are left out; so are durations when none
/// came in.
#[must_use]
pub(crate) fn take(metrics: &FabioMetrics) -> Vec<Point> {
    let mut points = Points(Vec::new());
    for (family, counter) in metrics.plain_counters() {
        points.counter(family.name, Labels::Pairs(Vec::new()), counter);
    }
    for (code, counter) in metrics.redirect_codes() {
        points.counter(
            REDIRECTS.name,
            Labels::Pairs(vec![("code", code.into())]),
            counter,
        );
    }
    let open = Value::Gauge(metrics.open_websockets());
    points.0.push(Point {
        name: WEBSOCKETS.name,
        labels: Labels::Pairs(Vec::new()),
        value: open,
    });
    for service in metrics.series.services() {
        points.service(&service);
    }
    for route in metrics
        .series
        .take_departed()
        .iter()
        .chain(&metrics.series.routes())
    {
        points.route(route);
    }
    points.times(CALLS.name, || Labels::Pairs(Vec::new()), &metrics.calls);
    for (code, timer) in metrics.call_codes() {
        points.times(
            CALL_STATUS.name,
            || Labels::Pairs(vec![("code", code.into())]),
            timer,
        );
    }
    points.0
}

/// What of each report says something new: for people who see every line, and would see the same
/// ones again and again.
#[derive(Debug, Default)]
pub(crate) struct News {
    gauges: Vec<(&'static str, i64)>,
}

impl News {
    /// The points without counters that did not grow and gauges that stand where they stood.
    #[must_use]
    pub(crate) fn of(&mut self, points: &[Point]) -> Vec<Point> {
        let is_new = |point: &&Point| match &point.value {
            Value::Counter(growth) => growth.since > 0,
            Value::Times(_) => true,
            // None of the gauges has labels.
            Value::Gauge(value) => {
                let known = self.gauges.iter().position(|(name, _)| *name == point.name);
                let before = known.map(|at| self.gauges.swap_remove(at).1);
                self.gauges.push((point.name, *value));
                before != Some(*value)
            }
        };
        points.iter().filter(is_new).cloned().collect()
    }
}

struct Points(Vec<Point>);

impl Points {
    fn counter(&mut self, name: &'static str, labels: Labels, counter: &Counter) {
        let growth = counter.take();
        if growth.total > 0 {
            self.0.push(Point {
                name,
                labels,
                value: Value::Counter(growth),
            });
        }
    }

    fn times(&mut self, name: &'static str, labels: impl FnOnce() -> Labels, timer: &Timer) {
        let taken = timer.take();
        if taken.seen > 0 {
            self.0.push(Point {
                name,
                labels: labels(),
                value: Value::Times(taken),
            });
        }
    }

    fn service(&mut self, service: &ServiceSeries) {
        let of = || ("service", Arc::clone(&service.name));
        self.times(
            REQUESTS.name,
            || Labels::Pairs(vec![of()]),
            &service.requests,
        );
        for (code, timer) in service.codes() {
            self.times(
                STATUS.name,
                || Labels::Pairs(vec![("code", code.into()), of()]),
                timer,
            );
        }
    }

    fn route(&mut self, series: &RouteSeries) {
        let labels = || Labels::Route(series.labels.clone());
        self.times(ROUTE.name, labels, &series.requests);
        self.counter(ROUTE_RX.name, labels(), &series.rx);
        self.counter(ROUTE_TX.name, labels(), &series.tx);
    }
}
