//! Which of several routes of one place a request gets, by method, fields and query: the same over
//! HTTP/1.1, HTTP/2 and gRPC.

use http::{Request, StatusCode};

use super::support::client::exchange;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;

/// Options of a route at `/`, and the name of its only instance.
const ROUTES: [(&str, &str); 6] = [
    ("plain", ""),
    ("canary", "header=X-Canary:1"),
    ("writes", "method=POST,PUT"),
    ("urgent", "header=X-Canary:1 method=POST"),
    ("version", "query=v:2*"),
    ("first", "header=X-First priority=1"),
];

/// Method, target and fields of a request, and which instance gets it.
type Case = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const REQUESTS: [Case; 11] = [
    ("GET", "/", &[], "plain"),
    ("GET", "/x", &[("x-canary", "1")], "canary"),
    ("GET", "/x", &[("X-CANARY", "1")], "canary"),
    ("GET", "/", &[("x-canary", "2")], "plain"),
    (
        "GET",
        "/",
        &[("x-canary", "2"), ("x-canary", "1")],
        "canary",
    ),
    ("POST", "/", &[], "writes"),
    ("PUT", "/", &[], "writes"),
    ("POST", "/", &[("x-canary", "1")], "urgent"),
    ("GET", "/?v=2.1", &[], "version"),
    ("GET", "/?w=2", &[], "plain"),
    (
        "POST",
        "/?v=2",
        &[("x-canary", "1"), ("x-first", "")],
        "first",
    ),
];

fn lb(protocol: &str, proto: &str, upstreams: &[Upstream]) -> Lb {
    let routes: String = ROUTES
        .iter()
        .zip(upstreams)
        .map(|((name, options), upstream)| {
            let options = format!("{options} {proto}");
            route(
                name,
                "one.test/",
                &[url("http", upstream.address)],
                &options,
            )
        })
        .collect();
    Lb::start(&config(
        &(listener(protocol, "") + &routes + "[proxy]\nworkers = 1\n"),
    ))
}

fn upstreams() -> Vec<Upstream> {
    ROUTES
        .iter()
        .map(|(name, _)| Upstream::start(name))
        .collect()
}

#[test]
fn http1_requests_get_the_route_whose_matchers_hold() {
    let upstreams = upstreams();
    let lb = lb("http", "", &upstreams);
    for (method, target, fields, expected) in REQUESTS {
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: one.test\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let response = exchange(lb.address("http"), request).expect("a response");
        let told = json(response.text().as_bytes());
        assert_eq!(told["instance"], *expected, "{method} {target} {fields}");
    }
}

#[test]
fn http2_requests_get_the_route_whose_matchers_hold() {
    let upstreams = upstreams();
    for proto in ["", "proto=h2c"] {
        let lb = lb("http", proto, &upstreams);
        block_on(async {
            let (mut client, _) = h2(lb.address("http")).await;
            for (method, target, fields, expected) in REQUESTS {
                let mut request = Request::builder()
                    .method(method)
                    .uri(format!("http://one.test{target}"));
                for (name, value) in fields {
                    request = request.header(*name, *value);
                }
                let request = request.body(full("")).unwrap();
                let (parts, body, _) = ask(&mut client, request).await;
                assert_eq!(parts.status, StatusCode::OK);
                assert_eq!(json(&body)["instance"], *expected, "{method} {target}");
            }
        });
    }
}

#[test]
fn without_a_route_whose_matchers_hold_the_next_place_serves() {
    let [exact, any, other] = ["exact", "any", "other"].map(Upstream::start);
    let text = listener("http", "")
        + &route(
            "exact",
            "one.test/a",
            &[url("http", exact.address)],
            "path=exact header=X-Canary:1",
        )
        + &route(
            "any",
            "one.test/",
            &[url("http", any.address)],
            "method=GET",
        )
        + &route("other", "/", &[url("http", other.address)], "");
    let lb = Lb::start(&config(&text));
    for (method, path, canary, expected) in [
        ("GET", "/a", "1", "exact"),
        ("POST", "/a", "1", "exact"),
        ("GET", "/a", "0", "any"),
        ("GET", "/a/b", "1", "any"),
        ("POST", "/a", "0", "other"),
        ("POST", "/b", "1", "other"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: one.test\r\nX-Canary: {canary}\r\nContent-Length: 0\r\n\r\n"
        );
        let response = exchange(lb.address("http"), request).expect("a response");
        let told = json(response.text().as_bytes());
        assert_eq!(told["instance"], expected, "{method} {path} {canary}");
    }
    let (status, told) =
        lb.admin("/api/explain?url=http://one.test/a&method=POST&header=X-Canary:%200");
    assert_eq!(status, 200);
    let told = json(told.as_bytes());
    assert_eq!(
        told["hosts"][0]["passed_over"],
        serde_json::json!(["/a header=x-canary:1 path=exact", "/ method=GET"])
    );
    let (_, told) = lb.admin("/api/explain?url=http://one.test/a&header=X-Canary:%201");
    assert_eq!(
        json(told.as_bytes())["route"]["matchers"],
        "header=x-canary:1 path=exact"
    );
    let text = lb.admin("/api/routes").1;
    assert!(
        text.contains("header=X-Canary:1 path=exact"),
        "Fabio's form shows the options: {text}"
    );
}

#[test]
fn a_canary_of_grpc_calls() {
    let upstreams = [Upstream::start("plain"), Upstream::start("canary")];
    let at = |name, upstream: &Upstream, options: &str| {
        route(
            name,
            "/greeter.Greeter/",
            &[url("http", upstream.address)],
            options,
        )
    };
    let text = listener("grpc", "")
        + &at("plain", &upstreams[0], "proto=grpc")
        + &at("canary", &upstreams[1], "proto=grpc header=X-Canary:1");
    let lb = Lb::start(&config(&text));
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        for (canary, counts) in [("0", [1, 0]), ("1", [1, 1]), ("2", [2, 1])] {
            let call = Request::post("http://svc/greeter.Greeter/echo")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("x-canary", canary)
                .body(full("\0\0\0\0\0"))
                .unwrap();
            let (parts, _, _) = ask(&mut client, call).await;
            assert_eq!(parts.status, StatusCode::OK);
            assert_eq!(upstreams.each_ref().map(Upstream::requests), counts);
        }
    });
}

#[test]
fn a_bad_matcher_costs_its_own_route_alone() {
    let upstream = Upstream::start("good");
    let targets = [url("http", upstream.address)];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes");
    let line = |place: &str, options: &str| {
        format!("route add s {place} {} opts \"{options}\"\n", targets[0])
    };
    let text = line("good.test/", "method=GET")
        + &line("bad.test/", "method=G@T")
        + &line("bad.test/x", "header=A:%zz")
        + &line(":7", "proto=tcp method=GET");
    std::fs::write(&file, text).unwrap();
    let text = format!("routes_file = {file:?}\n") + &listener("http", "");
    let lb = Lb::start(&config(&text));
    let get = |host: &str| super::support::client::get(lb.address("http"), host, "/x").status;
    assert_eq!((get("good.test"), get("bad.test")), (200, 404));
    for value in ["G@T", "%zz", "looks at requests"] {
        lb.wait_for_line(value, |line| line.contains(value));
    }
}
