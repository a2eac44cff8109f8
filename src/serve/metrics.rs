//! From the configuration to what is counted.

use std::path::Path;

use crate::config::MetricsConfig;
use crate::metrics::Metrics;
use crate::metrics::fabio::{Bounds, FabioMetrics, Names};
use crate::metrics::process::hostname;

/// All counters of a process: `lb`'s own, and those under Fabio's names where they are wanted.
pub(super) fn build(config: &MetricsConfig) -> Metrics {
    if !config.is_on() {
        return Metrics::default();
    }
    let called = std::env::args_os().next().unwrap_or_default();
    let exec = Path::new(&called).file_name().unwrap_or_default().to_string_lossy();
    let names = Names {
        prefix: config.prefix.expand(&hostname(), &exec),
        subsystem: config.subsystem.clone(),
        bounds: Bounds::new(&config.buckets),
        path: config.fabio_names.then(|| config.path.clone()),
    };
    Metrics::with_fabio(FabioMetrics::new(names, config.is_sent()))
}
