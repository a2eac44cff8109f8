//! What is counted in Fabio's way, as Prometheus gets it.

use std::collections::HashSet;

use prometheus::Registry;

use super::*;
use crate::metrics::Metrics;
use crate::metrics::collectors;
use crate::metrics::exposition::encode;
use crate::metrics::exposition::tests::{check_format, promtool};
use crate::metrics::observer::OpenUpgrade;
use crate::metrics::process::Process;

pub(super) fn names() -> Names {
    Names {
        prefix: "vm.fabio".to_owned(),
        subsystem: String::new(),
        bounds: Bounds::new(&[0.005, 0.1, 10.0]),
    }
}

pub(super) fn labels(service: &str, host: &str, path: &str, target: &str) -> TargetLabels {
    TargetLabels {
        service: service.into(),
        host: host.into(),
        path: path.into(),
        target: target.into(),
    }
}

const MS: Duration = Duration::from_millis(1);

/// What the comparison with a running Fabio was made with: the same traffic, the same names.
pub(super) fn busy() -> FabioMetrics {
    let metrics = FabioMetrics::new(names(), true);
    let web = metrics
        .series
        .route(labels("web", "www.a.com", "/", "http://127.0.0.1:7801/"));
    web.request(Some(200), 4 * MS);
    web.request(Some(200), 50 * MS);
    web.request(None, 20_000 * MS);
    let dead = metrics
        .series
        .route(labels("dead", "", "/dead", "http://127.0.0.1:9/"));
    dead.request(Some(502), MS);
    let db = metrics
        .series
        .route(labels("db", ":7811", "", "tcp://127.0.0.1:7803"));
    db.bytes(6, 12);
    let quiet = labels("quiet", "", "/quiet", "http://127.0.0.1:1/");
    let _ = metrics.series.route(quiet);
    metrics.no_route(Traffic::Http);
    metrics.no_route(Traffic::Tcp);
    metrics.no_route(Traffic::Grpc);
    metrics.connection(Traffic::Tcp);
    metrics.failure(Traffic::Sni);
    metrics.redirect(301);
    metrics.redirect(99);
    metrics.call(Some(0), MS);
    metrics.call(Some(5), MS);
    metrics.call(Some(99), MS);
    metrics
}

/// What Prometheus gets, with these figures of the process.
fn text(metrics: &Arc<FabioMetrics>, process: fn() -> Process) -> String {
    let registry = Registry::new();
    collector::register(&registry, metrics).unwrap();
    collectors::register_process(&registry, process).unwrap();
    encode(&registry).unwrap()
}

#[test]
fn families_and_labels_are_fabios() {
    let text = text(&Arc::new(busy()), Process::default);
    for line in [
        "vm_fabio_notfound 2",
        "vm_fabio_tcp_conn 1",
        "vm_fabio_tcp_noroute 1",
        "vm_fabio_tcp_sni_connfail 1",
        "vm_fabio_grpc_noroute 1",
        r#"vm_fabio_requests_bucket{service="web",le="0.005"} 1"#,
        r#"vm_fabio_requests_bucket{service="web",le="0.1"} 2"#,
        r#"vm_fabio_requests_bucket{service="web",le="10"} 2"#,
        r#"vm_fabio_requests_bucket{service="web",le="+Inf"} 3"#,
        r#"vm_fabio_requests_sum{service="web"} 20.054"#,
        r#"vm_fabio_requests_count{service="web"} 3"#,
        r#"vm_fabio_http_status_count{code="200",service="web"} 2"#,
        r#"vm_fabio_http_status_count{code="502",service="dead"} 1"#,
        r#"vm_fabio_route_count{host="www.a.com",path="/",service="web",target="http://127.0.0.1:7801/"} 3"#,
        r#"vm_fabio_route_rx{host=":7811",path="",service="db",target="tcp://127.0.0.1:7803"} 12"#,
        r#"vm_fabio_route_tx{host=":7811",path="",service="db",target="tcp://127.0.0.1:7803"} 6"#,
        r#"vm_fabio_http_redirect_count{code="301"} 1"#,
        "vm_fabio_ws_conn 0",
        "vm_fabio_grpc_requests_count 3",
        r#"vm_fabio_grep_status_count{code="NotFound"} 1"#,
        r#"vm_fabio_grep_status_count{code="Unknown"} 1"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
    for absent in ["quiet", "tcp_connfail", r#"service="db",le"#, "lb_"] {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
}

#[test]
fn both_sets_of_names_live_in_one_text() {
    let fabio = Arc::new(busy());
    let metrics = Metrics::default().with_observer(Arc::clone(&fabio) as _);
    metrics
        .service(&"web".into())
        .record_request(&http::Method::GET, 200, MS);
    let registry = collectors::registry(&metrics).unwrap();
    collector::register(&registry, &fabio).unwrap();
    collectors::register_process(&registry, Process::read).unwrap();
    let text = encode(&registry).unwrap();
    assert!(
        text.contains("\nlb_http_requests_total{") && text.contains("\nvm_fabio_requests_count{"),
        "{text}"
    );
    check_format(&text);
}

#[test]
fn targets_that_leave_take_their_series_along() {
    let metrics = busy();
    let web = labels("web", "www.a.com", "/", "http://127.0.0.1:7801/");
    let held = metrics.series.route(web.clone());
    metrics.series.remove_routes(&HashSet::from([web.clone()]));
    metrics.series.remove_service("web");
    // A request that was on its way brings nothing back.
    held.request(Some(200), MS);
    let departed: Vec<_> = metrics
        .series
        .take_departed()
        .iter()
        .map(|series| series.labels.clone())
        .collect();
    assert_eq!(departed, std::slice::from_ref(&web));
    let metrics = Arc::new(metrics);
    let text = text(&metrics, Process::default);
    assert!(
        !text.contains(r#""web""#) && text.contains(r#""dead""#),
        "{text}"
    );
    let back = metrics.series.route(web);
    assert_eq!(back.requests.histogram().count(), 0);
}

#[test]
fn open_websockets_are_counted_while_they_live() {
    let metrics = Arc::new(FabioMetrics::new(names(), false));
    let observer: Arc<dyn TrafficObserver> = Arc::clone(&metrics) as _;
    let open = OpenUpgrade::new(&observer);
    assert_eq!(metrics.open_websockets(), 1);
    drop(open);
    assert_eq!(metrics.open_websockets(), 0);
}

#[test]
fn promtool_accepts_the_text() {
    let metrics = busy();
    let strange = labels(
        "a\"b\\c\nvm_fabio_fake 1",
        "é",
        "/\u{7f}",
        "http://[::1]:1/",
    );
    metrics.series.route(strange).request(Some(999), MS);
    let text = text(&Arc::new(metrics), Process::read);
    check_format(&text);
    assert!(
        !text.lines().any(|line| line.starts_with("vm_fabio_fake")),
        "{text}"
    );
    promtool(
        &text,
        &[
            "counter metrics should have \"_total\" suffix",
            "\"_count\" suffix",
        ],
    );
}
