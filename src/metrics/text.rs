//! Prometheus text exposition format 0.0.4.
//!
//! Reads the handles and writes text: nothing here counts anything. A family without samples is
//! left out, header included. A service that had no traffic of a kind has no series of that kind,
//! so that a thousand quiet services do not cost a thousand empty histograms; from its first event
//! on, every bounded label value is shown.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::exposition::{Exposition, FamilyWriter};
use super::freshness::CHANGE_BUCKETS;
use super::names;
use super::process::Process;
use super::service::{CONNECT_RESULTS, DURATION_BUCKETS, RETRY_REASONS, UPGRADED_BUCKETS};
use super::{CLIENT_FAULTS, Control, Metrics, ServiceMetrics, fabio};

/// What `Content-Type` the text is to be served with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Source revision, when the build was told (`LB_REVISION`).
pub const REVISION: &str = match option_env!("LB_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// Writes everything that `metrics` holds, and the figures of the process.
#[must_use]
pub fn render(metrics: &Metrics, process: &Process) -> String {
    let services = metrics.services();
    let mut out = Exposition {
        text: String::with_capacity(4096 + services.len() * 2048),
    };
    write_http(&mut out, &services);
    write_outcomes(&mut out, metrics, &services);
    write_listeners(&mut out, metrics);
    write_upstream(&mut out, &services);
    write_tcp(&mut out, &services);
    write_control(&mut out, &metrics.control());
    out.one(
        names::ACCESS_LOG_DROPPED,
        &[],
        metrics.access_log_dropped().load(Relaxed) as f64,
    );
    out.one(
        names::LOG_DROPPED,
        &[],
        metrics.log_dropped().load(Relaxed) as f64,
    );
    out.one(
        names::BUILD_INFO,
        &[("version", VERSION), ("revision", REVISION)],
        1.0,
    );
    write_fabio(&mut out, metrics);
    write_process(&mut out, process);
    out.text
}

/// Writes what has one of Fabio's names, and the figures of the process.
#[must_use]
pub fn render_fabio(metrics: &Metrics, process: &Process) -> String {
    let mut out = Exposition {
        text: String::new(),
    };
    write_fabio(&mut out, metrics);
    write_process(&mut out, process);
    out.text
}

/// Fabio's names, if Prometheus may ask for them.
fn write_fabio(out: &mut Exposition, metrics: &Metrics) {
    if let Some(fabio) = metrics.fabio().filter(|fabio| fabio.names().path.is_some()) {
        fabio::write(out, fabio);
    }
}

fn write_http(out: &mut Exposition, services: &[Arc<ServiceMetrics>]) {
    let mut family = out.family(names::HTTP_REQUESTS);
    for service in services {
        service.for_each_request_count(|method, code, count| {
            let mut digits = [0; 3];
            family.sample(
                &[
                    ("service", service.name()),
                    ("method", method),
                    ("code", code_label(code, &mut digits)),
                ],
                count as f64,
            );
        });
    }
    let mut family = out.family(names::HTTP_REQUEST_DURATION);
    for service in services.iter().filter(|service| service.had_http()) {
        write_histogram(&mut family, service);
    }
    let mut family = out.family(names::UPGRADED_DURATION);
    for service in services {
        let (buckets, sum_seconds) = service.upgraded();
        if buckets.iter().any(|count| *count > 0) {
            family.histogram(
                &[("service", service.name())],
                &UPGRADED_BUCKETS,
                &buckets,
                sum_seconds,
            );
        }
    }
    let mut family = out.family(names::HTTP_IN_FLIGHT);
    for service in services.iter().filter(|service| service.had_http()) {
        family.sample(
            &[("service", service.name())],
            service.in_flight.load(Relaxed) as f64,
        );
    }
}

/// Requests for which no service was found have the empty name.
fn write_outcomes(out: &mut Exposition, metrics: &Metrics, services: &[Arc<ServiceMetrics>]) {
    let of_services = services
        .iter()
        .map(|service| (&**service.name(), &service.outcomes));
    let all = || std::iter::once(("", metrics.unrouted())).chain(of_services.clone());
    let mut family = out.family(names::PROXY_ERRORS);
    for (service, outcomes) in all() {
        for (reason, count) in outcomes.errors() {
            family.sample(&[("service", service), ("reason", reason)], count as f64);
        }
    }
    let mut family = out.family(names::GRPC_REQUESTS);
    for (service, outcomes) in all() {
        for (status, count) in outcomes.calls() {
            family.sample(&[("service", service), ("status", status)], count as f64);
        }
    }
}

fn write_histogram(family: &mut FamilyWriter<'_>, service: &ServiceMetrics) {
    let (buckets, sum_seconds) = service.durations();
    family.histogram(
        &[("service", service.name())],
        &DURATION_BUCKETS,
        &buckets,
        sum_seconds,
    );
}

fn write_listeners(out: &mut Exposition, metrics: &Metrics) {
    let mut family = out.family(names::NO_ROUTE);
    for (listener, handle) in metrics.listeners() {
        family.sample(
            &[("listener", &listener)],
            handle.no_route.load(Relaxed) as f64,
        );
    }
    let mut family = out.family(names::CLIENT_FAULTS);
    for (listener, handle) in metrics.listeners() {
        for (fault, count) in CLIENT_FAULTS.iter().zip(&handle.client_faults) {
            family.sample(
                &[("listener", &listener), ("fault", fault)],
                count.load(Relaxed) as f64,
            );
        }
    }
}

fn write_upstream(out: &mut Exposition, services: &[Arc<ServiceMetrics>]) {
    let mut family = out.family(names::UPSTREAM_CONNECTS);
    for service in services.iter().filter(|service| service.had_traffic()) {
        for (result, count) in CONNECT_RESULTS.iter().zip(&service.connects) {
            family.sample(
                &[("service", service.name()), ("result", result)],
                count.load(Relaxed) as f64,
            );
        }
    }
    let mut family = out.family(names::UPSTREAM_RETRIES);
    for service in services.iter().filter(|service| service.had_traffic()) {
        for (reason, count) in RETRY_REASONS.iter().zip(&service.retries) {
            family.sample(
                &[("service", service.name()), ("reason", reason)],
                count.load(Relaxed) as f64,
            );
        }
    }
    let mut family = out.family(names::UPSTREAM_EJECTIONS);
    for service in services.iter().filter(|service| service.had_traffic()) {
        family.sample(
            &[("service", service.name())],
            service.ejections.load(Relaxed) as f64,
        );
    }
}

fn write_tcp(out: &mut Exposition, services: &[Arc<ServiceMetrics>]) {
    let had_tcp = |service: &&Arc<ServiceMetrics>| service.had_tcp();
    let mut family = out.family(names::TCP_CONNECTIONS);
    for service in services.iter().filter(had_tcp) {
        family.sample(
            &[("service", service.name())],
            service.tcp_connections.load(Relaxed) as f64,
        );
    }
    let mut family = out.family(names::TCP_OPEN);
    for service in services.iter().filter(had_tcp) {
        family.sample(
            &[("service", service.name())],
            service.tcp_open.load(Relaxed) as f64,
        );
    }
    let mut family = out.family(names::BYTES);
    for service in services.iter().filter(|service| service.had_traffic()) {
        for (direction, bytes) in [("in", &service.bytes_in), ("out", &service.bytes_out)] {
            family.sample(
                &[("service", service.name()), ("direction", direction)],
                bytes.load(Relaxed) as f64,
            );
        }
    }
}

fn write_control(out: &mut Exposition, control: &Control) {
    let mut family = out.family(names::REGISTRY_LAST_SUCCESS);
    for (service, &time) in &control.registry_success {
        family.sample(&[("service", service)], time);
    }
    let mut family = out.family(names::REGISTRY_ERRORS);
    for (kind, &count) in &control.registry_errors {
        family.sample(&[("kind", kind)], count as f64);
    }
    let mut family = out.family(names::REGISTRY_REJECTED_TAGS);
    for (service, &count) in &control.rejected_tags {
        family.sample(&[("service", service)], count as f64);
    }
    out.one(names::TABLE_BUILDS, &[], control.table_builds as f64);
    let mut family = out.family(names::TABLE_BUILD_SECONDS);
    family.suffixed("_sum", &[], control.table_build_seconds);
    family.suffixed("_count", &[], control.table_builds as f64);
    out.one(names::TABLE_ROUTES, &[], control.table_routes as f64);
    let times = &control.change_to_traffic;
    out.family(names::CHANGE_TO_TRAFFIC).histogram(
        &[],
        &CHANGE_BUCKETS,
        &times.buckets,
        times.sum_seconds,
    );
    let mut family = out.family(names::TABLE_TARGETS);
    for ((service, state), &count) in &control.table_targets {
        family.sample(&[("service", service), ("state", state)], count as f64);
    }
    out.one(names::READY, &[], flag(control.ready));
    out.one(names::DRAINING, &[], flag(control.draining));
    let mut family = out.family(names::RELOAD_ERRORS);
    family.sample(&[("kind", "config")], control.reload_errors.config as f64);
    family.sample(
        &[("kind", "certificates")],
        control.reload_errors.certificates as f64,
    );
    let mut family = out.family(names::CERTIFICATE_ERRORS);
    for (source, &count) in &control.certificate_errors {
        family.sample(&[("source", source)], count as f64);
    }
    let mut family = out.family(names::LISTENER_SHARED);
    for (listener, &shared) in &control.listener_shared {
        family.sample(&[("listener", listener)], flag(shared));
    }
    if let Some(registered) = control.registered {
        out.one(names::REGISTERED, &[], flag(registered));
    }
    let mut family = out.family(names::CERTIFICATE_EXPIRY);
    for ((source, name), &time) in &control.certificate_expiry {
        family.sample(&[("source", source), ("name", name)], time);
    }
}

fn write_process(out: &mut Exposition, process: &Process) {
    let figures = [
        (names::PROCESS_CPU, process.cpu_seconds),
        (names::PROCESS_RSS, process.resident_bytes),
        (names::PROCESS_VIRTUAL, process.virtual_bytes),
        (names::PROCESS_OPEN_FDS, process.open_fds),
        (names::PROCESS_MAX_FDS, process.max_fds),
        (names::PROCESS_START, process.start_seconds),
        (names::PROCESS_THREADS, process.threads),
    ];
    for (family, value) in figures {
        if let Some(value) = value {
            out.one(family, &[], value);
        }
    }
}

/// Digits of a status code; everything outside 100..=599 was counted as 0 and shows as `other`.
fn code_label(code: u16, digits: &mut [u8; 3]) -> &str {
    if !(100..600).contains(&code) {
        return "other";
    }
    for (place, digit) in [(100, 0), (10, 1), (1, 2)] {
        digits[digit] = b'0' + u8::try_from(code / place % 10).unwrap_or(0);
    }
    std::str::from_utf8(digits).unwrap_or("other")
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

#[cfg(test)]
pub(super) mod tests;
