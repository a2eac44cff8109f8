//! The text of everything that lb counts.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::*;
use crate::metrics::exposition::encode;
use crate::metrics::exposition::tests::{check_format, promtool};
use crate::metrics::service::{ConnectResult, RetryReason};

/// The text of everything, with these figures of the process.
fn render(metrics: &Metrics, process: &Process) -> String {
    let (registry, process) = (registry(metrics).unwrap(), *process);
    register_process(&registry, move || process).unwrap();
    encode(&registry).unwrap()
}

/// A process with traffic of every kind and every series.
fn busy() -> Metrics {
    let metrics = Metrics::default();
    let web = metrics.service(&Arc::from("web"));
    web.record_request(&http::Method::GET, 200, Duration::from_millis(3));
    web.record_request(&http::Method::GET, 200, Duration::from_secs(30));
    web.record_request(
        &http::Method::from_bytes(b"BREW").unwrap(),
        418,
        Duration::ZERO,
    );
    web.record_request(&http::Method::POST, 999, Duration::from_micros(500));
    web.record_connect(ConnectResult::Tls);
    web.record_upgraded(&http::Method::GET, 101, Duration::from_secs(90));
    web.record_retry(RetryReason::Closed);
    web.bytes_out.store(7, Relaxed);
    web.mirrored.store(3, Relaxed);
    web.mirror_dropped.store(1, Relaxed);
    web.outcomes.record_error("connect");
    web.outcomes.record_error("rate_limited");
    web.outcomes.record_call(14);
    metrics.unrouted().record_error("no_route");
    metrics.unrouted().record_call(5);
    let tcp = metrics.service(&Arc::from("db"));
    tcp.tcp_connections.store(2, Relaxed);
    tcp.tcp_open.store(1, Relaxed);
    metrics.listener("0.0.0.0:9999").no_route.store(4, Relaxed);
    metrics.access_log_dropped().store(5, Relaxed);
    metrics.log_dropped().store(6, Relaxed);
    let mut control = metrics.control();
    control
        .registry_success
        .insert(Arc::from("web"), 1_700_000_000.25);
    control.registry_errors.insert("timeout", 2);
    control.rejected_tags.insert(Arc::from("web"), 1);
    control.table_builds = 3;
    control.table_build_seconds = 0.5;
    control.table_routes = 12;
    control
        .table_targets
        .insert((Arc::from("web"), "healthy"), 2);
    control
        .certificate_errors
        .insert("certificates.main".to_owned(), 2);
    control
        .listener_shared
        .insert("0.0.0.0:9999".to_owned(), true);
    control
        .auth_keys
        .insert("id".to_owned(), (Some(1_700_000_000), 3));
    control.acme_orders.insert("issued", 2);
    control.acme_failures.insert("server", 1);
    control.fleet_size = Some(3);
    control.registered = Some(false);
    control
        .certificate_expiry
        .insert(("file".to_owned(), "main".to_owned()), 1_800_000_000.0);
    drop(control);
    metrics
}

fn whole_process() -> Process {
    Process {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(1e6),
        virtual_bytes: Some(2e6),
        open_fds: Some(9.0),
        max_fds: Some(f64::INFINITY),
        start_seconds: Some(1.7e9),
        threads: Some(3.0),
    }
}

#[test]
fn every_family_is_written_once_with_its_header() {
    let text = render(&busy(), &whole_process());
    let all = [
        names::SERVICES,
        names::LISTENERS,
        names::CONTROL,
        names::PROGRAM,
        names::PROCESS,
    ]
    .concat();
    for family in &all {
        let kind = format!("{:?}", family.kind).to_lowercase();
        let header = format!(
            "# HELP {0} {1}\n# TYPE {0} {kind}\n",
            family.name, family.help
        );
        assert_eq!(text.matches(&header).count(), 1, "{header} in\n{text}");
    }
    assert_eq!(text.matches("# TYPE").count(), all.len());
    check_format(&text);
}

#[test]
fn samples_carry_what_was_counted() {
    let text = render(&busy(), &whole_process());
    for line in [
        r#"lb_rate_limited_total{service="web"} 1"#,
        r#"lb_http_requests_total{service="web",method="GET",code="200"} 2"#,
        r#"lb_http_requests_total{service="web",method="OTHER",code="418"} 1"#,
        r#"lb_http_requests_total{service="web",method="POST",code="other"} 1"#,
        r#"lb_http_request_duration_seconds_bucket{service="web",le="0.0005"} 2"#,
        r#"lb_http_request_duration_seconds_bucket{service="web",le="0.0025"} 2"#,
        r#"lb_http_request_duration_seconds_bucket{service="web",le="0.005"} 3"#,
        r#"lb_http_request_duration_seconds_bucket{service="web",le="10"} 3"#,
        r#"lb_http_request_duration_seconds_bucket{service="web",le="+Inf"} 4"#,
        r#"lb_http_request_duration_seconds_count{service="web"} 4"#,
        r#"lb_http_request_duration_seconds_sum{service="web"} 30.0035"#,
        r#"lb_http_requests_in_flight{service="web"} 0"#,
        r#"lb_no_route_total{listener="0.0.0.0:9999"} 4"#,
        r#"lb_proxy_errors_total{service="web",reason="connect"} 1"#,
        r#"lb_proxy_errors_total{service="",reason="no_route"} 1"#,
        r#"lb_grpc_requests_total{service="web",status="14"} 1"#,
        r#"lb_grpc_requests_total{service="",status="5"} 1"#,
        r#"lb_upstream_connects_total{service="web",result="tls"} 1"#,
        r#"lb_upstream_connects_total{service="web",result="ok"} 0"#,
        r#"lb_upstream_retries_total{service="web",reason="closed"} 1"#,
        r#"lb_upstream_ejections_total{service="web"} 0"#,
        r#"lb_mirror_requests_total{service="web"} 3"#,
        r#"lb_mirror_dropped_total{service="web"} 1"#,
        r#"lb_tcp_connections_total{service="db"} 2"#,
        r#"lb_tcp_connections_open{service="db"} 1"#,
        r#"lb_bytes_total{service="web",direction="in"} 0"#,
        r#"lb_bytes_total{service="web",direction="out"} 7"#,
        r#"lb_registry_last_success_timestamp_seconds{service="web"} 1700000000.25"#,
        r#"lb_registry_errors_total{kind="timeout"} 2"#,
        r#"lb_registry_rejected_tags{service="web"} 1"#,
        "lb_table_builds_total 3",
        "lb_table_build_seconds_sum 0.5",
        "lb_table_build_seconds_count 3",
        "lb_table_routes 12",
        r#"lb_table_targets{service="web",state="healthy"} 2"#,
        r#"lb_certificate_errors{source="certificates.main"} 2"#,
        r#"lb_listener_shared{listener="0.0.0.0:9999"} 1"#,
        "lb_registered 0",
        r#"lb_certificate_expiry_timestamp_seconds{source="file",name="main"} 1800000000"#,
        "lb_access_log_dropped_total 5",
        "lb_log_dropped_total 6",
        "process_max_fds inf",
        "process_threads 3",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
    assert!(
        !text.contains(r#"http_requests_in_flight{service="db"}"#),
        "a TCP service has no HTTP series"
    );
}

#[test]
fn a_removed_service_takes_its_series_along() {
    let metrics = busy();
    assert!(render(&metrics, &Process::default()).contains(r#""web""#));
    // A worker may still hold the handle and count on it: that must not bring the series back.
    let held = metrics.service(&Arc::from("web"));
    metrics.remove_service("web");
    held.record_request(&http::Method::GET, 200, Duration::ZERO);
    let text = render(&metrics, &Process::default());
    assert!(!text.contains(r#"service="web""#), "{text}");
    assert!(text.contains(r#"service="db""#), "others stay");
}

#[test]
fn a_quiet_service_has_no_traffic_series() {
    let metrics = Metrics::default();
    let _quiet = metrics.service(&Arc::from("quiet"));
    assert!(!render(&metrics, &Process::default()).contains("quiet"));
}

#[test]
fn a_request_under_way_shows_before_any_is_finished() {
    let metrics = Metrics::default();
    metrics
        .service(&Arc::from("slow"))
        .in_flight
        .store(1, Relaxed);
    let text = render(&metrics, &Process::default());
    assert!(
        text.contains(r#"lb_http_requests_in_flight{service="slow"} 1"#),
        "{text}"
    );
}

#[test]
fn label_values_of_strangers_cannot_break_a_line() {
    let metrics = Metrics::default();
    let name: Arc<str> = Arc::from("a\"b\\c\nlb_fake 1\u{7f}é");
    metrics
        .service(&name)
        .record_request(&http::Method::GET, 200, Duration::ZERO);
    let text = render(&metrics, &Process::default());
    assert!(text.contains(r#"{service="a\"b\\c\nlb_fake 1"#), "{text}");
    assert!(
        !text.lines().any(|line| line.starts_with("lb_fake")),
        "{text}"
    );
    check_format(&text);
    promtool(&text, &[]);
}

#[test]
fn promtool_accepts_the_text() {
    promtool(&render(&busy(), &whole_process()), &[]);
    promtool(&render(&Metrics::default(), &Process::read()), &[]);
}
