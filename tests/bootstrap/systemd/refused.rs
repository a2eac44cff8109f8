//! What is refused before anything is touched: a user without rights, and a daemon of another
//! cluster that runs under the name of ours. Then root's own way in.

use super::site::Site;

/// What a machine has of a cluster, and the process of the unit `consul`.
const LEFT: &str = "ls -d /etc/consul.d /opt/consul /usr/local/bin/consul /var/lib/lb-bootstrap \
     /etc/systemd/system/consul.service 2>/dev/null; id consul 2>/dev/null; \
     systemctl show -p MainPID consul";

#[test]
fn a_machine_is_left_alone_until_nothing_is_in_the_way() {
    let test = "a_machine_is_left_alone_until_nothing_is_in_the_way";
    let Some(site) = Site::start(test, 61, 1) else {
        return;
    };
    let machine = &site.machines[0];
    let describe = |ssh: &str| {
        let nodes = format!(
            "consul_servers = [\"{}\"]\nnomad_servers = 0\nnomad_clients = 0",
            site.address(0)
        );
        site.describe(&nodes, ssh, "");
    };

    let untouched = machine.run(LEFT);
    assert_eq!(untouched, "MainPID=0\n");
    for (rights, ssh, words) in [
        ("pw ALL=(ALL) ALL", "user = \"pw\"", "without a password"),
        (
            "Defaults:op requiretty",
            "user = \"op\"",
            "sudo: sorry, you must have a tty to run sudo",
        ),
        (
            "",
            "user = \"pw\"\nsudo = false",
            "log in as root, or set sudo = true",
        ),
        (
            "pw ALL=(op) NOPASSWD: ALL",
            "user = \"pw\"",
            "without a password",
        ),
    ] {
        machine.run(&format!(
            "echo '{rights}' >/etc/sudoers.d/zz; chmod 440 /etc/sudoers.d/zz"
        ));
        describe(ssh);
        site.lb("up --only consul").expect(1).tells(&[
            "nothing was changed, because of this:",
            "consul-0: ",
            "sudo",
            words,
        ]);
        assert_eq!(machine.run(LEFT), untouched, "{rights} {ssh}");
    }
    machine.run("rm /etc/sudoers.d/zz");

    // An agent of another cluster, which has its configuration elsewhere and none of our ports.
    machine.run(
        "printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' \
         >/usr/lib/systemd/system/consul.service && systemctl daemon-reload && systemctl enable -q --now consul",
    );
    let untouched = machine.run(LEFT);
    assert_ne!(untouched, "MainPID=0\n");
    describe("user = \"root\"");
    let planned = site.lb("plan --only consul").expect(3).out;
    assert!(planned.contains("start   consul\n"), "{planned}");
    site.lb("up --only consul").expect(1).tells(&[
        "nothing was changed, because of this:",
        "consul-0: consul.service (",
        "/lib/systemd/system/consul.service) runs there already, and not of this cluster: stop it first",
        "`systemctl disable --now consul.service`",
    ]);
    assert_eq!(machine.run(LEFT), untouched);

    machine.run("systemctl disable -q --now consul.service");
    site.lb("up --only consul").expect(0).tells(&["1 started"]);
    let runs = "stat -c %U /proc/$(systemctl show -p MainPID --value consul)";
    assert_eq!(machine.run(runs), "consul\n");
    site.lb("status --only consul").expect(0);
    let planned = site.lb("plan --only consul").expect(0).out;
    assert_eq!(planned, "nothing to change\n");
    site.lb("down --purge --yes --only consul").expect(0);
    let left = machine.run(LEFT);
    assert!(left.starts_with("/usr/local/bin/consul\nuid="), "{left}");
    assert!(left.ends_with("MainPID=0\n"), "{left}");
    let file = machine.run("systemctl show -p FragmentPath --value consul");
    assert!(
        file.ends_with("/lib/systemd/system/consul.service\n"),
        "what was there before is not removed: {file}"
    );
}
