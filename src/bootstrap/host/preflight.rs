//! Whether a node can be worked on: what it is, what it lacks, and what is in the way.

use anyhow::{Result, bail};

use super::super::spec::NodeSpec;
use super::Inner;

/// What preflight is to look for.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Id of this cluster: data that carries its mark is not foreign.
    pub cluster_id: String,
    /// TCP ports that the daemons will listen on.
    pub ports: Vec<u16>,
}

/// A port that is in use on the node's address by something that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenPort {
    /// The port.
    pub port: u16,
    /// Who has it (`nginx, pid 812`), where that can be told.
    pub by: Option<String>,
}

/// What preflight found. Whether it is good enough is for the caller to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `linux`, `darwin`: `uname -s` in lower case.
    pub os: String,
    /// `amd64`, `arm64`, … as release archives call it; `uname -m` itself when unknown.
    pub arch: String,
    /// Whether systemd is what runs the machine.
    pub systemd: bool,
    /// How far the node's clock is ahead of ours at the least (behind: negative), in milliseconds; 0 within what can
    /// be told.
    pub clock_skew_ms: i64,
    /// Whether the node's address is one of the machine's.
    pub has_address: bool,
    /// Ports that are taken.
    pub ports_taken: Vec<TakenPort>,
    /// Tools that are missing, by name.
    pub missing_tools: Vec<String>,
    /// Free space where the data will be, in bytes.
    pub free_disk_bytes: u64,
    /// Folders with contents, and files, that are where ours would be and carry no mark of this cluster.
    pub foreign: Vec<String>,
    /// Id of the cluster whose mark the node carries.
    pub cluster_id: Option<String>,
}

pub(super) async fn run(_host: &Inner, _spec: &NodeSpec, _ask: &Preflight) -> Result<Facts> {
    bail!("not built yet")
}
