//! What the parts of a description need to know beside its text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::bootstrap::topology::{BinarySource, Scope};

/// What a description means depends on this.
pub(super) struct BuildContext<'a> {
    /// Folder that paths are relative to, absolute.
    pub(super) folder: &'a Path,
    /// What `~/` stands for.
    pub(super) home: Option<&'a Path>,
    /// State folder when none is named; None when there is no place for one.
    pub(super) state: Option<PathBuf>,
    /// Programs of this machine.
    pub(super) programs: &'a dyn Programs,
    /// What holds where the description says nothing.
    pub(super) recorded: Recorded,
    /// What part of it is asked for.
    pub(super) scope: Scope,
}

/// What was applied of a cluster before, of that which need not be said a second time.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// There is a cluster already.
    pub(super) is_living: bool,
    /// Whether ACLs are on.
    pub(super) acl: Option<bool>,
    /// Addresses of the nodes by name. They hold on the local target, where addresses are given out
    /// by position.
    pub(super) addresses: BTreeMap<String, IpAddr>,
    /// Where its programs came from, by name. They serve where neither the description nor PATH has
    /// one.
    pub(super) sources: BTreeMap<String, BinarySource>,
}

/// Programs of this machine. A trait, so that descriptions can be read without them.
pub(super) trait Programs {
    /// The program of this name on PATH, absolute.
    fn find(&self, name: &str) -> Option<PathBuf>;
    /// Whether the file can be run.
    ///
    /// # Errors
    /// What is wrong with it, to be read after its path.
    fn check(&self, path: &Path) -> Result<(), String>;
    /// Whether they can be copied to the nodes.
    fn run_on_linux(&self) -> bool;
}

/// How the nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Ssh,
}
