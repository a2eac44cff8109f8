//! The machines themselves: the drills are worth nothing on machines that are none.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::site::Site;
use crate::support::operator::wait_for;

#[test]
fn a_machine_boots_reboots_loses_its_network_and_leaves_nothing() {
    let test = "a_machine_boots_reboots_loses_its_network_and_leaves_nothing";
    let Some(mut site) = Site::start(test, 60, 1) else {
        return;
    };
    let machine = &mut site.machines[0];
    assert_eq!(machine.run("cat /proc/1/comm"), "systemd\n");
    assert_eq!(machine.run("hostname"), "lbd60-1\n");
    let boot = machine.run("cat /etc/machine-id; stat -c %Y /proc/1");
    let id = boot.lines().next().unwrap();
    assert_eq!(id.len(), 32, "{id}");
    machine.run("echo kept >/etc/kept; systemctl enable -q systemd-timesyncd 2>/dev/null || :");

    let address = machine.address;
    let is_reached = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok();
    machine.plug(false);
    assert!(!is_reached());
    machine.plug(true);
    wait_for("it is reached again", is_reached);

    machine.reboot();
    let after = machine.run("cat /etc/kept /etc/machine-id; stat -c %Y /proc/1");
    assert!(after.starts_with(&format!("kept\n{id}\n")), "{after}");
    assert_ne!(after.lines().last(), boot.lines().last(), "another boot");

    let ssh = |user: &str, command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", &site.config, "-l", user, &site.address(0), command]);
        ssh.status().unwrap().success()
    };
    assert!(ssh("root", "true"));
    assert!(ssh("op", "sudo -n true"));
    assert!(ssh("pw", "true"));
    assert!(!ssh("pw", "sudo -n true"));

    let namespace = Path::new("/run/netns/lbd60-1");
    assert!(namespace.exists());
    drop(site);
    assert!(!namespace.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts
        .lines()
        .find(|line| line.contains(" cgroup2 "))
        .and_then(|line| line.split(' ').nth(1));
    let cgroup = Path::new(cgroups.unwrap()).join("lb-lbd60-1");
    assert!(!cgroup.exists(), "all its processes are gone");
}
