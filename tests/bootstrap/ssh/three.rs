//! Three Consul servers: killed runs, changes by hand, an upgrade, a machine that is cut off, one
//! that moves.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::site::{Site, TOUCHED, Watch};
use crate::support::operator::CALL;
use crate::support::wait::wait_until;

const RUNNER: &str = "user = \"root\"\nrunner = \"process\"";

#[test]
fn three_servers_outlive_what_happens_to_them() {
    let Some(site) = Site::start("three_servers_outlive_what_happens_to_them", 42, 3) else {
        return;
    };
    describe(&site, &[0, 1, 2], "");
    killed_at_several_points(&site);
    changed_by_hand(&site);
    upgraded(&site);
    cut_off(&site);
    site.lb("down --purge --yes").expect(0);
}

/// A server is lost, and a machine with another address takes its place.
#[test]
fn a_server_moves_to_another_address() {
    let Some(mut site) = Site::start("a_server_moves_to_another_address", 44, 3) else {
        return;
    };
    describe(&site, &[0, 1, 2], "");
    site.lb("up").expect(0);
    site.replace(3);
    site.machines[2].plug(false);
    describe(&site, &[0, 1, 3], "");
    site.lb("up").expect(2).tells(&[
        "consul-2 was 10.88.44.13 and is now 10.88.44.14: run `lb bootstrap replace-node",
    ]);
    site.lb("replace-node consul-2 --yes")
        .expect(0)
        .tells(&["its name is free", "consul-2 is replaced"]);
    assert_eq!(voters(&site), 3);
    let peers: BTreeSet<String> =
        serde_json::from_str(&site.ask(0, 8501, "/v1/status/peers")).unwrap();
    let wanted = [0, 1, 3].map(|index| format!("{}:8300", site.address(index)));
    assert_eq!(peers, wanted.into());
    site.lb("status").expect(0);
    assert_eq!(site.lb("plan").expect(0).out, "nothing to change\n");
}

fn describe(site: &Site, machines: &[usize], more: &str) {
    let addresses: Vec<String> = machines
        .iter()
        .map(|&index| format!("\"{}\"", site.address(index)))
        .collect();
    let nodes = format!(
        "consul_servers = [{}]\nnomad_servers = 0\nnomad_clients = 0",
        addresses.join(", ")
    );
    site.describe(&nodes, RUNNER, more);
}

/// `kill -9` at each of these, and the next run goes on: with the same CA and the same keys at the
/// end.
fn killed_at_several_points(site: &Site) {
    let has = |index: usize, path: &str| {
        site.machines[index]
            .run(&format!("ls {path} 2>/dev/null || :"))
            .contains('/')
    };
    type Point<'a> = (&'a str, Box<dyn Fn() -> bool + 'a>);
    let points: [Point<'_>; 5] = [
        (
            "the CA was made",
            Box::new(|| site.state().join("ca.pem").exists()),
        ),
        (
            "the cluster is noted",
            Box::new(|| site.state().join("cluster.json").exists()),
        ),
        (
            "a program arrives",
            Box::new(|| has(1, "/usr/local/bin/.consul.lb-new")),
        ),
        (
            "a key was written",
            Box::new(|| has(2, "/etc/consul.d/key.pem")),
        ),
        (
            "a server was started",
            Box::new(|| has(0, "/var/lib/lb-bootstrap/consul.pid")),
        ),
    ];
    let keys = || ["ca.pem", "gossip.json"].map(|name| fs::read(site.state().join(name)).ok());
    let (mut first, mut killed) = (None, 0);
    for (what, is_reached) in points {
        let mut lb = site.spawn("up");
        let begun = Instant::now();
        // Some of these pass fast: no pause that grows.
        while !is_reached() && lb.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < CALL, "not so: {what}");
            sleep(Duration::from_millis(10));
        }
        let _ = lb.kill();
        killed += usize::from(lb.wait().unwrap().signal() == Some(9));
        first = first.or_else(|| keys().iter().all(Option::is_some).then(keys));
    }
    // The later points may be over before they are seen.
    assert!(killed >= 2, "{killed} runs were killed under way");
    site.lb("up").expect(0).tells(&["3 Consul servers"]);
    assert_eq!(Some(keys()), first, "made once");
    site.lb("up").expect(0).tells(&["nothing to change"]);
    for machine in &site.machines {
        let left = machine
            .run("find /etc/consul.d /usr/local/bin /var/lib/lb-bootstrap -name '*.lb-new*'");
        assert_eq!(left, "", "nothing half-made is left");
    }
    assert_eq!(voters(site), 3);
}

fn changed_by_hand(site: &Site) {
    let touched = || {
        site.machines
            .iter()
            .map(|machine| machine.run(TOUCHED))
            .collect::<Vec<_>>()
    };
    let before = touched();
    site.machines[1].run("echo '# by hand' >>/etc/consul.d/consul.hcl");
    let plan = site.lb("plan").expect(3).out;
    assert_eq!(
        plan,
        "consul-1\n  write   /etc/consul.d/consul.hcl (differs)\n  restart consul\n2 changes on 1 node\n"
    );
    site.lb("up").expect(0).tells(&["3 up, 1 restarted"]);
    let after = touched();
    assert_eq!(
        (&before[0], &before[2]),
        (&after[0], &after[2]),
        "the others were left alone"
    );
    assert_ne!(before[1], after[1]);
    let kept = |text: &str| {
        text.lines()
            .filter(|line| line.contains(".pem "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kept(&before[1]),
        kept(&after[1]),
        "of that one, too, what was right"
    );
    assert!(
        !site.machines[1]
            .run("cat /etc/consul.d/consul.hcl")
            .contains("by hand")
    );

    site.machines[2].run("chmod 644 /etc/consul.d/key.pem");
    let plan = site.lb("plan").expect(3).out;
    assert_eq!(
        plan,
        "consul-2\n  write   /etc/consul.d/key.pem (other mode)\n1 change on 1 node\n"
    );
    let running = || {
        site.machines
            .iter()
            .map(|machine| machine.run("cat /var/lib/lb-bootstrap/*.pid"))
            .collect::<String>()
    };
    let before = running();
    site.lb("up").expect(0);
    assert_eq!(before, running(), "nothing was restarted for a mode");
    assert_eq!(
        site.machines[2].run("stat -c '%a %U' /etc/consul.d/key.pem"),
        "600 consul\n"
    );
}

/// Another program: in place of the one that runs, one server after the other, the leader last.
fn upgraded(site: &Site) {
    let consul = String::from_utf8(
        std::process::Command::new("which")
            .arg("consul")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let newer = site.dir.path().join("newer");
    fs::copy(consul.trim(), &newer).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&newer)
        .unwrap()
        .write_all(b"newer")
        .unwrap();
    describe(
        site,
        &[0, 1, 2],
        &format!("[consul]\nbinary = \"{}\"", newer.display()),
    );
    let leader = leader(site).expect("one leads");
    let addresses: Vec<SocketAddr> = (0..3)
        .map(|index| format!("{}:8300", site.address(index)).parse().unwrap())
        .collect();
    // What responds on the servers' own port, looked at from outside.
    let watch = Watch::begin(move || {
        let is_up = |address: &&SocketAddr| {
            TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok()
        };
        vec![addresses.iter().filter(is_up).count()]
    });
    let before: Vec<String> = site
        .machines
        .iter()
        .map(|machine| machine.run("cat /var/lib/lb-bootstrap/*.pid"))
        .collect();
    site.lb("upgrade").expect(0);
    let up = watch.end();
    assert!(
        up.iter().all(|&count| count >= 2),
        "two of three kept serving: {up:?}"
    );
    let started = |index: usize| {
        let stamp = site.machines[index].run("stat -c %.9Y /var/lib/lb-bootstrap/consul.pid");
        stamp.trim().parse::<f64>().unwrap()
    };
    for (index, machine) in site.machines.iter().enumerate() {
        assert_ne!(
            machine.run("cat /var/lib/lb-bootstrap/*.pid"),
            before[index]
        );
        assert!(
            index == leader || started(index) < started(leader),
            "consul-{leader} led and was to be the last"
        );
        assert_eq!(
            machine.run("tail -c 5 /proc/$(cat /var/lib/lb-bootstrap/consul.pid)/exe"),
            "newer"
        );
    }
    assert_eq!(voters(site), 3);
    assert_eq!(site.lb("plan").expect(0).out, "nothing to change\n");
}

/// A machine is cut off while the cluster comes up.
fn cut_off(site: &Site) {
    site.lb("down --yes").expect(0);
    for machine in &site.machines {
        assert_eq!(machine.run("pgrep -x consul || :"), "");
    }
    let mut lb = site.spawn("up --timeout 5s");
    wait_until("preflight is over", || {
        site.said().contains("can be worked on")
    });
    site.machines[2].plug(false);
    let code = lb.wait().unwrap().code();
    assert_eq!(code, Some(1), "{}", site.said());
    assert!(site.said().contains("consul-2"), "{}", site.said());
    site.lb("up")
        .expect(1)
        .tells(&["nothing was changed", "consul-2: no connection by ssh"]);
    site.machines[2].plug(true);
    site.lb("up").expect(0).tells(&["3 Consul servers"]);
    assert_eq!(voters(site), 3);
}

/// Number of the machine whose server leads.
fn leader(site: &Site) -> Option<usize> {
    let leader: String = serde_json::from_str(&site.ask(0, 8501, "/v1/status/leader")).ok()?;
    (0..3).find(|&index| leader == format!("{}:8300", site.address(index)))
}

/// How many servers vote.
fn voters(site: &Site) -> usize {
    let raft = site.ask(0, 8501, "/v1/operator/raft/configuration");
    let raft: serde_json::Value =
        serde_json::from_str(&raft).unwrap_or_else(|_| panic!("{raft:?}"));
    raft["Servers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|server| server["Voter"] == true)
        .count()
}
