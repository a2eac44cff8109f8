//! A cluster with ACLs: made by runs that were killed in the midst of it, closed to clients without
//! a token, and open to each token for what it is for and no more.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::cluster::{Done, Nine};
use super::jobs::{load, node_id, outside, wait_running, wait_served};
use super::scrape::gives_metrics;
use super::used::looks_well;
use crate::support::lb::Lb;
use crate::support::nomad;

#[test]
fn acls_are_made_once_and_let_each_do_its_part() {
    let Some(binary) = nomad::find("acls_are_made_once_and_let_each_do_its_part") else {
        return;
    };
    let nine = Nine::new(binary, true);
    // Each run is killed while it is about to do what follows this line.
    for line in [
        "Consul servers",
        "Consul ACLs",
        "Nomad servers",
        "Nomad ACLs",
    ] {
        killed_after(&nine, line);
    }
    nine.good(&["up", "--detach", "--with-sample"]);
    let before = nine.daemons();
    assert_eq!(before.len(), 15, "{before:?}");
    let told = nine.good(&["up", "--detach", "--with-sample"]);
    assert!(told.contains("nothing to change"), "{told}");
    assert_eq!(nine.daemons(), before);

    operators_can_do_all(&nine);
    strangers_can_do_nothing(&nine);
    let outside = outside(&nine);
    wait_served(&nine, &outside, "/hello");
    lb_can_read(&nine);
    gives_metrics(
        &nine,
        &[
            ("consul", "consul_runtime_alloc_bytes"),
            ("nomad", "nomad_runtime_alloc_bytes"),
            ("lb", "lb_build_info"),
        ],
    );
    leaves_and_nodes_change(&nine, &outside);
    drop(outside);
    nine.good(&["down", "--purge", "--yes"]);
    assert!(nine.processes().is_empty() && nine.mounts().is_empty());
}

/// Starts `up` and kills it as soon as it has told of this phase.
fn killed_after(nine: &Nine, phase: &str) {
    let mut up = nine
        .command(&["up", "--detach"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(up.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut told = Vec::new();
    let seen = lines.any(|line| {
        told.push(line.clone());
        line.starts_with(phase)
    });
    up.kill().unwrap();
    assert!(
        seen && up.wait().unwrap().code().is_none(),
        "no line {phase:?}: {told:?}"
    );
}

fn operators_can_do_all(nine: &Nine) {
    let exports = nine.exports();
    assert!(exports.contains_key("CONSUL_HTTP_TOKEN") && exports.contains_key("NOMAD_TOKEN"));
    assert_eq!(nine.consul(&["members"]).matches(" alive ").count(), 9);
    assert_eq!(
        nine.nomad(&["server", "members"])
            .matches(" alive ")
            .count(),
        3
    );
    assert_eq!(nine.nomad(&["node", "status"]).matches(" ready").count(), 3);
    nine.consul(&["kv", "put", "lb/test", "1"]);
    nine.nomad(&["job", "status", "hello"]);
    let status = nine.run(&["status"]);
    assert_eq!(status.code, Some(0), "{}{}", status.stdout, status.stderr);
}

/// The operator's certificate alone opens nothing.
fn strangers_can_do_nothing(nine: &Nine) {
    for path in ["/v1/jobs", "/v1/nodes", "/v1/agent/self"] {
        assert_eq!(status(nine, "NOMAD", path, None, None), 403, "{path}");
    }
    assert_eq!(status(nine, "CONSUL", "/v1/agent/self", None, None), 403);
    assert_eq!(
        status(nine, "CONSUL", "/v1/kv/lb/test", None, Some("1")),
        403
    );
    // The tools as well, with all that `env` exports but the token.
    let tool = |name: &str, token: &str, words: &[&str]| {
        let exports = nine
            .exports()
            .into_iter()
            .filter(|(variable, _)| variable != token);
        Done::from(
            Command::new(nine.program(name))
                .args(words)
                .env_remove(token)
                .envs(exports)
                .output()
                .unwrap(),
        )
    };
    let services = tool("consul", "CONSUL_HTTP_TOKEN", &["catalog", "services"]);
    assert!(!services.stdout.contains("hello"), "{}", services.stdout);
    let jobs = tool("nomad", "NOMAD_TOKEN", &["job", "status"]);
    assert!(
        jobs.code != Some(0) && jobs.stderr.contains("403"),
        "{}{}",
        jobs.stdout,
        jobs.stderr
    );
}

/// The sample is served with a token that can read what lb reads, and write nothing.
fn lb_can_read(nine: &Nine) {
    let config = fs::read_to_string(nine.state().join("lb.toml")).unwrap();
    let token = config
        .lines()
        .find_map(|line| line.strip_prefix("token = \""))
        .unwrap()
        .trim_end_matches('"');
    let on_client = nine.state().join("nodes/nomad-client-0/lb/token");
    assert_eq!(fs::read_to_string(on_client).unwrap().trim(), token);
    for (path, body, expected) in [
        ("/v1/catalog/services", None, 200),
        ("/v1/health/service/hello", None, 200),
        ("/v1/kv/lb/test", None, 200),
        ("/v1/kv/lb/test", Some("2"), 403),
        ("/v1/kv/other", Some("2"), 403),
        (
            "/v1/agent/service/register",
            Some("{\"Name\":\"intruder\"}"),
            403,
        ),
        ("/v1/agent/self", None, 403),
        ("/v1/acl/tokens", None, 403),
    ] {
        assert_eq!(
            status(nine, "CONSUL", path, Some(token), body),
            expected,
            "{path} {body:?}"
        );
    }
}

/// New certificates for all, and two nodes made anew: both need tokens for what they do.
fn leaves_and_nodes_change(nine: &Nine, outside: &Lb) {
    let old = node_id(nine, "nomad-client-1");
    let loads = load(
        nine,
        outside,
        "/hello",
        "rotate-certs and replace-node with ACLs",
    );
    nine.good(&["rotate-certs"]);
    for name in ["nomad-server-1", "nomad-client-1"] {
        nine.good(&["replace-node", name, "--yes"]);
    }
    wait_running(nine, "hello", 3);
    wait_running(nine, "lb", 3);
    loads.none_failed();
    looks_well(nine);
    assert_ne!(node_id(nine, "nomad-client-1"), old);
    let plan = nine.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{}{}", plan.stdout, plan.stderr);
}

/// Status of a request with the operator's certificate, by `curl`; a PUT when there is a body.
fn status(nine: &Nine, product: &str, path: &str, token: Option<&str>, body: Option<&str>) -> u16 {
    let exports = nine.exports();
    let of = |name: &str| &exports[&format!("{product}_{name}")];
    let address = of(if product == "NOMAD" {
        "ADDR"
    } else {
        "HTTP_ADDR"
    });
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--max-time",
        "10",
    ]);
    command.args([
        "--cacert",
        of("CACERT"),
        "--cert",
        of("CLIENT_CERT"),
        "--key",
        of("CLIENT_KEY"),
    ]);
    if let Some(token) = token {
        command.args(["--header", &format!("X-Consul-Token: {token}")]);
    }
    if let Some(body) = body {
        command.args(["--request", "PUT", "--data", body]);
    }
    let output = command.arg(format!("{address}{path}")).output().unwrap();
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap()
}
