//! What is switched on in a cluster that runs: ACLs, lb as a unit of its own, CNI plugins, names of
//! Consul's domain; and off again. The CA is one that was brought along.

use std::process::Command;

use super::life::Life;
use crate::support::operator::wait_for;

/// See the module. Ends with ACLs on, and lb as a unit.
pub fn drills(life: &Life) {
    let site = &life.site;
    signed_by_our_ca(life);
    let describe = |more: &str| site.describe_all(&life.nodes(), "user = \"op\"", more);
    describe("");
    life.is_well();
    life.lb("acl enable").expect(0).tells(&["ACLs are on"]);
    life.is_well();
    let names = has(life, "systemctl is-active -q systemd-resolved", "[dns]");
    if names {
        describe("[clients]\nraw_exec = false\n[dns]\nconsul = true");
        resolves(life);
    }
    if !life.with_nomad {
        return;
    }
    let dns = if names { "[dns]\nconsul = true" } else { "" };
    if has(
        life,
        "ls /srv/packages/containernetworking-plugins_*.deb",
        "cni",
    ) {
        describe(&format!("[clients]\nraw_exec = false\ncni = true\n{dns}"));
        bridges(life);
        // What the machines cannot get: their repository has no Docker.
        describe(&format!(
            "[clients]\nraw_exec = false\ncni = true\ndocker = true\n{dns}"
        ));
        life.lb("up").expect(1).tells(&[
            "nothing was changed, because of this:",
            "nomad-client-0: apt finds no package for docker (docker.io docker-ce)",
        ]);
        describe(&format!("[clients]\nraw_exec = false\ncni = true\n{dns}"));
    } else {
        describe(&format!("[clients]\nraw_exec = false\n{dns}"));
        life.lb("up").expect(0);
    }
    life.is_well();
    lb_is_a_unit(life);
    if names {
        describe("[clients]\nraw_exec = false\ncni = true");
        is_forgotten(life);
    }
}

/// Makes the CA that the description names.
pub fn make_ca(life: &Life) {
    let (key, cert) = (
        life.site.path("own-ca-key.pem"),
        life.site.path("own-ca.pem"),
    );
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", "/CN=own", "-days", "4000"])
        .args(["-addext", "basicConstraints=critical,CA:TRUE"])
        .args([
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout",
        ])
        .arg(key)
        .arg("-out")
        .arg(cert);
    let out = openssl.output().unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The agents trust what it signed, and its key is not in the state folder.
fn signed_by_our_ca(life: &Life) {
    for product in ["consul", "nomad"] {
        let below = life.site.state().join(format!("{product}-ca.pem"));
        let mut openssl = Command::new("openssl");
        openssl
            .arg("verify")
            .arg("-CAfile")
            .arg(life.site.path("own-ca.pem"));
        let out = openssl.arg(&below).output().unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stdout)
        );
        let there = life.site.machines[2].run(&format!("cat /etc/{product}.d/ca.pem || :"));
        let ours = std::fs::read_to_string(&below).unwrap();
        assert!(there == ours || (product == "nomad" && !life.with_nomad));
    }
    assert!(!life.site.state().join("ca-key.pem").exists());
}

/// Whether the machines have what a drill needs; says so where they do not.
fn has(life: &Life, test: &str, what: &str) -> bool {
    use std::io::Write as _;
    let script = format!("if {test} >/dev/null 2>&1; then echo yes; fi");
    let has = life.site.machines[2].run(&script) == "yes\n";
    if !has {
        // Not by `eprintln`, which is captured where a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the drill of {what}: the mirror lacks what it needs"
        );
    }
    has
}

/// Every node looks up names of the cluster, which runs with ACLs, in its own agent.
fn resolves(life: &Life) {
    let plan = life.lb("plan").expect(3).out;
    let line = "write   /etc/systemd/resolved.conf.d/lb-consul.conf (missing)";
    assert_eq!(plan.matches(line).count(), 3, "{plan}");
    life.lb("up").expect(0);
    life.is_well();
    for machine in &life.site.machines {
        let server = life.site.address(0);
        wait_for("a name of the cluster", || {
            let found = machine.run("getent ahostsv4 consul.service.consul || :");
            found.starts_with(&server)
        });
        let asked = machine.run("resolvectl query consul.service.consul");
        assert!(asked.contains(&server), "{asked}");
    }
    // What was changed behind our back is put right.
    life.site.machines[1].run("echo '[Resolve]' >/etc/systemd/resolved.conf.d/lb-consul.conf");
    let plan = life.lb("plan").expect(3).out;
    assert!(plan.contains("lb-consul.conf (differs)"), "{plan}");
    life.lb("up").expect(0);
    life.is_well();
}

/// It is taken away again.
fn is_forgotten(life: &Life) {
    let plan = life.lb("plan").expect(3).out;
    let line = "remove  /etc/systemd/resolved.conf.d/lb-consul.conf";
    assert_eq!(plan.matches(line).count(), 3, "{plan}");
    life.lb("up").expect(0);
    life.is_well();
    let found = life.site.machines[0].run("getent ahostsv4 consul.service.consul || echo none");
    assert_eq!(found, "none\n");
}

/// The client has the plugins, and Nomad has found them.
fn bridges(life: &Life) {
    let plan = life.lb("plan").expect(3).out;
    for package in ["cni", "iptables"] {
        let line = format!("package {package} (missing, or does not run)");
        assert_eq!(plan.matches(&line).count(), 1, "{plan}");
    }
    life.lb("up").expect(0);
    life.is_well();
    let client = &life.site.machines[2];
    client.run("test -x /usr/lib/cni/bridge && command -v iptables");
    life.site.machines[1].run("! command -v iptables");
    let config = client.run("cat /etc/nomad.d/nomad.hcl");
    let path = "cni_path = \"/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni\"";
    assert!(
        config
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(path),
        "{config}"
    );
}

/// It runs as its own user, and may open low ports and nothing else.
fn lb_is_a_unit(life: &Life) {
    let client = &life.site.machines[2];
    let seen = client.run(
        "systemctl is-enabled lb; systemctl is-active lb; pid=$(systemctl show -p MainPID --value lb); \
         stat -c %U /proc/$pid; sed -n 's/^CapEff:[[:space:]]*//p; s/^NoNewPrivs:[[:space:]]*/no new /p' /proc/$pid/status",
    );
    assert_eq!(seen, "enabled\nactive\nlb\n0000000000000400\nno new 1\n");
    let health = "curl -sf http://127.0.0.1:9998/health || wget -qO- http://127.0.0.1:9998/health || \
                  bash -c 'exec 3<>/dev/tcp/127.0.0.1/9998; echo reached'";
    assert!(!client.run(health).is_empty());
}
