//! Everything a command needs at hand: the description, the state folder, the nodes and the way to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::api::{self, BoxedStream};
use super::file::Described;
use super::host::{ControlDir, Host, Releases};
use super::plan::Ownership;
use super::progress::Progress;
use super::reach::Reach;
use super::render::{self, Version, Versions};
use super::secrets::{NodePairs, Shared};
use super::spec::{NodeSpec, Observed, sha256};
use super::state::State;
use super::topology::{BinarySource, Cluster, Node, Phase, Product, Scope, Target};

/// Lines of a daemon's log that are searched for causes.
const LOG_LINES: usize = 200;

/// See the module.
pub struct World {
    /// The description.
    pub cluster: Cluster,
    /// What the cluster is made of as far as the command is about: without Nomad where Consul alone is meant.
    pub present: Cluster,
    /// Where the description came from.
    pub source: String,
    /// What part of it is meant.
    pub scope: Scope,
    /// CA, keys, tokens.
    pub state: State,
    /// What the programs are.
    pub versions: Versions,
    /// Where releases come from.
    pub releases: Releases,
    /// For people.
    pub progress: Progress,
    /// How long each gate may take.
    pub limit: Duration,
    /// Names of nodes that are expected to be dead.
    pub absent: Vec<String>,
    /// Certificates of the nodes.
    pub pairs: BTreeMap<String, NodePairs>,
    /// What nodes share.
    pub shared: Option<Shared>,
    hosts: BTreeMap<String, Host>,
}

impl World {
    /// Puts it together; dials nothing and writes nothing.
    ///
    /// # Errors
    /// When a program of this machine cannot be run, or is too old.
    pub fn new(described: Described, state: State, progress: Progress, limit: Duration) -> Result<Self> {
        let Described { cluster, source, scope } = described;
        let versions = versions(&cluster, scope)?;
        let control = ControlDir::create()?;
        let hosts =
            cluster.nodes.iter().map(|node| (node.name.clone(), Host::new(&cluster, node, &control))).collect();
        let releases = Releases::new(&cluster);
        let present = cluster.clone();
        let (absent, pairs, shared) = (Vec::new(), BTreeMap::new(), None);
        Ok(Self {
            cluster,
            present,
            source,
            scope,
            state,
            versions,
            releases,
            progress,
            limit,
            absent,
            pairs,
            shared,
            hosts,
        })
    }

    /// The node's host.
    pub fn host(&self, node: &Node) -> &Host {
        self.hosts.get(&node.name).expect("every node of the description has a host")
    }

    /// Phases that the command is about, in order.
    pub fn phases(&self) -> Vec<Phase> {
        let wanted = |phase: &Phase| self.scope == Scope::All || phase.product() == Product::Consul;
        Phase::ALL.into_iter().filter(wanted).filter(|&phase| self.cluster.of_phase(phase).next().is_some()).collect()
    }

    /// Nodes of a phase that are expected to live.
    pub fn of_phase(&self, phase: Phase) -> Vec<Node> {
        self.cluster.of_phase(phase).filter(|node| !self.absent.contains(&node.name)).cloned().collect()
    }

    /// How many nodes are worked on at once.
    pub fn parallel(&self) -> usize {
        match &self.cluster.target {
            Target::Local => 16,
            Target::Ssh(ssh) => ssh.parallel,
        }
    }

    /// How owners are compared.
    pub fn ownership(&self) -> Ownership {
        if self.cluster.is_local() { Ownership::Ignored } else { Ownership::Compared }
    }

    /// What the node shall have.
    ///
    /// # Errors
    /// When its certificates were not made.
    pub fn spec(&self, node: &Node) -> Result<NodeSpec> {
        let pairs = self.pairs.get(&node.name).with_context(|| format!("{}: has no certificates yet", node.name))?;
        let shared = self.shared.as_ref().context("the cluster has no keys yet")?;
        let mut spec = render::node(&self.cluster, node, pairs, shared, &self.versions, self.scope);
        for binary in &mut spec.binaries {
            binary.sha256 = match &binary.source {
                BinarySource::File(path) if self.cluster.is_local() => Some(identity(path)?),
                BinarySource::File(path) => Some(self.state.digest_of(path)?),
                BinarySource::Release(_) => self.state.remembered_program(&node.name, &binary.name, &binary.source),
            };
        }
        Ok(spec)
    }

    /// What the node has of it.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn observe(&self, node: &Node, spec: &NodeSpec) -> Result<Observed> {
        if self.cluster.is_local() {
            // Nine nodes run the same two programs of this machine; reading them again for each would take seconds.
            let spec = NodeSpec { binaries: Vec::new(), ..spec.clone() };
            return self.host(node).observe(&spec).await;
        }
        self.host(node).observe(spec).await
    }

    /// How to ask the agents.
    ///
    /// # Errors
    /// When the operator has no certificate.
    pub fn reach(&self) -> Result<Reach> {
        let shared = self.shared.as_ref().context("the cluster has no keys yet")?;
        let tls = api::tls_config(&shared.ca_bundle, &self.state.operator()?)?;
        let dialers: BTreeMap<_, _> =
            self.cluster.nodes.iter().map(|node| (node.address, self.host(node).dialer())).collect();
        let connect: api::Connect = Arc::new(move |address| {
            let dialer = dialers.get(&address.ip()).cloned();
            async move {
                let dialer = dialer.ok_or_else(|| std::io::Error::other(format!("{address} is no node of ours")))?;
                Ok(Box::new(dialer.connect(address).await?) as BoxedStream)
            }
            .boxed()
        });
        let reach = Reach::new(connect, tls);
        Ok(Product::ALL
            .into_iter()
            .fold(reach, |reach, product| reach.with_token(product, self.state.management_token(product))))
    }

    /// Gives the end of a daemon's log, for gates that look for causes.
    pub fn logs(&self) -> impl Fn(&Node, Product) -> BoxFuture<'static, String> + Send + Sync + use<> {
        let hosts = self.hosts.clone();
        move |node, product| {
            let host = hosts.get(&node.name).cloned();
            async move {
                match host {
                    Some(host) => host.log(product, LOG_LINES).await.unwrap_or_default(),
                    None => String::new(),
                }
            }
            .boxed()
        }
    }

    /// What has to follow a phase before the next can begin: ACLs.
    ///
    /// # Errors
    /// When tokens cannot be made.
    pub async fn after(&mut self, phase: Phase) -> Result<()> {
        super::tokens::after(self, phase).await
    }
}

/// Tells one content of a program from another without reading it: where it is, how long, and when it was written.
fn identity(path: &Path) -> Result<String> {
    let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let meta = fs::metadata(&path).with_context(|| path.display().to_string())?;
    Ok(sha256(format!("{}\0{}\0{}\0{}", path.display(), meta.len(), meta.mtime(), meta.mtime_nsec()).as_bytes()))
}

/// Asks the programs, or the description, for their versions.
fn versions(cluster: &Cluster, scope: Scope) -> Result<Versions> {
    let nomad = cluster.nomad.as_ref().filter(|_| scope == Scope::All);
    let versions = Versions {
        consul: version(&cluster.consul)?,
        nomad: nomad.map(version).transpose()?,
        lb: std::env::current_exe().ok(),
        privileged: !cluster.is_local() || is_root(),
    };
    match versions.too_old() {
        old if old.is_empty() => Ok(versions),
        old => bail!(old.join("; ")),
    }
}

fn version(source: &BinarySource) -> Result<Version> {
    match source {
        BinarySource::Release(version) => Version::parse(version),
        BinarySource::File(path) => {
            let output = Command::new(path)
                .arg("version")
                .output()
                .with_context(|| format!("{}: cannot be run on this machine", path.display()))?;
            Version::parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| path.display().to_string())
        }
    }
}

/// Whether this process is root's.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Now, in Unix seconds.
pub(super) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
