//! Which cluster a command is about: what the command line says, and what was found.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::bootstrap::topology::{Cluster, Product, Scope};
use crate::cli::{BootstrapAction, BootstrapArgs, Only};

/// Which cluster is meant, by the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `--cluster`.
    pub file: Option<PathBuf>,
    /// `--local`.
    pub local: bool,
    /// `--only`.
    pub scope: Scope,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--network`.
    pub network: Option<Ipv4Net>,
    /// `--consul-bin`.
    pub consul_bin: Option<PathBuf>,
    /// `--nomad-bin`.
    pub nomad_bin: Option<PathBuf>,
    /// `--consul-version` of `upgrade`.
    pub consul_version: Option<String>,
    /// `--nomad-version` of `upgrade`.
    pub nomad_version: Option<String>,
    /// `--acl`.
    pub acl: bool,
    /// For a command that runs neither program, so that none has to be there.
    pub without_programs: bool,
    /// `--inventory`; `-` is standard input.
    pub inventory: Option<PathBuf>,
}

impl From<&BootstrapArgs> for Request {
    fn from(args: &BootstrapArgs) -> Self {
        let cluster = args.cluster.clone();
        let (consul_version, nomad_version) = match &args.command {
            Some(BootstrapAction::Upgrade(upgrade)) => (
                upgrade.consul_version.clone(),
                upgrade.nomad_version.clone(),
            ),
            _ => (None, None),
        };
        Self {
            file: cluster.cluster,
            local: cluster.local,
            scope: match cluster.only {
                None => Scope::All,
                Some(Only::Consul) => Scope::ConsulOnly,
            },
            state: cluster.state,
            network: cluster.network,
            consul_bin: cluster.consul_bin,
            nomad_bin: cluster.nomad_bin,
            consul_version,
            nomad_version,
            acl: cluster.acl,
            without_programs: matches!(
                args.action(),
                BootstrapAction::Status | BootstrapAction::Env | BootstrapAction::Down(_)
            ),
            inventory: cluster.inventory,
        }
    }
}

/// A cluster as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The cluster.
    pub cluster: Cluster,
    /// Where the description came from, for messages: `config/cluster.toml`, `--local`.
    pub source: String,
    /// What part of it the command is about.
    pub scope: Scope,
    /// Programs that are named nowhere, and were looked for on PATH.
    pub unnamed: Vec<Product>,
}
