//! Tokens that may see a part of the catalog: what is gone is believed to be gone, and what cannot
//! be confirmed says so.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::client;
use super::support::consul::{ConsulAgent, Options, Registration};
use super::support::fake_consul::{Acl, FakeConsul};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::wait_until;

/// What is not trusted is waited for half a minute.
const SOON: Duration = Duration::from_secs(20);
const HELD: &str = "held, not confirmed";

fn start(consul: &str, token: &str) -> Lb {
    let consul = format!(
        "[consul]\naddress = {consul:?}\ntoken = {token:?}\ncritical_hold = \"0s\"\ncheck_grace = \"0s\"\n"
    );
    let health = "[health]\neject_after = 2\neject_base = \"1m\"\n";
    Lb::start(&config(&(consul + health + &listener("http", ""))))
}

fn state(lb: &Lb, service: &str) -> (String, String) {
    let all: Vec<Value> = serde_json::from_str(&lb.admin("/api/services").1).unwrap();
    let row = all
        .into_iter()
        .find(|row| row["name"] == service)
        .unwrap_or_default();
    let text = |field: &str| {
        row["instances"][0][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (text("state"), text("reason"))
}

fn status(http: SocketAddr) -> u16 {
    client::get(http, "any.test", "/web").status
}

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

#[test]
fn a_token_for_one_service_is_ready_without_it_and_lets_it_go() {
    let agent = ConsulAgent::start_with(Options {
        acl: true,
        ..Options::default()
    });
    let rules = r#"service "web" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (policy, token) = agent.create_token("lb", rules);
    let lb = start(&agent.address(), &token);
    lb.wait_ready();
    let check = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args([
            "check",
            "--live",
            "--consul.address",
            &agent.address(),
            "--consul.token",
            &token,
        ])
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.status.success() && text.contains("no service is listed"),
        "{text}"
    );

    let web = Upstream::start("web");
    let http = lb.address("http");
    let register = |id: &str, server: &Upstream| {
        let port = server.address.port();
        agent.register(&Registration {
            service: "web",
            id,
            port,
            tags: &["urlprefix-/web"],
        });
    };
    register("web-1", &web);
    wait_until("the route", || status(http) == 200);
    assert_eq!(state(&lb, "web"), ("healthy".to_owned(), String::new()));
    agent.deregister("web-1");
    // The port may be another service's by now.
    let before = Instant::now();
    wait_until("the end of the route", || status(http) == 404);
    assert!(before.elapsed() < SOON);
    let asked = web.requests();
    assert_eq!(status(http), 404);
    assert_eq!(web.requests(), asked);

    // The rights go, the instance stays: it is routed to, and every view says what that is worth.
    register("web-2", &web);
    wait_until("the route again", || status(http) == 200);
    agent.set_rules(&policy, "lb", "");
    register("web-3", &web);
    wait_until("the doubt", || state(&lb, "web").0 == HELD);
    assert_eq!(status(http), 200);
    let why = "the token may not read the service `web`";
    assert!(state(&lb, "web").1.contains(why), "{:?}", state(&lb, "web"));
    let routes = shown(&lb, &["routes"]);
    assert!(
        routes.contains("INSTANCE HELD") && routes.contains(HELD) && routes.contains(why),
        "{routes}"
    );
    let explained = shown(&lb, &["explain", "http://any.test/web"]);
    assert!(
        explained.contains(&format!("100.0 %, {HELD}")) && explained.contains(why),
        "{explained}"
    );
    let page = lb.admin("/").1;
    assert!(
        page.contains(HELD) && page.contains(why),
        "the page says it too"
    );
    assert_eq!(
        lb.metric("lb_table_targets{service=\"web\",state=\"held\"}"),
        Some(1.0)
    );
    assert_eq!(lb.admin("/ready").0, 200);
    lb.wait_for_line("the warning", |line| {
        line.contains("WARN") && line.contains(why)
    });

    agent.set_rules(&policy, "lb", rules);
    wait_until("both confirmed", || {
        lb.metric("lb_table_targets{service=\"web\",state=\"healthy\"}") == Some(2.0)
    });
}

#[test]
fn what_is_not_confirmed_and_cannot_be_connected_to_is_let_go() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let fake = runtime.block_on(FakeConsul::start());
    let web = Upstream::start("web");
    fake.set("web", &[web.address.port()]);
    // Nothing tells what the token may read, so what is missing may be hidden.
    fake.set_acl(Acl::hiding(&["consul"]));
    let lb = start(&fake.url(), "some");
    lb.wait_ready();
    let http = lb.address("http");
    assert_eq!(status(http), 200);
    fake.remove("web");
    wait_until("the doubt", || state(&lb, "web").0 == HELD);
    assert_eq!(status(http), 200, "it is held, and responds");
    let removed = Instant::now();
    web.kill();
    // 502 while connects fail, 503 once it is out.
    wait_until("the end of the hold", || status(http) == 503);
    let (word, reason) = state(&lb, "web");
    assert!(
        word == "excluded" && reason.ends_with("connections to it fail"),
        "{word}: {reason}"
    );
    assert!(removed.elapsed() < SOON);
}
