//! Figures of the control loop: sources, table, certificates, reloads.

use prometheus::proto::MetricFamily;

use crate::metrics::family::{FamilyBuilder, one};
use crate::metrics::freshness::CHANGE_BUCKETS;
use crate::metrics::names::{self, Family};
use crate::metrics::{Control, ReloadErrors};

pub(super) fn families(control: &Control) -> Vec<MetricFamily> {
    let mut families = sources(control);
    families.extend(table(control));
    families.extend(certificates(control));
    families.extend(auth_keys(control));
    families.extend([
        one(names::READY, &[], flag(control.ready)),
        one(names::DRAINING, &[], flag(control.draining)),
        reload_errors(control.reload_errors),
        one_each(
            names::LISTENER_SHARED,
            control
                .listener_shared
                .iter()
                .map(|(listener, &shared)| ([&**listener], flag(shared))),
        ),
    ]);
    let fleet = control.fleet_size.map(f64::from);
    families.extend(fleet.map(|value| one(names::FLEET_SIZE, &[], value)));
    let registered = control.registered.map(flag);
    families.extend(registered.map(|value| one(names::REGISTERED, &[], value)));
    families
}

fn sources(control: &Control) -> Vec<MetricFamily> {
    vec![
        one_each(
            names::REGISTRY_LAST_SUCCESS,
            control
                .registry_success
                .iter()
                .map(|(service, &time)| ([&**service], time)),
        ),
        one_each(
            names::REGISTRY_ERRORS,
            control
                .registry_errors
                .iter()
                .map(|(kind, &count)| ([*kind], count as f64)),
        ),
        one_each(
            names::REGISTRY_REJECTED_TAGS,
            control
                .rejected_tags
                .iter()
                .map(|(service, &count)| ([&**service], count as f64)),
        ),
    ]
}

fn table(control: &Control) -> Vec<MetricFamily> {
    let mut build_seconds = FamilyBuilder::new(names::TABLE_BUILD_SECONDS);
    build_seconds.summary(&[], control.table_builds, control.table_build_seconds);
    let times = &control.change_to_traffic;
    let mut change = FamilyBuilder::new(names::CHANGE_TO_TRAFFIC);
    change.histogram(&[], &CHANGE_BUCKETS, &times.buckets, times.sum_seconds);
    let targets = control.table_targets.iter();
    vec![
        one(names::TABLE_BUILDS, &[], control.table_builds as f64),
        build_seconds.build(),
        one(names::TABLE_ROUTES, &[], control.table_routes as f64),
        change.build(),
        one_each(
            names::TABLE_TARGETS,
            targets.map(|((service, state), &count)| ([&**service, *state], count as f64)),
        ),
    ]
}

fn certificates(control: &Control) -> Vec<MetricFamily> {
    let (errors, expiry) = (&control.certificate_errors, &control.certificate_expiry);
    vec![
        one_each(
            names::CERTIFICATE_ERRORS,
            errors
                .iter()
                .map(|(source, &count)| ([&**source], count as f64)),
        ),
        one_each(
            names::CERTIFICATE_EXPIRY,
            expiry
                .iter()
                .map(|((source, name), &time)| ([&**source, &**name], time)),
        ),
        one_each(
            names::ACME_ORDERS,
            control
                .acme_orders
                .iter()
                .map(|(result, &count)| ([*result], count as f64)),
        ),
        one_each(
            names::ACME_FAILURES,
            control
                .acme_failures
                .iter()
                .map(|(kind, &count)| ([*kind], count as f64)),
        ),
    ]
}

fn auth_keys(control: &Control) -> Vec<MetricFamily> {
    let keys = &control.auth_keys;
    vec![
        one_each(
            names::AUTH_KEYS_LAST_SUCCESS,
            keys.iter()
                .filter_map(|(scheme, (read_at_s, _))| Some(([&**scheme], (*read_at_s)? as f64))),
        ),
        one_each(
            names::AUTH_KEYS_ERRORS,
            keys.iter()
                .map(|(scheme, (_, errors))| ([&**scheme], *errors as f64)),
        ),
    ]
}

fn reload_errors(errors: ReloadErrors) -> MetricFamily {
    one_each(
        names::RELOAD_ERRORS,
        [
            (["config"], errors.config as f64),
            (["certificates"], errors.certificates as f64),
        ],
    )
}

/// A family with these label values and samples.
fn one_each<'a, const LABELS: usize>(
    family: Family<'_>,
    samples: impl IntoIterator<Item = ([&'a str; LABELS], f64)>,
) -> MetricFamily {
    let mut family = FamilyBuilder::new(family);
    for (values, value) in samples {
        family.sample(&values, value);
    }
    family.build()
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}
