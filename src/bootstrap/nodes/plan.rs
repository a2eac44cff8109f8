//! What has to happen on a node: the difference between what it shall have and what it was seen to
//! have. Pure.
//!
//! An empty plan means that a run changes nothing. Contents of files never enter a plan, so that it
//! can be shown.

use std::fmt;

use serde::Serialize;

use super::spec::{Effect, FileSpec, NodeSpec, Observed, Owner, Seen, sha256};
use super::unit_drift::{self, UnitFix};
use crate::bootstrap::topology::Product;

/// Why something is written or installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It is not there.
    Missing,
    /// Its content differs.
    Content,
    /// Its permissions differ.
    Mode,
    /// Its owner differs.
    Owner,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Content => "differs",
            Self::Mode => "other mode",
            Self::Owner => "other owner",
        })
    }
}

/// What is to be done with a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonAction {
    /// Start it: it does not run.
    Start,
    /// Start it anew: its program or configuration is not what it was started with.
    Restart,
    /// Have it read its certificates again.
    Reload,
}

/// One step on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Make a system user.
    User {
        /// Its name.
        name: &'static str,
    },
    /// Make a folder, or set its mode and owner.
    Directory {
        /// Where.
        path: String,
        /// Why.
        why: Why,
    },
    /// Have the machine's own package manager install something.
    Package {
        /// What.
        name: &'static str,
    },
    /// Remove a file of ours.
    Remove {
        /// Where.
        path: String,
    },
    /// Install a program.
    Program {
        /// Where.
        path: String,
        /// Why.
        why: Why,
    },
    /// Write a file.
    File {
        /// Where.
        path: String,
        /// Why.
        why: Why,
    },
    /// Bring a unit to what it shall be, beside its file.
    Unit {
        /// Whose.
        product: Product,
        /// How.
        fix: UnitFix,
    },
    /// Start, restart or reload a daemon.
    Daemon {
        /// Which.
        product: Product,
        /// How.
        action: DaemonAction,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name } => write!(f, "create system user {name}"),
            Self::Directory { path, why } => write!(f, "folder  {path} ({why})"),
            Self::Package { name } => write!(f, "package {name} (missing, or does not run)"),
            Self::Remove { path } => write!(f, "remove  {path}"),
            Self::Program { path, why } => write!(f, "install {path} ({why})"),
            Self::File { path, why } => write!(f, "write   {path} ({why})"),
            Self::Unit { product, fix } => unit_drift::tell(f, *product, fix),
            Self::Daemon {
                product,
                action: DaemonAction::Start,
            } => write!(f, "start   {product}"),
            Self::Daemon {
                product,
                action: DaemonAction::Restart,
            } => write!(f, "restart {product}"),
            Self::Daemon {
                product,
                action: DaemonAction::Reload,
            } => write!(f, "reload  {product} (certificates)"),
        }
    }
}

/// All steps on a node, in the order in which they are carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodePlan {
    /// The node.
    pub node: String,
    /// The steps.
    pub steps: Vec<Step>,
}

impl NodePlan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What is to be done with a daemon.
    #[must_use]
    pub fn daemon(&self, wanted: Product) -> Option<DaemonAction> {
        self.steps.iter().find_map(|step| match step {
            Step::Daemon { product, action } if *product == wanted => Some(*action),
            _ => None,
        })
    }

    /// Decides about the daemons, again where the digest of a program became known only after it
    /// was installed.
    pub(in crate::bootstrap) fn decide_daemons(&mut self, spec: &NodeSpec, seen: &Observed) {
        self.steps
            .retain(|step| !matches!(step, Step::Daemon { .. }));
        for daemon in &spec.daemons {
            let action = daemon_action(spec, seen, daemon.product);
            self.steps.extend(action.map(|action| Step::Daemon {
                product: daemon.product,
                action,
            }));
        }
    }

    /// Whether the machine's package manager is to install something of this name.
    pub(in crate::bootstrap) fn installs(&self, wanted: &str) -> bool {
        let is_it = |step: &Step| matches!(step, Step::Package { name } if *name == wanted);
        self.steps.iter().any(is_it)
    }

    /// Files that are to be removed.
    pub(in crate::bootstrap) fn removes(&self) -> Vec<String> {
        let path = |step: &Step| match step {
            Step::Remove { path } => Some(path.clone()),
            _ => None,
        };
        self.steps.iter().filter_map(path).collect()
    }

    /// What is to be done with the unit of a daemon.
    pub(in crate::bootstrap) fn unit_fixes(&self, wanted: Product) -> Vec<&UnitFix> {
        let fix = |step| match step {
            &Step::Unit { product, ref fix } if product == wanted => Some(fix),
            _ => None,
        };
        self.steps.iter().filter_map(fix).collect()
    }

    /// What a run may not do itself, and stops at.
    pub(in crate::bootstrap) fn by_hand(&self) -> Vec<String> {
        let text = |step: &Step| match step {
            Step::Unit {
                product,
                fix: UnitFix::ByHand { path, settings },
            } => Some(unit_drift::by_hand(*product, path, settings)),
            _ => None,
        };
        self.steps.iter().filter_map(text).collect()
    }

    /// Whether a file or program is to be written.
    #[must_use]
    pub fn writes(&self, wanted: &str) -> bool {
        self.steps.iter().any(|step| match step {
            Step::File { path, .. } | Step::Program { path, .. } => path == wanted,
            _ => false,
        })
    }
}

/// How strictly ownership is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Owners are part of what a node shall have.
    Compared,
    /// All belongs to the user that runs the command (local target).
    Ignored,
}

/// Compares.
#[must_use]
pub fn compare(node: &str, spec: &NodeSpec, seen: &Observed, ownership: Ownership) -> NodePlan {
    let mut steps = Vec::new();
    if ownership == Ownership::Compared {
        steps.extend(
            spec.users
                .iter()
                .filter(|user| !seen.users.contains(user))
                .map(|user| Step::User { name: user.name() }),
        );
    }
    for &package in &spec.packages {
        if !seen.packages.contains(&package) {
            let name = package.name();
            steps.push(Step::Package { name });
        }
    }
    for path in spec
        .gone
        .iter()
        .filter(|path| seen.paths.contains_key(*path))
    {
        steps.push(Step::Remove { path: path.clone() });
    }
    for directory in &spec.directories {
        let found = seen.paths.get(&directory.path);
        if let Some(why) = difference(found, None, directory.mode, directory.owner, ownership) {
            steps.push(Step::Directory {
                path: directory.path.clone(),
                why,
            });
        }
    }
    for binary in &spec.binaries {
        if ownership == Ownership::Ignored {
            // Programs of this machine run where they are.
            break;
        }
        let found = seen.paths.get(&binary.path);
        let why = match (found, &binary.sha256) {
            (None, _) => Some(Why::Missing),
            (Some(found), Some(wanted)) if found.sha256 != *wanted => Some(Why::Content),
            // Of a release that is installed nowhere yet, whatever stands there is taken for
            // another one.
            (Some(_), None) => Some(Why::Content),
            _ => None,
        };
        steps.extend(why.map(|why| Step::Program {
            path: binary.path.clone(),
            why,
        }));
    }
    for file in &spec.files {
        if let Some(why) = file_difference(file, seen.paths.get(&file.path), ownership) {
            steps.push(Step::File {
                path: file.path.clone(),
                why,
            });
        }
    }
    for daemon in &spec.daemons {
        let product = daemon.product;
        let fixes = unit_drift::fixes(spec, seen, product).into_iter();
        steps.extend(fixes.map(|fix| Step::Unit { product, fix }));
    }
    let mut plan = NodePlan {
        node: node.to_owned(),
        steps,
    };
    plan.decide_daemons(spec, seen);
    plan
}

fn file_difference(file: &FileSpec, found: Option<&Seen>, ownership: Ownership) -> Option<Why> {
    difference(found, Some(&file.content), file.mode, file.owner, ownership)
}

fn difference(
    found: Option<&Seen>,
    content: Option<&[u8]>,
    mode: u32,
    owner: Owner,
    ownership: Ownership,
) -> Option<Why> {
    let Some(found) = found else {
        return Some(Why::Missing);
    };
    if content.is_some_and(|content| sha256(content) != found.sha256) {
        return Some(Why::Content);
    }
    if found.mode != mode {
        return Some(Why::Mode);
    }
    (ownership == Ownership::Compared && found.owner != owner.name()).then_some(Why::Owner)
}

/// The stamps that a daemon must have, given the programs that are, or will be, on the node.
#[must_use]
pub fn wanted_stamps(spec: &NodeSpec, seen: &Observed, product: Product) -> super::spec::Stamps {
    super::spec::Stamps {
        restart: Some(spec.restart_stamp(product, &program_digest(spec, seen, product))),
        reload: Some(spec.reload_stamp(product)),
    }
}

fn program_digest(spec: &NodeSpec, seen: &Observed, product: Product) -> String {
    let Some(binary) = spec
        .binaries
        .iter()
        .find(|binary| binary.name == product.name())
    else {
        return String::new();
    };
    match &binary.sha256 {
        Some(known) => known.clone(),
        None => seen
            .paths
            .get(&binary.path)
            .map(|found| found.sha256.clone())
            .unwrap_or_default(),
    }
}

fn daemon_action(spec: &NodeSpec, seen: &Observed, product: Product) -> Option<DaemonAction> {
    let Some(daemon) = seen
        .daemons
        .get(&product)
        .filter(|daemon| daemon.pid.is_some())
    else {
        return Some(DaemonAction::Start);
    };
    let wanted = wanted_stamps(spec, seen, product);
    if daemon.stamps.restart != wanted.restart
        || drifted(spec, seen, Effect::Restart(product))
        || unit_drift::is_replaced(spec, seen, product)
    {
        return Some(DaemonAction::Restart);
    }
    let reload =
        daemon.stamps.reload != wanted.reload || drifted(spec, seen, Effect::Reload(product));
    reload.then_some(DaemonAction::Reload)
}

/// Whether what the daemon reads, or its program, was changed by hand. Stamps tell what we started
/// it with, but it may have been started anew by hand since then, with what stands there now.
fn drifted(spec: &NodeSpec, seen: &Observed, effect: Effect) -> bool {
    let differs = |path: &str, wanted: &str| {
        seen.paths
            .get(path)
            .is_none_or(|found| found.sha256 != wanted)
    };
    let files = spec.files.iter().filter(|file| file.effect == effect);
    let program = |product: Product| {
        let binary = spec
            .binaries
            .iter()
            .find(|binary| binary.name == product.name());
        // On the local target programs are not looked at: what is not there was not to be observed.
        binary.is_some_and(
            |binary| match (&binary.sha256, seen.paths.get(&binary.path)) {
                (Some(wanted), Some(found)) => found.sha256 != *wanted,
                _ => false,
            },
        )
    };
    files
        .into_iter()
        .any(|file| differs(&file.path, &sha256(&file.content)))
        || matches!(effect, Effect::Restart(product) if program(product))
}

#[cfg(test)]
mod tests {
    use super::super::spec::{BinarySpec, DaemonSeen, DaemonSpec, DirSpec, Stamps};
    use super::*;
    use crate::bootstrap::nodes::Package;
    use crate::bootstrap::topology::BinarySource;

    fn file(path: &str, effect: Effect) -> FileSpec {
        let content = path.as_bytes().to_vec();
        FileSpec {
            path: path.to_owned(),
            content,
            mode: 0o600,
            owner: Owner::Consul,
            effect,
            secret: false,
        }
    }

    fn spec() -> NodeSpec {
        NodeSpec {
            users: vec![Owner::Consul],
            directories: vec![DirSpec {
                path: "/etc/consul.d".to_owned(),
                mode: 0o750,
                owner: Owner::Consul,
            }],
            binaries: vec![BinarySpec {
                name: "consul".to_owned(),
                path: "/bin/consul".to_owned(),
                source: BinarySource::File("consul".into()),
                sha256: Some(sha256(b"program")),
            }],
            files: vec![
                file("consul.hcl", Effect::Restart(Product::Consul)),
                file("ca.pem", Effect::Reload(Product::Consul)),
                file("encrypt.hcl", Effect::None),
            ],
            daemons: vec![DaemonSpec {
                product: Product::Consul,
                command: vec!["/bin/consul".to_owned(), "agent".to_owned()],
                user: Owner::Consul,
                keeps_children: false,
            }],
            ..NodeSpec::default()
        }
    }

    /// A node that has all of it.
    fn well(spec: &NodeSpec) -> Observed {
        let mut seen = Observed {
            users: vec![Owner::Consul],
            ..Observed::default()
        };
        let found = |sha256: String, mode| Seen {
            sha256,
            mode,
            owner: "consul".to_owned(),
        };
        seen.paths
            .insert("/etc/consul.d".to_owned(), found(String::new(), 0o750));
        seen.paths
            .insert("/bin/consul".to_owned(), found(sha256(b"program"), 0o755));
        for file in &spec.files {
            seen.paths
                .insert(file.path.clone(), found(sha256(&file.content), file.mode));
        }
        let stamps = wanted_stamps(spec, &seen, Product::Consul);
        seen.daemons.insert(
            Product::Consul,
            DaemonSeen {
                pid: Some(7),
                stamps,
                unit: None,
            },
        );
        seen
    }

    fn steps(spec: &NodeSpec, seen: &Observed) -> Vec<String> {
        compare("a", spec, seen, Ownership::Compared)
            .steps
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn packages_that_are_missing_are_installed_and_files_that_are_gone_removed() {
        let mut spec = spec();
        spec.packages = vec![Package::CniPlugins, Package::Docker];
        spec.gone = vec!["/etc/gone".to_owned()];
        let mut seen = well(&spec);
        let told = |seen: &Observed| {
            let plan = compare("a", &spec, seen, Ownership::Compared);
            assert_eq!(
                plan.installs("docker"),
                !seen.packages.contains(&Package::Docker)
            );
            let steps = plan.steps.iter().map(ToString::to_string);
            steps.collect::<Vec<_>>()
        };
        assert_eq!(
            told(&seen),
            [
                "package cni (missing, or does not run)",
                "package docker (missing, or does not run)"
            ]
        );
        seen.packages = vec![Package::CniPlugins];
        let there = Seen {
            sha256: String::new(),
            mode: 0o644,
            owner: "root".to_owned(),
        };
        seen.paths.insert("/etc/gone".to_owned(), there);
        assert_eq!(
            told(&seen),
            [
                "package docker (missing, or does not run)",
                "remove  /etc/gone"
            ]
        );
        seen.packages.push(Package::Docker);
        assert_eq!(told(&seen), ["remove  /etc/gone"]);
    }

    #[test]
    fn a_node_that_has_everything_needs_nothing() {
        assert_eq!(steps(&spec(), &well(&spec())), Vec::<String>::new());
    }

    #[test]
    fn an_empty_node_needs_everything_in_order() {
        let all = steps(&spec(), &Observed::default());
        let wanted = [
            "create system user consul",
            "folder  /etc/consul.d (missing)",
            "install /bin/consul (missing)",
            "write   consul.hcl (missing)",
            "write   ca.pem (missing)",
            "write   encrypt.hcl (missing)",
            "start   consul",
        ];
        assert_eq!(all, wanted);
    }

    #[test]
    fn each_difference_asks_for_what_it_needs() {
        type Change = fn(&mut NodeSpec, &mut Observed);
        let cases: [(&str, Change, &[&str]); 12] = [
            (
                "configuration",
                |spec, _| spec.files[0].content.push(b'x'),
                &["write   consul.hcl (differs)", "restart consul"],
            ),
            (
                "certificate",
                |spec, _| spec.files[1].content.push(b'x'),
                &["write   ca.pem (differs)", "reload  consul (certificates)"],
            ),
            (
                "gossip key",
                |spec, _| spec.files[2].content.push(b'x'),
                &["write   encrypt.hcl (differs)"],
            ),
            (
                "mode",
                |spec, _| spec.files[0].mode = 0o640,
                &["write   consul.hcl (other mode)"],
            ),
            (
                "owner",
                |spec, _| spec.files[0].owner = Owner::Root,
                &["write   consul.hcl (other owner)"],
            ),
            (
                "program",
                |spec, _| spec.binaries[0].sha256 = Some(sha256(b"newer")),
                &["install /bin/consul (differs)", "restart consul"],
            ),
            (
                "command",
                |spec, _| spec.daemons[0].command.push("-x".to_owned()),
                &["restart consul"],
            ),
            (
                "dead",
                |_, seen| {
                    seen.daemons
                        .values_mut()
                        .for_each(|daemon| daemon.pid = None)
                },
                &["start   consul"],
            ),
            // The stamp is right in these three: we started it well, but something may have been
            // done by hand since.
            (
                "configuration changed there",
                |_, seen| seen.paths.get_mut("consul.hcl").unwrap().sha256 = sha256(b"by hand"),
                &["write   consul.hcl (differs)", "restart consul"],
            ),
            (
                "certificate removed there",
                |_, seen| drop(seen.paths.remove("ca.pem")),
                &["write   ca.pem (missing)", "reload  consul (certificates)"],
            ),
            (
                "program changed there",
                |_, seen| seen.paths.get_mut("/bin/consul").unwrap().sha256 = sha256(b"by hand"),
                &["install /bin/consul (differs)", "restart consul"],
            ),
            (
                "killed between writing and restarting",
                |_, seen| {
                    seen.daemons
                        .values_mut()
                        .for_each(|daemon| daemon.stamps = Stamps::default())
                },
                &["restart consul"],
            ),
        ];
        for (name, change, wanted) in cases {
            let (mut spec, mut seen) = (spec(), well(&spec()));
            change(&mut spec, &mut seen);
            assert_eq!(steps(&spec, &seen), wanted, "{name}");
        }
    }

    #[test]
    fn owners_do_not_matter_where_all_is_the_users_own() {
        let (spec, mut seen) = (spec(), well(&spec()));
        seen.users.clear();
        seen.paths
            .values_mut()
            .for_each(|found| found.owner = "me".to_owned());
        assert!(compare("a", &spec, &seen, Ownership::Ignored).is_empty());
    }
}
