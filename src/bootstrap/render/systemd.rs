//! systemd units for the agents: as few rights as each of them can do with.
//!
//! `Type=exec`, not `notify`: an agent tells systemd that it is ready only once it has joined, and
//! a first server cannot join before the others are started. That it is really up is the gates'
//! matter. Source: systemd.exec(5), systemd.service(5).

use std::fmt::Write as _;

use super::hcl::HEAD;
use crate::bootstrap::nodes::spec::DaemonSpec;
use crate::bootstrap::topology::{Layout, Product};

/// `lb.service`, as it is shipped: its paths are those of a node.
pub(super) fn lb_unit() -> String {
    format!(
        "{HEAD}{}",
        include_str!("../../../deploy/systemd/lb.service")
    )
}

/// `consul.service` or `nomad.service`.
pub(super) fn unit(daemon: &DaemonSpec, layout: &Layout) -> String {
    let product = daemon.product;
    let name = product.name();
    let (title, after) = match product {
        Product::Consul => ("Consul agent", "network-online.target"),
        Product::Nomad => ("Nomad agent", "network-online.target consul.service"),
    };
    let mut unit = format!(
        "{HEAD}[Unit]\nDescription={title}\nDocumentation=https://developer.hashicorp.com/{name}/docs\n\
         Wants={after}\nAfter={after}\nConditionDirectoryNotEmpty={config}\n\
         # It is started again for ever: a node must come back by itself, however long the trouble lasts.\n\
         StartLimitIntervalSec=0\n\n[Service]\nType=exec\nUser={user}\nGroup={user}\nExecStart={command}\n\
         ExecReload=/bin/kill -HUP $MAINPID\nKillSignal=SIGINT\nTimeoutStopSec=30\nRestart=on-failure\nRestartSec=2\n",
        config = layout.config(product),
        user = daemon.user.name(),
        command = daemon
            .command
            .iter()
            .map(|word| escaped(word))
            .collect::<Vec<_>>()
            .join(" "),
    );
    let rights = if daemon.keeps_children {
        CLIENT
    } else {
        CONFINED
    };
    unit.push_str(rights);
    if !daemon.keeps_children {
        let _ = writeln!(unit, "ReadWritePaths={}", escaped(layout.data(product)));
    }
    unit.push_str("\n[Install]\nWantedBy=multi-user.target\n");
    unit
}

/// A Nomad client starts other people's programs as their users, in cgroups and mounts that it
/// makes: it needs root. Tasks outlive their agent, so that an upgrade of it does not touch them.
/// They inherit what is set here, so no umask, and no exemption from the killer of processes that
/// use too much memory.
const CLIENT: &str = "\
LimitNOFILE=infinity
TasksMax=infinity
OOMScoreAdjust=-500
KillMode=process
Delegate=yes
LockPersonality=yes
RestrictRealtime=yes
";

/// An agent that opens sockets above 1024 and writes to its data folder; nothing else.
const CONFINED: &str = "\
LimitNOFILE=65536
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
";

/// A word of a command or path as systemd reads it: `%` and `$` mean themselves, blanks do not
/// split.
fn escaped(word: &str) -> String {
    let text = word.replace('%', "%%").replace('$', "$$");
    match text.contains(|character: char| {
        character.is_whitespace() || matches!(character, '"' | '\'' | '\\' | ';')
    }) {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        false => text,
    }
}
