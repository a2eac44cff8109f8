//! Figures of the process.

use prometheus::proto::MetricFamily;

use crate::metrics::family::one;
use crate::metrics::names;
use crate::metrics::process::Process;

/// A figure that cannot be read has no family.
pub(super) fn families(process: &Process) -> Vec<MetricFamily> {
    let figures = [
        (names::PROCESS_CPU, process.cpu_seconds),
        (names::PROCESS_RSS, process.resident_bytes),
        (names::PROCESS_VIRTUAL, process.virtual_bytes),
        (names::PROCESS_OPEN_FDS, process.open_fds),
        (names::PROCESS_MAX_FDS, process.max_fds),
        (names::PROCESS_START, process.start_seconds),
        (names::PROCESS_THREADS, process.threads),
    ];
    figures
        .into_iter()
        .filter_map(|(family, value)| Some(one(family, &[], value?)))
        .collect()
}
