//! Series of listeners.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::MetricFamily;

use crate::metrics::family::FamilyBuilder;
use crate::metrics::{CLIENT_FAULTS, Metrics, names};

pub(super) fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let mut no_route = FamilyBuilder::new(names::NO_ROUTE);
    let mut faults = FamilyBuilder::new(names::CLIENT_FAULTS);
    for (listener, counters) in metrics.listeners() {
        no_route.sample(&[&listener], counters.no_route.load(Relaxed) as f64);
        for (fault, count) in CLIENT_FAULTS.iter().zip(&counters.client_faults) {
            faults.sample(&[&listener, fault], count.load(Relaxed) as f64);
        }
    }
    vec![no_route.build(), faults.build()]
}
