//! Consul's service mesh in the catalog: what takes only its mutual TLS gets no plain traffic, and
//! every view says why.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::support::client::{self, RawClient};
use super::support::consul::ConsulAgent;
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::wait_until;

/// Requests or connections that are made: enough for each of two targets to get some.
const MANY: usize = 40;

fn register(agent: &ConsulAgent, name: &str, at: SocketAddr, tags: &[&str], more: Value) {
    let mut body = json!({"Name": name, "ID": format!("{name}-1"), "Address": at.ip(), "Port": at.port(), "Tags": tags});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    agent.api("PUT", "/v1/agent/service/register", Some(&body));
}

fn sidecar(at: SocketAddr) -> Value {
    json!({"Connect": {"SidecarService": {"Address": at.ip(), "Port": at.port()}}})
}

fn start(agent: &ConsulAgent, more: &str) -> Lb {
    let consul = format!(
        "[consul]\naddress = {:?}\ncheck_grace = \"0s\"\n",
        agent.address()
    );
    let lb = Lb::start(&config(&(consul + more)));
    lb.wait_ready();
    lb
}

/// Standard output of a command of `lb` that calls a running one.
fn shown(lb: &Lb, command: &[&str]) -> String {
    let admin = format!("http://{}", lb.address("admin"));
    let output = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(command)
        .args(["--admin", &admin])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn instances(lb: &Lb, service: &str) -> Vec<(String, String, String)> {
    let all: Vec<Value> = serde_json::from_str(&lb.admin("/api/services").1).unwrap();
    let row = all.into_iter().find(|row| row["name"] == service);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = row
        .map(|row| row["instances"].as_array().unwrap().clone())
        .unwrap_or_default();
    list.iter()
        .map(|row| (text(&row["id"]), text(&row["state"]), text(&row["reason"])))
        .collect()
}

fn is_left_out(lb: &Lb, service: &str, why: &str) -> bool {
    let list = instances(lb, service);
    !list.is_empty()
        && list
            .iter()
            .all(|(_, state, reason)| state == "excluded" && reason.starts_with(why))
}

#[test]
fn a_sidecar_that_carries_its_services_tags_gets_no_traffic() {
    let agent = ConsulAgent::start_plain();
    let (web, proxy) = (Upstream::start("web"), Upstream::start("proxy"));
    register(
        &agent,
        "web",
        web.address,
        &["urlprefix-/web"],
        sidecar(proxy.address),
    );
    let lb = start(&agent, &listener("http", ""));
    wait_until("both services", || {
        instances(&lb, "web").len() + instances(&lb, "web-sidecar-proxy").len() == 2
    });
    assert!(
        is_left_out(&lb, "web-sidecar-proxy", "Connect proxy (sidecar)"),
        "{:?}",
        instances(&lb, "web-sidecar-proxy")
    );

    let http = lb.address("http");
    for number in 0..MANY {
        let mut client = RawClient::connect(http);
        client.send(format!(
            "POST /web/{number} HTTP/1.1\r\nhost: any.test\r\ncontent-length: 1\r\n\r\nx"
        ));
        assert_eq!(client.response().unwrap().status, 200, "request {number}");
    }
    assert_eq!((web.requests(), proxy.requests()), (MANY as u64, 0));

    let why = "Connect proxy (sidecar): it takes only mutual TLS of the service mesh";
    let routes = shown(&lb, &["routes"]);
    assert!(
        routes.contains(&format!("{}  excluded  {why}", proxy.address)),
        "{routes}"
    );
    let explained = shown(&lb, &["explain", "http://any.test/web"]);
    assert!(
        explained.contains("left out  web-sidecar-proxy ") && explained.contains(why),
        "{explained}"
    );
    assert!(explained.contains("100.0 %, healthy"), "{explained}");
    assert!(lb.admin("/").1.contains(why), "the page says it too");
    assert_eq!(
        lb.metric("lb_table_targets{service=\"web-sidecar-proxy\",state=\"excluded\"}"),
        Some(1.0)
    );
    assert!(
        !lb.stderr().contains("\"WARN\""),
        "a mesh is nothing to warn of:\n{}",
        lb.stderr()
    );

    // The service leaves, its sidecar is still there: the route is not the sidecar's.
    agent.deregister("web-1");
    wait_until("no instance", || {
        client::get(http, "any.test", "/web").status != 200
    });
    assert_eq!(proxy.requests(), 0);
}

#[test]
fn every_kind_of_the_mesh_is_left_out_and_a_service_of_such_alone_makes_no_noise() {
    let agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("mesh");
    let cases = [
        (
            "mesh-gw",
            json!({"Kind": "mesh-gateway"}),
            "Connect mesh gateway",
        ),
        (
            "terminating-gw",
            json!({"Kind": "terminating-gateway"}),
            "Connect terminating gateway",
        ),
        (
            "ingress-gw",
            json!({"Kind": "ingress-gateway"}),
            "Connect ingress gateway",
        ),
        (
            "proxy",
            json!({"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web"}}),
            "Connect proxy (sidecar)",
        ),
        (
            "odd",
            json!({"Kind": "x-of-tomorrow"}),
            "Kind `x-of-tomorrow`",
        ),
        (
            "native",
            json!({"Connect": {"Native": true}}),
            "Connect native",
        ),
    ];
    for (name, more, _) in &cases {
        register(
            &agent,
            name,
            upstream.address,
            &[&format!("urlprefix-/{name}")],
            more.clone(),
        );
    }
    register(
        &agent,
        "web",
        upstream.address,
        &["urlprefix-/web"],
        json!({"Kind": "", "Connect": {"Native": false}}),
    );
    let lb = start(&agent, &listener("http", ""));
    let http = lb.address("http");
    wait_until("the usual one", || {
        client::get(http, "any.test", "/web").status == 200
    });
    let before = upstream.requests();
    for (name, _, why) in &cases {
        wait_until(format!("{name} left out"), || is_left_out(&lb, name, why));
        assert_eq!(
            client::get(http, "any.test", &format!("/{name}")).status,
            503,
            "{name}"
        );
    }
    assert_eq!(upstream.requests(), before);
    assert!(!lb.stderr().contains("\"WARN\""), "{}", lb.stderr());

    let consul = agent.address();
    let check = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["check", "--live", "--consul.address", &consul])
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("ok     targets: left out"))
        .unwrap_or_default();
    for (name, _, why) in &cases {
        assert!(
            line.contains(&format!("1 of {name} ({why}")),
            "{name} in {text}"
        );
    }
    assert!(!line.contains("of web"), "{line}");
    for (name, _, _) in &cases {
        agent.deregister(&format!("{name}-1"));
    }
    let check = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["check", "--live", "--consul.address", &consul])
        .env_clear()
        .output()
        .unwrap();
    assert!(
        !String::from_utf8(check.stdout).unwrap().contains("targets"),
        "nothing to say without a mesh"
    );
}

#[test]
fn tcp_routes_and_dynamic_ports_are_not_a_sidecars() {
    let agent = ConsulAgent::start_plain();
    let (db, proxy) = (TcpEcho::start("db", ""), Upstream::start("proxy"));
    let [shared, own] = [free_port(), free_port()];
    let tag = format!("urlprefix-:{shared} proto=tcp");
    register(&agent, "db", db.address, &[&tag], sidecar(proxy.address));
    let tag = format!("urlprefix-:{own} proto=tcp");
    register(
        &agent,
        "alone",
        proxy.address,
        &[&tag],
        json!({"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "x"}}),
    );
    let lb = start(
        &agent,
        &listener(
            "tcp-dynamic",
            &format!("ports = \"{shared},{own}\"\nrefresh = \"50ms\"\n"),
        ),
    );
    wait_until("all services", || {
        is_left_out(&lb, "db-sidecar-proxy", "Connect proxy")
            && is_left_out(&lb, "alone", "Connect proxy")
    });
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    wait_until("the port of the service", || {
        std::net::TcpStream::connect(at(shared)).is_ok()
    });
    for number in 0..MANY {
        assert_eq!(
            RawClient::connect(at(shared)).bytes(2),
            b"db",
            "connection {number}"
        );
    }
    assert_eq!(proxy.connections(), 0);
    assert!(
        std::net::TcpStream::connect(at(own)).is_err(),
        "no port is opened for what cannot be served"
    );
}

#[test]
fn names_that_differ_in_case_alone_are_services_of_their_own() {
    let agent = ConsulAgent::start_plain();
    let (upper, lower) = (Upstream::start("upper"), Upstream::start("lower"));
    // Ids without regard to case, too: Consul takes those that differ in nothing else for one.
    register(
        &agent,
        "CaseShop",
        upper.address,
        &["urlprefix-/upper"],
        json!({"ID": "upper-1"}),
    );
    register(
        &agent,
        "caseshop",
        lower.address,
        &["urlprefix-/lower"],
        json!({"ID": "lower-1"}),
    );
    let lb = start(&agent, &listener("http", ""));
    let http = lb.address("http");
    let ids = |service: &str| {
        instances(&lb, service)
            .into_iter()
            .map(|(id, ..)| id)
            .collect::<Vec<_>>()
    };
    wait_until("both", || {
        !ids("CaseShop").is_empty() && !ids("caseshop").is_empty()
    });
    assert_eq!(
        (ids("CaseShop"), ids("caseshop")),
        (vec!["upper-1".to_owned()], vec!["lower-1".to_owned()])
    );
    for _ in 0..MANY {
        for path in ["/upper", "/lower"] {
            assert_eq!(client::get(http, "any.test", path).status, 200);
        }
    }
    assert_eq!(
        (upper.requests(), lower.requests()),
        (MANY as u64, MANY as u64)
    );
    for service in ["CaseShop", "caseshop"] {
        let sample =
            format!("lb_http_requests_total{{service=\"{service}\",method=\"GET\",code=\"200\"}}");
        assert_eq!(lb.metric(&sample), Some(MANY as f64), "{sample}");
        let sample = format!("lb_table_targets{{service=\"{service}\",state=\"healthy\"}}");
        assert_eq!(lb.metric(&sample), Some(1.0), "{sample}");
    }
    // The one that leaves takes nothing of the other with it, and does not live on under its name.
    agent.deregister("upper-1");
    wait_until("the end of the one", || {
        client::get(http, "any.test", "/upper").status == 404
    });
    assert_eq!(client::get(http, "any.test", "/lower").status, 200);
    assert_eq!(ids("CaseShop"), Vec::<String>::new());
}
