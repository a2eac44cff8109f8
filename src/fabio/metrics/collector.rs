//! A collector of everything that is counted in Fabio's way, under Fabio's names:
//! `PREFIX_[SUBSYSTEM_]NAME`.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::families;
use super::{FabioMetrics, Histogram, Names, RouteSeries, Timer};
use crate::config::prefix_template::clean;
use crate::metrics::collector;
use crate::metrics::family::FamilyBuilder;
use crate::metrics::names::Family;
use crate::metrics::observer::TargetLabels;

/// Adds all families to a registry.
///
/// # Errors
/// The registry has a family of one of these names already.
pub(crate) fn register(registry: &Registry, metrics: &Arc<FabioMetrics>) -> prometheus::Result<()> {
    let named: Vec<(String, &Family<'_>)> = families::PLAIN
        .iter()
        .chain(families::OTHERS)
        .map(|family| (full_name(&metrics.names, family.name), family))
        .collect();
    let families = named
        .iter()
        .map(|(name, family)| Family { name, ..**family });
    let metrics = Arc::clone(metrics);
    collector::register(registry, families, move || collect(&metrics))
}

/// Builds all families. One without samples is left out of the text.
fn collect(metrics: &FabioMetrics) -> Vec<MetricFamily> {
    let services = metrics.series.services();
    let routes = metrics.series.routes();
    let mut all = Vec::new();
    for (at, (family, counter)) in metrics.plain_counters().into_iter().enumerate() {
        if at == 0 || counter.total() > 0 {
            all.push(build(metrics, family, |family| {
                family.sample(&[], counter.total() as f64);
            }));
        }
    }
    all.push(build(metrics, families::REQUESTS, |family| {
        for service in &services {
            histogram(family, metrics, &[&service.name], &service.requests);
        }
    }));
    all.push(build(metrics, families::STATUS, |family| {
        for service in &services {
            for (code, timer) in service.codes() {
                histogram(family, metrics, &[&code, &service.name], timer);
            }
        }
    }));
    all.push(build(metrics, families::ROUTE, |family| {
        for series in &routes {
            histogram(family, metrics, &values(&series.labels), &series.requests);
        }
    }));
    all.push(bytes(metrics, families::ROUTE_RX, &routes, |series| {
        series.rx.total()
    }));
    all.push(bytes(metrics, families::ROUTE_TX, &routes, |series| {
        series.tx.total()
    }));
    all.push(build(metrics, families::REDIRECTS, |family| {
        for (code, counter) in metrics.redirect_codes() {
            family.sample(&[&code], counter.total() as f64);
        }
    }));
    all.push(build(metrics, families::WEBSOCKETS, |family| {
        family.sample(&[], metrics.open_websockets() as f64);
    }));
    all.push(build(metrics, families::CALLS, |family| {
        histogram(family, metrics, &[], &metrics.calls);
    }));
    all.push(build(metrics, families::CALL_STATUS, |family| {
        for (code, timer) in metrics.call_codes() {
            histogram(family, metrics, &[code], timer);
        }
    }));
    all
}

/// A family under its full name.
fn build(
    metrics: &FabioMetrics,
    family: Family<'_>,
    add: impl FnOnce(&mut FamilyBuilder<'_>),
) -> MetricFamily {
    let name = full_name(&metrics.names, family.name);
    let mut builder = FamilyBuilder::new(Family {
        name: &name,
        ..family
    });
    add(&mut builder);
    builder.build()
}

/// Bytes in one direction. A target has both directions or none: a connection that only one side
/// spoke on has a zero on the other.
fn bytes(
    metrics: &FabioMetrics,
    family: Family<'_>,
    routes: &[Arc<RouteSeries>],
    total: impl Fn(&RouteSeries) -> u64,
) -> MetricFamily {
    let spoken = routes
        .iter()
        .filter(|series| series.rx.total() + series.tx.total() > 0);
    build(metrics, family, |family| {
        for series in spoken {
            family.sample(&values(&series.labels), total(series) as f64);
        }
    })
}

/// Values in the order of the labels of [`families::ROUTE`].
fn values(labels: &TargetLabels) -> [&str; 4] {
    let TargetLabels {
        service,
        host,
        path,
        target,
    } = labels;
    [host, path, service, target]
}

/// A series that nothing was recorded in does not exist.
fn histogram(
    family: &mut FamilyBuilder<'_>,
    metrics: &FabioMetrics,
    values: &[&str],
    timer: &Timer,
) {
    let Histogram {
        buckets,
        sum_seconds,
    } = timer.histogram();
    if buckets.iter().any(|count| *count > 0) {
        let bounds = metrics.names.bounds.seconds();
        family.histogram(values, bounds, &buckets, sum_seconds);
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
    use crate::fabio::metrics::Bounds;

    #[test]
    fn names_have_only_letters_that_prometheus_takes() {
        let name = |prefix: &str, subsystem: &str, name: &str| {
            let names = Names {
                prefix: prefix.to_owned(),
                subsystem: subsystem.to_owned(),
                bounds: Bounds::new(&[]),
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
