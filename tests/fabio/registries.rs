//! The sources of routes that Fabio has, against a real Consul.

use serde_json::Value;

use crate::support::client;
use crate::support::consul::{ConsulAgent, Registration};
use crate::support::drill::consul_section;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;

/// Starts it beside nothing but the agent. The router does not register itself.
fn start(agent: &ConsulAgent, more: &[&str]) -> Lb {
    let address = agent.address();
    let own = ["-proxy.addr=127.0.0.1:0", "-ui.addr=127.0.0.1:0", "-registry.consul.register.enabled=false"];
    let args = [&own[..], &["-registry.consul.addr", &address], more].concat();
    Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[])
}

/// Waits until this path is answered by the instance of that name; empty: by nobody.
fn wait_for(lb: &Lb, path: &str, name: &str) {
    let address = lb.address("http");
    lb.wait_admin("/api/routes", &format!("{path} at {name:?}"), |_| {
        let answer = client::get(address, "any.test", path);
        if name.is_empty() { answer.status == 404 } else { answer.text().contains(name) }
    });
}

#[test]
fn routes_of_the_kv_store_override_what_services_register() {
    let agent = ConsulAgent::start_plain();
    let [blue, green] = ["blue", "green"].map(Upstream::start);
    for (id, upstream) in [("web-1", &blue), ("web-2", &green)] {
        let tags = ["urlprefix-/web", id];
        agent.register(&Registration { service: "web", id, port: upstream.address.port(), tags: &tags });
    }
    let put = |key: &str, text: &str| assert_eq!(agent.put_key(key, text), "true");
    put("fabio/config", "route weight web /web weight 1 tags \"web-1\"");
    let lb = start(&agent, &[]);
    lb.wait_ready();
    let weights = |lb: &Lb| {
        let routes: Value = serde_json::from_str(&lb.admin("/api/routes").1).unwrap();
        let weight = |upstream: &Upstream| {
            let port = format!(":{}/", upstream.address.port());
            let mut routes = routes.as_array().unwrap().iter();
            routes.find(|route| route["dst"].as_str().unwrap().ends_with(&port)).unwrap()["weight"].as_f64().unwrap()
        };
        [&blue, &green].map(weight)
    };
    assert_eq!(weights(&lb), [1.0, 0.0], "the first table is with the overrides");

    let added = format!("route del web\nroute add other /web http://{}/\nroute nonsense", green.address);
    put("fabio/config/z", &added);
    wait_for(&lb, "/web", "green");
    lb.wait_for_line("the wrong line", |line| line.contains("fabio/config/z, line 3") && line.contains("nonsense"));
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
    let own = ["-proxy.addr=127.0.0.1:0", "-ui.addr=127.0.0.1:0", "-registry.backend=static"];
    let more = ["-registry.static.routes", &routes, "-registry.static.noroutehtml", "<p>not here</p>"];
    let lb = Lb::start_fabio(tempfile::tempdir().unwrap(), &[&own[..], &more].concat(), &[]);
    lb.wait_ready();
    let get = |path: &str| client::get(lb.address("http"), "any.test", path);
    assert!(get("/web").text().contains("web"));
    let nothing = get("/out");
    assert_eq!((nothing.status, nothing.text().as_str()), (404, "<p>not here</p>"));
    lb.wait_for_line("the wrong line", |line| line.contains("line 2") && line.contains("nonsense"));
}

/// Waits until a request without a route is answered with this page.
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
    ["a", "b", "c"].map(|name| put(&format!("fabio/noroute.html.{name}"), &large));
    lb.wait_for_line("the size", |line| line.contains("no_route_kv_path") && line.contains("more than 1048576"));
    let sent = client::get(lb.address("http"), "any.test", "/nowhere").text();
    assert!(sent.starts_with("<p>one</p>\n\ntwo") && sent.len() < 1 << 20, "{} bytes", sent.len());
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
