//! Puts cases into Consul's catalog and KV store.
//!
//! Straight into the catalog, on nodes that no agent owns: so a case says what the checks of a node
//! are, and no agent puts anything right behind its back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::case::{Case, File, Instance};
use super::setup::Setup;
use crate::support::client::RawResponse;
use crate::support::wait::PATIENCE;

/// Hosts of routes that every file has: by them a program tells that it has read the catalog, and
/// the KV store.
pub const MARKS: [&str; 1] = ["catalog.mark"];

/// Registers the marks of a file.
pub fn marks(setup: &Setup, file: &File) {
    let node = format!("node-{}", file.name);
    let id = format!("{}-mark", file.name);
    let body = json!({
        "Node": node, "Address": "127.0.0.1",
        "Service": {"ID": id, "Service": id, "Port": 1, "Address": "127.0.0.1",
            "Tags": [format!("{}catalog.mark/", file.tag_prefix())]},
        "Checks": [{"Node": node, "CheckID": id, "Name": "c", "Status": "passing", "ServiceID": id}],
    });
    call(setup, "PUT", "/v1/catalog/register", &body.to_string());
    put(
        setup,
        &format!("{}/000", file.kv_path()),
        &format!("route add {id} kv.mark/ http://127.0.0.1:1/"),
    );
}

/// Registers everything a case starts with.
pub fn case(setup: &Setup, file: &File, case: &Case) {
    for instance in case.instances() {
        instance_of(setup, file, case, &instance);
    }
    if let Some(text) = &case.kv {
        put(setup, &kv_key(file, case), &setup.fill(text));
    }
}

/// Carries out a change; see the field `act` of a step.
pub fn act(setup: &Setup, file: &File, case: &Case, act: &str) {
    let (verb, rest) = act.split_once(' ').unwrap_or((act, ""));
    match verb {
        "check" => {
            let (up, states) = rest.split_once(' ').expect("check UP STATE");
            let mut instance = find(case, up);
            instance.checks = states.split(' ').map(str::to_owned).collect();
            instance_of(setup, file, case, &instance);
        }
        "node" => {
            let (up, checks) = rest.split_once(' ').expect("node UP ID=STATE");
            let mut instance = find(case, up);
            instance.node_checks = checks.split(' ').map(str::to_owned).collect();
            instance_of(setup, file, case, &instance);
        }
        "gone" => {
            let instance = find(case, rest);
            let body = json!({"Node": node(file, case, &instance), "ServiceID": id(file, case, &instance)});
            call(setup, "PUT", "/v1/catalog/deregister", &body.to_string());
        }
        "back" => instance_of(setup, file, case, &find(case, rest)),
        "kv" => put(setup, &kv_key(file, case), &setup.fill(rest)),
        "kv-delete" => {
            call(
                setup,
                "DELETE",
                &format!("/v1/kv/{}", kv_key(file, case)),
                "",
            );
        }
        "delete" => {
            call(
                setup,
                "DELETE",
                &format!("/v1/kv/{}/{rest}", file.kv_path()),
                "",
            );
        }
        _ => panic!("{}: no change is called {verb}", case.rule),
    }
}

fn find(case: &Case, up: &str) -> Instance {
    case.instances()
        .into_iter()
        .find(|instance| instance.up == up)
        .unwrap_or_else(|| panic!("no instance {up}"))
}

fn number(file: &File, case: &Case) -> usize {
    file.cases
        .iter()
        .position(|other| std::ptr::eq(other, case))
        .unwrap()
}

fn kv_key(file: &File, case: &Case) -> String {
    format!("{}/{:03}", file.kv_path(), number(file, case) + 1)
}

fn service(file: &File, case: &Case, instance: &Instance) -> String {
    instance
        .service
        .clone()
        .unwrap_or_else(|| format!("{}-{}", file.name, number(file, case)))
}

fn id(file: &File, case: &Case, instance: &Instance) -> String {
    format!("{}-{}", service(file, case, instance), instance.up)
}

/// A node of its own for each file, unless the case wants another.
fn node(file: &File, case: &Case, instance: &Instance) -> String {
    match &instance.node {
        Some(name) => format!("{}-{}-{name}", file.name, number(file, case)),
        None => format!("node-{}", file.name),
    }
}

fn instance_of(setup: &Setup, file: &File, case: &Case, instance: &Instance) {
    let upstream = setup.address(&instance.up);
    let (node, id) = (node(file, case, instance), id(file, case, instance));
    let tags: Vec<String> = instance
        .tags
        .iter()
        .map(|tag| match tag.strip_prefix('=') {
            Some(plain) => plain.to_owned(),
            None => setup.fill(&format!("{}{tag}", file.tag_prefix())),
        })
        .collect();
    let mut checks: Vec<Value> = instance
        .checks
        .iter()
        .enumerate()
        .map(|(at, state)| match state.split_once('=') {
            // A check with an id of its own (`_service_maintenance:…`) is about the instance all
            // the same.
            Some((check, state)) => json!({"Node": node, "CheckID": check.replace("ID", &id), "Name": check,
                "Status": state, "ServiceID": id}),
            None => {
                json!({"Node": node, "CheckID": format!("{id}-{at}"), "Name": "c", "Status": state, "ServiceID": id})
            }
        })
        .collect();
    for check in &instance.node_checks {
        let (check, state) = check.split_once('=').expect("ID=STATE");
        checks.push(json!({"Node": node, "CheckID": check, "Name": check, "Status": state}));
    }
    let body = json!({
        "Node": node, "Address": upstream.ip(), "SkipNodeUpdate": false,
        "Service": {"ID": id, "Service": service(file, case, instance), "Port": upstream.port(),
            "Address": instance.address.clone().unwrap_or_else(|| upstream.ip().to_string()), "Tags": tags},
        "Checks": checks,
    });
    call(setup, "PUT", "/v1/catalog/register", &body.to_string());
}

fn put(setup: &Setup, key: &str, text: &str) {
    call(setup, "PUT", &format!("/v1/kv/{key}"), text);
}

/// One call to the agent, without a program started for it: there are hundreds.
pub fn call(setup: &Setup, method: &str, path: &str, body: &str) -> String {
    let host = setup
        .consul
        .address()
        .trim_start_matches("http://")
        .to_owned();
    let mut socket = TcpStream::connect(&host).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let Some(answer) = RawResponse::parse(&answer) else {
        panic!(
            "{method} {path} {body}: Consul's response is {:?}",
            String::from_utf8_lossy(&answer)
        );
    };
    assert_eq!(
        answer.status,
        200,
        "{method} {path} {body}: {}",
        answer.text()
    );
    answer.text()
}
