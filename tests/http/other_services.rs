//! Services that a route uses beside its own (`fallback=`, `mirror=`), whatever protocol the client
//! and the instance speak.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{OK, Refusing, Scripted, router, runtime};
use crate::support::client::{Load, RawClient};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;
use crate::ways::{WAYS, Way};

/// The router with routes of a file: service, place, instance, options. Instances may be names
/// that do not exist: they are out.
fn start(routes: &[(&str, &str, &str, &str)], more: &str) -> (Lb, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes");
    let line = |(service, place, target, options): &(&str, &str, &str, &str)| {
        format!("route add {service} {place} {target} opts \"{options}\"\n")
    };
    std::fs::write(&file, routes.iter().map(line).collect::<String>()).unwrap();
    (
        router(&[], &format!("routes_file = {file:?}\n{more}")),
        folder,
    )
}

/// The URL of an instance for a route that speaks this protocol.
fn url(way: Way, address: SocketAddr) -> String {
    format!("{}://{address}/", way.proto())
}

fn out(way: Way) -> String {
    format!("{}://no-such-instance.invalid:80/", way.proto())
}

fn mirrored(lb: &Lb, service: &str) -> (f64, f64) {
    let figure = |name: &str| {
        let sample = format!("lb_mirror_{name}_total{{service=\"{service}\"}}");
        lb.metric(&sample).unwrap_or(0.0)
    };
    (figure("requests"), figure("dropped"))
}

#[test]
fn a_fallback_serves_in_every_protocol_and_under_the_routes_rules() {
    for way in WAYS {
        let maint = Upstream::start("maint");
        let options = "fallback=maint strip=/shop sethdr=X-Out:1 rate=1/h burst=3 by=route";
        let (lb, _folder) = start(
            &[
                ("web", "/shop", &out(way), options),
                ("maint", "maint.test/", &url(way, maint.address), ""),
            ],
            "",
        );
        for turn in 0..3 {
            let got = way.ask(lb.address("http"), "h", "/shop/cart", &[], "body");
            assert_eq!(
                (got.status, got.instance()),
                (200, "maint"),
                "{way:?} {turn}"
            );
            let seen: Value = serde_json::from_slice(&got.body).unwrap();
            assert_eq!(seen["path"], "/cart", "{way:?}");
            assert!(got.text().contains(r#"["x-out","1"]"#), "{way:?}: {seen}");
        }
        let refused = way.ask(lb.address("http"), "h", "/shop/cart", &[], "body");
        let status = refused.fields.get("grpc-status");
        match way.is_call() {
            true => assert_eq!(status.unwrap(), "8", "its limits hold"),
            false => assert_eq!(refused.status, 429, "its limits hold"),
        }
        let (_, text) = lb.admin("/api/explain?url=http://h/shop/x");
        assert!(text.contains("fallback=maint: serves"), "{text}");
    }
}

#[test]
fn what_leads_nowhere_is_503_with_its_reason() {
    let (lb, _folder) = start(
        &[
            ("a", "/a", &out(Way::HTTP1), "fallback=b"),
            ("b", "/b", &out(Way::HTTP1), "fallback=a"),
            ("c", "/c", &out(Way::HTTP1), "fallback=nowhere"),
            ("d", "/d", &out(Way::HTTP1), "fallback=d"),
        ],
        "",
    );
    for (path, why) in [
        ("/a", "fallback=b -> a: it leads back to where it began"),
        ("/b", "fallback=a -> b: it leads back to where it began"),
        ("/c", "fallback=nowhere: no such service is registered"),
        ("/d", "fallback=d: it leads back to where it began"),
    ] {
        for way in [Way::HTTP1, Way::HTTP2] {
            let got = way.ask(lb.address("http"), "h", path, &[], "");
            assert_eq!(got.status, 503, "{path} {way:?}");
            assert!(got.fields.contains_key("retry-after"));
        }
        let (_, text) = lb.admin(&format!("/api/explain?url=http://h{path}"));
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["route"]["notes"][0], why);
        let outcome = answer["outcome"].as_str().unwrap();
        assert!(
            outcome.contains("503") && outcome.ends_with(why),
            "{outcome}"
        );
    }
    let told = lb.wait_for_line("the missing service", |line| {
        line.contains("\"nowhere\"") && line.contains("no such service is registered")
    });
    assert!(told.contains("WARN"), "{told}");
    let times = lb.stderr().matches("no such service is registered").count();
    assert_eq!(times, 1, "once");
}

#[test]
fn copies_are_what_the_instance_gets_in_every_protocol() {
    for way in WAYS {
        let (web, shadow) = (Upstream::start("web"), Upstream::start("shadow"));
        let options = "mirror=shadow strip=/shop sethdr=X-Set:1 delhdr=X-Gone";
        let (lb, _folder) = start(
            &[
                ("web", "/shop", &url(way, web.address), options),
                ("shadow", "shadow.test/", &url(way, shadow.address), ""),
            ],
            "",
        );
        let fields = [("x-gone", "1"), ("x-kept", "2")];
        for (number, body) in ["", "a body", &"x".repeat(60 << 10)].iter().enumerate() {
            let path = format!("/shop/cart?n={number}");
            let got = way.ask(lb.address("http"), "h", &path, &fields, body);
            assert_eq!((got.status, got.instance()), (200, "web"), "{way:?}");
            wait_until("the copy", || {
                shadow.requests() == number as u64 + 1
                    && mirrored(&lb, "shadow") == (number as f64 + 1.0, 0.0)
            });
            let (told, seen) = (web.last_request(), shadow.last_request());
            assert_eq!(told, seen, "{way:?}: {number}");
            assert!(
                seen.contains("/cart?n=") && !seen.contains("x-gone"),
                "{seen}"
            );
            assert!(seen.contains("x-set") && seen.contains("x-kept"), "{seen}");
        }
        // Longer ones have no copy, and are none the worse for it.
        let long = "y".repeat(100 << 10);
        let got = way.ask(lb.address("http"), "h", "/shop/echo", &fields, &long);
        assert_eq!((got.status, got.body.len()), (200, long.len()), "{way:?}");
        wait_until("the count", || mirrored(&lb, "shadow") == (4.0, 1.0));
        assert_eq!(shadow.requests(), 3);
    }
}

#[test]
fn a_chunked_body_is_copied_too() {
    let (web, shadow) = (Scripted::start(chunked), Scripted::start(chunked));
    let (lb, _folder) = start(
        &[
            (
                "web",
                "/",
                &format!("http://{}/", web.address),
                "mirror=shadow",
            ),
            (
                "shadow",
                "shadow.test/",
                &format!("http://{}/", shadow.address),
                "",
            ),
        ],
        "",
    );
    let mut client = RawClient::connect(lb.address("http"));
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("3\r\nabc\r\n").send("2\r\nde\r\n0\r\n\r\n");
        assert_eq!(client.response().unwrap().text(), "abcde");
    }
    wait_until("both copies", || {
        shadow.received().matches("abcde").count() == 2
    });
    assert_eq!(mirrored(&lb, "shadow"), (2.0, 0.0));
}

/// Responds with the data of a chunked request.
fn chunked(visit: &mut crate::harness::Visit) {
    while visit.head().is_some() {
        let Some(data) = visit.chunks() else { return };
        visit.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{data}",
            data.len()
        ));
    }
}

#[test]
fn a_fraction_is_exact() {
    let (web, shadow) = (Upstream::start("web"), Upstream::start("shadow"));
    let (lb, _folder) = start(
        &[
            (
                "web",
                "/",
                &url(Way::HTTP1, web.address),
                "mirror=shadow:0.1",
            ),
            (
                "shadow",
                "shadow.test/",
                &url(Way::HTTP1, shadow.address),
                "",
            ),
        ],
        "[proxy]\nworkers = 2\n",
    );
    let load = runtime()
        .block_on(Load::new(lb.address("http"), "h", "/", 200).run(Duration::from_secs(2)));
    load.assert_none_failed();
    let expected = (load.requests() / 10) as f64;
    wait_until("every tenth", || mirrored(&lb, "shadow") == (expected, 0.0));
    wait_until("their arrival", || shadow.requests() as f64 == expected);
}

#[test]
fn what_is_refused_is_not_copied() {
    let (web, shadow) = (Upstream::start("web"), Upstream::start("shadow"));
    let to = url(Way::HTTP1, web.address);
    let (lb, _folder) = start(
        &[
            ("web", "/deny", &to, "mirror=shadow deny=ip:127.0.0.0/8"),
            ("web", "/rate", &to, "mirror=shadow rate=1/h by=route"),
            ("web", "/body", &to, "mirror=shadow maxbody=3"),
            ("web", "/auth", &to, "mirror=shadow auth=unknown"),
            (
                "shadow",
                "shadow.test/",
                &url(Way::HTTP1, shadow.address),
                "",
            ),
        ],
        "",
    );
    for way in [Way::HTTP1, Way::HTTP2] {
        for (path, status) in [("/deny", 403), ("/body", 413), ("/auth", 503)] {
            let got = way.ask(lb.address("http"), "h", path, &[], "a body");
            assert_eq!(got.status, status, "{path} {way:?}");
        }
    }
    assert_eq!(
        Way::HTTP1
            .ask(lb.address("http"), "h", "/rate", &[], "")
            .status,
        200
    );
    assert_eq!(
        Way::HTTP1
            .ask(lb.address("http"), "h", "/rate", &[], "")
            .status,
        429
    );
    wait_until("the copy of the one that passed", || shadow.requests() == 1);
    assert_eq!(mirrored(&lb, "shadow"), (1.0, 0.0));
}

#[test]
fn mirrors_that_are_dead_slow_or_missing_cost_nothing() {
    for way in [Way::HTTP1, Way::of_proto("h2c")] {
        // Some copies of them wait for this long, and the next route's have room all the same.
        let (web, frozen, dead) = (
            Upstream::start("web"),
            Upstream::start("f"),
            Refusing::new(),
        );
        frozen.freeze();
        let to = url(way, web.address);
        let (lb, _folder) = start(
            &[
                ("web", "/frozen", &to, "mirror=frozen"),
                ("web", "/dead", &to, "mirror=dead"),
                ("web", "/missing", &to, "mirror=missing"),
                ("frozen", "frozen.test/", &url(way, frozen.address), ""),
                ("dead", "dead.test/", &url(way, dead.address), ""),
            ],
            "[proxy]\nworkers = 1\n",
        );
        for path in ["/frozen", "/dead", "/missing"] {
            let begun = Instant::now();
            for number in 0..400 {
                let mut client = RawClient::connect(lb.address("http"));
                client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
                let response = client.response().unwrap();
                assert_eq!(response.status, 200, "{way:?} {path} {number}");
            }
            // A copy that was waited for would take seconds each.
            assert!(begun.elapsed() < Duration::from_secs(60), "{path}");
            let service = &path[1..];
            wait_until("what is dropped", || {
                let (made, dropped) = mirrored(&lb, service);
                // At most so many wait for the frozen one.
                made == 400.0 && dropped >= if service == "frozen" { 144.0 } else { 400.0 }
            });
        }
        let sample = "lb_upstream_ejections_total{service=\"web\"}";
        assert_eq!(lb.metric(sample), Some(0.0));
        assert_eq!(web.requests(), 1200, "no retry, and no second request");
    }
}

#[test]
fn connections_to_a_mirror_are_used_again() {
    let (web, shadow) = (Upstream::start("web"), Scripted::replying(OK));
    let (lb, _folder) = start(
        &[
            ("web", "/", &url(Way::HTTP1, web.address), "mirror=shadow"),
            (
                "shadow",
                "shadow.test/",
                &format!("http://{}/", shadow.address),
                "",
            ),
        ],
        "[proxy]\nworkers = 1\n",
    );
    for number in 1..=20 {
        Way::HTTP1.ask(lb.address("http"), "h", "/", &[], "");
        wait_until("the copy", || shadow.requests() == number);
    }
    assert!(shadow.connections() <= 3, "{}", shadow.connections());
    assert_eq!(mirrored(&lb, "shadow"), (20.0, 0.0));
}
