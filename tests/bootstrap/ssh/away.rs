//! A machine that is cut off: the rest is looked after, and it comes back or is taken out.

use super::site::Site;

#[test]
fn a_machine_that_is_cut_off_holds_up_nothing_else() {
    let Some(site) = Site::start("a_machine_that_is_cut_off_holds_up_nothing_else", 45, 5) else {
        return;
    };
    let nodes = format!(
        "consul_servers = {}\nnomad_servers = 0\nnomad_clients = {}",
        site.list(0..3),
        site.list(3..5)
    );
    let ssh = "user = \"root\"\nrunner = \"process\"";
    site.describe(&nodes, ssh, "");
    // Even at the first start.
    site.machines[4].plug(false);
    site.lb("up --only consul").expect(3).tells(&[
        "1 of 5 nodes was left out",
        "nomad-client-1: no connection by ssh",
    ]);
    site.machines[4].plug(true);
    site.lb("up --only consul").expect(0);
    site.machines[4].plug(false);
    for command in ["up", "rotate-certs", "upgrade", "plan", "status"] {
        let ran = site.lb(&format!("{command} --only consul")).expect(3);
        assert!(
            format!("{}{}", ran.out, ran.err).contains("nomad-client-1"),
            "{command}: {}{}",
            ran.out,
            ran.err
        );
    }
    site.lb("replace-node consul-1 --yes --only consul")
        .expect(0)
        .tells(&["consul-1 is replaced"]);
    site.lb("replace-node nomad-client-1 --yes --only consul")
        .expect(1)
        .tells(&[
            "nothing was changed",
            "nomad-client-1: no connection by ssh",
            "--dead",
        ]);
    site.lb("remove-node nomad-client-1 --yes --only consul")
        .expect(1)
        .tells(&["nothing was changed", "--dead"]);
    site.lb("down --yes --only consul")
        .expect(3)
        .tells(&["nomad-client-1: no connection by ssh"]);
    for machine in &site.machines[..4] {
        assert_eq!(machine.run("pgrep -x consul || :"), "");
    }
    site.lb("up --only consul").expect(3);
    site.lb("remove-node nomad-client-1 --dead --yes --only consul")
        .expect(0)
        .tells(&["nomad-client-1 is taken out"]);
    // It responds, so it is wiped as well.
    site.lb("remove-node nomad-client-0 --yes --only consul")
        .expect(0)
        .tells(&["nomad-client-0 is removed"]);
    let left =
        site.machines[3].run("ls -d /etc/consul.d /opt/consul /var/lib/lb-bootstrap 2>&1 || :");
    assert!(
        left.lines().all(|line| line.contains("No such file")),
        "{left}"
    );
    site.lb("status --only consul").expect(0);
    site.lb("down --purge --yes --only consul").expect(0);
}
