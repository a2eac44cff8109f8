//! What Prometheus gets, from the admin listener and from a listener of its own.

use std::io::Read as _;

use crate::support::client::{self, RawClient, RawResponse, exchange};
use crate::support::lb::Lb;
use crate::support::promtool::complaints;
use crate::support::upstream::Upstream;

/// A router that has served a request, missed one and redirected one, with metrics under both
/// sets of names.
fn busy(upstream: &Upstream) -> Lb {
    let routes = format!(
        "-registry.static.routes=route add web /web http://{}/\n\
         route add away away.test/ https://to.test/ opts \"redirect=302\"\n",
        upstream.address
    );
    let args = [
        "-registry.backend=static",
        &routes,
        "-proxy.addr=127.0.0.1:0,127.0.0.1:0;proto=prometheus",
        "-ui.addr=127.0.0.1:0",
        "-metrics.target=prometheus",
        "-metrics.prefix=p",
        "-metrics.prometheus.path=/m",
    ];
    let lb = Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[]);
    lb.wait_ready();
    let address = lb.address("http");
    for (host, path, status) in [
        ("any.test", "/web", 200),
        ("any.test", "/none", 404),
        ("away.test", "/", 302),
    ] {
        assert_eq!(client::get(address, host, path).status, status, "{path}");
    }
    lb
}

/// What promtool objects to in the text but for Fabio's names, which stay as they are.
fn objections(test: &str, text: &str) -> Option<Vec<String>> {
    let mut said = complaints(test, text)?;
    said.retain(|line| {
        ![
            "p_notfound counter metrics should have \"_total\" suffix",
            "p_http_redirect_count counter metrics should have \"_total\" suffix",
            "p_http_redirect_count non-histogram and non-summary metrics should not have \"_count\" suffix",
        ]
        .contains(&&**line)
    });
    Some(said)
}

#[test]
fn promtool_has_no_objection_to_what_is_scraped() {
    let test = "promtool_has_no_objection_to_what_is_scraped";
    let upstream = Upstream::start("web");
    let lb = busy(&upstream);
    let own = lb.admin("/metrics").1;
    let alone = client::get(lb.address("prometheus"), "any.test", "/m").text();
    assert!(own.contains("\nlb_http_requests_total{"), "{own}");
    assert!(!alone.contains("lb_"), "{alone}");
    for text in [own, alone] {
        assert!(text.contains("\np_requests_count{"), "{text}");
        assert!(text.contains("\nprocess_threads "), "{text}");
        if let Some(objections) = objections(test, &text) {
            assert_eq!(objections, [""; 0], "in\n{text}");
        }
    }
}

fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n")
}

fn unpacked(response: &RawResponse) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*response.body)
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn a_scraper_that_accepts_gzip_gets_it() {
    let upstream = Upstream::start("web");
    let lb = busy(&upstream);
    for (address, path) in [
        (lb.address("prometheus"), "/m"),
        (lb.address("admin"), "/m"),
        (lb.address("admin"), "/metrics"),
    ] {
        let get = |more: &str| exchange(address, request("GET", path, more)).unwrap();
        // Prometheus itself sends this.
        for accepts in ["gzip", "deflate, gzip;q=0.5", "br;q=1, *;q=0.1"] {
            let packed = get(&format!("Accept-Encoding: {accepts}\r\n"));
            assert_eq!(packed.status, 200, "{path}: {accepts}");
            assert_eq!(packed.header("content-encoding"), Some("gzip"), "{accepts}");
            let text = unpacked(&packed);
            assert!(text.contains("\np_notfound 1\n"), "{text}");
            assert!(packed.body.len() * 2 < text.len(), "{}", packed.body.len());
            assert_describes(&packed);
        }
        for refuses in [
            "",
            "Accept-Encoding: gzip;q=0\r\n",
            "Accept-Encoding: br\r\n",
        ] {
            let plain = get(refuses);
            assert_eq!(plain.status, 200, "{path}: {refuses}");
            assert_eq!(plain.header("content-encoding"), None, "{refuses}");
            assert!(plain.text().contains("\np_notfound 1\n"), "{refuses}");
            assert_describes(&plain);
        }
        let head = request("HEAD", path, "Accept-Encoding: gzip\r\n");
        let head = RawClient::connect(address).send(head).rest();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    }
}

/// The head says what the text is, and on what it depends.
fn assert_describes(response: &RawResponse) {
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let vary = response.header("vary").unwrap_or_default();
    assert!(vary.eq_ignore_ascii_case("accept-encoding"), "{vary}");
}
