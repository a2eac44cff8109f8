//! Keys and certificates change under a running `lb` with traffic, and the command that does it is
//! killed in between.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::killed::kill_when;
use crate::lifecycle::{NODES, gossip_key};
use crate::support::client::{Load, get};
use crate::support::cluster::{Cluster, Ran};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;
use crate::tls;

#[test]
fn rotations_cost_no_request() {
    let cluster = Cluster::consul();
    cluster.up();
    let first = Upstream::start("web-0");
    register(&cluster, 7, &first);
    let lb = Lb::start_file(
        &cluster.state("lb.toml"),
        &[
            "--listener",
            "127.0.0.1:0",
            "--admin.address",
            "127.0.0.1:0",
        ],
    );
    lb.wait_ready();
    let answers = || get(lb.address("http"), "rotation.test", "/web");
    wait_until("the service behind lb", || answers().status == 200);
    let load = Load::new(lb.address("http"), "rotation.test", "/web", 50).start();
    let (pids, term) = (cluster.pids(), term(&cluster));

    gossip_keys(&cluster);
    assert_eq!(cluster.pids(), pids, "nothing was restarted");
    a_member_is_away(&cluster);
    let pids = cluster.pids();
    leaves(&cluster);
    authority(&cluster);

    assert_eq!(cluster.pids(), pids, "nothing was restarted");
    assert_eq!(self::term(&cluster), term, "the leader was never lost");
    // lb follows Consul with what it was given last, not with what it began with.
    let second = Upstream::start("web-1");
    register(&cluster, 8, &second);
    wait_until("the second instance behind lb", || {
        answers().header("x-instance") == Some("web-1")
    });
    let outcome = load.stop();
    outcome.assert_none_failed();
    assert!(outcome.requests() > 100, "{:?}", outcome.statuses);
    cluster.up().says(&["nothing to change"]);
    cluster.run(&["status"]).good();
}

/// Registers a server under `/web` at the agent of this node.
fn register(cluster: &Cluster, node: u8, server: &Upstream) {
    let address = server.address;
    let body = json!({"Name": "web", "ID": server.name(), "Address": address.ip(), "Port": address.port(),
        "Tags": ["urlprefix-/web"], "Check": {"TTL": "30m", "Status": "passing"}});
    let (status, text) = cluster
        .api(node, "PUT", "/v1/agent/service/register", Some(&body))
        .unwrap();
    assert_eq!(status, 200, "{text}");
}

/// How often leaders were voted for: the same number before and after means the same leader all
/// along.
fn term(cluster: &Cluster) -> (String, String) {
    let (_, leader) = cluster.api(0, "GET", "/v1/status/leader", None).unwrap();
    let (_, text) = cluster.api(0, "GET", "/v1/agent/self", None).unwrap();
    let own: Value = serde_json::from_str(&text).unwrap();
    (
        leader,
        own["Stats"]["raft"]["term"].as_str().unwrap().to_owned(),
    )
}

fn gossip_keys(cluster: &Cluster) {
    let mut old = gossip_key(cluster);
    for kill in [false, true] {
        if kill {
            // The new key is kept before any agent hears of it.
            let ran = kill_when(cluster.start(&["rotate-gossip"]), |_| {
                cluster.read("gossip.json").contains("install")
            });
            assert_eq!(ran.code, None, "killed too late: {}", ran.stderr);
            assert_eq!(gossip_key(cluster), old);
        }
        cluster
            .run(&["rotate-gossip"])
            .good()
            .says(&["gossip keys are rotated"]);
        let (new, text) = (gossip_key(cluster), cluster.keyring());
        assert_ne!(new, old);
        assert!(
            text.contains(&format!("{new} [9/9]")) && text.contains(&format!("{new} [3/3]")),
            "{text}"
        );
        assert!(!text.contains(&old), "{text}");
        for node in NODES {
            let file = fs::read_to_string(cluster.node(node, "consul.d/encrypt.hcl")).unwrap();
            assert!(file.contains(&new) && !file.contains(&old), "{node}");
        }
        old = new;
    }
}

/// With a member away the key stays: that member would come back with the old one.
fn a_member_is_away(cluster: &Cluster) {
    let key = gossip_key(cluster);
    cluster.kill("nomad-server-0/consul");
    wait_until("the loss of nomad-server-0", || {
        cluster.ask_consul(&["members"]).stdout.contains(" failed ")
    });
    cluster.run(&["rotate-gossip"]).ended(1).says(&[
        "members are away",
        "nomad-server-0 (failed)",
        "replace-node",
    ]);
    assert_eq!(gossip_key(cluster), key);
    cluster.up().says(&["1 node changed"]);
}

/// What each node serves; each has to verify under the CA in the state.
fn served(cluster: &Cluster) -> BTreeMap<&'static str, String> {
    (0..)
        .zip(NODES)
        .map(|(number, node)| (node, tls::served(cluster, cluster.address(number))))
        .collect()
}

fn assert_all_new(
    cluster: &Cluster,
    before: &BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let now = served(cluster);
    for (node, pem) in &now {
        assert_ne!(before[node], *pem, "{node}");
        assert_eq!(
            tls::leaf(&cluster.state(&format!("certs/{node}/consul.pem"))),
            *pem,
            "{node}"
        );
    }
    now
}

fn leaves(cluster: &Cluster) {
    let before = served(cluster);
    let ca = cluster.read("ca.pem");
    cluster
        .run(&["rotate-certs"])
        .good()
        .says(&["certificates are rotated"]);
    let before = assert_all_new(cluster, &before);
    let middle = cluster.node("nomad-server-1", "consul.d/cert.pem");
    let pem = fs::read_to_string(&middle).unwrap();
    // Some nodes have their new ones by then, some have not.
    let ran = kill_when(cluster.start(&["rotate-certs"]), |_| {
        fs::read_to_string(&middle).unwrap() != pem
    });
    assert_eq!(ran.code, None, "killed too late: {}", ran.stderr);
    cluster.run(&["rotate-certs"]).good();
    assert_all_new(cluster, &before);
    assert_eq!(cluster.read("ca.pem"), ca);
    assert!(!cluster.state("rotation.json").exists());
}

fn authority(cluster: &Cluster) {
    let old = cluster.folder().join("old");
    fs::create_dir(&old).unwrap();
    for (from, to) in [
        ("ca.pem", "ca.pem"),
        ("certs/operator.pem", "cert.pem"),
        ("certs/operator-key.pem", "key.pem"),
    ] {
        fs::copy(cluster.state(from), old.join(to)).unwrap();
    }
    let with_old = |number| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10"])
            .arg("--cacert")
            .arg(cluster.state("ca.pem"));
        curl.arg("--cert")
            .arg(old.join("cert.pem"))
            .arg("--key")
            .arg(old.join("key.pem"));
        Ran::of(curl.arg(format!(
            "https://{}:8501/v1/status/leader",
            cluster.address(number)
        )))
    };
    with_old(0).good();
    let before = served(cluster);
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3"] {
        // A node of the first phase has what the step hands out.
        let file = cluster.node("consul-0", "consul.d/ca.pem");
        let cert = cluster.node("consul-0", "consul.d/cert.pem");
        let content = || {
            (
                fs::read_to_string(&file).unwrap(),
                fs::read_to_string(&cert).unwrap(),
            )
        };
        let had = content();
        let ran = kill_when(cluster.start(&["rotate-certs", "--ca"]), |run| {
            run.said().contains(step) && content() != had
        });
        assert_eq!(ran.code, None, "killed too late: {}", ran.stderr);
        let said = cluster.run(&["rotate-certs"]).ended(1);
        said.says(&["the CA is being changed", "rotate-certs --ca"]);
        // The cluster is well at every step, and what is not over is shown.
        for word in ["status", "plan"] {
            let shown = cluster.run(&[word]).ended(3).stdout;
            assert!(
                shown.contains("`rotate-certs --ca` is not over"),
                "{word}: {shown}"
            );
        }
        let status = cluster.run(&["status", "--json"]).ended(3).json();
        let well = |node: &Value| node["problems"].as_array().unwrap().is_empty();
        assert!(
            status["nodes"].as_array().unwrap().iter().all(well),
            "{status}"
        );
        assert_eq!(status["problems"].as_array().unwrap().len(), 1, "{status}");
    }
    cluster
        .run(&["rotate-certs", "--ca"])
        .good()
        .says(&["certificates are rotated"]);
    assert!(!cluster.state("rotation.json").exists() && !cluster.state("next-ca-key.pem").exists());
    assert_all_new(cluster, &before);
    let ca = cluster.read("ca.pem");
    assert_eq!(ca.matches("BEGIN CERTIFICATE").count(), 1);
    assert_ne!(ca, fs::read_to_string(old.join("ca.pem")).unwrap());
    let trusted = cluster.read("consul-ca.pem");
    for (number, node) in (0..).zip(NODES) {
        assert_eq!(
            fs::read_to_string(cluster.node(node, "consul.d/ca.pem")).unwrap(),
            trusted,
            "{node}"
        );
        assert!(!tls::verifies(
            &old.join("ca.pem"),
            "sslserver",
            &cluster.state(&format!("certs/{node}/consul.pem"))
        ));
        let refused = with_old(number);
        assert!(
            refused.code != Some(0) && refused.stdout.is_empty(),
            "{node} takes the old CA's: {refused:?}"
        );
    }
}
