//! Limits of routes: the same over HTTP/1.1 (one connection or many) and HTTP/2, and as gRPC says
//! them.

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};

use super::support::client::{RawClient, exchange};
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::wait_until;

/// A listener of each kind, and the routes.
fn start(routes: &str) -> Lb {
    let text = listener("http", "") + routes;
    Lb::start(&config(&(text + "[proxy]\nworkers = 2\n")))
}

fn to(upstream: &Upstream, path: &str, options: &str) -> String {
    route("s", path, &[url("http", upstream.address)], options)
}

/// Status and `Retry-After` of a request.
type Told = (u16, Option<String>);

/// Sends a request over HTTP/1.1, on a connection of its own.
fn http1(lb: &Lb, path: &str, fields: &str, body: &str) -> Told {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let response = exchange(lb.address("http"), request).expect("a response");
    let retry_after = response.header("retry-after").map(str::to_owned);
    (response.status, retry_after)
}

/// The same over HTTP/2.
fn http2(lb: &Lb, path: &str, fields: &[(&str, &str)], body: &str) -> (Told, HeaderMap) {
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let mut request = Request::post(format!("http://x{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(full(body.to_owned())).unwrap();
        let (parts, _, _) = ask(&mut client, request).await;
        let retry_after = parts.headers.get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
        ((parts.status.as_u16(), retry_after), parts.headers)
    })
}

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

#[test]
fn a_rate_is_one_for_all_protocols_connections_and_workers() {
    let upstream = Upstream::start("u");
    let lb = start(&to(&upstream, "/", "rate=6/h burst=4 by=route"));
    let passed = (200, None);
    assert_eq!(http1(&lb, "/", "", ""), passed);
    assert_eq!(http2(&lb, "/", &[], "").0, passed);
    assert_eq!(http1(&lb, "/", "", ""), passed);
    assert_eq!(http2(&lb, "/", &[], "").0, passed);
    for told in [http1(&lb, "/", "", ""), http2(&lb, "/", &[], "").0] {
        let (status, retry_after) = told;
        let seconds: u64 = retry_after.expect("Retry-After").parse().unwrap();
        assert_eq!(status, 429);
        assert!((590..=600).contains(&seconds), "{seconds}");
    }
    let (told, headers) = http2(&lb, "/", &GRPC, "");
    assert_eq!(
        (told.0, &headers["grpc-status"]),
        (200, &"8".parse().unwrap())
    );
    assert_eq!(
        upstream.requests(),
        4,
        "refused ones never reach an instance"
    );
    let limited = "lb_proxy_errors_total{service=\"s\",reason=\"rate_limited\"}";
    assert_eq!(lb.metric(limited), Some(3.0));
}

#[test]
fn each_key_has_a_rate_of_its_own_and_it_outlives_the_table() {
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes");
    let line = |more: &str| {
        let options = format!("rate=1/h by=header:X-Tenant{more}");
        format!(
            "route add s / http://{} opts \"{options}\"\n",
            upstream.address
        )
    };
    std::fs::write(&file, line("")).unwrap();
    let text = format!("routes_file = {file:?}\n") + &listener("http", "");
    let lb = Lb::start(&config(&text));
    let status = |tenant: &str| http1(&lb, "/", tenant, "").0;
    assert_eq!(status("X-Tenant: a\r\n"), 200);
    assert_eq!(status("X-Tenant: b\r\n"), 200);
    assert_eq!(status(""), 200);
    assert_eq!(status("X-Tenant: a\r\n"), 429);
    assert_eq!(status(""), 429, "those without the field share one key");
    // A change of the route makes no new bucket.
    std::fs::write(&file, line(" strip=/x")).unwrap();
    lb.wait_admin("/api/routes", "the change", |body| {
        body.contains("strip=/x")
    });
    assert_eq!(status("X-Tenant: b\r\n"), 429);
    assert_eq!(status("X-Tenant: c\r\n"), 200);
}

#[test]
fn requests_at_once_are_bounded_until_each_response_is_through() {
    let upstream = Upstream::start("u");
    let lb = start(&to(&upstream, "/", "inflight=2"));
    let open = |path: &str| {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client
    };
    // Both have their heads: what counts is the whole response.
    let mut first = open("/sse");
    first.until(b"\r\n\r\n");
    let mut second = open("/sse");
    second.until(b"\r\n\r\n");
    let busy = (503, Some("1".to_owned()));
    assert_eq!(http1(&lb, "/", "", ""), busy);
    assert_eq!(http2(&lb, "/", &[], "").0, busy);
    let (_, headers) = http2(&lb, "/", &GRPC, "");
    assert_eq!(headers["grpc-status"], "14");
    drop(first);
    wait_until("a free place", || http1(&lb, "/", "", "").0 == 200);
    assert_eq!(http2(&lb, "/", &[], "").0.0, 200);
    drop(second);
}

#[test]
fn bodies_are_bounded_by_their_length_and_while_they_stream() {
    let upstream = Upstream::start("u");
    let lb = start(&(to(&upstream, "/", "maxbody=1k") + &to(&upstream, "/large", "maxbody=1m")));
    let (fits, exceeds) = ("x".repeat(1024), "x".repeat(1025));
    assert_eq!(http1(&lb, "/", "", &fits).0, 200);
    assert_eq!(http2(&lb, "/", &[], &fits).0.0, 200);
    let before = upstream.requests();
    assert_eq!(http1(&lb, "/", "", &exceeds).0, 413);
    assert_eq!(
        http2(&lb, "/", &[("content-length", "1025")], &exceeds).0.0,
        413
    );
    assert_eq!(upstream.requests(), before, "by its length alone");
    // Chunked, short enough to be read as a whole, and too long for that.
    for length in [2_000, 2 << 20] {
        let body = "x".repeat(length);
        let request = format!(
            "POST /{} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n",
            if length > 4096 { "large" } else { "" }
        );
        let mut client = RawClient::connect(lb.address("http"));
        let mut sender = client.clone_for_sending();
        let sending = std::thread::spawn(move || {
            // It may be refused while this goes on.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sender.send(request);
            }));
        });
        assert_eq!(client.response().map(|response| response.status), Some(413));
        let _ = sending.join();
    }
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let (sender, body) = channel();
        let request = Request::post("http://x/large").body(body).unwrap();
        client.ready().await.unwrap();
        let response = client.send_request(request);
        let sending =
            tokio::spawn(
                async move { while sender.send(data(vec![b'x'; 64 << 10])).await.is_ok() {} },
            );
        assert_eq!(
            response.await.unwrap().status(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
        // The connection serves on.
        let (parts, _, _) = ask(&mut client, get("http://x/")).await;
        assert_eq!(parts.status, StatusCode::OK);
        sending.abort();
    });
}

#[test]
fn a_time_for_the_response_and_retries() {
    let upstream = Upstream::start("u");
    let closing = Upstream::start("c");
    closing.set_closing(true);
    let lb = start(
        &(to(&upstream, "/slow", "timeout=300ms")
            + &route("c", "/never", &[url("http", closing.address)], "retries=0")
            + &route(
                "c",
                "/often",
                &[url("http", closing.address), url("http", upstream.address)],
                "retries=1 strategy=rr",
            )),
    );
    assert_eq!(http1(&lb, "/slow", "", "").0, 200);
    upstream.set_delay(Duration::from_secs(20));
    assert_eq!(http1(&lb, "/slow", "", "").0, 504);
    assert_eq!(http2(&lb, "/slow", &[], "").0.0, 504);
    let (_, headers) = http2(&lb, "/slow", &GRPC, "");
    assert_eq!(headers["grpc-status"], "4");
    upstream.set_delay(Duration::ZERO);
    // Not for long uploads: the time of the client is its own.
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n");
    for _ in 0..5 {
        client.send(vec![b'x'; 40_000]);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.response().map(|response| response.status), Some(200));

    let get = |path| super::support::client::get(lb.address("http"), "x", path).status;
    assert_eq!(get("/never"), 502);
    assert_eq!(closing.requests(), 1);
    assert_eq!([get("/often"), get("/often")], [200, 200]);
}

#[test]
fn a_protection_that_cannot_be_read_closes_its_route_and_no_other() {
    let upstream = Upstream::start("u");
    let line = |place: &str, options: &str| {
        format!(
            "route add s {place} http://{} opts \"{options}\"\n",
            upstream.address
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes");
    let text = line("/", "a=b")
        + &line("/rate", "rate=lots")
        + &line("/body", "maxbody=10mb")
        + &line("/inflight", "inflight=0");
    std::fs::write(&file, text).unwrap();
    let text = format!("routes_file = {file:?}\n") + &listener("http", "");
    let lb = Lb::start(&config(&text));
    for path in ["/rate", "/body", "/inflight"] {
        assert_eq!(http1(&lb, path, "", "").0, 503, "{path}");
        assert_eq!(http2(&lb, path, &[], "").0.0, 503, "{path}");
    }
    assert_eq!(http1(&lb, "/other", "", "").0, 200);
    assert_eq!(upstream.requests(), 1);
    lb.wait_for_line("the reason", |line| line.contains("rate `lots`"));
    let told = lb.admin("/api/explain?url=http://x/rate").1;
    assert!(
        told.contains("rate `lots`") && told.contains("503"),
        "{told}"
    );
}

#[test]
fn tcp_connections_at_once_are_bounded() {
    let echo = TcpEcho::start("hello", "");
    let port = free_port();
    let text = format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n")
        + &route(
            "t",
            &format!(":{port}"),
            &[url("tcp", echo.address)],
            "inflight=1",
        )
        + "[proxy]\nworkers = 1\n";
    let lb = Lb::start(&config(&text));
    let mut first = RawClient::connect(lb.address("tcp"));
    assert_eq!(first.bytes(5), b"hello");
    assert!(RawClient::connect(lb.address("tcp")).is_closed());
    drop(first);
    wait_until("a free place", || {
        RawClient::connect(lb.address("tcp")).bytes(5) == b"hello"
    });
}

#[test]
fn fields_are_set_and_taken_away_on_both_sides() {
    let upstream = Upstream::start("u");
    let options = "sethdr=X-Team:shop%20one sethdr=X-Role:x sethdr=X-Role:reader delhdr=X-Debug delhdr=Cookie \
        setresphdr=X-Frame-Options:DENY delresphdr=Content-Type";
    for proto in ["", " proto=h2c"] {
        let lb = start(
            &(to(&upstream, "/", &format!("{options}{proto}"))
                + &to(
                    &upstream,
                    "/limited",
                    &format!("{options} rate=1/h burst=1 by=route"),
                )),
        );
        let sent = [
            ("x-team", "mine"),
            ("x_team", "mine"),
            ("x-role", "admin"),
            ("X-Debug", "1"),
            ("cookie", "a=b"),
            ("x-kept", "1"),
        ];
        let lines: String = sent
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        let response = exchange(lb.address("http"), request).expect("a response");
        let first = json(response.text().as_bytes());
        assert_eq!(response.header("x-frame-options"), Some("DENY"));
        assert_eq!(response.header("content-type"), None);

        let second = block_on(async {
            let (mut client, _) = h2(lb.address("http")).await;
            let mut request = Request::get("http://x/");
            for (name, value) in sent {
                request = request.header(name, value);
            }
            let (parts, body, _) = ask(&mut client, request.body(full("")).unwrap()).await;
            assert_eq!(parts.headers["x-frame-options"], "DENY");
            assert!(!parts.headers.contains_key("content-type"));
            json(&body)
        });
        for told in [first, second] {
            let fields = told["headers"].as_array().unwrap();
            let value = |name: &str| {
                let named = |field: &&serde_json::Value| field[0] == *name;
                fields
                    .iter()
                    .find(named)
                    .map(|field| field[1].as_str().unwrap().to_owned())
                    .unwrap_or_default()
            };
            assert!(value("x-team").contains("shop one") && !value("x-team").contains("mine"));
            assert!(value("x-role").contains("reader") && !value("x-role").contains("admin"));
            for gone in ["x-debug", "cookie", "x_team"] {
                assert_eq!(value(gone), "", "{gone}: {told}");
            }
            assert!(value("x-kept").contains('1'));
        }
        // Responses of our own have them too.
        let _ = http1(&lb, "/limited", "", "");
        let limited = exchange(
            lb.address("http"),
            "GET /limited HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .expect("a response");
        assert_eq!(
            (limited.status, limited.header("x-frame-options")),
            (429, Some("DENY"))
        );
        let (told, headers) = http2(&lb, "/limited", &[], "");
        assert_eq!(
            (told.0, &headers["x-frame-options"]),
            (429, &"DENY".parse().unwrap())
        );
    }
}

#[test]
fn a_policy_of_the_configuration_bounds_what_tags_may_say() {
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    let line = |place: &str, options: &str| {
        format!(
            "route add s {place} http://{} opts \"{options}\"\n",
            upstream.address
        )
    };
    let text = line("/plain", "policy=strict")
        + &line("/wider", "policy=strict rate=1000/s burst=1000 maxbody=1g")
        + &line("/closer", "policy=strict maxbody=1")
        + &line(
            "/own",
            "policy=strict setresphdr=X-Policy:own delresphdr=X-Gone",
        )
        + &line("/shut", "policy=shut")
        + &line("/unknown", "policy=strickt")
        + &line("/free", "");
    std::fs::write(&routes, text).unwrap();
    let policies = "[policy.strict]\nrate = \"2/h\"\nburst = 2\nby = \"route\"\nbody_max = \"10\"\n\
        response_headers = { set = { X-Policy = \"100% strict\", X-Gone = \"1\" } }\n\
        [policy.shut]\ndeny = [\"127.0.0.0/8\"]\n";
    let path = folder.path().join("lb.toml");
    let text = config(&(format!("routes_file = {routes:?}\n") + &listener("http", "") + policies));
    std::fs::write(&path, &text).unwrap();
    let lb = Lb::start_file(&path, &[]);
    let ask = |path: &str, body: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(lb.address("http"), request).expect("a response")
    };
    let first = ask("/plain", "0123456789");
    assert_eq!(
        (first.status, first.header("x-policy")),
        (200, Some("100% strict"))
    );
    assert_eq!(ask("/plain", "0123456789+").status, 413);
    let third = ask("/plain", "");
    assert_eq!(
        (third.status, third.header("x-policy")),
        (429, Some("100% strict"))
    );
    // A tag widens nothing, and may be stricter.
    assert_eq!(ask("/wider", "0123456789+").status, 413);
    assert_eq!(
        [ask("/wider", "").status, ask("/wider", "").status],
        [200, 429]
    );
    assert_eq!(ask("/closer", "01").status, 413);
    let own = ask("/own", "");
    assert_eq!(
        (own.header("x-policy"), own.header("x-gone")),
        (Some("own"), None)
    );
    assert_eq!(ask("/shut", "").status, 403);
    assert_eq!(ask("/unknown", "").status, 503);
    assert_eq!(ask("/free", "").status, 200);
    lb.wait_for_line("the unknown name", |line| line.contains("policy=strickt"));

    // A reload changes it for all of its routes, and takes no token back.
    std::fs::write(
        &path,
        text.replace("\"2/h\"", "\"9/h\"")
            .replace("[policy.shut]", "[policy.strickt]"),
    )
    .unwrap();
    lb.sighup();
    wait_until("the reload", || ask("/unknown", "").status == 403);
    assert_eq!(ask("/shut", "").status, 503);
    assert_eq!(ask("/plain", "").status, 429);
}

#[test]
fn a_policy_that_cannot_be_read_is_a_mistake_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("rate", "\"lots\""),
        ("burst", "0"),
        ("by", "\"cookie\""),
        ("body_max", "\"10mb\""),
        ("timeout", "\"5\""),
        ("retries", "101"),
        ("allow", "[\"10.0.0.0/99\"]"),
        ("request_headers", "{ set = { Host = \"x\" } }"),
        ("request_headers", "{ sets = { A = \"x\" } }"),
        ("response_headers", "[\"A\"]"),
        ("cors", "{ origins = [\"*\"], credentials = true }"),
        ("cors", "{ origins = [\"shop.example.com\"] }"),
        ("rewrite", "[{ from = \"(\", to = \"/x\" }]"),
        ("rewrite", "[{ from = \"(a)\", to = \"/$2\" }]"),
        ("error_pages", "{ \"200\" = \"page.html\" }"),
        ("error_pages", "{ \"404\" = \"/not/there.html\" }"),
        ("auth", "\"nothing\""),
    ] {
        let path = folder.path().join("lb.toml");
        std::fs::write(
            &path,
            format!("routes = \"\"\n[policy.p]\nrate = \"1/s\"\n{key} = {value}\n")
                .replace("rate = \"1/s\"\nrate", "rate"),
        )
        .unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lb"))
            .args(["check", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        let told =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{key} = {value}: {told}");
        assert!(
            told.contains(&format!("policy.p.{key}")),
            "{key} = {value}: {told}"
        );
    }
}
