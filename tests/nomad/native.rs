//! Nomad's own service discovery as a source, with one real agent and no Consul: what starts or
//! fails gets nothing, updates and deaths fail no request, and routes stay when Nomad is away or its
//! token is gone. Skipped, loudly, where Nomad is missing.

use std::fs;

use serde_json::{Value, json};

use crate::support::drill::{ask, load, service_row, serving, wait_status};
use crate::support::lb::Lb;
use crate::support::nomad;
use crate::support::nomad_alone::{Acl, Agent, Group};
use crate::support::wait::wait_until;

const LISTENERS: &str =
    "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

fn lb(agent: &Agent, more: &str) -> Lb {
    let address = agent.address();
    Lb::start(&format!(
        "[nomad]\naddress = {address:?}\n{more}\n{LISTENERS}"
    ))
}

/// State and reason of each instance of a service.
fn states(lb: &Lb, service: &str) -> Vec<(String, String)> {
    let row = service_row(lb, service);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let instances = row["instances"].as_array().cloned().unwrap_or_default();
    let state = |instance: &Value| (text(&instance["state"]), text(&instance["reason"]));
    instances.iter().map(state).collect()
}

fn wait_reason(lb: &Lb, service: &str, words: &str) {
    wait_until(format!("{service} out because {words:?}"), || {
        let states = states(lb, service);
        let is_so =
            |(state, reason): &(String, String)| state == "excluded" && reason.contains(words);
        match states.iter().any(is_so) {
            true => Ok(()),
            false => Err(format!("{states:?}")),
        }
    });
}

/// What `/api/sources` says of Nomad.
fn source(lb: &Lb) -> Value {
    let (_, text) = lb.admin("/api/sources");
    let all: Value = serde_json::from_str(&text).unwrap();
    let rows = all.as_array().or_else(|| all["sources"].as_array());
    let row = rows.unwrap().iter().find(|row| row["name"] == "nomad");
    row.unwrap_or_else(|| panic!("{text}")).clone()
}

#[test]
fn instances_get_requests_once_they_are_up_and_updates_and_deaths_fail_none() {
    let Some(binary) = nomad::find("instances_get_requests_once_they_are_up") else {
        return;
    };
    let agent = Agent::start(binary, Acl::Off);
    let lb = lb(&agent, "");
    lb.wait_ready();

    // Its check fails until a file appears; the other one has a check that never passes.
    let go = agent.folder().join("go");
    agent.submit("slow", json!({}), &[Group::new("slow").waits_for(&go)]);
    agent.submit(
        "bad",
        json!({}),
        &[Group::new("bad").waits_for(&agent.folder().join("never"))],
    );
    wait_reason(&lb, "slow", "check `alive` fails");
    wait_reason(&lb, "bad", "check `alive` fails");
    for path in ["/slow", "/bad"] {
        assert_eq!(ask(&lb, path).0, 503, "{path} has no instance that is up");
    }
    fs::write(&go, "").unwrap();
    wait_status(&lb, "/slow", 200);
    assert_eq!(ask(&lb, "/bad").0, 503);

    // A rolling update, and a process that is killed.
    agent.submit("web", json!({"v": "1"}), &[Group::new("web").times(3)]);
    wait_until("three instances", || serving(&lb, "web").len() == 3);
    agent.wait_deployed("web", 0);
    let requests = load(&lb, "/web", 100);
    agent.submit("web", json!({"v": "2"}), &[Group::new("web").times(3)]);
    agent.wait_deployed("web", 1);
    wait_until("three instances", || serving(&lb, "web").len() == 3);
    agent.kill_task("web");
    // It is started again, and probed anew.
    wait_reason(&lb, "web", "");
    wait_until("three instances", || serving(&lb, "web").len() == 3);
    let outcome = requests.stop();
    println!("{} requests, {:?}", outcome.requests(), outcome.instances);
    outcome.assert_none_failed();

    // The agent dies with all it knows: what was known serves on.
    let requests = load(&lb, "/web", 100);
    agent.kill();
    wait_until("trouble", || source(&lb)["state"] == "failing");
    assert_eq!(serving(&lb, "web").len(), 3);
    assert_eq!(ask(&lb, "/web").0, 200);
    requests.stop().assert_none_failed();
    assert!(
        lb.metric("lb_registry_errors_total{kind=\"nomad_connect\"}")
            .unwrap_or(0.0)
            > 0.0
    );
}

#[test]
fn a_token_reads_its_namespaces_and_routes_outlive_it() {
    let Some(binary) = nomad::find("a_token_reads_its_namespaces_and_routes_outlive_it") else {
        return;
    };
    let agent = Agent::start(binary, Acl::On);
    for name in ["apps", "closed"] {
        agent.api(
            "POST",
            &format!("/v1/namespace/{name}"),
            Some(&json!({"Name": name})),
        );
    }
    let policy = "namespace \"default\" { capabilities = [\"read-job\"] }\n\
                  namespace \"apps\" { capabilities = [\"read-job\"] }\n";
    let body = json!({"Name": "lb", "Rules": policy});
    agent.api("POST", "/v1/acl/policy/lb", Some(&body));
    let body = json!({"Name": "lb", "Type": "client", "Policies": ["lb"]});
    let token = agent.api("POST", "/v1/acl/token", Some(&body));
    let file = agent.folder().join("token");
    let write = |token: &Value| fs::write(&file, token["SecretID"].as_str().unwrap()).unwrap();
    write(&token);

    // The same name in two namespaces are two services.
    agent.submit("web", json!({}), &[Group::new("web")]);
    agent.submit_to(
        "apps",
        "web",
        json!({}),
        &[Group::new("web").under("/apps")],
    );
    let keys = format!("token_file = {file:?}\nnamespaces = [\"default\", \"apps\", \"closed\"]");
    let lb = lb(&agent, &keys);
    lb.wait_ready();
    wait_status(&lb, "/web", 200);
    wait_status(&lb, "/apps", 200);
    assert_eq!(serving(&lb, "web").len(), 1);
    assert_eq!(serving(&lb, "web@apps").len(), 1);
    // What may not be read is told.
    let trouble = source(&lb);
    assert_eq!(trouble["state"], "failing", "{trouble}");
    assert!(
        trouble.to_string().contains("namespace closed"),
        "{trouble}"
    );
    assert!(
        lb.metric("lb_registry_errors_total{kind=\"nomad_token\"}")
            .unwrap_or(0.0)
            > 0.0
    );

    // Without its token nothing can be read, and everything stays.
    let requests = load(&lb, "/web", 100);
    let accessor = token["AccessorID"].as_str().unwrap();
    agent.api("DELETE", &format!("/v1/acl/token/{accessor}"), None);
    wait_until("the silent stream, or the refusal", || {
        let text = source(&lb).to_string();
        let told = ["namespace default", "namespace apps"];
        match told.iter().any(|words| text.contains(words)) {
            true => Ok(()),
            false => Err(text),
        }
    });
    agent.submit("late", json!({}), &[Group::new("late")]);
    assert_eq!((ask(&lb, "/web").0, ask(&lb, "/apps").0), (200, 200));

    // Another token in the file is taken without a restart.
    write(&agent.api("POST", "/v1/acl/token", Some(&body)));
    wait_status(&lb, "/late", 200);
    requests.stop().assert_none_failed();
}
