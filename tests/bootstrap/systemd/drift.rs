//! What an operator can tell systemd behind our back: `plan` shows it, `up` mends it, and what does
//! not contradict the description stays.

use super::life::Life;

/// Something done by hand, and what `plan` is to say of it.
struct Drift {
    /// Index of the machine.
    machine: usize,
    product: &'static str,
    by_hand: &'static str,
    /// Lines of the plan.
    steps: &'static [&'static str],
    /// Whether the daemon has another process afterwards.
    restarts: bool,
}

/// Each round is of one drift per daemon, so that a plan and a run deal with several of them.
const ROUNDS: [&[Drift]; 2] = [
    &[
        // Not read by systemd yet.
        Drift {
            machine: 0,
            product: "consul",
            by_hand: "mkdir /etc/systemd/system/consul.service.d && \
                 printf '[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nLimitNOFILE=70000\n' \
                 >/etc/systemd/system/consul.service.d/override.conf",
            steps: &[
                "rename  /etc/systemd/system/consul.service.d/override.conf to override.conf.set-aside (sets ExecStart)",
                "restart consul",
            ],
            restarts: true,
        },
        Drift {
            machine: 1,
            product: "consul",
            by_hand: "systemctl disable -q consul",
            steps: &["enable  consul.service (disabled)"],
            restarts: false,
        },
        Drift {
            machine: 1,
            product: "nomad",
            by_hand: "ln -sfn /dev/null /etc/systemd/system/nomad.service && systemctl daemon-reload",
            steps: &[
                "write   /etc/systemd/system/nomad.service (missing)",
                "enable  nomad.service (masked)",
                "restart nomad",
            ],
            restarts: true,
        },
        Drift {
            machine: 2,
            product: "consul",
            by_hand: "systemctl disable -q --now consul",
            steps: &["start   consul"],
            restarts: true,
        },
        Drift {
            machine: 2,
            product: "nomad",
            by_hand: "mkdir -p /run/systemd/system/nomad.service.d && \
                 printf '[Service]\nEnvironment=NOMAD_LOG_LEVEL=DEBUG\n' >/run/systemd/system/nomad.service.d/env.conf && \
                 systemctl daemon-reload",
            steps: &[
                "rename  /run/systemd/system/nomad.service.d/env.conf to env.conf.set-aside (sets Environment)",
                "restart nomad",
            ],
            restarts: true,
        },
    ],
    &[
        Drift {
            machine: 0,
            product: "consul",
            by_hand: "sed -i s/RestartSec=2/RestartSec=60/ /etc/systemd/system/consul.service && systemctl daemon-reload",
            steps: &[
                "write   /etc/systemd/system/consul.service (differs)",
                "restart consul",
            ],
            restarts: true,
        },
        // Started with something that is not there any more.
        Drift {
            machine: 1,
            product: "consul",
            by_hand: "d=/etc/systemd/system/consul.service.d && mkdir $d && \
                 printf '[Service]\nExecStart=\nExecStart=/usr/local/bin/consul agent -config-dir=/etc/consul.d -log-level=debug\n' \
                 >$d/debug.conf && systemctl daemon-reload && systemctl restart consul && rm -r $d && systemctl daemon-reload",
            steps: &["restart consul"],
            restarts: true,
        },
        Drift {
            machine: 1,
            product: "nomad",
            by_hand: "systemctl stop nomad",
            steps: &["start   nomad"],
            restarts: true,
        },
        Drift {
            machine: 2,
            product: "nomad",
            by_hand: "rm /etc/systemd/system/nomad.service && systemctl daemon-reload",
            steps: &[
                "write   /etc/systemd/system/nomad.service (missing)",
                "restart nomad",
            ],
            restarts: true,
        },
        // The same text, but systemd cannot know.
        Drift {
            machine: 2,
            product: "consul",
            by_hand: "touch -d +1minute /etc/systemd/system/consul.service",
            steps: &["reread  consul.service (changed since systemd read it)"],
            restarts: false,
        },
    ],
];

/// Nodes in the order of the machines.
const NODES: [&str; 3] = ["consul-0", "nomad-server-0", "nomad-client-0"];

/// See the module. Ends as it began.
pub fn drills(life: &Life) {
    for round in ROUNDS {
        let of_scope = |drift: &&Drift| life.with_nomad || drift.product == "consul";
        mended(life, &round.iter().filter(of_scope).collect::<Vec<_>>());
    }
    what_adds_is_left_alone(life);
    what_is_of_others_is_told(life);
}

fn mended(life: &Life, drifts: &[&Drift]) {
    let machines = &life.site.machines;
    let pid = |drift: &Drift| {
        let script = format!("systemctl show -p MainPID --value {}", drift.product);
        machines[drift.machine].run(&script)
    };
    for drift in drifts {
        machines[drift.machine].run(drift.by_hand);
    }
    let before: Vec<String> = drifts.iter().map(|drift| pid(drift)).collect();
    let planned = life.lb("plan").expect(3).out;
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut node = "";
    for line in planned.lines() {
        match line.strip_prefix("  ") {
            Some(step) => found.push((node, step)),
            None => node = line,
        }
    }
    let mut wanted: Vec<(&str, &str)> = drifts
        .iter()
        .flat_map(|drift| drift.steps.iter().map(|&step| (NODES[drift.machine], step)))
        .collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{planned}");

    life.lb("up").expect(0);
    for (drift, before) in drifts.iter().zip(before) {
        let product = drift.product;
        assert_eq!(before != pid(drift), drift.restarts, "{}", drift.by_hand);
        let script = format!(
            "systemctl is-enabled {product}; systemctl is-active {product}; \
             systemctl show -p NeedDaemonReload -p Environment {product} | sort; \
             tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value {product})/cmdline | cut -d' ' -f 1,2"
        );
        let state = machines[drift.machine].run(&script);
        let expected = format!(
            "enabled\nactive\nEnvironment=\nNeedDaemonReload=no\n/usr/local/bin/{product} agent\n"
        );
        assert_eq!(state, expected, "{}", drift.by_hand);
    }
    let kept = "cat /etc/systemd/system/consul.service.d/override.conf.set-aside";
    assert!(machines[0].run(kept).contains("sleep"), "nothing is lost");
    life.is_well();
}

/// A drop-in that sets what the unit leaves open.
fn what_adds_is_left_alone(life: &Life) {
    let machine = &life.site.machines[2];
    machine.run(
        "d=/etc/systemd/system/consul.service.d && mkdir -p $d && \
         printf '[Service]\\nLimitNOFILE=70000\\nMemoryMax=2G\\n' >$d/limits.conf && systemctl daemon-reload",
    );
    life.is_well();
    life.lb("up").expect(0).tells(&["nothing to change"]);
    let limits = "systemctl show -p LimitNOFILE --value consul";
    assert_eq!(machine.run(limits), "70000\n");
    machine.run("rm -r /etc/systemd/system/consul.service.d && systemctl daemon-reload");
}

/// A drop-in of all services of a machine: not for us to remove.
fn what_is_of_others_is_told(life: &Life) {
    let machine = &life.site.machines[2];
    let pid = "systemctl show -p MainPID --value consul";
    let before = machine.run(pid);
    machine.run(
        "mkdir -p /etc/systemd/system/service.d && \
         printf '[Service]\\nEnvironment=LANG=C\\n' >/etc/systemd/system/service.d/all.conf && systemctl daemon-reload",
    );
    let planned = life.lb("plan").expect(3).out;
    let step = "by hand /etc/systemd/system/service.d/all.conf (sets Environment)";
    assert!(planned.contains(step), "{planned}");
    life.lb("up").expect(1).tells(&[
        "nomad-client-0: /etc/systemd/system/service.d/all.conf sets Environment",
        "so it is not touched",
    ]);
    assert_eq!(machine.run(pid), before, "nor is the agent restarted");
    machine.run("rm -r /etc/systemd/system/service.d && systemctl daemon-reload");
    life.is_well();
}
