//! The program: its version, and lines that its logs lost.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::MetricFamily;

use crate::metrics::build_info::{REVISION, VERSION};
use crate::metrics::family::one;
use crate::metrics::{Metrics, names};

pub(super) fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let dropped = [
        (names::ACCESS_LOG_DROPPED, metrics.access_log_dropped()),
        (names::LOG_DROPPED, metrics.log_dropped()),
    ];
    let mut families = vec![one(names::BUILD_INFO, &[VERSION, REVISION], 1.0)];
    families.extend(dropped.map(|(family, count)| one(family, &[], count.load(Relaxed) as f64)));
    families
}
