//! What is wrong is named, with what to do about it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::cluster::{Cluster, Ran, signal};
use crate::support::wait::wait_until;
use crate::tls;

const SMALL: &str = "consul_servers = 3\nnomad_servers = 0\nnomad_clients = 1\n";

#[test]
fn missing_programs_are_named() {
    let cluster = Cluster::consul();
    let path = cluster.folder().join("bin");
    fs::create_dir(&path).unwrap();
    let run =
        |cluster: &Cluster, words: &[&str]| Ran::of(cluster.command(words).env("PATH", &path));
    for word in ["up", "plan"] {
        run(&cluster, &[word])
            .ended(2)
            .says(&["consul is not on PATH", "--consul-bin"]);
    }
    let named = run(&cluster, &["up", "--consul-bin", "/nowhere/consul"]);
    named.ended(2).says(&["/nowhere/consul", "--consul-bin"]);
    symlink(on_path("consul"), path.join("consul")).unwrap();
    let all = Cluster::with(&["--local"], None);
    run(&all, &["up"])
        .ended(2)
        .says(&["nomad is not on PATH", "--nomad-bin", "--only consul"]);
    assert!(
        !all.state("").exists() && !cluster.state("").exists(),
        "nothing is touched"
    );
}

fn on_path(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .unwrap()
}

#[test]
fn what_is_wrong_with_a_node_is_told() {
    let cluster = Cluster::described(SMALL);
    a_port_in_use(&cluster);
    cluster.up();
    another_gossip_key(&cluster);
    files_that_were_edited(&cluster);
    expired_certificates(&cluster);
}

fn a_port_in_use(cluster: &Cluster) {
    let taken = TcpListener::bind((cluster.address(1), 8501)).unwrap();
    let wanted = format!("consul-1: port 8501 of {} is taken by", cluster.address(1));
    let pid = format!("pid {}", std::process::id());
    cluster.run(&["up"]).ended(1).says(&[
        "nothing was changed",
        &wanted,
        &pid,
        "stop it, or choose other addresses",
    ]);
    assert!(cluster.pids().is_empty());
    drop(taken);
    // The same beside a cluster that lives.
    cluster.up();
    cluster.kill("nomad-client-0/consul");
    // A killed agent lets go of its sockets a moment after it is gone.
    wait_until("the free port", || {
        TcpListener::bind((cluster.address(3), 8600)).is_ok()
    });
    let taken = TcpListener::bind((cluster.address(3), 8600)).unwrap();
    let wanted = format!(
        "nomad-client-0: port 8600 of {} is taken by",
        cluster.address(3)
    );
    cluster
        .run(&["up", "--detach"])
        .ended(1)
        .says(&["nothing was changed", &wanted, &pid]);
    drop(taken);
    cluster.up();
}

/// A node that kept the key of another cluster cannot join: its data win over its configuration.
fn another_gossip_key(cluster: &Cluster) {
    let keyring = cluster.node("nomad-client-0", "consul/serf/local.keyring");
    cluster.kill("nomad-client-0/consul");
    fs::write(
        &keyring,
        "[\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]",
    )
    .unwrap();
    let up = cluster.run(&["up", "--detach", "--timeout", "5s"]).ended(1);
    up.says(&[
        "Consul agents: not well in time",
        "nomad-client-0: ",
        "the gossip key of this node is not the cluster's",
        "what to do: ",
        "serf/*.keyring",
    ]);
    let status = cluster.run(&["status"]).ended(3);
    assert!(
        status
            .stdout
            .contains("nomad-client-0: consul: cannot reach the servers"),
        "{}",
        status.stdout
    );
    cluster.kill("nomad-client-0/consul");
    fs::remove_file(&keyring).unwrap();
    cluster.up().says(&["1 node changed"]);
    cluster.run(&["status"]).good();
}

/// What others changed on a node is shown by `plan` and put right by `up`.
fn files_that_were_edited(cluster: &Cluster) {
    let before = cluster.pids();
    fs::write(
        cluster.node("consul-2", "consul.d/encrypt.hcl"),
        "encrypt = \"other\"\n",
    )
    .unwrap();
    fs::write(cluster.node("consul-0", "consul.d/key.pem"), "other").unwrap();
    fs::remove_file(cluster.node("nomad-client-0", "consul.d/ca.pem")).unwrap();
    let plan = cluster.run(&["plan"]).ended(3).stdout;
    for wanted in [
        "encrypt.hcl (differs)",
        "key.pem (differs)",
        "ca.pem (missing)",
    ] {
        assert!(plan.contains(wanted), "{plan}");
    }
    cluster.up().says(&["3 nodes changed"]);
    assert_eq!(cluster.pids(), before, "none of that needs a restart");
    let hcl = cluster.node("consul-1", "consul.d/consul.hcl");
    fs::write(
        &hcl,
        fs::read_to_string(&hcl).unwrap() + "log_level = \"DEBUG\"\n",
    )
    .unwrap();
    // There is no telling whether it was started with that.
    cluster.up().says(&["1 node changed", "1 restarted"]);
    let changed = |(name, pid): (&String, &u32)| (before[name] != *pid).then(|| name.clone());
    assert_eq!(
        cluster
            .pids()
            .iter()
            .filter_map(changed)
            .collect::<Vec<_>>(),
        ["consul-1/consul"]
    );
    cluster.up().says(&["nothing to change"]);
    cluster.run(&["status"]).good();
}

/// A year without a rotation: every certificate has ended, the operator's as well. `up` makes new
/// ones of all.
fn expired_certificates(cluster: &Cluster) {
    let nodes = ["consul-0", "consul-1", "consul-2", "nomad-client-0"];
    let expire = |cert: &str| {
        let key = cert.replace(".pem", "-key.pem");
        tls::expire(cluster, &cluster.state(cert), &cluster.state(&key));
    };
    let serve = |node: &str, number: u8| {
        let cert = cluster.state(&format!("certs/{node}/consul.pem"));
        let place = cluster.node(node, "consul.d/cert.pem");
        fs::copy(&cert, &place).unwrap();
        signal(cluster.pids()[&format!("{node}/consul")], "HUP");
        wait_until(format!("the expired certificate of {node}"), || {
            serves(cluster, number, &cert)
        });
    };
    // One node first: the operator can still look.
    expire("certs/nomad-client-0/consul.pem");
    serve("nomad-client-0", 3);
    let status = cluster.run(&["status"]).ended(3).stdout;
    assert!(
        status.contains("nomad-client-0") && status.contains("expired"),
        "{status}"
    );
    let plan = cluster.run(&["plan"]).ended(3).stdout;
    assert!(
        plan.contains("make a certificate for nomad-client-0/consul (expired"),
        "{plan}"
    );
    cluster
        .run(&["rotate-gossip", "--timeout", "4s"])
        .ended(1)
        .says(&[
            "nomad-client-0: ",
            "a certificate has expired",
            "what to do: ",
            "rotate-certs",
        ]);

    for (number, node) in (0..).zip(nodes) {
        if number != 3 {
            expire(&format!("certs/{node}/consul.pem"));
            serve(node, number);
        }
    }
    expire("certs/operator.pem");
    let status = cluster.run(&["status"]).ended(3).stdout;
    assert_eq!(
        status
            .matches("its certificate has expired; run `lb bootstrap")
            .count(),
        4,
        "{status}"
    );
    cluster.up().says(&["4 nodes changed", "expired"]);
    let status = cluster.run(&["status"]).good().stdout;
    // 365 within the second in which they were made.
    let renewed = ["364 days", "365 days"].map(|left| status.matches(left).count());
    assert_eq!(renewed.iter().sum::<usize>(), 4, "{status}");
}

/// Whether the node shows this certificate, good or not.
fn serves(cluster: &Cluster, number: u8, cert: &Path) -> bool {
    let mut client = std::process::Command::new("openssl");
    client.args([
        "s_client",
        "-connect",
        &format!("{}:8501", cluster.address(number)),
    ]);
    let shown = Ran::of(client.stdin(std::process::Stdio::null())).stdout;
    let wanted = tls::leaf(cert);
    shown.contains(wanted.trim())
}
