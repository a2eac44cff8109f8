//! Routes and their options, seen through traffic.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{router, runtime};
use crate::support::client::{Load, RawResponse, exchange, get};
use crate::support::fake_consul::FakeConsul;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

fn seen(response: &RawResponse) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| panic!("no report of the upstream: {response:?}"))
}

fn field(seen: &Value, name: &str) -> Option<String> {
    let fields = seen["headers"].as_array().unwrap();
    fields
        .iter()
        .find(|field| field[0] == name)
        .map(|field| field[1].as_str().unwrap().to_owned())
}

#[test]
fn the_most_specific_host_and_then_the_longest_path_win() {
    let names = ["exact", "exact-api", "glob", "any", "any-api"];
    let upstreams = names.map(Upstream::start);
    let at = |number: usize| vec![upstreams[number].address];
    let (exact, exact_api, glob, any, any_api) = (at(0), at(1), at(2), at(3), at(4));
    let lb = router(
        &[
            ("shop.test/", &exact, ""),
            ("shop.test/api", &exact_api, ""),
            ("*.test/", &glob, ""),
            ("/", &any, ""),
            ("/api", &any_api, ""),
        ],
        "",
    );
    let table = [
        ("shop.test", "/", "exact"),
        ("SHOP.test:80", "/x", "exact"),
        ("shop.test", "/api/1", "exact-api"),
        ("shop.test", "/API/1", "exact"),
        ("blog.test", "/api/1", "glob"),
        ("other.example", "/ap", "any"),
        ("other.example", "/api", "any-api"),
    ];
    for (host, path, instance) in table {
        assert_eq!(
            get(lb.address("http"), host, path).header("x-instance"),
            Some(instance),
            "{host}{path}"
        );
    }
    // Without a host (HTTP/1.0), and with the one in the target (RFC 9112 section 3.2.2).
    let table = [
        ("GET /api HTTP/1.0\r\n\r\n", "any-api"),
        (
            "GET http://shop.test/api HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "exact-api",
        ),
    ];
    for (request, instance) in table {
        let response = exchange(lb.address("http"), request).unwrap();
        assert_eq!(response.header("x-instance"), Some(instance), "{request}");
    }
}

#[test]
fn path_and_host_options_change_what_the_instance_sees() {
    let upstream = Upstream::start("one");
    let at = [upstream.address];
    let own = upstream.address.to_string();
    let lb = router(
        &[
            ("/strip", &at, "strip=/strip"),
            ("/prepend", &at, "prepend=/before"),
            ("/both", &at, "strip=/both prepend=/new"),
            ("/dst", &at, "host=dst"),
            ("/name", &at, "host=inner.test"),
            ("/plain", &at, ""),
        ],
        "",
    );
    let table = [
        ("/strip/a?b=c", "/a?b=c", "outer.test"),
        ("/strip", "/", "outer.test"),
        ("/prepend/a", "/before/prepend/a", "outer.test"),
        ("/both/a", "/new/a", "outer.test"),
        ("/dst", "/dst", own.as_str()),
        ("/name", "/name", "inner.test"),
        ("/plain/%41?q=%20", "/plain/%41?q=%20", "outer.test"),
    ];
    for (path, seen_path, host) in table {
        let seen = seen(&get(lb.address("http"), "outer.test", path));
        assert_eq!(seen["path"], seen_path, "{path}");
        assert_eq!(field(&seen, "host").as_deref(), Some(host), "{path}");
    }
    let seen = seen(&get(lb.address("http"), "outer.test", "/strip/a"));
    assert_eq!(
        field(&seen, "x-forwarded-prefix").as_deref(),
        Some("/strip")
    );
}

#[test]
fn slashes_are_data_unless_they_are_to_be_merged() {
    let upstream = Upstream::start("one");
    let at = [upstream.address];
    // path, seen, seen where slashes are merged
    let table = [
        (
            "/api/queues/%2F/x?a//b",
            "/api/queues/%2F/x?a//b",
            "/api/queues/x?a//b",
        ),
        ("/api/a%2Fb//c", "/api/a%2Fb//c", "/api/a/b/c"),
        ("//api/a%2Fb", "//api/a%2Fb", "/api/a/b"),
        ("/api//./a/%2e%2E/b", "/api//b", "/api/b"),
        ("/x/../api//a", "/api//a", "/api/a"),
        ("/api/a%2F..%2Fb", "/api/b", "/api/b"),
        ("/api//../api//b", "/api/b", "/api/b"),
        ("/strip//a%2F%2Fb", "//a%2F%2Fb", "/a/b"),
    ];
    for merged in [false, true] {
        let settings = format!("[proxy]\nmerge_slashes = {merged}\n");
        let lb = router(
            &[("/api/", &at, ""), ("/strip", &at, "strip=/strip")],
            &settings,
        );
        for (path, kept, folded) in table {
            let seen = seen(&get(lb.address("http"), "outer.test", path));
            assert_eq!(
                seen["path"],
                if merged { folded } else { kept },
                "{path} {settings}"
            );
        }
    }
}

#[test]
fn forwarding_headers_tell_who_asked_for_what() {
    let upstream = Upstream::start("one");
    let lb = router(
        &[("/", &[upstream.address], "host=inner.test")],
        "[proxy]\nrequest_id_header = \"X-Request-Id\"\nclient_ip_header = \"X-Client\"\ntrusted_proxies = [\"127.0.0.1\"]\n",
    );
    let request = "GET / HTTP/1.1\r\nHost: outer.test:8080\r\nX-Forwarded-For: 192.0.2.9\r\nX-Client: forged\r\n\
                   X-Request-Id: forged\r\nConnection: x-secret, x-client\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
                   Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\n\r\n";
    let seen = seen(&exchange(lb.address("http"), request).unwrap());
    let table = [
        ("x-forwarded-for", Some("192.0.2.9, 127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-client", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("outer.test:8080")),
        ("x-forwarded-port", Some("8080")),
        ("host", Some("inner.test")),
        ("x-secret", None),
        ("keep-alive", None),
        ("proxy-connection", None),
        ("te", None),
        ("upgrade", None),
    ];
    for (name, value) in table {
        assert_eq!(field(&seen, name).as_deref(), value, "{name} in {seen}");
    }
    let id = field(&seen, "x-request-id").unwrap();
    assert_eq!((id.len(), id == "forged"), (36, false), "{id}");
    assert!(
        field(&seen, "forwarded").unwrap().contains("for=127.0.0.1"),
        "{seen}"
    );
}

#[test]
fn redirects_are_answered_here() {
    let upstream = Upstream::start("one");
    let at = [upstream.address];
    let lb = router(
        &[
            ("/old", &at, "redirect=301,https://new.test/there"),
            ("/keep", &at, "redirect=307,https://new.test$path"),
            (
                "/strip",
                &at,
                "strip=/strip redirect=302,https://new.test$path",
            ),
        ],
        "",
    );
    let table = [
        ("/old/x", 301, "https://new.test/there"),
        ("/keep/x?y=z", 307, "https://new.test/keep/x?y=z"),
        ("/strip/x", 302, "https://new.test/x"),
    ];
    for (path, status, location) in table {
        let response = get(lb.address("http"), "h", path);
        assert_eq!(
            (response.status, response.header("location")),
            (status, Some(location)),
            "{path}"
        );
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn access_rules_look_at_the_peer_and_at_every_forwarded_address_as_in_fabio() {
    let upstream = Upstream::start("one");
    let at = [upstream.address];
    let lb = router(
        &[
            ("/in", &at, "allow=ip:127.0.0.0/8,ip:10.0.0.0/8"),
            ("/out", &at, "allow=ip:192.0.2.0/24"),
            ("/deny", &at, "deny=ip:10.0.0.0/8"),
        ],
        "[proxy]\ntrusted_proxies = [\"0.0.0.0/0\", \"::/0\"]\nclient_address = \"peer\"\n",
    );
    let table = [
        ("/in", "", 200),
        ("/in", "10.1.1.1", 200),
        ("/in", "10.1.1.1, 192.0.2.1", 403),
        ("/in", "192.0.2.1, 10.1.1.1", 403),
        ("/out", "", 403),
        ("/out", "192.0.2.1", 403),
        ("/deny", "", 200),
        ("/deny", "192.0.2.1, 10.9.9.9", 403),
    ];
    for (path, forwarded, status) in table {
        let forwarded = if forwarded.is_empty() {
            String::new()
        } else {
            format!("X-Forwarded-For: {forwarded}\r\n")
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{forwarded}\r\n");
        assert_eq!(
            exchange(lb.address("http"), request).unwrap().status,
            status,
            "{path} {forwarded}"
        );
    }
}

#[test]
fn weights_are_shares_of_the_traffic() {
    let (few, many) = (Upstream::start("few"), Upstream::start("many"));
    let routes = format!(
        "route add web / http://{}/ weight 0.2\nroute add web / http://{}/ weight 0.8\n",
        few.address, many.address
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.txt");
    std::fs::write(&file, routes).unwrap();
    let lb = router(
        &[],
        &format!(
            "routes_file = \"{}\"\n[proxy]\nstrategy = \"rnd\"\n",
            file.display()
        ),
    );
    let load = Load::new(lb.address("http"), "h", "/", 1000);
    let outcome = runtime().block_on(load.run(std::time::Duration::from_millis(1500)));
    outcome.assert_none_failed();
    let share = outcome.instances["few"] as f64 / outcome.requests() as f64;
    // Five standard deviations at 1,500 requests.
    assert!(
        (0.15..0.25).contains(&share),
        "{share} of {}",
        outcome.requests()
    );
}

#[test]
fn no_route_is_told_with_status_and_page_of_choice() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "<p>nothing here</p>").unwrap();
    let upstream = Upstream::start("one");
    let routes: [(&str, &[SocketAddr], &str); 1] = [("shop.test/", &[upstream.address], "")];
    let lb = router(&routes, "");
    let response = get(lb.address("http"), "other.test", "/");
    assert_eq!((response.status, response.text().as_str()), (404, ""));
    let lb = router(
        &routes,
        &format!(
            "[proxy]\nno_route_status = 410\nno_route_page = \"{}\"\n",
            page.display()
        ),
    );
    let response = get(lb.address("http"), "other.test", "/");
    assert_eq!(
        (response.status, response.text().as_str()),
        (410, "<p>nothing here</p>")
    );
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let missed = lb.admin("/metrics").1;
    let missed = missed
        .lines()
        .find(|line| line.starts_with("lb_no_route_total{"))
        .unwrap()
        .to_owned();
    assert!(missed.ends_with(" 1"), "{missed}");
}

#[test]
fn registered_but_without_a_healthy_instance_is_503_and_no_shorter_prefix_takes_over() {
    let fake = fake_consul();
    let upstream = Upstream::start("one");
    fake.set("web", &[upstream.address.port()]);
    let config = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         [consul]\naddress = \"{}\"\ncritical_hold = \"0s\"\ncheck_grace = \"0s\"\n[proxy]\nretry_after = \"7s\"\n\
         [[static.route]]\nservice = \"rest\"\nsource = \"/\"\ntargets = [\"http://{}\"]\n",
        fake.url(),
        upstream.address
    );
    let lb = Lb::start(&config);
    lb.wait_ready();
    assert_eq!(get(lb.address("http"), "h", "/web").status, 200);
    fake.set_critical("web");
    lb.wait_admin("/api/services", "critical instance", |text| {
        text.contains("critical")
    });
    wait_until("503", || get(lb.address("http"), "h", "/web").status == 503);
    let response = get(lb.address("http"), "h", "/web");
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("7"))
    );
    let counted = lb.metric("lb_http_requests_total{service=\"web\",method=\"GET\",code=\"503\"}");
    assert!(counted >= Some(1.0), "{counted:?}");
}

/// On a thread of its own, because the test blocks.
pub fn fake_consul() -> FakeConsul {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            send.send(FakeConsul::start().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receive.recv().unwrap()
}

#[test]
fn instances_share_the_load_evenly() {
    let upstreams = ["a", "b", "c"].map(Upstream::start);
    let lb = router(
        &[(
            "/",
            &upstreams.each_ref().map(|upstream| upstream.address),
            "",
        )],
        "",
    );
    let outcome = runtime().block_on(
        Load::new(lb.address("http"), "h", "/", 600).run(std::time::Duration::from_secs(1)),
    );
    outcome.assert_none_failed();
    let expected = outcome.requests() as f64 / 3.0;
    let counts: BTreeMap<_, _> = outcome.instances.clone();
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(
        counts
            .values()
            .all(|&count| (count as f64 - expected).abs() < expected * 0.4),
        "{counts:?}"
    );
}
