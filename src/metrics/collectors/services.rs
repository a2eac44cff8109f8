//! Series of services: HTTP, connections to instances, TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use crate::metrics::Metrics;
use crate::metrics::family::FamilyBuilder;
use crate::metrics::names::{self, Family};
use crate::metrics::service::{
    CONNECT_RESULTS, DURATION_BUCKETS, RETRY_REASONS, ServiceMetrics, UPGRADED_BUCKETS,
};

/// Handles of all services, by name.
type Services = [Arc<ServiceMetrics>];

pub(super) fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let services = metrics.services();
    let [errors, limited, calls] = outcomes(metrics, &services);
    vec![
        requests(&services),
        durations(&services),
        upgraded(&services),
        one_each(
            names::HTTP_IN_FLIGHT,
            &services,
            ServiceMetrics::had_http,
            |service| service.in_flight.load(Relaxed) as f64,
        ),
        errors,
        limited,
        calls,
        counted(
            names::UPSTREAM_CONNECTS,
            &services,
            &CONNECT_RESULTS,
            |service| &service.connects,
        ),
        counted(
            names::UPSTREAM_RETRIES,
            &services,
            &RETRY_REASONS,
            |service| &service.retries,
        ),
        one_each(
            names::UPSTREAM_EJECTIONS,
            &services,
            ServiceMetrics::had_traffic,
            |service| service.ejections.load(Relaxed) as f64,
        ),
        one_each(
            names::MIRRORED,
            &services,
            ServiceMetrics::had_copies,
            |service| service.mirrored.load(Relaxed) as f64,
        ),
        one_each(
            names::MIRROR_DROPPED,
            &services,
            ServiceMetrics::had_copies,
            |service| service.mirror_dropped.load(Relaxed) as f64,
        ),
        one_each(
            names::TCP_CONNECTIONS,
            &services,
            ServiceMetrics::had_tcp,
            |service| service.tcp_connections.load(Relaxed) as f64,
        ),
        one_each(
            names::TCP_OPEN,
            &services,
            ServiceMetrics::had_tcp,
            |service| service.tcp_open.load(Relaxed) as f64,
        ),
        bytes(&services),
    ]
}

fn requests(services: &Services) -> MetricFamily {
    let mut family = FamilyBuilder::new(names::HTTP_REQUESTS);
    for service in services {
        service.for_each_request_count(|method, code, count| {
            let mut digits = [0; 3];
            let code = code_label(code, &mut digits);
            family.sample(&[service.name(), method, code], count as f64);
        });
    }
    family.build()
}

fn durations(services: &Services) -> MetricFamily {
    let mut family = FamilyBuilder::new(names::HTTP_REQUEST_DURATION);
    for service in services.iter().filter(|service| service.had_http()) {
        let (buckets, sum_seconds) = service.durations();
        family.histogram(&[service.name()], &DURATION_BUCKETS, &buckets, sum_seconds);
    }
    family.build()
}

fn upgraded(services: &Services) -> MetricFamily {
    let mut family = FamilyBuilder::new(names::UPGRADED_DURATION);
    for service in services {
        let (buckets, sum_seconds) = service.upgraded();
        if buckets.iter().any(|count| *count > 0) {
            family.histogram(&[service.name()], &UPGRADED_BUCKETS, &buckets, sum_seconds);
        }
    }
    family.build()
}

/// Errors and gRPC calls. Requests for which no service was found have the empty name.
fn outcomes(metrics: &Metrics, services: &Services) -> [MetricFamily; 3] {
    let of_services = services
        .iter()
        .map(|service| (&**service.name(), &service.outcomes));
    let mut errors = FamilyBuilder::new(names::PROXY_ERRORS);
    let mut limited = FamilyBuilder::new(names::RATE_LIMITED);
    let mut calls = FamilyBuilder::new(names::GRPC_REQUESTS);
    for (service, outcomes) in std::iter::once(("", metrics.unrouted())).chain(of_services) {
        for (reason, count) in outcomes.errors() {
            errors.sample(&[service, reason], count as f64);
            if reason == "rate_limited" {
                limited.sample(&[service], count as f64);
            }
        }
        for (status, count) in outcomes.calls() {
            calls.sample(&[service, status], count as f64);
        }
    }
    [errors.build(), limited.build(), calls.build()]
}

fn bytes(services: &Services) -> MetricFamily {
    let mut family = FamilyBuilder::new(names::BYTES);
    for service in services.iter().filter(|service| service.had_traffic()) {
        for (direction, bytes) in [("in", &service.bytes_in), ("out", &service.bytes_out)] {
            family.sample(&[service.name(), direction], bytes.load(Relaxed) as f64);
        }
    }
    family.build()
}

/// A family with one sample for each service that has this kind of traffic.
fn one_each(
    family: Family<'_>,
    services: &Services,
    has: impl Fn(&ServiceMetrics) -> bool,
    value: impl Fn(&ServiceMetrics) -> f64,
) -> MetricFamily {
    let mut family = FamilyBuilder::new(family);
    for service in services.iter().filter(|service| has(service)) {
        family.sample(&[service.name()], value(service));
    }
    family.build()
}

/// A family with one sample for each label and each service that had traffic.
fn counted(
    family: Family<'_>,
    services: &Services,
    labels: &[&str],
    counts: impl Fn(&ServiceMetrics) -> &[AtomicU64],
) -> MetricFamily {
    let mut family = FamilyBuilder::new(family);
    for service in services.iter().filter(|service| service.had_traffic()) {
        for (label, count) in labels.iter().zip(counts(service)) {
            family.sample(&[service.name(), label], count.load(Relaxed) as f64);
        }
    }
    family.build()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_outside_the_range_have_one_label() {
        let label = |code| code_label(code, &mut [0; 3]).to_owned();
        assert_eq!([100, 204, 599].map(label), ["100", "204", "599"]);
        assert_eq!([0, 99, 600, u16::MAX].map(label), ["other"; 4]);
    }
}
