//! A cluster without ACLs, through everything that may happen to it, with traffic all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::cluster::{Done, NODES, Nine};
use super::jobs::{
    ask, load, node_id, outside, promote, running, submit, task_processes, wait_deployed,
    wait_running, wait_served,
};
use super::scrape::gives_metrics;
use crate::support::lb::Lb;
use crate::support::nomad;

#[test]
fn nine_nodes_serve_through_all_that_may_happen_to_them() {
    let Some(binary) = nomad::find("nine_nodes_serve_through_all_that_may_happen_to_them") else {
        return;
    };
    let nine = Nine::new(binary, false);
    comes_up(&nine);
    let outside = outside(&nine);
    submit(&nine, "v0", 0);
    wait_deployed(&nine, 0);
    wait_served(&nine, &outside, "/drill");

    // Nomad's agents take no certificate here that could not also run jobs.
    let metrics = [
        ("consul", "consul_runtime_alloc_bytes"),
        ("lb", "lb_build_info"),
    ];
    gives_metrics(&nine, &metrics);
    updates(&nine, &outside);
    drains(&nine, &outside);
    batch(&nine);
    agents_and_a_machine_die(&nine, &outside);
    keys_change(&nine, &outside);
    programs_change(&nine, &outside);
    drop(outside);
    goes_down(&nine);
}

/// From nothing to all that its users would look for; the second run changes nothing.
fn comes_up(nine: &Nine) {
    let told = nine.good(&["up", "--detach", "--with-sample"]);
    let url = format!("http://{}/hello", nine.lb_at("nomad-client-0"));
    assert!(told.contains(&url), "{told}");
    looks_well(nine);
    // The clients' lbs have heard of the service at their own times.
    for client in &NODES[6..] {
        nine.wait("the sample", || {
            ask(nine.lb_at(client), "/hello")
                .1
                .starts_with("hello v1 on nomad-client-")
                .then_some(())
        });
    }
    let before = nine.daemons();
    assert_eq!(before.len(), 15, "{before:?}");
    let told = nine.good(&["up", "--detach", "--with-sample"]);
    assert!(told.contains("nothing to change"), "{told}");
    assert_eq!(nine.daemons(), before);
    let plan = nine.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{}{}", plan.stdout, plan.stderr);
}

/// By the real command lines, with what `env` exports.
pub(super) fn looks_well(nine: &Nine) {
    let rows = |text: &str| {
        text.lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect::<Vec<Vec<String>>>()
    };
    let servers = rows(&nine.nomad(&["server", "members"]));
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert!(servers.iter().all(|row| row[3] == "alive"), "{servers:?}");
    assert_eq!(
        servers.iter().filter(|row| row[4] == "true").count(),
        1,
        "{servers:?}"
    );
    let nodes = rows(&nine.nomad(&["node", "status"]));
    let ready = nodes
        .iter()
        .filter(|row| row.ends_with(&["eligible".to_owned(), "ready".to_owned()]))
        .count();
    assert_eq!(ready, 3, "{nodes:?}");
    // Gossip takes its time to bring every member's word to every other.
    nine.wait("nine members alive", || {
        let members = rows(&nine.consul(&["members"]));
        (members.iter().filter(|row| row[2] == "alive").count() == 9).then_some(())
    });
    let services = nine.consul(&["catalog", "services"]);
    for service in ["consul", "nomad", "nomad-client", "hello", "lb"] {
        assert!(
            services.lines().any(|line| line == service),
            "{service}: {services}"
        );
    }
    let status = nine.run(&["status"]);
    assert_eq!(status.code, Some(0), "{}{}", status.stdout, status.stderr);
    let variables = nine.exports();
    let file = std::fs::read_to_string(nine.state().join("env")).unwrap();
    assert!(
        variables
            .iter()
            .all(|(name, value)| file.contains(name) && file.contains(value)),
        "{file}"
    );
}

fn updates(nine: &Nine, outside: &Lb) {
    for (number, canaries, what) in [(1, 0, "rolling update"), (2, 1, "canary and promotion")] {
        let loads = load(nine, outside, "/drill", what);
        submit(nine, &format!("v{number}"), canaries);
        if canaries > 0 {
            promote(nine, number);
        }
        wait_deployed(nine, number);
        let outcome = loads.none_failed();
        let of = |version| {
            outcome
                .instances
                .keys()
                .filter(|name| name.starts_with(&format!("v{version}-")))
                .count()
        };
        assert_eq!(
            (of(number - 1), of(number)),
            (3, 3),
            "{:?}",
            outcome.instances
        );
    }
}

fn drains(nine: &Nine, outside: &Lb) {
    let loads = load(nine, outside, "/drill", "drain of a node");
    let id = node_id(nine, "nomad-client-2");
    nine.nomad(&["node", "drain", "-enable", "-yes", "-deadline", "1m", &id]);
    let left = wait_running(nine, "drill", 3);
    assert!(
        left.values().all(|node| node != "nomad-client-2"),
        "{left:?}"
    );
    nine.nomad(&["node", "drain", "-disable", "-yes", &id]);
    wait_running(nine, "lb", 3);
    loads.none_failed();
}

/// The shipped batch job sends the sample a hundred requests through the lb of its node.
fn batch(nine: &Nine) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nomad/batch.nomad.hcl");
    nine.nomad(&["job", "run", "-detach", &file.display().to_string()]);
    nine.wait("the end of the batch job", || {
        let allocations = nine.nomad_api("/v1/job/ask/allocations")?;
        let status = allocations.as_array()?.first()?["ClientStatus"].clone();
        assert_ne!(status, "failed", "{allocations}");
        (status == "complete").then_some(())
    });
}

/// Two agents are killed, and all of a third node with its instance and its lb: no request is lost,
/// nor a task of the others, and `up` starts just what is missing.
fn agents_and_a_machine_die(nine: &Nine, outside: &Lb) {
    let lost = "nomad-client-2";
    if !running(nine, "drill")
        .expect("Nomad responds")
        .values()
        .any(|node| node == lost)
    {
        // After the drain all are elsewhere; a new version is spread again.
        submit(nine, "v3", 0);
        wait_deployed(nine, 3);
        wait_running(nine, "drill", 3);
    }
    let nodes = running(nine, "drill").expect("Nomad responds");
    let (before, mut tasks) = (nine.daemons(), task_processes(nine, "drill"));
    tasks.retain(|(_, allocation)| nodes[allocation] != lost);
    let of_living = tasks
        .iter()
        .filter(|(_, allocation)| nodes[allocation] == "nomad-client-0");
    let of_living: BTreeSet<(u32, String)> = of_living.cloned().collect();
    let loads = load(
        nine,
        outside,
        "/drill",
        "death of a whole node, and of agents elsewhere",
    );
    nine.kill_node(lost);
    nine.kill("nomad-client-1", "nomad");
    nine.kill("consul-1", "consul");
    let still = nine.processes();
    assert!(
        tasks.iter().all(|(pid, _)| still.contains_key(pid)),
        "{tasks:?} {still:?}"
    );
    let plan = nine.run(&["plan"]);
    assert_eq!(plan.code, Some(3), "{}{}", plan.stdout, plan.stderr);
    nine.good(&["up", "--detach"]);
    let after = nine.daemons();
    let dead = [
        "consul-1/consul",
        "nomad-client-1/nomad",
        "nomad-client-2/consul",
        "nomad-client-2/nomad",
    ];
    assert_eq!(changed(&before, &after), dead);
    // Where the agent came back late, Nomad may have put another in the place of what it took for
    // lost.
    assert!(
        task_processes(nine, "drill").is_superset(&of_living),
        "{of_living:?}"
    );
    wait_running(nine, "drill", 3);
    wait_running(nine, "lb", 3);
    loads.none_failed();
    looks_well(nine);
}

/// Certificates, the CA and both gossip keys are changed; no task is touched.
fn keys_change(nine: &Nine, outside: &Lb) {
    let tasks = task_processes(nine, "drill");
    let read = |name: &str| std::fs::read_to_string(nine.state().join(name)).unwrap();
    for words in [&["rotate-certs", "--ca"][..], &["rotate-gossip"]] {
        let kept = ["ca.pem", "certs/operator.pem", "gossip.json"].map(read);
        let loads = load(nine, outside, "/drill", &words.join(" "));
        nine.good(words);
        looks_well(nine);
        loads.none_failed();
        let certs = words[0] == "rotate-certs";
        let now = ["ca.pem", "certs/operator.pem", "gossip.json"].map(read);
        assert_eq!(
            [0, 1, 2].map(|one| kept[one] != now[one]),
            [certs, certs, !certs],
            "{words:?}"
        );
        assert_eq!(task_processes(nine, "drill"), tasks, "{words:?}");
    }
    let plan = nine.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{}{}", plan.stdout, plan.stderr);
}

/// Other programs for all, one node after the other.
fn programs_change(nine: &Nine, outside: &Lb) {
    let copies = ["consul", "nomad"].map(|name| {
        let copy = nine.path(name);
        std::fs::copy(nine.program(name), &copy).unwrap();
        copy.display().to_string()
    });
    let words = [
        "upgrade",
        "--consul-bin",
        &copies[0],
        "--nomad-bin",
        &copies[1],
    ];
    let tasks = task_processes(nine, "drill");
    let before = nine.daemons();
    let loads = load(nine, outside, "/drill", "upgrade");
    let watch = nine.watch_daemons();
    nine.good(&words);
    assert_eq!(watch.fewest(), 14, "one at a time");
    loads.none_failed();
    let after = nine.daemons();
    assert_eq!(changed(&before, &after).len(), 15, "{before:?} {after:?}");
    for (daemon, pid) in &after {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert!(
            copies.iter().any(|copy| program == Path::new(copy)),
            "{daemon} runs {}",
            program.display()
        );
    }
    assert_eq!(task_processes(nine, "drill"), tasks);
    looks_well(nine);
    let told = nine.good(&words);
    assert!(told.contains("nothing to change"), "{told}");
    // Where the programs are is remembered.
    let told = Done::from(nine.command_alone(&["up", "--detach"]).output().unwrap()).good("up");
    assert!(told.contains("nothing to change"), "{told}");
    assert_eq!(nine.daemons(), after);
}

/// Stopped, started again with its jobs, and removed.
fn goes_down(nine: &Nine) {
    nine.good(&["down", "--yes"]);
    assert_eq!(
        (nine.processes(), nine.mounts()),
        (BTreeMap::new(), Vec::new())
    );
    nine.good(&["up", "--detach"]);
    wait_running(nine, "drill", 3);
    wait_running(nine, "hello", 3);
    wait_running(nine, "lb", 3);
    looks_well(nine);
    for path in ["/drill", "/hello"] {
        nine.wait("the services", || {
            (ask(nine.lb_at("nomad-client-1"), path).0 == 200).then_some(())
        });
    }
    nine.good(&["down", "--purge", "--yes"]);
    assert_eq!(
        (nine.processes(), nine.mounts()),
        (BTreeMap::new(), Vec::new())
    );
    assert!(
        !nine.state().exists(),
        "{:?}",
        std::fs::read_dir(nine.state()).unwrap().collect::<Vec<_>>()
    );
}

/// Daemons with another process than before.
fn changed<'a>(before: &BTreeMap<String, u32>, after: &'a BTreeMap<String, u32>) -> Vec<&'a str> {
    after
        .iter()
        .filter(|(name, pid)| before.get(*name) != Some(*pid))
        .map(|(name, _)| name.as_str())
        .collect()
}
