//! The sources of routes that Fabio has, against a real Consul.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::certs::Ca;
use crate::support::client;
use crate::support::consul::{ConsulAgent, Registration};
use crate::support::drill::consul_section;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::web::WebServer;

/// Starts it beside nothing but the agent. The router does not register itself.
fn start(agent: &ConsulAgent, more: &[&str]) -> Lb {
    let address = agent.address();
    let own = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
        "-registry.consul.register.enabled=false",
    ];
    let args = [&own[..], &["-registry.consul.addr", &address], more].concat();
    Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[])
}

/// Waits until responses at this path come from the instance of that name; empty: from none.
fn wait_for(lb: &Lb, path: &str, name: &str) {
    let address = lb.address("http");
    lb.wait_admin("/api/routes", &format!("{path} at {name:?}"), |_| {
        let answer = client::get(address, "any.test", path);
        if name.is_empty() {
            answer.status == 404
        } else {
            answer.text().contains(name)
        }
    });
}

#[test]
fn routes_of_the_kv_store_override_what_services_register() {
    let agent = ConsulAgent::start_plain();
    let [blue, green] = ["blue", "green"].map(Upstream::start);
    for (id, upstream) in [("web-1", &blue), ("web-2", &green)] {
        let tags = ["urlprefix-/web", id];
        agent.register(&Registration {
            service: "web",
            id,
            port: upstream.address.port(),
            tags: &tags,
        });
    }
    let put = |key: &str, text: &str| assert_eq!(agent.put_key(key, text), "true");
    put(
        "fabio/config",
        "route weight web /web weight 1 tags \"web-1\"",
    );
    let lb = start(&agent, &[]);
    lb.wait_ready();
    let weights = |lb: &Lb| {
        let routes: Value = serde_json::from_str(&lb.admin("/api/routes").1).unwrap();
        let weight = |upstream: &Upstream| {
            let port = format!(":{}/", upstream.address.port());
            let mut routes = routes.as_array().unwrap().iter();
            routes
                .find(|route| route["dst"].as_str().unwrap().ends_with(&port))
                .unwrap()["weight"]
                .as_f64()
                .unwrap()
        };
        [&blue, &green].map(weight)
    };
    assert_eq!(
        weights(&lb),
        [1.0, 0.0],
        "the first table is with the overrides"
    );

    let added = format!(
        "route del web\nroute add other /web http://{}/\nroute nonsense",
        green.address
    );
    put("fabio/config/z", &added);
    wait_for(&lb, "/web", "green");
    lb.wait_for_line("the wrong line", |line| {
        line.contains("fabio/config/z, line 3") && line.contains("nonsense")
    });
    put("fabio/config/z", "route del web");
    wait_for(&lb, "/web", "");
    agent.api("DELETE", "/v1/kv/fabio/config?recurse", None);
    wait_for(&lb, "/web", "blue");
    assert_eq!(weights(&lb), [0.5, 0.5]);
}

#[test]
fn routes_and_the_page_may_stand_in_the_settings() {
    let web = Upstream::start("web");
    let routes = format!(
        "route add web /web http://{}/\nnonsense\nroute add out /out http://{}/\nroute del out",
        web.address, web.address
    );
    let own = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
        "-registry.backend=static",
    ];
    let more = [
        "-registry.static.routes",
        &routes,
        "-registry.static.noroutehtml",
        "<p>not here</p>",
    ];
    let lb = Lb::start_fabio(
        tempfile::tempdir().unwrap(),
        &[&own[..], &more].concat(),
        &[],
    );
    lb.wait_ready();
    let get = |path: &str| client::get(lb.address("http"), "any.test", path);
    assert!(get("/web").text().contains("web"));
    let nothing = get("/out");
    assert_eq!(
        (nothing.status, nothing.text().as_str()),
        (404, "<p>not here</p>")
    );
    lb.wait_for_line("the wrong line", |line| {
        line.contains("line 2") && line.contains("nonsense")
    });
}

/// Waits until the response to a request without a route is this page.
fn wait_for_page(lb: &Lb, status: u16, page: &str) {
    let address = lb.address("http");
    lb.wait_admin("/api/routes", &format!("the page {page:?}"), |_| {
        let answer = client::get(address, "any.test", "/nowhere");
        (answer.status, answer.text().as_str()) == (status, page)
    });
}

#[test]
fn the_page_of_the_kv_store_is_sent_while_it_is_there() {
    let agent = ConsulAgent::start_plain();
    let put = |key: &str, text: &str| assert_eq!(agent.put_key(key, text), "true");
    let lb = start(&agent, &["-proxy.noroutestatus", "410"]);
    lb.wait_ready();
    wait_for_page(&lb, 410, "");
    put("fabio/noroute.html", "  <p>one</p>\n");
    wait_for_page(&lb, 410, "<p>one</p>");
    put("fabio/noroute.html.2", "two");
    wait_for_page(&lb, 410, "<p>one</p>\n\ntwo");
    // Together more than is taken: what was there stays, and it is said.
    let large = "x".repeat(400_000);
    for name in ["a", "b", "c"] {
        put(&format!("fabio/noroute.html.{name}"), &large);
    }
    lb.wait_for_line("the size", |line| {
        line.contains("no_route_kv_path") && line.contains("more than 1048576")
    });
    let sent = client::get(lb.address("http"), "any.test", "/nowhere").text();
    assert!(
        sent.starts_with("<p>one</p>\n\ntwo") && sent.len() < 1 << 20,
        "{} bytes",
        sent.len()
    );
    agent.api("DELETE", "/v1/kv/fabio/noroute.html?recurse", None);
    wait_for_page(&lb, 410, "");
}

#[test]
fn the_configured_page_is_sent_while_the_kv_store_has_none() {
    let agent = ConsulAgent::start();
    let section = consul_section(&agent, "no_route_kv_path = \"lb/page\"");
    let config = |page: &str| {
        format!(
            "{section}[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [proxy]\nno_route_html = {page:?}\n"
        )
    };
    let lb = Lb::start(&config("first"));
    lb.wait_ready();
    wait_for_page(&lb, 404, "first");
    agent.put_key("lb/page", "live");
    wait_for_page(&lb, 404, "live");
    std::fs::write(lb.folder().join("lb.toml"), config("second")).unwrap();
    lb.wait_for_line("the reload", |line| line.contains("\"reloaded\""));
    wait_for_page(&lb, 404, "live");
    agent.api("DELETE", "/v1/kv/lb/page", None);
    wait_for_page(&lb, 404, "second");
}

/// An endpoint that responds as the test says at the moment, and the way to say it.
fn endpoint() -> (WebServer, impl Fn(u16, &str)) {
    let answer = Arc::new(Mutex::new((503, Vec::new())));
    let present = Arc::clone(&answer);
    let server = WebServer::start(move |_| present.lock().unwrap().clone());
    (server, move |status, body: &str| {
        *answer.lock().unwrap() = (status, body.as_bytes().to_vec())
    })
}

/// Waits until the endpoint has had this many requests more: what it said before has been read.
fn wait_asked(lb: &Lb, server: &WebServer, times: usize) {
    let before = server.seen().len();
    lb.wait_admin("/api/routes", &format!("{times} more requests"), |_| {
        server.seen().len() >= before + times
    });
}

#[test]
fn routes_may_come_from_an_endpoint() {
    let [blue, green] = ["blue", "green"].map(Upstream::start);
    let add = |path: &str, upstream: &Upstream| {
        json!({"cmd": "route add", "service": "web", "src": path, "dst": format!("http://{}/", upstream.address),
            "weight": 0.0, "tags": ["a"], "opts": {"strip": "/x"}})
    };
    let (server, say) = endpoint();
    let host = server.address.to_string();
    let args = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
        "-registry.backend=custom",
        "-registry.custom.scheme=http",
        "-registry.custom.host",
        &host,
        "-registry.custom.path=api/routes",
        "-registry.custom.queryparams=key=hush&b=c",
        "-registry.custom.pollinterval=100ms",
        "-registry.custom.noroutehtml=<p>not here</p>",
    ];
    let lb = Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[]);
    lb.wait_for_line("the status", |line| {
        line.contains("status 503") && line.contains("no commands yet")
    });
    assert_eq!(lb.admin("/ready").0, 503);
    say(
        200,
        &json!([add("/one", &blue), {"cmd": "route up"}, add("/two", &green)]).to_string(),
    );
    lb.wait_ready();
    wait_for(&lb, "/one", "blue");
    wait_for(&lb, "/two", "green");
    lb.wait_for_line("the wrong entry", |line| {
        line.contains("entry 2") && line.contains("route up")
    });
    let asked = server.seen().pop().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("GET", "/api/routes?key=hush&b=c")
    );
    assert_eq!(
        client::get(lb.address("http"), "any.test", "/three").text(),
        "<p>not here</p>"
    );

    // Nothing of these is a list of routes, and so nothing of what serves is lost.
    for (status, body) in [
        (500, "[]"),
        (200, "null"),
        (200, "[{\"cmd\":"),
        (200, "[{\"cmd\":\"route up\"}]"),
    ] {
        say(status, body);
        wait_asked(&lb, &server, 2);
        wait_for(&lb, "/one", "blue");
    }
    lb.wait_for_line("the refusal", |line| line.contains("none of the 1 entries"));
    say(200, &json!([add("/one", &green)]).to_string());
    wait_for(&lb, "/one", "green");
    wait_for(&lb, "/two", "");
    // An empty list is believed when it stays empty.
    say(200, "[]");
    wait_for(&lb, "/one", "");
    assert!(!lb.stderr().contains("hush"), "{}", lb.stderr());
}

#[test]
fn an_endpoint_of_routes_is_asked_by_tls() {
    let ca = Ca::new("ca");
    let web = Upstream::start("web");
    let body = json!([{"Cmd": "route add", "Service": "web", "Src": "/", "Dst": format!("http://{}/", web.address)}]);
    let server = WebServer::start_tls(&ca.pair(&["127.0.0.1"]), move |asked| {
        match asked.header("x-key") {
            Some("hush") => (200, body.to_string().into_bytes()),
            _ => (403, Vec::new()),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &ca.pem).unwrap();
    let lb = |trust: &str| {
        Lb::start(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[routes_http]\n\
             url = \"https://{}/\"\nheaders = [\"X-Key: hush\"]\nrefresh = \"100ms\"\n{trust}\n",
            server.address
        ))
    };
    for trust in [
        format!("ca_file = {ca_file:?}"),
        "skip_verify = true".to_owned(),
    ] {
        let lb = lb(&trust);
        lb.wait_ready();
        wait_for(&lb, "/", "web");
    }
    lb("").wait_for_line("no trust", |line| {
        line.contains("routes cannot be fetched") && line.contains("TLS")
    });
}

/// Tables are large and changes small: what a change costs must follow the change.
#[test]
fn one_line_of_many_keys_changes_one_route() {
    const KEYS: usize = 8;
    const LINES: usize = 400;
    let agent = ConsulAgent::start_plain();
    let web = Upstream::start("web");
    let put = |key: usize, odd: Option<usize>| {
        let line = |number: usize| {
            let host = if odd == Some(number) {
                "127.0.0.1:9".to_owned()
            } else {
                web.address.to_string()
            };
            format!("route add s{number} /{key}/{number}/ http://{host}/\n")
        };
        let text: String = (0..LINES).map(line).collect();
        assert_eq!(agent.put_key(&format!("fabio/config/{key}"), &text), "true");
    };
    (0..KEYS).for_each(|key| put(key, None));
    let lb = start(&agent, &[]);
    lb.wait_ready();
    wait_for(&lb, "/5/123/", "web");
    let whole = format!("\"routes\":{}", KEYS * LINES);
    put(5, Some(123));
    lb.wait_for_line("a table with one route changed", |line| {
        [
            "routing table changed",
            &whole,
            "\"added\":0,",
            "\"changed\":1,",
            "\"removed\":0,",
        ]
        .iter()
        .all(|part| line.contains(part))
    });
    put(5, None);
    wait_for(&lb, "/5/123/", "web");
}
