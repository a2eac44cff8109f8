//! `up` is killed with SIGKILL wherever it stands, again and again; what it left is always taken up
//! by the next one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lifecycle::{NODES, a_second_run_changes_nothing, gossip_key};
use crate::support::cluster::{Cluster, Ran, Running};
use crate::support::wait::PATIENCE;

/// Pause between two looks; an `up` does its fastest steps in some milliseconds.
const STEP: Duration = Duration::from_millis(1);

/// Kills a command as soon as this is seen; how it ended, which may have been before.
pub(crate) fn kill_when(mut running: Running, mut seen: impl FnMut(&Running) -> bool) -> Ran {
    let begun = Instant::now();
    while !seen(&running) && !running.is_over() {
        assert!(
            begun.elapsed() < PATIENCE * 2,
            "still running:\n{}",
            running.said()
        );
        sleep(STEP);
    }
    running.kill()
}

/// CA and gossip key: made once.
fn keys(cluster: &Cluster) -> (String, String) {
    (cluster.read("ca.pem"), gossip_key(cluster))
}

fn is_well(cluster: &Cluster) {
    cluster.run(&["status"]).good();
    let members = cluster.ask_consul(&["members"]).good().stdout;
    assert_eq!(members.matches(" alive ").count(), NODES.len(), "{members}");
}

#[test]
fn up_goes_on_from_wherever_it_was_killed() {
    let cluster = Cluster::consul();
    let mut first_keys = None;
    let mut killed = 0;
    // In the order in which an `up` makes them.
    for place in [
        "ca-key.pem",
        "ca.pem",
        "certs/nomad-server-1/consul-key.pem",
        "gossip.json",
        "cluster.json",
        "nodes/consul-1/run/cluster-id",
        "nodes/consul-1/consul.d/consul.hcl",
        "nodes/consul-0/run/consul.restart",
        "nodes/consul-0/run/consul.pid",
        "nodes/consul-2/consul/raft/raft.db",
        "nodes/nomad-client-1/consul.d/key.pem",
        "nodes/nomad-client-2/run/consul.pid",
        "client.pfx.password",
        "lb.toml",
    ] {
        let ran = kill_when(cluster.start(&["up", "--detach"]), |_| {
            cluster.state(place).exists()
        });
        assert!(
            ran.code.is_none_or(|code| code == 0),
            "before {place}: {}",
            ran.stderr
        );
        killed += usize::from(ran.code.is_none());
        // What was only written for a cluster that never began may be made again; afterwards
        // nothing is.
        if cluster.state("cluster.json").exists() {
            let now = keys(&cluster);
            assert_eq!(
                *first_keys.get_or_insert_with(|| now.clone()),
                now,
                "killed at {place}"
            );
        }
    }
    assert!(killed >= 10, "only {killed} were killed in time");
    cluster.up();
    assert_eq!(Some(keys(&cluster)), first_keys);
    is_well(&cluster);
    a_second_run_changes_nothing(&cluster);
}

#[test]
fn up_goes_on_after_kills_at_random_times() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::described("consul_servers = 3\nnomad_servers = 1\nnomad_clients = 1\n");
    let mut first_keys = None;
    let mut killed = 0;
    for _ in 0..5 {
        let (begun, life) = (Instant::now(), Duration::from_millis(random.u64(50..2500)));
        let ran = kill_when(cluster.start(&["up", "--detach"]), |_| {
            begun.elapsed() > life
        });
        assert!(
            ran.code.is_none_or(|code| code == 0),
            "seed {seed}, {life:?}: {}",
            ran.stderr
        );
        killed += usize::from(ran.code.is_none());
        if cluster.state("cluster.json").exists() {
            let now = keys(&cluster);
            assert_eq!(
                *first_keys.get_or_insert_with(|| now.clone()),
                now,
                "seed {seed}, {life:?}"
            );
        }
        // Sometimes agents die with it.
        for agent in cluster.pids().into_keys().filter(|_| random.u8(..4) == 0) {
            cluster.kill(&agent);
        }
    }
    println!("{killed} killed");
    cluster.up();
    assert_eq!(
        Some(keys(&cluster)),
        first_keys.or_else(|| Some(keys(&cluster)))
    );
    cluster.run(&["status"]).good();
    a_second_run_changes_nothing(&cluster);
}
