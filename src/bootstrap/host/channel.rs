//! The way to a node: `sh` on this machine, or `ssh` with one connection that all commands share.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::super::topology::{Node, Ssh};
use super::Dialer;

/// Folder of the sockets through which commands share a connection. Its last clone closes the connections.
#[derive(Clone)]
pub struct ControlDir(Arc<Folder>);

struct Folder {
    path: PathBuf,
}

impl ControlDir {
    /// Makes it, for this user alone.
    ///
    /// # Errors
    /// When there is no place for temporary files.
    pub fn create() -> Result<Self> {
        // Not $TMPDIR: a path below it is too long for a socket on macOS.
        let path = Path::new("/tmp").join(format!("lb-{:08x}", fastrand::u32(..)));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(Arc::new(Folder { path })))
    }
}

pub(super) struct Channel;
impl Channel {
    pub(super) fn local(_name: &str) -> Self {
        Self
    }
    pub(super) fn ssh(_node: &Node, _ssh: &Ssh, _control: &ControlDir) -> Self {
        Self
    }
    pub(super) fn dialer(&self) -> Dialer {
        Dialer::Direct
    }
}
