//! Nodes of a whole cluster that are away: drained, dead, or leaving for good.

use std::fs;

use super::cluster::Nine;
use super::jobs::node_id;
use crate::support::nomad;

#[test]
fn what_is_away_is_left_out_and_not_waited_for() {
    let Some(binary) = nomad::find("what_is_away_is_left_out_and_not_waited_for") else {
        return;
    };
    let nine = Nine::new(binary, false);
    nine.good(&["up", "--detach"]);
    a_client_in_maintenance(&nine);
    a_server_comes_back(&nine);
    a_client_dies(&nine);
    nine.good(&["down", "--purge", "--yes"]);
}

/// It is looked after like all others; whether it takes allocations does not matter.
fn a_client_in_maintenance(nine: &Nine) {
    let id = node_id(nine, "nomad-client-0");
    nine.nomad(&["node", "eligibility", "-disable", &id]);
    let before = nine.pid("nomad-client-0", "nomad");
    for words in [&["up", "--detach"][..], &["rotate-certs"]] {
        let told = nine.good(words);
        assert!(
            told.contains("nomad-client-0: takes no allocations (ineligible)"),
            "{told}"
        );
    }
    assert_ne!(
        nine.pid("nomad-client-0", "nomad"),
        before,
        "restarted like all"
    );
    let status = nine.run(&["status"]);
    assert_eq!(status.code, Some(3), "{}", status.stdout);
    nine.nomad(&["node", "eligibility", "-enable", &id]);
    nine.good(&["status"]);
}

/// What it remembers right after its start is nothing, and not taken for a fact.
fn a_server_comes_back(nine: &Nine) {
    for server in ["nomad-server-0", "consul-0"] {
        let product = server.split('-').next().unwrap();
        nine.kill(server, product);
        nine.good(&["up", "--detach"]);
        nine.good(&["status"]);
    }
}

fn a_client_dies(nine: &Nine) {
    const DEAD: &str = "nomad-client-2";
    nine.kill_node(DEAD);
    let data = nine.state().join("nodes").join(DEAD).join("nomad");
    for place in nine
        .mounts()
        .iter()
        .rev()
        .filter(|place| place.contains(DEAD))
    {
        let _ = std::process::Command::new("umount")
            .args(["-l", place])
            .status();
    }
    fs::rename(&data, nine.path("kept")).unwrap();
    fs::write(&data, "").unwrap();
    for words in [&["up", "--detach"][..], &["rotate-certs"], &["upgrade"]] {
        let ran = nine.run(words);
        assert!(
            ran.code == Some(3) && ran.stderr.contains("nomad-client-2: cannot be started"),
            "{words:?}: {:?} {}",
            ran.code,
            ran.stderr
        );
    }
    // Another machine in the place of a server needs the servers, and no client.
    let told = nine.good(&["replace-node", "nomad-server-1", "--yes"]);
    assert!(told.contains("nomad-server-1 is replaced"), "{told}");
    let told = nine.good(&["remove-node", DEAD, "--dead", "--yes"]);
    assert!(told.contains("it is still described"), "{told}");
    // A living one is drained first.
    let told = nine.good(&["remove-node", "nomad-client-1", "--yes"]);
    assert!(told.contains("nomad-client-1 is drained"), "{told}");
    assert!(nine.pid("nomad-client-1", "nomad").is_none());
    let listed = nine.nomad(&["node", "status"]);
    assert!(
        listed.contains("nomad-client-0") && !listed.contains("nomad-client-1"),
        "{listed}"
    );
    nine.good(&["status"]);
}
