//! What a machine bears without an operator: a daemon that is killed, a reboot. What it does not
//! bear, a daemon that ends at every start, `status` names.

use super::life::Life;
use crate::support::operator::wait_for;

/// See the module. Ends as it began.
pub fn drills(life: &mut Life) {
    killed(life);
    rebooted(life, 0);
    rebooted(life, 2);
    crash_loop(life);
    crash_loop_of_ours(life);
}

/// systemd starts it again.
fn killed(life: &Life) {
    let product = if life.with_nomad { "nomad" } else { "consul" };
    let machine = &life.site.machines[1];
    let pid = format!("systemctl show -p MainPID --value {product}");
    let before = machine.run(&pid);
    machine.run(&format!("kill -KILL {}", before.trim()));
    wait_for("another process", || {
        let now = machine.run(&pid);
        now != before && now != "0\n"
    });
    wait_for_status(life);
    life.is_well();
}

fn rebooted(life: &mut Life, index: usize) {
    life.site.machines[index].reboot();
    wait_for_status(life);
    life.is_well();
}

/// A file of an operator's that no agent can read.
fn crash_loop(life: &Life) {
    let (node, machine) = ("nomad-client-0", &life.site.machines[2]);
    let product = if life.with_nomad { "nomad" } else { "consul" };
    let file = format!("/etc/{product}.d/zz.hcl");
    machine.run(&format!(
        "echo 'nonsense {{' >{file}; systemctl restart {product} || :"
    ));
    wait_for("it is started again and again", || is_restarted(life, 2));
    let status = life.lb("status").expect(3).out;
    let told = format!("{node}: {product}: does not respond");
    assert!(status.contains(&told), "{status}");
    // Whether it is seen while it runs for a moment, or between two starts.
    let planned = life.lb("plan").expect(3).out;
    assert_eq!(
        planned,
        format!("{node}\n  start   {product}\n1 change on 1 node\n")
    );
    life.lb("up").expect(1).tells(&[
        node,
        &format!("{product}.service did not stay up"),
        "zz.hcl",
    ]);
    machine.run(&format!("rm {file}"));
    wait_for_status(life);
    life.is_well();
}

/// A file of ours that an operator has broken: `up` mends it, although systemd is about to start
/// the daemon itself.
fn crash_loop_of_ours(life: &Life) {
    let machine = &life.site.machines[2];
    let product = if life.with_nomad { "nomad" } else { "consul" };
    machine.run(&format!(
        "echo 'nonsense {{' >>/etc/{product}.d/{product}.hcl; systemctl restart {product} || :"
    ));
    wait_for("it is started again", || is_restarted(life, 1));
    life.lb("up").expect(0).tells(&["1 started"]);
    life.is_well();
}

fn is_restarted(life: &Life, times: u32) -> bool {
    let product = if life.with_nomad { "nomad" } else { "consul" };
    let restarts = format!("systemctl show -p NRestarts --value {product}");
    let restarts = life.site.machines[2].run(&restarts);
    restarts.trim().parse::<u32>().unwrap() >= times
}

/// Waits until all is well, with nothing done for it.
fn wait_for_status(life: &Life) {
    wait_for("`status` is well", || life.lb("status").code == Some(0));
}
