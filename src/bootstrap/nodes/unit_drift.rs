//! Where a unit differs from what it shall be, beside its file: not enabled, replaced by a drop-in,
//! or not what systemd has read. Pure.
//!
//! Drop-ins may add what a unit leaves open: limits, priorities, more confinement. They may not say
//! what is run, as which user, with which environment, or how it is stopped.

use std::fmt;

use serde::Serialize;

use super::spec::{DropIn, NodeSpec, Observed, UnitSeen};
use crate::bootstrap::topology::Product;

/// How a unit comes to what it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitFix {
    /// Rename a drop-in, such that systemd leaves it alone and nothing that was written is lost.
    SetAside {
        /// Where.
        path: String,
        /// What it sets and may not.
        settings: Vec<String>,
    },
    /// The same, where the drop-in belongs to other units, too, or to a package: for people to do.
    ByHand {
        /// Where.
        path: String,
        /// What it sets and may not.
        settings: Vec<String>,
    },
    /// Have systemd read its files again.
    Reread,
    /// Have it started with the machine.
    Enable {
        /// What it is instead: `disabled`, `masked`, ….
        state: String,
    },
}

/// One line of a plan.
pub(super) fn tell(f: &mut fmt::Formatter<'_>, product: Product, fix: &UnitFix) -> fmt::Result {
    match fix {
        UnitFix::SetAside { path, settings } => write!(
            f,
            "rename  {path} to {} (sets {})",
            name_of(&set_aside(path)),
            settings.join(", ")
        ),
        UnitFix::ByHand { path, settings } => {
            write!(f, "by hand {path} (sets {})", settings.join(", "))
        }
        UnitFix::Reread => write!(
            f,
            "reread  {product}.service (changed since systemd read it)"
        ),
        UnitFix::Enable { state } => write!(f, "enable  {product}.service ({state})"),
    }
}

/// Why a run stops at a drop-in that it may not touch, and what to do.
pub(super) fn by_hand(product: Product, path: &str, settings: &[String]) -> String {
    format!(
        "{path} sets {} for {product}.service, and it is from a package or for other services, too, so it is not \
         touched: take that out of it, then run this again",
        settings.join(", ")
    )
}

/// Where a drop-in goes: beside where it was, under a name that systemd does not read.
pub(super) fn set_aside(path: &str) -> String {
    format!("{path}.set-aside")
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Settings that drop-ins may not have. Sources: systemd.service(5), systemd.exec(5),
/// systemd.kill(5).
const OURS: [&str; 13] = [
    "Type",
    "Restart",
    "User",
    "Group",
    "DynamicUser",
    "Environment",
    "EnvironmentFile",
    "PassEnvironment",
    "UnsetEnvironment",
    "RootDirectory",
    "RootImage",
    "KillMode",
    "KillSignal",
];
/// The same, by the beginning of their names.
const OURS_BY_PREFIX: [&str; 3] = ["Exec", "Condition", "Assert"];

fn is_ours(setting: &str) -> bool {
    OURS.contains(&setting)
        || OURS_BY_PREFIX
            .iter()
            .any(|prefix| setting.starts_with(prefix))
}

/// What a drop-in sets and may not, each once.
fn forbidden(drop_in: &DropIn) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in &drop_in.settings {
        if is_ours(name) && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The unit of a product: the path of its file as the spec has it, and what was seen of it. None
/// where systemd does not run it.
fn unit<'a>(
    spec: &'a NodeSpec,
    seen: &'a Observed,
    product: Product,
) -> Option<(&'a str, &'a UnitSeen)> {
    let name = format!("/{product}.service");
    let file = spec.files.iter().find(|file| file.path.ends_with(&name))?;
    Some((&file.path, seen.daemons.get(&product)?.unit.as_ref()?))
}

/// What is to be done beside writing its file. A daemon that is started is enabled with that, and a
/// written file is read at once.
pub(super) fn fixes(spec: &NodeSpec, seen: &Observed, product: Product) -> Vec<UnitFix> {
    let Some((path, unit)) = unit(spec, seen, product) else {
        return Vec::new();
    };
    let folders = [
        format!("{path}.d/"),
        format!("/run/systemd/system/{product}.service.d/"),
    ];
    let mut fixes = Vec::new();
    for drop_in in &unit.drop_ins {
        let (path, settings) = (drop_in.path.clone(), forbidden(drop_in));
        if settings.is_empty() {
            continue;
        }
        fixes.push(
            match folders.iter().any(|folder| path.starts_with(folder)) {
                true => UnitFix::SetAside { path, settings },
                false => UnitFix::ByHand { path, settings },
            },
        );
    }
    let is_there = seen.paths.contains_key(path);
    if fixes.is_empty() && is_there && (unit.is_outdated || unit.file != path) {
        fixes.push(UnitFix::Reread);
    }
    let runs = (seen.daemons.get(&product)).is_some_and(|daemon| daemon.pid.is_some());
    if runs && !unit.state.is_empty() && unit.state != "enabled" {
        let state = unit.state.clone();
        fixes.push(UnitFix::Enable { state });
    }
    fixes
}

/// Whether what runs was, or may have been, started with something else than our unit alone.
pub(super) fn is_replaced(spec: &NodeSpec, seen: &Observed, product: Product) -> bool {
    let Some((path, unit)) = unit(spec, seen, product) else {
        return false;
    };
    let wanted = spec.daemon(product).map(|daemon| daemon.command.join(" "));
    unit.file != path
        || unit
            .drop_ins
            .iter()
            .any(|drop_in| !forbidden(drop_in).is_empty())
        || (unit.command.is_some() && unit.command != wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::nodes::spec::{DaemonSeen, DaemonSpec, Effect, FileSpec, Owner, Seen};

    const FILE: &str = "/etc/systemd/system/consul.service";

    fn spec() -> NodeSpec {
        NodeSpec {
            files: vec![FileSpec {
                path: FILE.to_owned(),
                content: Vec::new(),
                mode: 0o644,
                owner: Owner::Root,
                effect: Effect::Restart(Product::Consul),
                secret: false,
            }],
            daemons: vec![DaemonSpec {
                product: Product::Consul,
                command: vec!["/bin/consul".to_owned(), "agent".to_owned()],
                user: Owner::Consul,
                keeps_children: false,
            }],
            ..NodeSpec::default()
        }
    }

    fn well() -> UnitSeen {
        UnitSeen {
            state: "enabled".to_owned(),
            file: FILE.to_owned(),
            is_outdated: false,
            command: Some("/bin/consul agent".to_owned()),
            drop_ins: Vec::new(),
        }
    }

    fn with_drop_in(path: &str, settings: &[&str]) -> UnitSeen {
        let settings = settings.iter().map(|&name| name.to_owned()).collect();
        let path = path.to_owned();
        UnitSeen {
            drop_ins: vec![DropIn { path, settings }],
            ..well()
        }
    }

    fn seen(unit: UnitSeen, pid: Option<u32>) -> Observed {
        let mut seen = Observed::default();
        let file = Seen {
            sha256: String::new(),
            mode: 0o644,
            owner: "root".to_owned(),
        };
        seen.paths.insert(FILE.to_owned(), file);
        let daemon = DaemonSeen {
            pid,
            unit: Some(unit),
            ..DaemonSeen::default()
        };
        seen.daemons.insert(Product::Consul, daemon);
        seen
    }

    /// The lines of the plan, and whether the daemon is to be restarted.
    fn judged(unit: UnitSeen, pid: Option<u32>) -> (Vec<String>, bool) {
        struct Line(UnitFix);
        impl fmt::Display for Line {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                tell(f, Product::Consul, &self.0)
            }
        }
        let (spec, seen) = (spec(), seen(unit, pid));
        let fixes = fixes(&spec, &seen, Product::Consul).into_iter();
        let lines = fixes.map(|fix| Line(fix).to_string()).collect();
        (lines, is_replaced(&spec, &seen, Product::Consul))
    }

    #[test]
    fn each_difference_has_its_fix() {
        let own = "/etc/systemd/system/consul.service.d/a.conf";
        let cases: [(UnitSeen, &[&str], bool); 12] = [
            (well(), &[], false),
            (
                UnitSeen {
                    state: "disabled".to_owned(),
                    ..well()
                },
                &["enable  consul.service (disabled)"],
                false,
            ),
            (
                UnitSeen {
                    state: "masked".to_owned(),
                    file: "/dev/null".to_owned(),
                    ..well()
                },
                &[
                    "reread  consul.service (changed since systemd read it)",
                    "enable  consul.service (masked)",
                ],
                true,
            ),
            (
                UnitSeen {
                    is_outdated: true,
                    ..well()
                },
                &["reread  consul.service (changed since systemd read it)"],
                false,
            ),
            (
                UnitSeen {
                    command: Some("/bin/consul agent -dev".to_owned()),
                    ..well()
                },
                &[],
                true,
            ),
            // While it is being started nothing is known.
            (
                UnitSeen {
                    command: None,
                    ..well()
                },
                &[],
                false,
            ),
            (
                with_drop_in(own, &["LimitNOFILE", "MemoryMax", "RestartSec"]),
                &[],
                false,
            ),
            (
                with_drop_in(own, &["LimitNOFILE", "ExecStart", "ExecStart", "User"]),
                &[
                    "rename  /etc/systemd/system/consul.service.d/a.conf to a.conf.set-aside (sets ExecStart, User)",
                ],
                true,
            ),
            (
                with_drop_in(
                    "/run/systemd/system/consul.service.d/a.conf",
                    &["Environment"],
                ),
                &[
                    "rename  /run/systemd/system/consul.service.d/a.conf to a.conf.set-aside (sets Environment)",
                ],
                true,
            ),
            (
                with_drop_in("/etc/systemd/system/service.d/a.conf", &["KillMode"]),
                &["by hand /etc/systemd/system/service.d/a.conf (sets KillMode)"],
                true,
            ),
            (
                with_drop_in(
                    "/usr/lib/systemd/system/consul.service.d/a.conf",
                    &["EnvironmentFile"],
                ),
                &["by hand /usr/lib/systemd/system/consul.service.d/a.conf (sets EnvironmentFile)"],
                true,
            ),
            (
                with_drop_in(
                    "/usr/lib/systemd/system/service.d/10-timeout-abort.conf",
                    &["TimeoutStopFailureMode"],
                ),
                &[],
                false,
            ),
        ];
        for (unit, lines, replaced) in cases {
            let told = format!("{unit:?}");
            let (found, restart) = judged(unit, Some(7));
            assert_eq!(found, lines, "{told}");
            assert_eq!(restart, replaced, "{told}");
        }
    }

    #[test]
    fn what_is_to_be_started_is_enabled_by_that() {
        let unit = UnitSeen {
            state: "disabled".to_owned(),
            ..well()
        };
        assert_eq!(judged(unit, None).0, Vec::<String>::new());
    }

    #[test]
    fn a_process_without_a_unit_has_no_drift() {
        let (spec, mut seen) = (spec(), seen(well(), Some(7)));
        seen.daemons.get_mut(&Product::Consul).unwrap().unit = None;
        assert_eq!(fixes(&spec, &seen, Product::Consul), []);
        assert!(!is_replaced(&spec, &seen, Product::Consul));
    }
}
