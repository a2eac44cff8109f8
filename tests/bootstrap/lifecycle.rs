//! From nothing to a verified cluster, the second run, the loss of a server and of the state.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::SystemTime;

use crate::support::cluster::{Cluster, Ran, files, is_gone};
use crate::support::wait::wait_until;
use crate::tls;

pub(crate) const NODES: [&str; 9] = [
    "consul-0",
    "consul-1",
    "consul-2",
    "nomad-server-0",
    "nomad-server-1",
    "nomad-server-2",
    "nomad-client-0",
    "nomad-client-1",
    "nomad-client-2",
];

#[test]
fn nine_nodes_come_up_and_stay_as_they_are() {
    let cluster = Cluster::consul();
    let plan = cluster.run(&["plan"]).ended(3);
    assert!(
        plan.stdout.contains("make a CA") && plan.stdout.contains("start   consul"),
        "{}",
        plan.stdout
    );
    assert_eq!(
        cluster.run(&["plan", "--json"]).ended(3).json()["changes"],
        true
    );
    for word in ["status", "env", "rotate-certs", "rotate-gossip"] {
        cluster
            .run(&[word])
            .ended(1)
            .says(&["there is no cluster in", "lb bootstrap up"]);
    }
    assert!(!cluster.state("").exists(), "only `up` makes something");

    cluster.up().says(&["9 nodes changed", "3 Consul servers"]);
    consul_agrees(&cluster);
    the_environment_is_whole(&cluster);
    certificates_are_right(&cluster);
    nothing_is_plain(&cluster);
    modes_are_private(&cluster);

    a_second_run_changes_nothing(&cluster);
    assert_eq!(cluster.run(&["plan"]).good().stdout, "nothing to change\n");
    assert_eq!(
        cluster.run(&["plan", "--json"]).good().json()["changes"],
        false
    );
    assert!(
        cluster
            .run(&["status"])
            .good()
            .stdout
            .contains("All is well.")
    );
    let status = cluster.run(&["status", "--json"]).good().json();
    assert_eq!(status["degraded"], false);
    assert!(
        status["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| matches!(node["consul"]["certificate_days"].as_i64(), Some(364 | 365))),
        "{status}"
    );

    another_description_is_refused(&cluster);
    a_far_version_is_refused(&cluster);
    a_lost_state_is_explained(&cluster);
    a_server_is_replaced(&cluster);
    a_second_run_changes_nothing(&cluster);

    cluster
        .run(&["down"])
        .ended(2)
        .says(&["There is no terminal to confirm it on: add --yes"]);
    assert_eq!(cluster.pids().len(), 9);
    let pids = cluster.pids();
    cluster.run(&["down", "--yes", "--purge"]).good();
    assert!(!cluster.state("").exists());
    assert!(pids.values().all(|pid| is_gone(*pid)), "{pids:?}");
}

fn consul_agrees(cluster: &Cluster) {
    let members = cluster.ask_consul(&["members"]).good().stdout;
    for (number, node) in (0..).zip(NODES) {
        let kind = if number < 3 { "server" } else { "client" };
        let row = members
            .lines()
            .find(|line| line.starts_with(node))
            .unwrap_or_else(|| panic!("{node}: {members}"));
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            words[1..4],
            [
                format!("{}:8301", cluster.address(number)).as_str(),
                "alive",
                kind
            ]
        );
    }
    assert_eq!(members.lines().count(), 10, "{members}");
    let peers = cluster
        .ask_consul(&["operator", "raft", "list-peers"])
        .good()
        .stdout;
    assert_eq!(
        (
            peers.matches(" leader ").count(),
            peers.matches(" follower ").count()
        ),
        (1, 2),
        "{peers}"
    );
    assert_eq!(peers.matches(" true ").count(), 3, "{peers}");
    let keyring = cluster.keyring();
    let key = gossip_key(cluster);
    assert!(
        keyring.contains(&format!("{key} [9/9]")) && keyring.contains(&format!("{key} [3/3]")),
        "{keyring}"
    );
    assert_eq!(
        keyring.lines().filter(|line| line.ends_with(']')).count(),
        2,
        "no other key: {keyring}"
    );
}

/// Consul's gossip key, as the state has it.
pub(crate) fn gossip_key(cluster: &Cluster) -> String {
    let gossip: serde_json::Value = serde_json::from_str(&cluster.read("gossip.json")).unwrap();
    gossip["consul"]["current"].as_str().unwrap().to_owned()
}

fn the_environment_is_whole(cluster: &Cluster) {
    let variables = cluster.variables();
    let names: Vec<_> = variables.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "CONSUL_CACERT",
            "CONSUL_CLIENT_CERT",
            "CONSUL_CLIENT_KEY",
            "CONSUL_HTTP_ADDR"
        ]
    );
    let json: BTreeMap<String, String> =
        serde_json::from_value(cluster.run(&["env", "--json"]).good().json()).unwrap();
    assert_eq!(json, variables);
    assert_eq!(cluster.read("env"), cluster.run(&["env"]).good().stdout);
    let mut consul = Command::new("consul");
    consul
        .args(["operator", "raft", "list-peers"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    assert!(
        Ran::of(consul.envs(&variables))
            .good()
            .stdout
            .contains("consul-2")
    );

    let mut pkcs12 = Command::new("openssl");
    pkcs12
        .args(["pkcs12", "-nodes", "-in"])
        .arg(cluster.state("client.pfx"));
    let opened = Ran::of(pkcs12.arg("-passin").arg(format!(
        "file:{}",
        cluster.state("client.pfx.password").display()
    )));
    let opened = opened.good().stdout;
    assert_eq!(
        (
            opened.matches("BEGIN CERTIFICATE").count(),
            opened.matches("PRIVATE KEY").count()
        ),
        (3, 2),
        "leaf, intermediate, CA: {opened}"
    );
    // What is missing or old is written by `env`.
    fs::remove_file(cluster.state("client.pfx")).unwrap();
    fs::write(cluster.state("lb.toml"), "").unwrap();
    cluster
        .run(&["env"])
        .good()
        .says(&["client.pfx", "lb.toml"]);
    assert!(cluster.state("client.pfx").exists() && cluster.read("lb.toml").contains("ca_pem"));
}

fn certificates_are_right(cluster: &Cluster) {
    let ca = cluster.state("ca.pem");
    let own = tls::text(&ca);
    assert!(
        own.contains("CA:TRUE, pathlen:1") && own.contains("Certificate Sign, CRL Sign"),
        "{own}"
    );
    for (number, node) in (0..).zip(NODES) {
        let (address, file) = (
            cluster.address(number),
            cluster.state(&format!("certs/{node}/consul.pem")),
        );
        assert_eq!(tls::served(cluster, address), tls::leaf(&file), "{node}");
        let role = if number < 3 { "server" } else { "client" };
        let text = tls::text(&file);
        for wanted in [
            &*format!("DNS:{role}.dc1.consul, DNS:{node}.node.dc1.consul, "),
            "DNS:localhost, IP Address:127.0.0.1, ",
            &*format!("IP Address:{address}\n"),
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "Digital Signature",
        ] {
            assert!(text.contains(wanted), "{node}: no {wanted:?} in {text}");
        }
        assert_eq!(
            text.matches(".dc1.consul").count(),
            3,
            "no other name of Consul's: {text}"
        );
        assert!(
            text.contains(&format!("CN = {role}.dc1.consul")) && text.contains("CA:FALSE"),
            "{node}: {text}"
        );
        assert!(
            tls::verifies(&ca, "sslserver", &file) && tls::verifies(&ca, "sslclient", &file),
            "{node}"
        );
    }
    for name in ["operator", "lb"] {
        let file = cluster.state(&format!("certs/{name}.pem"));
        assert!(tls::verifies(&ca, "sslclient", &file), "{name}");
        assert!(
            !tls::verifies(&ca, "sslserver", &file),
            "{name} must not act as a server"
        );
        assert!(
            !tls::text(&file).contains("dc1.consul"),
            "{name} has no role"
        );
    }
    let keys: Vec<_> = files(&cluster.state(""))
        .into_iter()
        .filter(|file| file.ends_with("/consul-key.pem"))
        .collect();
    let different: std::collections::BTreeSet<_> =
        keys.iter().map(|file| cluster.read(file)).collect();
    assert_eq!((keys.len(), different.len()), (9, 9), "no key is shared");
}

fn nothing_is_plain(cluster: &Cluster) {
    let curl = |url: &str, more: &[&str]| {
        Ran::of(
            Command::new("curl")
                .args(["-sS", "--max-time", "10", url])
                .args(more),
        )
    };
    for number in 0..9 {
        let address = cluster.address(number);
        let refused = curl(&format!("http://{address}:8500/v1/status/leader"), &[]);
        assert_eq!(refused.code, Some(7), "8500 is closed: {refused:?}");
        let plain = curl(&format!("http://{address}:8501/v1/status/leader"), &[]);
        assert!(
            plain.stdout.contains("HTTP request to an HTTPS server"),
            "{plain:?}"
        );
        let nobody = curl(
            &format!("https://{address}:8501/v1/status/leader"),
            &["--cacert", &cluster.state("ca.pem").to_string_lossy()],
        );
        assert!(
            nobody.code != Some(0) && nobody.stdout.is_empty(),
            "without a certificate: {nobody:?}"
        );
        assert_eq!(
            cluster
                .api(number, "GET", "/v1/status/leader", None)
                .unwrap()
                .0,
            200
        );
    }
}

fn modes_are_private(cluster: &Cluster) {
    let mode = |path: &str| {
        fs::metadata(cluster.state(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(""), 0o700);
    for file in files(&cluster.state(""))
        .iter()
        .filter(|file| !file.starts_with("nodes/"))
    {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    for folder in ["certs", "certs/consul-0", "nodes"] {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
    for node in NODES {
        assert_eq!(mode(&format!("nodes/{node}")), 0o700, "{node}");
        for file in ["key.pem", "encrypt.hcl"] {
            assert_eq!(
                mode(&format!("nodes/{node}/consul.d/{file}")),
                0o600,
                "{node} {file}"
            );
        }
    }
}

/// When each file was written; what agents write themselves, and locks, left out.
fn written(cluster: &Cluster) -> BTreeMap<String, SystemTime> {
    let state = cluster.state("");
    let of_agents =
        |file: &str| file.contains("/consul/") || file.ends_with(".log") || file == "lock";
    let found = files(&state).into_iter().filter(|file| !of_agents(file));
    found
        .map(|file| {
            (
                file.clone(),
                fs::metadata(state.join(file)).unwrap().modified().unwrap(),
            )
        })
        .collect()
}

pub(crate) fn a_second_run_changes_nothing(cluster: &Cluster) {
    let before = (cluster.pids(), written(cluster));
    cluster.up().says(&["nothing to change"]);
    assert_eq!((cluster.pids(), written(cluster)), before);
}

fn another_description_is_refused(cluster: &Cluster) {
    let before = (cluster.pids(), written(cluster));
    let file = cluster.folder().join("other.toml");
    for (text, wanted) in [
        (
            "datacenter = \"dc9\"\n",
            &["datacenter was \"dc1\" and cannot become \"dc9\""][..],
        ),
        ("acl = true\n", &["cannot be switched on", "acl enable"]),
        (
            "datacentre = \"dc1\"\n",
            &[
                "other.toml:1",
                "datacentre is not a known key",
                "datacenter",
            ],
        ),
    ] {
        fs::write(&file, text).unwrap();
        for word in ["up", "plan"] {
            cluster
                .run(&[word, "--cluster", &file.to_string_lossy()])
                .ended(2)
                .says(wanted);
        }
    }
    // What is left out is shown, and stays until it is said that it may go. A cluster that lives may
    // have an even number of servers.
    for (text, left, warning) in [
        ("consul_servers = 1\n", "consul-1", ""),
        (
            "consul_servers = 2\n",
            "consul-2",
            "an even number outlives no more failures than 1",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let other = file.to_string_lossy();
        let run = |word| cluster.run(&[word, "--cluster", &other]);
        let plan = run("plan").ended(3).stdout;
        assert!(
            plan.contains(&format!("remove {left}, which is no longer described")),
            "{plan}"
        );
        run("up")
            .ended(3)
            .says(&["no longer described", left, "--yes", warning]);
    }
    let lock = fs::File::options()
        .write(true)
        .open(cluster.state("lock"))
        .unwrap();
    lock.lock().unwrap();
    cluster
        .run(&["up"])
        .ended(1)
        .says(&["is at work on the state folder", "wait until it has ended"]);
    cluster
        .run(&["rotate-gossip"])
        .ended(1)
        .says(&["is at work on the state folder"]);
    // A command that only reads need not wait.
    cluster.run(&["status"]).good();
    cluster.run(&["plan"]).good();
    cluster.run(&["env"]).good().says(&["files not looked at"]);
    drop(lock);
    assert_eq!((cluster.pids(), written(cluster)), before);
}

/// A program that says to be three minor versions newer.
fn a_far_version_is_refused(cluster: &Cluster) {
    let before = (cluster.pids(), written(cluster));
    let applied: serde_json::Value = serde_json::from_str(&cluster.read("cluster.json")).unwrap();
    let old = applied["versions"]["consul"].as_str().unwrap().to_owned();
    let mut numbers = old.split('.').map(|number| number.parse::<u16>().unwrap());
    let (major, minor) = (numbers.next().unwrap(), numbers.next().unwrap());
    let new = format!("{major}.{}.0", minor + 3);
    let program = cluster.folder().join("newer");
    fs::write(&program, format!("#!/bin/sh\necho 'Consul v{new}'\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.to_string_lossy().into_owned();
    let refused = format!("consul {old} cannot go to {new} at once");
    let way = format!("{old} -> ");
    for word in ["up", "plan", "upgrade"] {
        cluster
            .run(&[word, "--consul-bin", &program])
            .ended(2)
            .says(&[&refused, &way, "--force"]);
    }
    cluster
        .run(&["plan", "--consul-bin", &program, "--force"])
        .ended(3);
    assert_eq!((cluster.pids(), written(cluster)), before);
}

/// Moves files of the state away while `check` runs.
fn without(cluster: &Cluster, names: &[&str], check: impl FnOnce()) {
    let kept = cluster.folder().join("kept");
    fs::create_dir(&kept).unwrap();
    for name in names {
        fs::rename(cluster.state(name), kept.join(name)).unwrap();
    }
    check();
    for name in names {
        let made = cluster.state(name);
        if made.is_dir() {
            fs::remove_dir_all(&made).unwrap();
        }
        fs::rename(kept.join(name), made).unwrap();
    }
    fs::remove_dir(kept).unwrap();
}

fn a_lost_state_is_explained(cluster: &Cluster) {
    let pids = cluster.pids();
    without(cluster, &["gossip.json"], || {
        for word in ["up", "plan"] {
            cluster.run(&[word]).ended(1).says(&[
                "gossip keys of a live cluster are lost",
                "gossip.json",
                "backup",
            ]);
        }
        assert!(!cluster.state("gossip.json").exists());
    });
    without(cluster, &["ca.pem"], || {
        for word in ["up", "plan", "rotate-certs"] {
            cluster.run(&[word]).ended(1).says(&[
                "the CA of a live cluster is lost",
                "ca.pem",
                "backup",
            ]);
        }
        assert!(!cluster.state("ca.pem").exists());
    });
    without(cluster, &["consul-ca-key.pem"], || {
        cluster.run(&["status"]).good();
        // Nothing has to be signed.
        cluster.up();
        for words in [
            &["rotate-certs"][..],
            &["rotate-certs", "--ca"],
            &["replace-node", "consul-1", "--yes"],
        ] {
            cluster.run(words).ended(1).says(&[
                "CA key of a live cluster is lost",
                "consul-ca-key.pem",
                "backup",
            ]);
        }
    });
    cluster.up().says(&["nothing to change"]);
    let all: Vec<String> = fs::read_dir(cluster.state(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let secrets: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|name| !["nodes", "lock"].contains(name))
        .collect();
    without(cluster, &secrets, || {
        cluster.run(&["up"]).ended(1).says(&[
            "nothing was changed",
            "consul-0: belongs to the cluster",
            "bring that state folder back",
        ]);
        cluster
            .run(&["status"])
            .ended(1)
            .says(&["there is no cluster in"]);
    });
    let away = cluster.folder().join("away");
    fs::rename(cluster.state(""), &away).unwrap();
    let ran = cluster.run(&["up"]).ended(1);
    let wanted = format!(
        "ports 8301, 8501, 8600 of {} are taken by consul",
        cluster.address(8)
    );
    ran.says(&[
        "nothing was changed",
        &wanted,
        "looks like a cluster whose state folder is gone",
        "bring the folder back",
    ]);
    // Nothing is in the way of the folder's return.
    assert!(!cluster.state("").exists());
    fs::rename(&away, cluster.state("")).unwrap();
    assert_eq!(cluster.pids(), pids);
    cluster.up().says(&["nothing to change"]);
}

fn a_server_is_replaced(cluster: &Cluster) {
    let id = || fs::read_to_string(cluster.node("consul-1", "consul/node-id")).unwrap();
    let (before, secrets) = (id(), cluster.secrets());
    let certificate = cluster.read("certs/consul-1/consul.pem");
    cluster.kill("consul-1/consul");
    let status = cluster.run(&["status"]).ended(3);
    assert!(
        status.stdout.contains("consul-1: consul: does not respond"),
        "{}",
        status.stdout
    );
    assert_eq!(
        cluster.run(&["status", "--json"]).ended(3).json()["degraded"],
        true
    );
    fs::remove_dir_all(cluster.node("consul-1", "consul")).unwrap();
    // Files that differ are where a plan could show too much.
    for file in ["encrypt.hcl", "key.pem", "consul.hcl"] {
        fs::write(
            cluster.node("nomad-client-1", "consul.d").join(file),
            "other",
        )
        .unwrap();
    }
    for words in [&["plan"][..], &["plan", "--json"]] {
        let plan = cluster.run(words).ended(3);
        assert!(
            plan.stdout.contains("encrypt.hcl") && plan.stdout.contains("start"),
            "{}",
            plan.stdout
        );
        for secret in &secrets {
            assert!(
                !plan.stdout.contains(secret) && !plan.stderr.contains(secret),
                "a secret in {}",
                plan.stdout
            );
        }
    }
    cluster
        .run(&["replace-node", "consul-9", "--yes"])
        .ended(2)
        .says(&["consul-9", "nomad-client-2"]);
    cluster
        .run(&["replace-node", "consul-1"])
        .ended(2)
        .says(&["--yes"]);
    cluster
        .run(&["replace-node", "consul-1", "--yes"])
        .good()
        .says(&["consul-1 is replaced"]);
    assert_ne!(id(), before);
    assert_ne!(cluster.read("certs/consul-1/consul.pem"), certificate);
    cluster.run(&["status"]).good();
    wait_until("three voters", || {
        cluster
            .ask_consul(&["operator", "raft", "list-peers"])
            .stdout
            .matches(" true ")
            .count()
            == 3
    });
    assert_eq!(
        tls::served(cluster, cluster.address(1)),
        tls::leaf(&cluster.state("certs/consul-1/consul.pem"))
    );
}
