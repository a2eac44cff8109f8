//! `/api/summary`: the figures at the top of the page, and what tells a page whether the rest of it
//! is still as it was.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::services::unready_reason;
use super::sources::warnings;
use crate::control::Readiness;
use crate::metrics::Metrics;

/// Small, whatever the size of the table.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) ready: bool,
    pub(super) reason: Option<String>,
    /// Sources that cannot be read now.
    pub(super) warnings: Vec<String>,
    pub(super) routes: u64,
    /// Instances that may get requests.
    pub(super) serving: u64,
    pub(super) out: u64,
    pub(super) rejected: u64,
    pub(super) in_flight: i64,
    /// Requests finished and TCP connections accepted since the start; falls when a service
    /// vanishes.
    pub(super) requests_total: u64,
    /// Number of the last event.
    pub(super) last_event: u64,
    /// Rises with each table.
    pub(super) table: u64,
}

pub(super) fn summary(metrics: &Metrics, readiness: &Readiness) -> Summary {
    let known = metrics.journal().sources().list();
    let (mut in_flight, mut requests_total) = (0, 0);
    for service in metrics.services() {
        in_flight += service.in_flight.load(Relaxed) + service.tcp_open.load(Relaxed);
        requests_total += service.requests_total() + service.tcp_connections.load(Relaxed);
    }
    let control = metrics.control();
    let (mut serving, mut out) = (0, 0);
    for ((_, state), count) in &control.table_targets {
        match *state {
            "healthy" | "held" => serving += count,
            _ => out += count,
        }
    }
    Summary {
        ready: readiness.is_ready(),
        reason: unready_reason(readiness, &known),
        warnings: warnings(&known),
        routes: control.table_routes,
        serving,
        out,
        rejected: control.rejected_tags.values().sum(),
        in_flight,
        requests_total,
        last_event: metrics.journal().events().last_id(),
        table: control.table_builds,
    }
}
