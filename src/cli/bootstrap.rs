//! Arguments of `lb bootstrap`: plain values as typed; `bootstrap` makes a cluster's description of
//! them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::config::parse_duration;

/// How long `up` and its kin wait for the cluster when `--timeout` is absent.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Arguments of `bootstrap`.
#[derive(Clone, Debug, Args)]
pub struct BootstrapArgs {
    /// Which cluster, and with what.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Flags of `up`, which may be left out as a word; read them by [`BootstrapArgs::action`].
    #[command(flatten)]
    pub up: UpArgs,
    /// What to do with the cluster; `up` when absent.
    #[command(subcommand)]
    pub command: Option<BootstrapAction>,
}

/// Flags of every subcommand of `bootstrap`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Description of the cluster [default: cluster.toml, else config/cluster.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub cluster: Option<PathBuf>,
    /// All nodes are processes of this machine, on loopback addresses. Needs no description.
    #[arg(long, global = true)]
    pub local: bool,
    /// Be about this part alone.
    #[arg(long, global = true, value_enum, value_name = "PART")]
    pub only: Option<Only>,
    /// Folder of the CA, keys, tokens and the plan applied [default: beside the description].
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Loopback network of the nodes, for --local [default: 127.0.1.0/24].
    #[arg(long, global = true, value_name = "CIDR")]
    pub network: Option<Ipv4Net>,
    /// The consul program on this machine [default: the one on PATH].
    #[arg(long, global = true, value_name = "FILE")]
    pub consul_bin: Option<PathBuf>,
    /// The nomad program on this machine [default: the one on PATH].
    #[arg(long, global = true, value_name = "FILE")]
    pub nomad_bin: Option<PathBuf>,
    /// Switch ACLs on, default deny, with a token for each that needs one.
    #[arg(long, global = true)]
    pub acl: bool,
    /// File with the passphrase of the CA key, and of backups. Also LB_BOOTSTRAP_PASSPHRASE, the
    /// passphrase itself.
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Nodes as `terraform output -json` prints them; `-`: standard input.
    #[arg(long, global = true, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Leave these nodes out, whether they respond or not. The servers that are left have to keep the
    /// quorum. Exit code 3: something is left to be done.
    #[arg(long, global = true, value_name = "NODE", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Restart so many clients at a time, at most half of them, and of no service more than half of its
    /// instances [default: 1, from 20 clients on a tenth]. Servers go one by one in any case.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: Option<u16>,
    /// Give up when the cluster is not where it should be after this time [default: 5m].
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Take versions of consul and nomad that are further away than their makers support.
    #[arg(long, global = true)]
    pub force: bool,
}

impl ClusterArgs {
    /// `--timeout`, or its default.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

/// Part of the cluster that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// Consul, on all nodes.
    Consul,
}

/// What to do with the cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum BootstrapAction {
    /// Bring the cluster up, or to what its description says. Changes nothing that is right
    /// already.
    Up(UpArgs),
    /// Print what `up` would change, node by node. Exit code 3 when it would change something.
    Plan,
    /// Print members, leaders, nodes and the days left of each certificate. Exit code 3 when
    /// degraded.
    Status,
    /// Look for what no agent tells: ports between nodes, clocks, packet sizes, versions, drift. Changes
    /// nothing. Exit code 3 when something is wrong.
    Doctor,
    /// Print the exports for the consul and nomad commands, and write the browser's client.pfx.
    Env,
    /// Print the configuration with which Prometheus scrapes the cluster, and write the files that it
    /// names.
    Scrape,
    /// Make new certificates and have the nodes take them, one after the other.
    RotateCerts(RotateCertsArgs),
    /// Make new gossip keys and have the agents take them. `--only consul`: Consul's alone.
    RotateGossip,
    /// Make new tokens, those of management as well, hand them out and take the old ones back.
    RotateTokens,
    /// Switch ACLs on in a cluster that runs without them.
    Acl(AclArgs),
    /// Put a new machine in the place of a lost one. Its address is the one in the description.
    ReplaceNode(ReplaceNodeArgs),
    /// Take a node out for good: it is drained, leaves, is stopped and wiped. Never where it costs the
    /// quorum.
    RemoveNode(RemoveNodeArgs),
    /// Start the machines anew, one after the other: clients, Nomad's servers, Consul's servers, those
    /// that lead last. Stops at the first that does not come back.
    Reboot(RebootArgs),
    /// Take other versions of consul and nomad, one node at a time.
    Upgrade(UpgradeArgs),
    /// Put the state folder and the snapshots of Consul and Nomad into one file, encrypted with the
    /// passphrase.
    Backup(BackupArgs),
    /// Bring back the cluster of a backup: its state folder, its nodes, and its data.
    Restore(RestoreArgs),
    /// Stop the cluster.
    Down(DownArgs),
}

/// Arguments of `up`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Options of up")]
pub struct UpArgs {
    /// Leave a cluster of this machine running in the background.
    #[arg(long)]
    pub detach: bool,
    /// Also run a sample service, and lb on every client in front of it.
    #[arg(long)]
    pub with_sample: bool,
    /// Remove the nodes that are no longer described, without confirmation. Otherwise they stay.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `rotate-certs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct RotateCertsArgs {
    /// Make a new CA, too. Both are trusted until every node has a certificate of the new one.
    #[arg(long)]
    pub ca: bool,
}

/// Arguments of `acl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct AclArgs {
    /// What to do with ACLs.
    #[command(subcommand)]
    pub action: AclAction,
}

/// What to do with ACLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum AclAction {
    /// Hand a token to each that needs one, then refuse what shows none. No request fails.
    Enable,
}

/// Arguments of `replace-node`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ReplaceNodeArgs {
    /// Which node, by its name in the description.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Do not wait for confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `remove-node`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RemoveNodeArgs {
    /// Which node, by its name. It may be described no longer.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// It does not respond and will not come back: take it out without stopping and wiping it.
    #[arg(long)]
    pub dead: bool,
    /// Do not wait for confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `reboot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct RebootArgs {
    /// Which nodes, by their names [default: all].
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Do not wait for confirmation.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct UpgradeArgs {
    /// Release of Consul that the nodes are to fetch.
    #[arg(long, value_name = "VERSION")]
    pub consul_version: Option<String>,
    /// Release of Nomad that the nodes are to fetch.
    #[arg(long, value_name = "VERSION")]
    pub nomad_version: Option<String>,
}

/// Arguments of `backup`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BackupArgs {
    /// Folder for the backup, made if it is not there. An older backup of this cluster in it is
    /// replaced.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Arguments of `restore`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RestoreArgs {
    /// Folder of the backup, or its file.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Read all of the backup, print what it is one of, and change nothing.
    #[arg(long)]
    pub check: bool,
    /// Do not wait for confirmation, where a cluster lives or another state folder is in the place.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `down`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct DownArgs {
    /// Do not wait for confirmation.
    #[arg(long)]
    pub yes: bool,
    /// Remove data, configuration and the state (CA, keys, tokens), too. There is no way back.
    #[arg(long)]
    pub purge: bool,
}

impl BootstrapArgs {
    /// What to do, the flags of `up` before and after the word put together.
    #[must_use]
    pub fn action(&self) -> BootstrapAction {
        let up = |after: &UpArgs| {
            BootstrapAction::Up(UpArgs {
                detach: self.up.detach || after.detach,
                with_sample: self.up.with_sample || after.with_sample,
                yes: self.up.yes || after.yes,
            })
        };
        match &self.command {
            None => up(&UpArgs::default()),
            Some(BootstrapAction::Up(after)) => up(after),
            Some(other) => other.clone(),
        }
    }

    /// Whether `--json` means something: there is a result to print.
    pub(super) fn has_result(&self) -> bool {
        matches!(
            self.action(),
            BootstrapAction::Plan
                | BootstrapAction::Status
                | BootstrapAction::Doctor
                | BootstrapAction::Env
        )
    }

    /// The flag of `up` that was given to another subcommand, if one was.
    pub(super) fn misplaced_flag(&self) -> Option<&'static str> {
        match self.command {
            None | Some(BootstrapAction::Up(_)) => None,
            Some(_) if self.up.detach => Some("--detach"),
            Some(_) if self.up.with_sample => Some("--with-sample"),
            Some(_) if self.up.yes => Some("--yes"),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;
    use crate::cli::{Action, Cli, parse};

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        parse(
            ["lb", "bootstrap"]
                .into_iter()
                .chain(line.split_whitespace())
                .map(OsString::from),
        )
    }

    fn args(line: &str) -> BootstrapArgs {
        match parsed(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .command
        {
            Action::Bootstrap(args) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn up_is_meant_when_no_word_is_said() {
        for (line, detach, with_sample, yes) in [
            ("", false, false, false),
            ("up", false, false, false),
            ("--local --detach --with-sample", true, true, false),
            ("--local up --detach --yes", true, false, true),
            ("--detach --yes up --local --with-sample", true, true, true),
        ] {
            match args(line).action() {
                BootstrapAction::Up(up) => assert_eq!(
                    up,
                    UpArgs {
                        detach,
                        with_sample,
                        yes
                    },
                    "{line}"
                ),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn flags_of_the_cluster_stand_before_and_after_the_word() {
        let flags = "--cluster c.toml --local --only consul --state s --network 127.0.9.0/24 --consul-bin c --nomad-bin n \
                     --acl --passphrase-file p --inventory - --timeout 1m30s --skip a,b --skip c --force --batch 3";
        for word in [
            "up",
            "plan",
            "status",
            "doctor",
            "env",
            "scrape",
            "rotate-certs",
            "rotate-gossip",
            "replace-node w",
            "remove-node w",
            "reboot w",
            "upgrade",
            "backup --to b",
            "restore b",
            "down",
        ] {
            for line in [format!("{word} {flags}"), format!("{flags} {word}")] {
                let found = args(&line).cluster;
                assert_eq!(
                    found.cluster.as_deref(),
                    Some(Path::new("c.toml")),
                    "{line}"
                );
                assert!(
                    found.local && found.acl && found.only == Some(Only::Consul),
                    "{line}"
                );
                assert_eq!(
                    found.network,
                    Some("127.0.9.0/24".parse().unwrap()),
                    "{line}"
                );
                let paths = [
                    &found.state,
                    &found.consul_bin,
                    &found.nomad_bin,
                    &found.passphrase_file,
                    &found.inventory,
                ];
                assert_eq!(
                    paths.map(|path| path.as_deref().unwrap().to_str().unwrap()),
                    ["s", "c", "n", "p", "-"],
                    "{line}"
                );
                assert_eq!(found.timeout(), Duration::from_secs(90), "{line}");
                assert_eq!(found.batch, Some(3), "{line}");
                assert_eq!(found.skip, ["a", "b", "c"], "{line}");
            }
        }
        assert_eq!(args("").cluster.timeout(), Duration::from_secs(300));
    }

    #[test]
    fn subcommands_have_flags_of_their_own() {
        let action = |line: &str| args(line).action();
        assert!(matches!(
            action("rotate-certs --ca"),
            BootstrapAction::RotateCerts(RotateCertsArgs { ca: true })
        ));
        let BootstrapAction::ReplaceNode(replace) = action("replace-node w-1 --yes") else {
            panic!()
        };
        let expected = ReplaceNodeArgs {
            name: "w-1".into(),
            yes: true,
        };
        assert_eq!(replace, expected);
        let BootstrapAction::RemoveNode(remove) = action("remove-node w-1 --dead --yes") else {
            panic!()
        };
        let expected = RemoveNodeArgs {
            name: "w-1".into(),
            dead: true,
            yes: true,
        };
        assert_eq!(remove, expected);
        let BootstrapAction::Reboot(reboot) = action("reboot w-1 w-2") else {
            panic!()
        };
        assert_eq!((reboot.nodes.len(), reboot.yes), (2, false));
        let BootstrapAction::Upgrade(upgrade) =
            action("upgrade --consul-version 1.9.0 --nomad-bin n")
        else {
            panic!()
        };
        let expected = UpgradeArgs {
            consul_version: Some("1.9.0".to_owned()),
            nomad_version: None,
        };
        assert_eq!(upgrade, expected);
        let BootstrapAction::Restore(restore) = action("restore b --yes --check") else {
            panic!()
        };
        let expected = RestoreArgs {
            dir: "b".into(),
            check: true,
            yes: true,
        };
        assert_eq!(restore, expected);
        assert!(matches!(
            action("down --purge"),
            BootstrapAction::Down(DownArgs {
                yes: false,
                purge: true
            })
        ));
    }

    #[test]
    fn wrong_usage_is_reported() {
        for (line, expected) in [
            ("fly", "fly"),
            ("--only nomad", "consul"),
            ("--network 10", "--network"),
            ("--timeout 5", "--timeout"),
            ("--batch 0", "--batch"),
            ("replace-node", "<NAME>"),
            ("remove-node --dead", "<NAME>"),
            ("backup", "--to"),
            ("restore", "<DIR>"),
            ("plan --detach", "--detach"),
            (
                "--detach plan",
                "'--detach' makes no sense for 'bootstrap plan'",
            ),
            (
                "--with-sample down",
                "'--with-sample' makes no sense for 'bootstrap down'",
            ),
            ("up --json", "'--json' makes no sense for 'bootstrap up'"),
            ("--json", "'--json' makes no sense for 'bootstrap'"),
            (
                "down --json",
                "'--json' makes no sense for 'bootstrap down'",
            ),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{line}: {error}"
            );
        }
        for line in [
            "plan --json",
            "--json status",
            "doctor --json",
            "env --json",
            "--local --json plan",
        ] {
            assert!(parsed(line).unwrap().json, "{line}");
        }
    }
}
