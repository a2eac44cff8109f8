//! What a node shall have, and what it was seen to have: the two sides that `plan` compares.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{self, Context, SHA256};

use super::package::Package;
use crate::bootstrap::topology::{BinarySource, Product};

/// The owner of a file on a node. On the local target all is the user's own, and nothing is
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// root.
    Root,
    /// The system user of Consul.
    Consul,
    /// The system user of Nomad's servers.
    Nomad,
    /// The system user of lb.
    Lb,
}

impl Owner {
    /// Name of user and group.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Consul => "consul",
            Self::Nomad => "nomad",
            Self::Lb => "lb",
        }
    }
}

/// What has to happen for a changed file to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is read at first start only, or watched by its reader.
    None,
    /// The daemon reads it again on SIGHUP (CA, certificate, key).
    Reload(Product),
    /// The daemon is started anew.
    Restart(Product),
    /// systemd-resolved reads it again.
    Resolver,
}

/// A file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Absolute path on the node.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub owner: Owner,
    /// What a change of it makes necessary.
    pub effect: Effect,
    /// Whether its content must never be shown.
    pub secret: bool,
}

impl std::fmt::Debug for FileSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FileSpec({} {:o} {} {:?})",
            self.path,
            self.mode,
            self.owner.name(),
            self.effect
        )
    }
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirSpec {
    /// Absolute path on the node.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub owner: Owner,
}

/// A program to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinarySpec {
    /// Which program: `consul`, `nomad` or `lb`.
    pub name: String,
    /// Absolute path on the node. On the local target the source itself, which is not touched.
    pub path: String,
    /// Where it comes from.
    pub source: BinarySource,
    /// What the installed file must hash to (SHA-256, lower-case hex), when known before it is
    /// there: of a file always, of a release once its archive was checked.
    pub sha256: Option<String>,
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSpec {
    /// Which one.
    pub product: Product,
    /// The command, program first.
    pub command: Vec<String>,
    /// User it runs as.
    pub user: Owner,
    /// Whether its end must leave its children alone (Nomad clients: tasks outlive the agent).
    pub keeps_children: bool,
}

/// All that a node shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// System users that must exist.
    pub users: Vec<Owner>,
    /// Folders, parents first.
    pub directories: Vec<DirSpec>,
    /// What packages of the machine's distribution bring.
    pub packages: Vec<Package>,
    /// Programs.
    pub binaries: Vec<BinarySpec>,
    /// Files.
    pub files: Vec<FileSpec>,
    /// Files of ours that are not wanted any more.
    pub gone: Vec<String>,
    /// Daemons, in the order of their start.
    pub daemons: Vec<DaemonSpec>,
}

impl NodeSpec {
    /// Its daemon of this product.
    #[must_use]
    pub fn daemon(&self, product: Product) -> Option<&DaemonSpec> {
        self.daemons.iter().find(|daemon| daemon.product == product)
    }

    /// Digest of everything that the running daemon must have been started with: its command, its
    /// program and the files that need a restart. `binary` is the digest of the program as it will
    /// be on the node.
    #[must_use]
    pub fn restart_stamp(&self, product: Product, binary: &str) -> String {
        let mut hash = Context::new(&SHA256);
        if let Some(daemon) = self.daemon(product) {
            hash.update(daemon.command.join("\0").as_bytes());
            hash.update(daemon.user.name().as_bytes());
        }
        hash.update(binary.as_bytes());
        self.stamp(hash, Effect::Restart(product))
    }

    /// Digest of everything that it must have read at its last reload, or start.
    #[must_use]
    pub fn reload_stamp(&self, product: Product) -> String {
        self.stamp(Context::new(&SHA256), Effect::Reload(product))
    }

    fn stamp(&self, mut hash: Context, effect: Effect) -> String {
        for file in self.files.iter().filter(|file| file.effect == effect) {
            hash.update(file.path.as_bytes());
            hash.update(&[0]);
            hash.update(sha256(&file.content).as_bytes());
        }
        hex(hash.finish().as_ref())
    }
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256(content: &[u8]) -> String {
    hex(digest::digest(&SHA256, content).as_ref())
}

/// Lower-case hexadecimal.
pub(in crate::bootstrap) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A file, folder or program as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// SHA-256 of the content; empty for a folder.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
    /// Name of its owner.
    pub owner: String,
}

/// The stamps of a daemon, written on the node after it was started or reloaded and found well.
///
/// They are what makes a run resumable: a file that was written by a run which was killed before
/// the restart looks right, but the stamp tells that the daemon has not read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// [`NodeSpec::restart_stamp`] at the last start.
    pub restart: Option<String>,
    /// [`NodeSpec::reload_stamp`] at the last start or reload.
    pub reload: Option<String>,
}

/// A daemon as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSeen {
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// Its stamps.
    pub stamps: Stamps,
    /// Its unit, where systemd runs it.
    pub unit: Option<UnitSeen>,
}

/// A unit as systemd has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitSeen {
    /// `enabled`, `disabled`, `masked`, …; empty where there is no such file.
    pub state: String,
    /// The file that it was read from; empty where there was none.
    pub file: String,
    /// Whether its files were changed since systemd read them.
    pub is_outdated: bool,
    /// The command that runs, words separated by blanks; None while nothing runs, or not for sure.
    pub command: Option<String>,
    /// Its drop-ins: those that systemd has read, and those that it will read.
    pub drop_ins: Vec<DropIn>,
}

/// A file that adds to a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropIn {
    /// Where.
    pub path: String,
    /// Names of what it sets, never the values.
    pub settings: Vec<String>,
}

/// What a node was seen to have, of all that its [`NodeSpec`] names. What is not in a map is not
/// there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Users that exist.
    pub users: Vec<Owner>,
    /// Packages that are there.
    pub packages: Vec<Package>,
    /// Files, folders and programs by path.
    pub paths: BTreeMap<String, Seen>,
    /// Daemons by product.
    pub daemons: BTreeMap<Product, DaemonSeen>,
}
