//! `/api/services`: instances with state, why they are out, and how old the knowledge is.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::sources;
use crate::control::{InstanceStatus, Readiness, ServiceStatus};
use crate::journal::SourceStatus;
use crate::metrics::{Control, Metrics};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServiceRow {
    pub(super) name: String,
    pub(super) source: &'static str,
    /// RFC 3339; none before the first response.
    pub(super) last_success: Option<String>,
    pub(super) age_seconds: Option<f64>,
    /// Requests finished (HTTP) or connections accepted (TCP) since the start.
    pub(super) requests_total: u64,
    pub(super) in_flight: i64,
    pub(super) held: Option<String>,
    pub(super) instances: Vec<InstanceRow>,
    pub(super) rejected: Vec<RejectedRow>,
    pub(super) unknown_options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct InstanceRow {
    pub(super) node: String,
    pub(super) id: String,
    pub(super) address: String,
    /// `healthy`, `held`, `held, not confirmed`, `ejected` or `excluded`.
    pub(super) state: &'static str,
    pub(super) reason: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) in_flight: u32,
    pub(super) failures: u32,
}

impl InstanceRow {
    /// Whether it may get requests.
    pub(super) fn is_serving(&self) -> bool {
        !matches!(self.state, "ejected" | "excluded")
    }
}

/// A tag that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RejectedRow {
    pub(super) tag: String,
    pub(super) reason: String,
}

/// All services as the API shows them.
pub(super) fn list(
    services: &[ServiceStatus],
    metrics: &Metrics,
    now: SystemTime,
) -> Vec<ServiceRow> {
    services
        .iter()
        .map(|service| row(service, metrics, now))
        .collect()
}

fn row(service: &ServiceStatus, metrics: &Metrics, now: SystemTime) -> ServiceRow {
    let counters = metrics.existing_service(&service.name);
    let counted =
        |count: fn(&crate::metrics::ServiceMetrics) -> u64| counters.as_deref().map_or(0, count);
    ServiceRow {
        name: service.name.to_string(),
        source: service.source,
        last_success: service.last_success.and_then(rfc3339),
        // A clock set back makes no negative age.
        age_seconds: service
            .last_success
            .map(|time| now.duration_since(time).unwrap_or_default().as_secs_f64()),
        requests_total: counted(|counters| {
            counters.requests_total() + counters.tcp_connections.load(Relaxed)
        }),
        in_flight: counters.as_deref().map_or(0, |counters| {
            counters.in_flight.load(Relaxed) + counters.tcp_open.load(Relaxed)
        }),
        held: service.held.clone(),
        instances: service.instances.iter().map(instance_row).collect(),
        rejected: service
            .rejected
            .iter()
            .map(|(tag, reason)| RejectedRow {
                tag: tag.clone(),
                reason: reason.clone(),
            })
            .collect(),
        unknown_options: service.unknown_options.clone(),
    }
}

/// What a filter looks at.
pub(super) fn searched(row: &ServiceRow) -> String {
    let mut text = format!("{} {}", row.name, row.source);
    for instance in &row.instances {
        let reason = instance.reason.as_deref().unwrap_or_default();
        let InstanceRow {
            node,
            id,
            address,
            state,
            tags,
            ..
        } = instance;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " {node}/{id} {address} {state} {reason} {}",
            tags.join(" ")
        );
    }
    for rejected in &row.rejected {
        let _ = write!(text, " {} {}", rejected.tag, rejected.reason);
    }
    text.extend(
        row.unknown_options
            .iter()
            .chain(&row.held)
            .flat_map(|remark| [" ", remark]),
    );
    text
}

fn instance_row(instance: &InstanceStatus) -> InstanceRow {
    InstanceRow {
        node: instance.id.node.to_string(),
        id: instance.id.id.to_string(),
        address: instance.address.clone(),
        state: instance.state,
        reason: instance.reason.clone(),
        tags: instance.tags.clone(),
        in_flight: instance.in_flight,
        failures: instance.failures,
    }
}

/// Why `/ready` says 503, in one sentence; none when it does not.
pub(super) fn unready_reason(readiness: &Readiness, known: &[SourceStatus]) -> Option<String> {
    if readiness.draining {
        return Some("draining: this process is about to end".to_owned());
    }
    if readiness.waiting_for.is_empty() {
        return None;
    }
    let causes: Vec<String> = readiness
        .waiting_for
        .iter()
        .map(|name| sources::with_cause(name, known))
        .collect();
    Some(format!(
        "waiting for the first complete answer of {}",
        causes.join("; ")
    ))
}

/// Age of the oldest knowledge in the table, in seconds; none without any.
pub(super) fn oldest_age(control: &Control, now: SystemTime) -> Option<f64> {
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    control
        .registry_success
        .values()
        .copied()
        .min_by(f64::total_cmp)
        .map(|oldest| (now - oldest).max(0.0))
}

fn rfc3339(time: SystemTime) -> Option<String> {
    let millisecond = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    jiff::Timestamp::from_millisecond(millisecond)
        .ok()
        .map(|time| time.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::catalog::InstanceId;

    pub(in super::super) fn status(name: &str) -> ServiceStatus {
        let instance = |id: &str, state, reason: Option<&str>| InstanceStatus {
            id: InstanceId {
                node: Arc::from("n1"),
                id: Arc::from(id),
            },
            address: "10.0.0.1:80".to_owned(),
            state,
            reason: reason.map(str::to_owned),
            tags: vec!["urlprefix-/".to_owned()],
            in_flight: 1,
            failures: 2,
        };
        ServiceStatus {
            name: Arc::from(name),
            source: "consul",
            last_success: Some(UNIX_EPOCH + Duration::from_millis(1_795_377_816_042)),
            instances: vec![
                instance("a", "healthy", None),
                instance("b", "excluded", Some("check `web` is critical")),
            ],
            rejected: vec![("urlprefix-/a b".to_owned(), "blank in path".to_owned())],
            unknown_options: vec!["urlprefix-/: colour=red has no effect".to_owned()],
            held: None,
        }
    }

    #[test]
    fn a_service_shows_counts_ages_and_reasons() {
        let metrics = Metrics::default();
        let counters = metrics.service(&Arc::from("web"));
        counters.record_request(&http::Method::GET, 200, Duration::ZERO);
        counters.tcp_connections.store(2, Relaxed);
        counters.in_flight.store(3, Relaxed);
        let status = status("web");
        let now = status.last_success.unwrap() + Duration::from_millis(1500);
        let row = serde_json::to_value(&list(&[status], &metrics, now)[0]).unwrap();
        assert_eq!(row["last_success"], "2026-11-22T20:03:36.042Z");
        assert_eq!(row["age_seconds"], 1.5);
        assert_eq!(
            (&row["requests_total"], &row["in_flight"]),
            (&3.into(), &3.into())
        );
        assert_eq!(row["instances"][1]["reason"], "check `web` is critical");
        assert_eq!(row["instances"][0]["reason"], serde_json::Value::Null);
        assert_eq!(row["rejected"][0]["tag"], "urlprefix-/a b");
    }

    #[test]
    fn a_service_without_an_answer_or_traffic_has_neither() {
        let mut unanswered = status("new");
        unanswered.last_success = None;
        let metrics = Metrics::default();
        let rows = list(&[unanswered], &metrics, SystemTime::now());
        assert_eq!(
            (
                &rows[0].last_success,
                rows[0].age_seconds,
                rows[0].requests_total
            ),
            (&None, None, 0)
        );
        assert!(metrics.services().is_empty(), "looking makes no handle");
    }

    #[test]
    fn a_clock_set_back_makes_no_negative_age() {
        let rows = list(&[status("web")], &Metrics::default(), UNIX_EPOCH);
        assert_eq!(rows[0].age_seconds, Some(0.0));
    }

    #[test]
    fn reasons_and_ages_of_readiness() {
        assert_eq!(unready_reason(&Readiness::default(), &[]), None);
        let waiting = Readiness {
            waiting_for: vec!["consul".to_owned(), "dns".to_owned()],
            draining: false,
        };
        assert!(
            unready_reason(&waiting, &[])
                .unwrap()
                .ends_with("answer of consul; dns")
        );
        let journal = crate::journal::Journal::default();
        journal.source_failed(
            "consul",
            "",
            "http://127.0.0.1:1: cannot connect: Connection refused",
        );
        let reason = unready_reason(&waiting, &journal.sources().list()).unwrap();
        assert!(
            reason.ends_with(
                "of consul: http://127.0.0.1:1: cannot connect: Connection refused; dns"
            ),
            "{reason}"
        );
        let mut control = Control::default();
        assert_eq!(oldest_age(&control, SystemTime::now()), None);
        control.registry_success.insert(Arc::from("a"), 90.0);
        control.registry_success.insert(Arc::from("b"), 95.0);
        assert_eq!(
            oldest_age(&control, UNIX_EPOCH + Duration::from_secs(100)),
            Some(10.0)
        );
    }
}
