//! What each credential can do and no more: certificates towards the other program, lb's token, a
//! task without root's rights; ACLs that are switched on under load; and all of it brought back
//! when every data folder is lost. The table is that of docs/hardening.md.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use super::cluster::Nine;
use super::jobs::{load, outside, wait_running, wait_served};
use super::used::looks_well;
use crate::support::nomad;

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// A response with this status.
    To(u16),
    /// No TLS: the certificate means nothing there.
    ToNothing,
}
use Comes::{To, ToNothing};

const KV: (&str, &str, &str) = ("CONSUL", "/v1/kv/drill", "1");
const REGISTER: (&str, &str, &str) = (
    "CONSUL",
    "/v1/catalog/register",
    r#"{"Node":"intruder","Address":"192.0.2.1"}"#,
);
const CATALOG: (&str, &str, &str) = ("CONSUL", "/v1/catalog/services", "");
const JOBS: (&str, &str, &str) = ("NOMAD", "/v1/jobs", "");
const LEADER: (&str, &str, &str) = ("NOMAD", "/v1/status/leader", "");

#[test]
fn each_credential_does_its_part_and_no_more() {
    let Some(binary) = nomad::find("each_credential_does_its_part_and_no_more") else {
        return;
    };
    let nine = Nine::new(binary, false);
    nine.good(&["up", "--detach", "--with-sample"]);
    lb_is_not_root(&nine);
    certificates_mean_nothing_to_the_other_program(&nine);

    let outside = outside(&nine);
    wait_served(&nine, &outside, "/hello");
    let loads = load(&nine, &outside, "/hello", "acl enable");
    // Cut off in its first part; nothing is refused until it is over.
    let mut cut = nine
        .command(&["acl", "enable"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    nine.wait("the first token", || {
        nine.state().join("tokens.json").exists().then_some(())
    });
    cut.kill().unwrap();
    cut.wait().unwrap();
    let plan = nine.run(&["plan"]);
    assert!(plan.stdout.contains("acl enable"), "{}", plan.stdout);
    nine.good(&["acl", "enable"]);
    loads.none_failed();
    let told = nine.good(&["acl", "enable"]);
    assert!(told.contains("on already"), "{told}");
    assert!(nine.good(&["up", "--detach"]).contains("nothing to change"));
    looks_well(&nine);
    tokens_do_their_part(&nine);
    let loads = load(&nine, &outside, "/hello", "rotate-tokens");
    all_tokens_change(&nine);
    loads.none_failed();
    a_first_token_that_never_arrived_is_made_anew(&nine);
    // What was registered before is looked after under the new rule as well.
    nine.nomad(&["job", "stop", "-detach", "hello"]);
    nine.wait("the end of hello in the catalog", || {
        let found = nine.consul_api("/v1/health/service/hello")?;
        found.as_array()?.is_empty().then_some(())
    });
    drop(outside);
    everything_but_the_state_is_lost(&nine);
    nine.good(&["down", "--purge", "--yes"]);
}

/// Every lb that Nomad runs has a user of its own, and of root's rights none that changes anything.
fn lb_is_not_root(nine: &Nine) {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let state = nine.state().display().to_string();
    let mut found = 0;
    for (pid, command) in nine.processes() {
        if !(command.contains(" run --config ") && command.contains(&state)) {
            continue;
        }
        found += 1;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        if is_root {
            assert!(!field("Uid:").starts_with("0\t"), "{command}: {status}");
            // To open low ports, and, on the local target alone, to read.
            assert_eq!(field("CapEff:"), "0000000000000404", "{command}");
            assert_eq!(field("NoNewPrivs:"), "1", "{command}");
        }
    }
    assert_eq!(found, 3, "{:?}", nine.processes());
}

/// What a run leaves that is killed between Consul's bootstrap and its response: a secret that was
/// saved first, and that this Consul did not take.
fn a_first_token_that_never_arrived_is_made_anew(nine: &Nine) {
    let path = nine.state().join("tokens.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut tokens: serde_json::Value = serde_json::from_str(&text).unwrap();
    let secret = "11111111-2222-3333-4444-555555555555";
    tokens["consul_management"] = serde_json::json!({ "accessor": "", "secret": secret });
    fs::write(&path, tokens.to_string()).unwrap();
    let told = nine.good(&["up", "--detach"]);
    assert!(told.contains("never arrived"), "{told}");
    looks_well(nine);
    tokens_do_their_part(nine);
}

fn certificates_mean_nothing_to_the_other_program(nine: &Nine) {
    for (pair, request, comes) in [
        ("lb", CATALOG, To(200)),
        ("lb", LEADER, ToNothing),
        ("nomad-client-0/consul", LEADER, ToNothing),
        ("nomad-client-0/nomad-consul", CATALOG, To(200)),
        ("nomad-client-0/nomad-consul", LEADER, ToNothing),
        ("nomad-client-0/nomad", LEADER, To(200)),
        ("nomad-client-0/nomad", CATALOG, ToNothing),
        ("operator", CATALOG, To(200)),
        ("operator", LEADER, ToNothing),
        ("operator-nomad", LEADER, To(200)),
        ("operator-nomad", CATALOG, ToNothing),
    ] {
        assert_eq!(ask(nine, pair, None, request), comes, "{pair} {request:?}");
    }
}

/// With ACLs a certificate alone opens nothing, and a token what it is for.
fn tokens_do_their_part(nine: &Nine) {
    let text = fs::read_to_string(nine.state().join("tokens.json")).unwrap();
    let tokens: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = |path: &str| tokens.pointer(path).and_then(|token| token.as_str());
    let (lb, agent) = (token("/lb/secret"), token("/agents/nomad-client-0/secret"));
    let (nomad, root) = (
        token("/nomad_consul/secret"),
        token("/consul_management/secret"),
    );
    let (operator, at_nomad) = (token("/operator/secret"), token("/nomad_operator/secret"));
    let acl = ("CONSUL", "/v1/acl/tokens", "");
    for (pair, token, request, comes) in [
        ("lb", None, KV, To(403)),
        ("lb", None, REGISTER, To(403)),
        ("lb", lb, CATALOG, To(200)),
        ("lb", lb, KV, To(403)),
        ("lb", lb, REGISTER, To(403)),
        ("nomad-client-0/consul", agent, KV, To(403)),
        ("nomad-client-0/consul", agent, REGISTER, To(403)),
        ("nomad-client-0/nomad-consul", nomad, KV, To(403)),
        ("nomad-client-0/nomad-consul", nomad, acl, To(403)),
        ("nomad-client-0/nomad", None, JOBS, To(403)),
        ("operator", operator, KV, To(200)),
        ("operator", operator, acl, To(403)),
        ("operator", root, acl, To(200)),
        ("operator-nomad", None, JOBS, To(403)),
        ("operator-nomad", at_nomad, JOBS, To(200)),
        (
            "operator-nomad",
            at_nomad,
            ("NOMAD", "/v1/acl/tokens", ""),
            To(403),
        ),
    ] {
        assert_eq!(ask(nine, pair, token, request), comes, "{pair} {request:?}");
    }
}

/// Each token is another one afterwards, and the old ones open nothing.
fn all_tokens_change(nine: &Nine) {
    let secrets = || {
        let text = fs::read_to_string(nine.state().join("tokens.json")).unwrap();
        let mut tokens: serde_json::Value = serde_json::from_str(&text).unwrap();
        let agents = tokens["agents"].take();
        let all = [tokens, agents].into_iter().flat_map(|tokens| {
            let of = |(name, token): (String, serde_json::Value)| {
                Some((name, token.get("secret")?.as_str()?.to_owned()))
            };
            let map = tokens.as_object().unwrap().clone();
            map.into_iter().filter_map(of).collect::<Vec<_>>()
        });
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    let old = secrets();
    assert_eq!(old.len(), 16, "seven, and one of each agent");
    // Cut off once its first token is made.
    let mut cut = nine
        .command(&["rotate-tokens"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    nine.wait("the first new token", || {
        (secrets()["consul_management"] != old["consul_management"]).then_some(())
    });
    cut.kill().unwrap();
    cut.wait().unwrap();
    nine.good(&["rotate-tokens"]);
    let new = secrets();
    for (name, old) in &old {
        assert_ne!(new[name], *old, "{name}");
        let (pair, path) = match name.starts_with("nomad_m") || name.starts_with("nomad_o") {
            true => ("operator-nomad", ("NOMAD", "/v1/acl/token/self", "")),
            false => ("operator", ("CONSUL", "/v1/acl/token/self", "")),
        };
        assert_eq!(ask(nine, pair, Some(&new[name]), path), To(200), "{name}");
        assert_eq!(ask(nine, pair, Some(old), path), To(403), "the old {name}");
    }
}

/// Data folders gone, keys and tokens kept: `up` makes the same cluster again.
fn everything_but_the_state_is_lost(nine: &Nine) {
    nine.good(&["down", "--yes"]);
    for node in fs::read_dir(nine.state().join("nodes")).unwrap().flatten() {
        for folder in ["consul", "nomad"] {
            let _ = fs::remove_dir_all(node.path().join(folder));
        }
    }
    nine.good(&["up", "--detach", "--with-sample"]);
    wait_running(nine, "lb", 3);
    looks_well(nine);
    tokens_do_their_part(nine);
}

fn ask(nine: &Nine, pair: &str, token: Option<&str>, request: (&str, &str, &str)) -> Comes {
    let (product, path, body) = request;
    let exports = nine.exports();
    let address = match product {
        "NOMAD" => &exports["NOMAD_ADDR"],
        _ => &exports["CONSUL_HTTP_ADDR"],
    };
    let file = |end: &str| nine.state().join(format!("certs/{pair}{end}.pem"));
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "10",
    ]);
    curl.arg("--cacert")
        .arg(&exports[&format!("{product}_CACERT")]);
    curl.arg("--cert")
        .arg(file(""))
        .arg("--key")
        .arg(file("-key"));
    if let Some(token) = token {
        curl.args(["-H", &format!("X-Consul-Token: {token}")]);
        curl.args(["-H", &format!("X-Nomad-Token: {token}")]);
    }
    if !body.is_empty() {
        curl.args(["-X", "PUT", "-d", body]);
    }
    let output = curl.arg(format!("{address}{path}")).output().unwrap();
    match String::from_utf8_lossy(&output.stdout).trim() {
        "000" => ToNothing,
        status => To(status.parse().unwrap()),
    }
}
