//! What is in the way of a first start: all of it is told at once, node by node, and nothing is
//! changed. Then the ways in that are not root's own.

use std::fs;

use super::site::Site;
use crate::support::release_server;
use crate::support::sshd::is_possible;
use crate::support::wait::wait_until;

#[test]
fn all_that_is_in_the_way_is_told_at_once_and_nothing_is_changed() {
    let test = "all_that_is_in_the_way_is_told_at_once_and_nothing_is_changed";
    if !is_possible(test, &["perl"]) {
        return;
    }
    let Some(site) = Site::start(test, 43, 9) else {
        return;
    };
    let machine = |index: usize| &site.machines[index];
    machine(0).plug(false);
    machine(1).run("useradd -m -p '*' -s /bin/sh jane");
    machine(2).run("mkdir /opt/consul && touch /opt/consul/raft.db");
    machine(3)
        .run("mkdir /var/lib/lb-bootstrap && echo 0123-another >/var/lib/lb-bootstrap/cluster-id");
    let listen =
        "$s = IO::Socket::INET->new(Listen => 9, LocalAddr => '0.0.0.0:8301') or die; sleep 600";
    let mut listener = machine(4)
        .enter()
        .args(["perl", "-MIO::Socket::INET", "-e", listen])
        .spawn()
        .unwrap();
    let fake = "printf '#!/bin/sh\\nexec /bin/date -d \"+1 hour\" \"$@\"\\n' >/usr/local/bin/date && chmod 755 \
                /usr/local/bin/date";
    machine(5).run(fake);
    machine(7).run("mount --bind /dev/null /usr/sbin/useradd");
    // Its host key is known under another name only.
    let stranger = format!("Host {}\n  HostKeyAlias stranger\n", site.address(8));
    let config = fs::read_to_string(&site.config).unwrap();
    fs::write(&site.config, format!("{stranger}{config}")).unwrap();
    wait_until("the port is taken", || {
        machine(4).run("ss -Hltn").contains(":8301")
    });

    let at = |index: usize| site.address(index);
    let nodes = format!(
        "consul_servers = [\"{}\", {{ address = \"{}\", ssh = \"jane@{}\" }}, \"{}\"]\nnomad_servers = {}\n\
         nomad_clients = [{{ address = \"10.88.43.99\", ssh = \"{}\" }}, \"{}\", \"{}\"]",
        at(0),
        at(1),
        at(1),
        at(2),
        site.list(3..6),
        at(6),
        at(7),
        at(8)
    );
    let root = "sudo = false\nrunner = \"process\"";
    site.describe(&nodes, root, "");
    let ended = site.lb("up --only consul").expect(1).tells(&[
        "nothing was changed, because of this:",
        "consul-0: no connection by ssh",
        "consul-1: ssh jane@10.88.43.12 works, but its user jane may not make users and write to /etc: \
         log in as root, or set sudo = true",
        "consul-2: /opt/consul is there already, and not of this cluster",
        "nomad-server-0: belongs to the cluster 0123-another, whose keys are not in",
        "nomad-server-1: port 8301 of 10.88.43.15 is taken by perl",
        "nomad-server-2: its clock is +360",
        "nomad-client-0: 10.88.43.99 is not an address of that machine: correct it in",
        "nomad-client-1: lacks useradd: install it there",
        "nomad-client-2: no connection by ssh",
        "Host key verification failed",
    ]);
    assert_eq!(
        ended
            .err
            .lines()
            .filter(|line| line.starts_with("  "))
            .count(),
        9,
        "{}",
        ended.err
    );
    for machine in &site.machines {
        let there =
            machine.run("ls -d /etc/consul.d /usr/local/bin/consul /etc/nomad.d 2>/dev/null; id consul 2>&1 || :");
        assert!(
            there.contains("no such user") && !there.contains('/'),
            "{there}"
        );
    }
    assert_eq!(
        machine(3).run("cat /var/lib/lb-bootstrap/cluster-id"),
        "0123-another\n"
    );
    assert_eq!(machine(2).run("ls /opt/consul"), "raft.db\n");
    let _ = listener.kill();
    let _ = listener.wait();

    site.describe(
        &format!(
            "consul_servers = [\"{}\"]\nnomad_servers = 0\nnomad_clients = 0",
            at(6)
        ),
        "user = \"root\"",
        "",
    );
    site.lb("up --only consul").expect(1).tells(&[
        "consul-0: is not run by systemd: set `runner = \"process\"` in [ssh] to do without",
    ]);
    by_sudo(&site);
    from_a_release(&site);
}

/// A user who may use sudo without a password.
fn by_sudo(site: &Site) {
    if !is_possible(
        "the sudo part of all_that_is_in_the_way",
        &["sudo", "visudo"],
    ) {
        return;
    }
    let (machine, address) = (&site.machines[1], site.address(1));
    let nodes = format!("consul_servers = [\"{address}\"]\nnomad_servers = 0\nnomad_clients = 0");
    site.describe(
        &nodes,
        "user = \"jane\"\nsudo = true\nrunner = \"process\"",
        "",
    );
    site.lb("up --only consul")
        .expect(1)
        .tells(&["sudo", "without a password"]);
    machine.run(
        "echo 'jane ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/jane && chmod 440 /etc/sudoers.d/jane",
    );
    site.lb("up --only consul").expect(0).tells(&["1 started"]);
    let owners = "stat -c '%U %a %n' /etc/consul.d/key.pem /usr/local/bin/consul /proc/$(cat \
                  /var/lib/lb-bootstrap/consul.pid)";
    let owners = machine.run(owners);
    let owners: Vec<&str> = owners
        .lines()
        .map(|line| line.split(" /proc").next().unwrap())
        .collect();
    assert_eq!(
        owners,
        [
            "consul 600 /etc/consul.d/key.pem",
            "root 755 /usr/local/bin/consul",
            "consul 555"
        ]
    );
    site.lb("plan --only consul").expect(0);
    site.lb("down --purge --yes --only consul").expect(0);
    assert_eq!(
        machine.run("ls -d /etc/consul.d /opt/consul 2>/dev/null || :"),
        ""
    );
}

/// A release that the node fetches, signed by a key of ours.
fn from_a_release(site: &Site) {
    if !is_possible(
        "the release part of all_that_is_in_the_way",
        &["gpg", "python3", "unzip"],
    ) {
        return;
    }
    let (machine, address) = (&site.machines[5], site.address(5));
    machine.run("rm /usr/local/bin/date");
    let folder = site.dir.path();
    let key = release_server::key(folder, "ours");
    let version = release_server::consul_release(folder, &key);
    let url = release_server::serve(folder.join("www"), "10.88.43.1");
    let nodes = format!("consul_servers = [\"{address}\"]\nnomad_servers = 0\nnomad_clients = 0");
    let more = format!(
        "[consul]\nversion = \"{version}\"\n[releases]\nurl = \"{url}\"\nsigning_key = \"{}\"\nfingerprint = \"{}\"",
        key.public.display(),
        key.fingerprint
    );
    site.describe(&nodes, "user = \"root\"\nrunner = \"process\"", &more);
    site.lb("up --only consul").expect(0).tells(&["1 started"]);
    assert!(
        machine
            .run("/usr/local/bin/consul version")
            .contains(&version)
    );
    site.lb("up --only consul")
        .expect(0)
        .tells(&["nothing to change"]);
    assert_eq!(
        site.lb("plan --only consul").expect(0).out,
        "nothing to change\n"
    );
}
