//! Nodes that are away, for a while or for good: what goes on without them, what does not, and how
//! they come back or leave.

use std::fs;

use crate::killed::kill_when;
use crate::lifecycle::gossip_key;
use crate::support::cluster::Cluster;
use crate::support::wait::wait_until;

const FIVE: &str = "consul_servers = 5\nnomad_servers = 0\nnomad_clients = 2\n";
const THREE: &str = "consul_servers = 3\nnomad_servers = 0\nnomad_clients = 2\n";
/// A client that dies.
const CLIENT: &str = "nomad-client-1";

#[test]
fn nodes_that_are_away_hold_up_what_needs_them_alone() {
    let cluster = Cluster::described(FIVE);
    cluster.up();
    let skipped = cluster.run(&["up", "--detach", "--skip", "consul-0,nobody"]);
    skipped.ended(2).says(&["no node is called \"nobody\""]);
    can_be_started(&cluster, CLIENT, false);
    a_dead_client_is_left_out(&cluster);
    a_server_is_replaced_meanwhile(&cluster);
    can_be_started(&cluster, CLIENT, true);
    // It was away when the gossip key changed.
    cluster.up().says(&["1 node changed"]);
    cluster.run(&["status"]).good();
    cluster.up().says(&["nothing to change"]);

    a_dead_server_holds_up_restarts(&cluster);
    a_restarted_server_counts_once_it_votes(&cluster);
    what_would_cost_the_quorum_is_refused(&cluster);
    a_client_leaves(&cluster);
    five_become_three(&cluster);
}

/// On this machine a node is dead when its agent cannot be started.
fn can_be_started(cluster: &Cluster, node: &str, can: bool) {
    let (data, kept) = (cluster.node(node, "consul"), cluster.node(node, "kept"));
    if can {
        fs::remove_file(&data).unwrap();
        fs::rename(kept, data).unwrap();
        return;
    }
    cluster.kill(&format!("{node}/consul"));
    fs::rename(&data, kept).unwrap();
    fs::write(data, "").unwrap();
    wait_until("the loss of the node", || {
        let members = cluster.ask_consul(&["members"]).stdout;
        let line = members.lines().find(|line| line.starts_with(node));
        line.is_none_or(|line| !line.contains(" alive "))
    });
}

fn a_dead_client_is_left_out(cluster: &Cluster) {
    for words in [&["up", "--detach"][..], &["rotate-certs"], &["upgrade"]] {
        cluster.run(words).ended(3).says(&[
            "1 of 7 nodes was left out",
            &format!("{CLIENT}: cannot be started"),
            "remove-node NAME --dead",
        ]);
    }
    cluster.run(&["status"]).ended(3);
    cluster.run(&["plan"]).ended(3);
    // What it would miss for good needs a word.
    let before = gossip_key(cluster);
    cluster
        .run(&["rotate-gossip"])
        .ended(1)
        .says(&["members are away", CLIENT, "--skip NAME"]);
    assert_eq!(gossip_key(cluster), before);
    cluster
        .run(&["rotate-gossip", "--skip", CLIENT])
        .ended(3)
        .says(&["gossip keys are rotated", "named by --skip"]);
    assert_ne!(gossip_key(cluster), before);
    // It is not removed as if it lived, and the living are not removed as if they were dead.
    cluster
        .run(&["remove-node", CLIENT, "--yes"])
        .ended(1)
        .says(&["nothing was changed", CLIENT, "--dead"]);
    cluster
        .run(&["remove-node", "consul-0", "--dead", "--yes"])
        .ended(1)
        .says(&["nothing was changed", "consul-0 responds"]);
}

/// A run that is killed in the middle is shown, and taken up.
fn a_server_is_replaced_meanwhile(cluster: &Cluster) {
    let id = || fs::read_to_string(cluster.node("consul-1", "consul/node-id")).ok();
    let before = id();
    let ran = kill_when(
        cluster.start(&["replace-node", "consul-1", "--yes"]),
        |_| id().is_none(),
    );
    assert_eq!(ran.code, None, "killed too late: {}", ran.stderr);
    for word in ["status", "plan"] {
        let shown = cluster.run(&[word]).ended(3).stdout;
        assert!(
            shown.contains("`replace-node consul-1` is not over"),
            "{shown}"
        );
    }
    cluster
        .run(&["replace-node", "consul-1", "--yes"])
        .good()
        .says(&["consul-1 is replaced"]);
    assert_ne!(id(), before);
    assert_eq!(voters(cluster), 5);
    assert!(!cluster.state("operations.json").exists());
}

fn a_dead_server_holds_up_restarts(cluster: &Cluster) {
    can_be_started(cluster, "consul-4", false);
    // Nothing needs a restart: the rest is looked after.
    cluster
        .run(&["up", "--detach"])
        .ended(3)
        .says(&["consul-4: cannot be started"]);
    let hcl = cluster.node("consul-2", "consul.d/consul.hcl");
    let right = fs::read_to_string(&hcl).unwrap();
    fs::write(&hcl, format!("{right}log_level = \"DEBUG\"\n")).unwrap();
    let before = cluster.pids();
    cluster.run(&["up", "--detach"]).ended(1).says(&[
        "consul-4: cannot be started",
        "other consul servers would be restarted meanwhile",
        "--skip NAME",
    ]);
    assert_eq!(cluster.pids(), before);
    // Four of five serve, and three are left while one is restarted.
    cluster
        .run(&["up", "--detach", "--skip", "consul-4"])
        .ended(3)
        .says(&["1 restarted"]);
    can_be_started(cluster, "consul-4", true);
    cluster.up();
    assert_eq!(voters(cluster), 5);
}

/// As soon as `up` is over, `status` finds nothing.
fn a_restarted_server_counts_once_it_votes(cluster: &Cluster) {
    cluster.kill("consul-3/consul");
    cluster.up();
    cluster.run(&["status"]).good();
}

fn what_would_cost_the_quorum_is_refused(cluster: &Cluster) {
    let before = cluster.read("cluster.json");
    for agent in ["consul-3/consul", "consul-4/consul"] {
        cluster.kill(agent);
    }
    for words in [
        &["remove-node", "consul-0", "--yes"][..],
        &["replace-node", "consul-0", "--yes"],
    ] {
        cluster
            .run(words)
            .ended(1)
            .says(&["nothing was changed", "consul-3", "consul-4"]);
    }
    assert_eq!(cluster.read("cluster.json"), before);
    cluster.run(&["reboot", "--yes"]).ended(2);
    cluster.up();
    assert_eq!(voters(cluster), 5);
}

fn a_client_leaves(cluster: &Cluster) {
    cluster
        .run(&["remove-node", "nobody", "--yes"])
        .ended(2)
        .says(&["nobody", CLIENT]);
    cluster
        .run(&["remove-node", CLIENT])
        .ended(2)
        .says(&["--yes"]);
    can_be_started(cluster, CLIENT, false);
    cluster
        .run(&["remove-node", CLIENT, "--dead", "--yes"])
        .good()
        .says(&["nomad-client-1 is taken out", "it is still described in"]);
    cluster.describe(&FIVE.replace("clients = 2", "clients = 1"));
    assert_eq!(cluster.run(&["plan"]).good().stdout, "nothing to change\n");
    cluster.run(&["status"]).good();
}

fn five_become_three(cluster: &Cluster) {
    cluster.describe(&THREE.replace("clients = 2", "clients = 1"));
    let plan = cluster.run(&["plan"]).ended(3).stdout;
    assert!(
        plan.contains("remove consul-3, which is no longer described")
            && plan.contains("remove consul-4"),
        "{plan}"
    );
    let before = cluster.pids();
    cluster.run(&["up", "--detach"]).ended(3).says(&[
        "no longer described",
        "consul-3, consul-4",
        "--yes",
    ]);
    assert_eq!(cluster.pids(), before);
    cluster
        .run(&["up", "--detach", "--yes"])
        .good()
        .says(&["consul-3 is removed", "consul-4 is removed"]);
    assert_eq!((voters(cluster), cluster.pids().len()), (3, 4));
    assert!(!cluster.state("certs/consul-4").exists());
    assert_eq!(cluster.run(&["plan"]).good().stdout, "nothing to change\n");
    cluster.run(&["status"]).good();
    // Two decide as well as three, and bear no loss.
    cluster
        .run(&["remove-node", "consul-2", "--yes"])
        .good()
        .says(&["an even number outlives no more failures than 1"]);
    cluster
        .run(&["remove-node", "consul-1", "--yes"])
        .good()
        .says(&["consul-1 is removed"]);
    cluster
        .run(&["remove-node", "consul-0", "--yes"])
        .ended(1)
        .says(&["nothing was changed", "the last consul server"]);
    assert_eq!(voters(cluster), 1);
}

fn voters(cluster: &Cluster) -> usize {
    let peers = cluster.ask_consul(&["operator", "raft", "list-peers"]);
    peers.good().stdout.matches(" true ").count()
}
