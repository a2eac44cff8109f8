//! Nine machines, from nothing to a cluster and back to nothing.

use std::collections::BTreeSet;
use std::fs;

use super::site::{Site, Watch, command_lines};
use crate::support::sshd::is_possible;

/// Paths, modes and owners on each kind of node: `/opt` and `/etc` as cluster.md has them, stricter
/// where it names a reason.
const CONSUL: &str = "\
/etc/consul.d 750 consul:consul
/etc/consul.d/ca.pem 644 consul:consul
/etc/consul.d/cert.pem 644 consul:consul
/etc/consul.d/consul.hcl 640 consul:consul
/etc/consul.d/encrypt.hcl 600 consul:consul
/etc/consul.d/join.hcl 640 consul:consul
/etc/consul.d/key.pem 600 consul:consul
/opt/consul 750 consul:consul
/usr/local/bin/consul 755 root:root
/var/lib/lb-bootstrap 700 root:root
";
const NOMAD_SERVER: &str = "\
/etc/nomad.d 700 nomad:nomad
/etc/nomad.d/ca.pem 644 nomad:nomad
/etc/nomad.d/cert.pem 644 nomad:nomad
/etc/nomad.d/consul-ca.pem 644 nomad:nomad
/etc/nomad.d/consul-cert.pem 644 nomad:nomad
/etc/nomad.d/consul-key.pem 600 nomad:nomad
/etc/nomad.d/encrypt.hcl 600 nomad:nomad
/etc/nomad.d/key.pem 600 nomad:nomad
/etc/nomad.d/join.hcl 600 nomad:nomad
/etc/nomad.d/nomad.hcl 600 nomad:nomad
/opt/nomad 700 nomad:nomad
/usr/local/bin/nomad 755 root:root
";
const NOMAD_CLIENT: &str = "\
/etc/lb 755 root:root
/etc/lb/ca.pem 644 lb:lb
/etc/lb/cert.pem 644 lb:lb
/etc/lb/key.pem 600 lb:lb
/etc/lb/lb.toml 600 lb:lb
/etc/lb/metrics-key.pem 600 lb:lb
/etc/lb/metrics.pem 644 lb:lb
/etc/nomad.d 700 root:root
/etc/nomad.d/ca.pem 644 root:root
/etc/nomad.d/cert.pem 644 root:root
/etc/nomad.d/consul-ca.pem 644 root:root
/etc/nomad.d/consul-cert.pem 644 root:root
/etc/nomad.d/consul-key.pem 600 root:root
/etc/nomad.d/key.pem 600 root:root
/etc/nomad.d/join.hcl 600 root:root
/etc/nomad.d/nomad.hcl 600 root:root
/opt/nomad 700 root:root
/usr/local/bin/lb 755 root:root
/usr/local/bin/nomad 755 root:root
";

/// Prints what the tables above hold.
const LISTED: &str = "find /etc/consul.d /etc/nomad.d /etc/lb /opt/consul /opt/nomad /usr/local/bin/consul \
     /usr/local/bin/nomad /usr/local/bin/lb /var/lib/lb-bootstrap \\( -path '/opt/*/*' -o -path '/var/lib/*/*' \\) \
     -prune -o -printf '%p %m %u:%g\\n' 2>/dev/null | sort";

/// Prints which user runs which daemon.
const RUNNING: &str = "for p in consul nomad; do f=/var/lib/lb-bootstrap/$p.pid; [ ! -e $f ] || \
     echo \"$p $(stat -c %U /proc/$(cat $f)) $(readlink /proc/$(cat $f)/exe)\"; done";

#[test]
fn nine_machines_become_a_cluster_and_are_machines_again() {
    let test = "nine_machines_become_a_cluster_and_are_machines_again";
    let Some(mut site) = Site::start(test, 41, 9) else {
        return;
    };
    let nodes = format!(
        "consul_servers = {}\nnomad_servers = {}\nnomad_clients = {}",
        site.list(0..3),
        site.list(3..6),
        site.list(6..9)
    );
    site.describe(&nodes, "user = \"root\"\nrunner = \"process\"", "");
    let with_nomad = is_possible(&format!("the Nomad part of {test}"), &["nomad"]);
    let only = if with_nomad { "" } else { " --only consul" };

    let watch = Watch::begin(command_lines);
    site.lb(&format!("up{only}"))
        .expect(0)
        .tells(&["3 Consul servers", "are up"]);
    let lines = watch.end();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("-config-dir=/etc/consul.d")),
        "the watch saw the machines"
    );
    for secret in secrets(&site) {
        let line = lines.iter().find(|line| line.contains(&secret));
        assert!(line.is_none(), "a secret in {line:?}");
    }
    furnished(&site, with_nomad);
    each_has_its_own_keys(&site, with_nomad);

    let before: Vec<String> = site
        .machines
        .iter()
        .map(|machine| machine.run(super::site::TOUCHED))
        .collect();
    site.lb(&format!("up{only}"))
        .expect(0)
        .tells(&["nothing to change"]);
    let planned = site.lb(&format!("plan{only}")).expect(0);
    assert_eq!(planned.out, "nothing to change\n");
    for (machine, before) in site.machines.iter().zip(&before) {
        assert_eq!(
            machine.run(super::site::TOUCHED),
            *before,
            "{}",
            machine.address
        );
    }

    // A Nomad server's machine is lost; an empty one stands in its place.
    site.replace(4);
    site.lb(&format!("replace-node nomad-server-1 --yes{only}"))
        .expect(0)
        .tells(&["nomad-server-1 is replaced"]);
    furnished(&site, with_nomad);
    each_has_its_own_keys(&site, with_nomad);
    site.lb(&format!("status{only}")).expect(0);

    site.lb(&format!("down --purge --yes{only}")).expect(0);
    for machine in &site.machines {
        let left = machine.run(LISTED);
        let programs = left
            .lines()
            .filter(|line| line.starts_with("/usr/local/bin/"));
        assert_eq!(left.lines().count(), programs.count(), "{left}");
        assert!(left.contains("/usr/local/bin/consul"), "{left}");
        machine.run("id consul");
        let agents = machine.run("pgrep -a -x 'consul|nomad' || :");
        assert_eq!(agents, "", "{}", machine.address);
    }
    assert!(!site.state().join("ca-key.pem").exists());
}

/// Files, modes, owners, users and the users of the daemons.
fn furnished(site: &Site, with_nomad: bool) {
    for (index, machine) in site.machines.iter().enumerate() {
        let more = match index {
            3..6 if with_nomad => NOMAD_SERVER,
            6.. if with_nomad => NOMAD_CLIENT,
            _ => "",
        };
        let wanted: BTreeSet<&str> = CONSUL.lines().chain(more.lines()).collect();
        let listed = machine.run(LISTED);
        let listed: BTreeSet<&str> = listed.lines().collect();
        let wrong: Vec<_> = wanted.symmetric_difference(&listed).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", machine.address);

        let users = machine.run("getent passwd consul nomad || :");
        let service = users
            .lines()
            .filter(|line| line.contains("nologin"))
            .count();
        assert_eq!(
            (users.lines().count(), service),
            if (3..6).contains(&index) && with_nomad {
                (2, 2)
            } else {
                (1, 1)
            }
        );
        assert!(
            machine.run("id -u consul").trim().parse::<u32>().unwrap() < 1000,
            "a system user"
        );

        let nomad = match index {
            3..6 if with_nomad => "nomad nomad /usr/local/bin/nomad\n",
            6.. if with_nomad => "nomad root /usr/local/bin/nomad\n",
            _ => "",
        };
        let running = machine.run(RUNNING);
        assert_eq!(
            running,
            format!("consul consul /usr/local/bin/consul\n{nomad}"),
            "{}",
            machine.address
        );
    }
}

/// Every key of a node is on it and on no other; the CA's key is on none.
fn each_has_its_own_keys(site: &Site, with_nomad: bool) {
    let keys = "cat /etc/consul.d/key.pem /etc/nomad.d/*key.pem 2>/dev/null | grep -v -e '-----'";
    let authorities = ["ca-key.pem", "consul-ca-key.pem", "nomad-ca-key.pem"].map(|name| {
        let text = fs::read_to_string(site.state().join(name)).unwrap();
        format!("-e '{}'", text.lines().nth(1).unwrap())
    });
    let authorities = authorities.join(" ");
    let mut seen = BTreeSet::new();
    for (index, machine) in site.machines.iter().enumerate() {
        let folders =
            "/etc/consul.d /etc/nomad.d /etc/lb /opt/consul /opt/nomad /var/lib/lb-bootstrap";
        let of_the_ca = machine.run(&format!(
            "grep -rlF {authorities} {folders} 2>/dev/null || :"
        ));
        assert_eq!(of_the_ca, "", "{}: has the key of the CA", machine.address);
        let found = machine.run(keys);
        let bodies: Vec<String> = found.lines().map(str::to_owned).collect();
        assert_eq!(
            bodies.len(),
            if index >= 3 && with_nomad { 9 } else { 3 },
            "{}",
            machine.address
        );
        for body in bodies {
            assert!(
                seen.insert(body),
                "{}: has a key of another node",
                machine.address
            );
        }
    }
    assert!(seen.len() >= 27);
}

/// Lines of every key, and the gossip keys.
fn secrets(site: &Site) -> Vec<String> {
    let gossip: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(site.state().join("gossip.json")).unwrap())
            .unwrap();
    let mut secrets: Vec<String> = ["consul", "nomad"]
        .map(|product| gossip[product]["current"].as_str().unwrap().to_owned())
        .to_vec();
    let mut folders = vec![site.state()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with("key.pem") {
                let text = fs::read_to_string(path).unwrap();
                secrets.extend(
                    text.lines()
                        .filter(|line| !line.starts_with("--") && line.len() > 20)
                        .map(str::to_owned),
                );
            }
        }
    }
    assert!(secrets.len() > 20, "{}", secrets.len());
    secrets
}
