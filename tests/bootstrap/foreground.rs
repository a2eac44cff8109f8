//! Without `--detach` the cluster lives as long as the command; its data outlive both. On odd
//! numbers of nodes.

use crate::support::cluster::{Cluster, is_gone, signal};
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

#[test]
fn ctrl_c_stops_all_and_data_survive() {
    let cluster = Cluster::described("consul_servers = 3\nnomad_servers = 0\nnomad_clients = 2\n");
    for round in 0..2 {
        let mut up = cluster.start(&["up"]);
        up.wait_for("running in the foreground");
        let pids = cluster.pids();
        assert_eq!(pids.len(), 5, "{pids:?}");
        if round == 0 {
            cluster.ask_consul(&["kv", "put", "kept", "value"]).good();
            // The command in the foreground holds nothing that others need.
            cluster.run(&["rotate-certs"]).good();
        } else {
            assert_eq!(
                cluster.ask_consul(&["kv", "get", "kept"]).good().stdout,
                "value\n"
            );
        }
        cluster.run(&["status"]).good();
        signal(up.pid(), if round == 0 { "INT" } else { "TERM" });
        up.end().good().says(&["stopping all nodes"]);
        assert!(cluster.pids().is_empty(), "{:?}", cluster.pids());
        assert!(pids.values().all(|pid| is_gone(*pid)), "{pids:?}");
        cluster.run(&["status"]).ended(3);
    }

    // While it is still coming up.
    let mut up = cluster.start(&["up"]);
    wait_until("a server", || !cluster.pids().is_empty());
    signal(up.pid(), "INT");
    wait_until("its end", || up.is_over());
    up.end().ended(130).says(&["stopping what was started"]);
    assert!(cluster.pids().is_empty(), "{:?}", cluster.pids());

    cluster.up();
    assert_eq!(
        cluster.ask_consul(&["kv", "get", "kept"]).good().stdout,
        "value\n"
    );
    // One that stays in the background is not taken to the foreground by another `up`.
    cluster.run(&["up"]).good().says(&["nothing to change"]);
    assert_eq!(cluster.pids().len(), 5);
    cluster.run(&["down", "--yes"]).good();
    assert!(cluster.pids().is_empty());
}

#[test]
fn one_node_is_a_cluster_and_its_key_may_have_a_passphrase() {
    let cluster = Cluster::described("consul_servers = 1\nnomad_servers = 0\nnomad_clients = 0\n");
    let passphrase = |name: &str, text: &str| {
        let path = cluster.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (
        passphrase("right", "correct horse\n"),
        passphrase("wrong", "battery staple\n"),
    );
    cluster
        .run(&["up", "--detach", "--passphrase-file", &right])
        .good();
    assert!(
        cluster
            .read("ca-key.pem")
            .starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    );
    assert!(
        cluster
            .ask_consul(&["members"])
            .good()
            .stdout
            .contains("consul-0")
    );
    // A command that signs nothing needs no passphrase.
    cluster.up().says(&["nothing to change"]);
    for ca in [&["rotate-certs"][..], &["rotate-certs", "--ca"]] {
        cluster.run(ca).ended(1).says(&[
            "ca-key.pem is encrypted",
            "--passphrase-file",
            "LB_BOOTSTRAP_PASSPHRASE",
        ]);
        let with_wrong = [ca, &["--passphrase-file", &wrong]].concat();
        cluster
            .run(&with_wrong)
            .ended(1)
            .says(&["wrong passphrase for", "ca-key.pem"]);
    }
    // None of the refused ones has begun anything.
    cluster.up().says(&["nothing to change"]);
    let old = cluster.read("ca.pem");
    cluster
        .run(&["rotate-certs", "--ca", "--passphrase-file", &right])
        .good();
    assert_ne!(cluster.read("ca.pem"), old);
    assert!(
        cluster
            .read("ca-key.pem")
            .starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    );
    cluster.run(&["status"]).good();

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
}
