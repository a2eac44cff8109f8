//! Prometheus text under Fabio's names: `PREFIX_[SUBSYSTEM_]NAME`.

use super::super::exposition::{Exposition, FamilyWriter};
use super::super::names::Kind;
use super::template::clean;
use super::{FabioMetrics, Histogram, Names, RouteLabels, Timer};

const REQUESTS: &str = "Time of forwarded requests, by service.";
const STATUS: &str = "Time of forwarded requests, by status code and service.";
const ROUTE: &str = "Time of forwarded requests and calls, by target of a route.";
const RX: &str = "Bytes of TCP connections to the client, by target of a route.";
const TX: &str = "Bytes of TCP connections from the client, by target of a route.";
const REDIRECTS: &str = "Requests answered with a redirect, by code.";
const WEBSOCKETS: &str = "Open websockets and other upgraded connections.";
const CALLS: &str = "Time of gRPC calls.";
const CALL_STATUS: &str = "Time of gRPC calls, by status (the name is Fabio's).";

/// Writes all families. One without samples is left out; labels stand in the order of their names.
pub(in crate::metrics) fn write(out: &mut Exposition, metrics: &FabioMetrics) {
    let name = |name: &str| full_name(&metrics.names, name);
    let bounds = metrics.names.bounds.seconds();
    let services = metrics.series.services();
    let routes = metrics.series.routes();

    for (at, (short, help, counter)) in metrics.plain_counters().into_iter().enumerate() {
        if at == 0 || counter.total() > 0 {
            out.named(&name(short), Kind::Counter, help)
                .sample(&[], counter.total() as f64);
        }
    }
    let requests = name("requests");
    let mut family = out.named(&requests, Kind::Histogram, REQUESTS);
    for service in &services {
        histogram(
            &mut family,
            bounds,
            &[("service", &service.name)],
            &service.requests,
        );
    }
    let status = name("http.status");
    let mut family = out.named(&status, Kind::Histogram, STATUS);
    for service in &services {
        for (code, timer) in service.codes() {
            histogram(
                &mut family,
                bounds,
                &[("code", &code), ("service", &service.name)],
                timer,
            );
        }
    }
    let route = name("route");
    let mut family = out.named(&route, Kind::Histogram, ROUTE);
    for series in &routes {
        histogram(
            &mut family,
            bounds,
            &labels(&series.labels),
            &series.requests,
        );
    }
    for (short, help, received) in [("route.rx", RX, true), ("route.tx", TX, false)] {
        let name = name(short);
        let mut family = out.named(&name, Kind::Counter, help);
        // Both or none: a connection that only one side spoke on has a zero on the other.
        for series in routes
            .iter()
            .filter(|series| series.rx.total() + series.tx.total() > 0)
        {
            let counter = if received { &series.rx } else { &series.tx };
            family.sample(&labels(&series.labels), counter.total() as f64);
        }
    }
    let redirects = name("http.redirect.count");
    let mut family = out.named(&redirects, Kind::Counter, REDIRECTS);
    for (code, counter) in metrics.redirect_codes() {
        family.sample(&[("code", &code)], counter.total() as f64);
    }
    out.named(&name("ws.conn"), Kind::Gauge, WEBSOCKETS)
        .sample(&[], metrics.open_websockets() as f64);
    let calls = name("grpc.requests");
    histogram(
        &mut out.named(&calls, Kind::Histogram, CALLS),
        bounds,
        &[],
        &metrics.calls,
    );
    let status = name("grep.status");
    let mut family = out.named(&status, Kind::Histogram, CALL_STATUS);
    for (code, timer) in metrics.call_codes() {
        histogram(&mut family, bounds, &[("code", code)], timer);
    }
}

fn labels(labels: &RouteLabels) -> [(&str, &str); 4] {
    let RouteLabels {
        service,
        host,
        path,
        target,
    } = labels;
    [
        ("host", host),
        ("path", path),
        ("service", service),
        ("target", target),
    ]
}

/// A series that nothing was recorded in does not exist.
fn histogram(
    family: &mut FamilyWriter<'_>,
    bounds: &[f64],
    labels: &[(&str, &str)],
    timer: &Timer,
) {
    let Histogram {
        buckets,
        sum_seconds,
    } = timer.histogram();
    if buckets.iter().any(|count| *count > 0) {
        family.histogram(labels, bounds, &buckets, sum_seconds);
    }
}

/// The name in Prometheus's letters: what they do not have becomes `_`, as Prometheus's own library
/// does it.
fn full_name(names: &Names, name: &str) -> String {
    let mut parts = vec![clean(&names.prefix)];
    if !names.subsystem.is_empty() {
        parts.push(clean(&names.subsystem));
    }
    parts.push(clean(name));
    let joined = parts.join("_");
    let allowed = |at: usize, c: char| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit())
    };
    joined
        .chars()
        .enumerate()
        .map(|(at, c)| if allowed(at, c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::fabio::Bounds;

    #[test]
    fn names_have_only_letters_that_prometheus_takes() {
        let name = |prefix: &str, subsystem: &str, name: &str| {
            let names = Names {
                prefix: prefix.to_owned(),
                subsystem: subsystem.to_owned(),
                bounds: Bounds::new(&[]),
                path: None,
            };
            full_name(&names, name)
        };
        assert_eq!(name("vm.fabio", "", "http.status"), "vm_fabio_http_status");
        assert_eq!(
            name("Web-1.fabio", "Sub.x", "requests"),
            "web_1_fabio_sub_x_requests"
        );
        assert_eq!(name("1a", "", "route.rx"), "_a_route_rx");
        assert_eq!(name("", "", "notfound"), "__notfound");
        assert_eq!(name("é", "", "tcp_sni.conn"), "__tcp_sni_conn");
    }
}
