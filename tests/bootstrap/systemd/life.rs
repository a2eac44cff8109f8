//! A small cluster from nothing, what happens to it, and its end. All on the same machines: to make
//! it takes longer than any of what happens.

use super::site::Site;
use super::{drift, features, trouble};
use crate::support::sshd::is_possible;

/// Three machines with a cluster of one node of each role.
pub struct Life {
    /// The machines.
    pub site: Site,
    /// Whether Nomad is part of it.
    pub with_nomad: bool,
}

impl Life {
    /// Calls the binary about as much of the cluster as there is.
    #[track_caller]
    pub fn lb(&self, arguments: &str) -> crate::support::operator::Ended {
        let only = if self.with_nomad {
            ""
        } else {
            " --only consul"
        };
        self.site.lb(&format!("{arguments}{only}"))
    }

    /// What the description says of nodes and of the CA.
    pub fn nodes(&self) -> String {
        let address = |index| self.site.address(index);
        format!(
            "consul_servers = [\"{}\"]\nnomad_servers = [\"{}\"]\nnomad_clients = [\"{}\"]\n\
             ca = {{ cert_file = \"own-ca.pem\", key_file = \"own-ca-key.pem\" }}",
            address(0),
            address(1),
            address(2)
        )
    }

    /// What stands at the end of each drill.
    #[track_caller]
    pub fn is_well(&self) {
        assert_eq!(self.lb("plan").expect(0).out, "nothing to change\n");
        self.lb("status").expect(0);
    }
}

#[test]
fn a_cluster_lives_under_systemd() {
    let test = "a_cluster_lives_under_systemd";
    let Some(site) = Site::start(test, 62, 3) else {
        return;
    };
    let with_nomad = is_possible(&format!("the Nomad part of {test}"), &["nomad"]);
    let mut life = Life { site, with_nomad };
    starts(&life);
    drift::drills(&life);
    trouble::drills(&mut life);
    features::drills(&life);
    ends(&life);
}

/// By a user who may use sudo without a password.
fn starts(life: &Life) {
    let site = &life.site;
    features::make_ca(life);
    site.describe(&life.nodes(), "user = \"op\"", "");
    life.lb("up").expect(0).tells(&["are up"]);
    let before: Vec<String> = site.machines.iter().map(|one| one.run(TOUCHED)).collect();
    life.lb("up").expect(0).tells(&["nothing to change"]);
    life.is_well();
    let after: Vec<String> = site.machines.iter().map(|one| one.run(TOUCHED)).collect();
    assert_eq!(before, after);
    let agents = "systemctl is-enabled consul; systemctl is-active consul; \
                  stat -c %U /proc/$(systemctl show -p MainPID --value consul)";
    for machine in &site.machines {
        assert_eq!(machine.run(agents), "enabled\nactive\nconsul\n");
    }
    if life.with_nomad {
        let user = "stat -c %U /proc/$(systemctl show -p MainPID --value nomad)";
        assert_eq!(site.machines[1].run(user), "nomad\n");
        assert_eq!(site.machines[2].run(user), "root\n");
    }
}

/// Prints what must stay the same while nothing is changed: files, and processes.
const TOUCHED: &str = "find /etc/consul.d /etc/nomad.d /etc/lb /etc/systemd/system /usr/local/bin \
     -type f -printf '%p %i %T@ %m %u:%g\\n' 2>/dev/null | sort; \
     systemctl show -p MainPID -p NRestarts consul nomad";

/// Prints what a cluster leaves if it leaves anything. Programs and users stay.
const LEFT: &str = "ls -d /etc/consul.d /etc/nomad.d /etc/lb /opt/consul/* /opt/nomad/* /var/lib/lb-bootstrap \
     2>/dev/null; find /etc/systemd /run/systemd/system /run/systemd/system.control \\( -name '*consul*' -o -name '*nomad*' \\) \
     2>/dev/null; pgrep -a 'consul|nomad'; \
     systemctl list-units --all --plain --no-legend '*consul*' '*nomad*'; \
     systemctl show -p LoadState consul nomad | sort -u";

fn ends(life: &Life) {
    // What its operators left there goes, too.
    life.site.machines[2].run(
        "mkdir -p /etc/systemd/system/consul.service.d && \
         printf '[Service]\\nLimitNOFILE=70000\\n' >/etc/systemd/system/consul.service.d/limits.conf && \
         systemctl daemon-reload && systemctl set-property consul CPUWeight=200",
    );
    life.lb("down --purge --yes").expect(0);
    for machine in &life.site.machines {
        let left = machine.run(LEFT);
        assert_eq!(left.trim(), "LoadState=not-found", "{}", machine.address);
    }
    assert!(!life.site.state().join("ca-key.pem").exists());
}
