//! Everything a command needs at hand: the description, the state folder, the nodes and the way to
//! them.

pub(super) mod access;
pub(super) mod applied;
pub(super) mod compatible;
mod keys;
mod programs;
pub(super) mod scrape;
mod step;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};

use super::progress::Progress;
use super::render::{self, Versions};
use super::state::{Applied, State};
use super::topology::{BinarySource, Cluster, Node, Phase, Product, Scope, Target};
use crate::bootstrap::cluster::api::{self, BoxedStream};
use crate::bootstrap::cluster::client::ClusterClient;
use crate::bootstrap::cluster::view::ClusterView;
use crate::bootstrap::description::Described;
use crate::bootstrap::nodes::plan::Ownership;
use crate::bootstrap::nodes::spec::{NodeSpec, Observed};
use crate::bootstrap::nodes::{ControlDir, Host, Releases};
use crate::bootstrap::security::secrets::{NodePairs, Pair, Shared};
use programs::{digest, identity, remember_sources, versions};

/// Lines of a daemon's log that are searched for causes.
const LOG_LINES: usize = 200;

/// See the module.
pub(in crate::bootstrap) struct Context {
    /// The description.
    pub cluster: Cluster,
    /// Where the description came from.
    pub source: String,
    /// The flags that name the cluster on a command line, with a space in front.
    pub flags: String,
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
    /// Versions may be further away than the makers support.
    pub force: bool,
    /// Names of nodes that are expected to be dead.
    pub absent: Vec<String>,
    /// Certificates of the nodes.
    pub pairs: BTreeMap<String, NodePairs>,
    /// What nodes share.
    pub shared: Option<Shared>,
    /// The operator's own pair.
    pub operator: Option<Pair>,
    /// What was applied before, or is being applied now.
    pub applied: Applied,
    applied_before: Option<Applied>,
    hosts: BTreeMap<String, Host>,
    digests: BTreeMap<PathBuf, String>,
}

impl Context {
    /// Puts it together; dials nothing and writes nothing.
    ///
    /// # Errors
    /// When a program of this machine cannot be run, or is too old, or the state cannot be read.
    pub(in crate::bootstrap) fn new(
        described: Described,
        state: State,
        progress: Progress,
        limit: Duration,
    ) -> Result<Self> {
        let Described {
            mut cluster,
            source,
            scope,
            unnamed,
        } = described;
        let before = state.cluster()?;
        if let Some(before) = &before {
            remember_sources(&mut cluster, before, &unnamed);
        }
        let applied = Applied::of(&cluster, scope, before.as_ref(), SystemTime::now());
        let versions = versions(&cluster, scope)?;
        let described = Described {
            cluster,
            source,
            scope,
            unnamed,
        };
        let mut context =
            Self::assemble(described, versions, applied, before, state, progress, limit)?;
        context.read_digests()?;
        Ok(context)
    }

    /// The cluster that was applied, whatever its description says by now. Enough for looking at
    /// its nodes and for ending them: neither program has to be there.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(in crate::bootstrap) fn of_applied(
        described: Described,
        before: Applied,
        state: State,
        progress: Progress,
        limit: Duration,
    ) -> Result<Self> {
        let (described, versions) = applied::as_applied(described, &before);
        Self::assemble(
            described,
            versions,
            before.clone(),
            Some(before),
            state,
            progress,
            limit,
        )
    }

    fn assemble(
        described: Described,
        versions: Versions,
        applied: Applied,
        before: Option<Applied>,
        state: State,
        progress: Progress,
        limit: Duration,
    ) -> Result<Self> {
        let Described {
            cluster,
            source,
            scope,
            ..
        } = described;
        let control = ControlDir::create()?;
        let hosts = cluster
            .nodes
            .iter()
            .map(|node| (node.name.clone(), Host::new(&cluster, node, &control)))
            .collect();
        let releases = Releases::new(&cluster);
        Ok(Self {
            cluster,
            source,
            flags: String::new(),
            scope,
            state,
            versions,
            releases,
            progress,
            limit,
            force: false,
            absent: Vec::new(),
            pairs: BTreeMap::new(),
            shared: None,
            operator: None,
            applied,
            applied_before: before,
            hosts,
            digests: BTreeMap::new(),
        })
    }

    /// Digests of the programs that are copied, or run in place.
    fn read_digests(&mut self) -> Result<()> {
        let lb = self.versions.lb.clone().map(BinarySource::File);
        let sources = [
            Some(self.cluster.consul.clone()),
            self.cluster.nomad.clone(),
            lb,
        ];
        for source in sources.into_iter().flatten() {
            if let BinarySource::File(path) = source {
                let digest = match self.cluster.is_local() {
                    true => identity(&path)?,
                    false => digest(&path)?,
                };
                self.digests.insert(path, digest);
            }
        }
        Ok(())
    }

    /// The node's host.
    pub(in crate::bootstrap) fn host(&self, node: &Node) -> &Host {
        self.hosts
            .get(&node.name)
            .expect("every node of the description has a host")
    }

    /// Phases that the command is about, in order.
    pub(in crate::bootstrap) fn phases(&self) -> Vec<Phase> {
        let wanted = |phase: &Phase| self.scope.includes(phase.product());
        Phase::ALL
            .into_iter()
            .filter(wanted)
            .filter(|&phase| self.cluster.of_phase(phase).next().is_some())
            .collect()
    }

    /// Nodes of a phase that are expected to live.
    pub(in crate::bootstrap) fn of_phase(&self, phase: Phase) -> Vec<Node> {
        self.cluster
            .of_phase(phase)
            .filter(|node| !self.absent.contains(&node.name))
            .cloned()
            .collect()
    }

    /// How many nodes are worked on at once.
    pub(in crate::bootstrap) fn parallel(&self) -> usize {
        match &self.cluster.target {
            Target::Local => 16,
            Target::Ssh(ssh) => ssh.parallel,
        }
    }

    /// How owners are compared.
    pub(in crate::bootstrap) fn ownership(&self) -> Ownership {
        if self.cluster.is_local() {
            Ownership::Ignored
        } else {
            Ownership::Compared
        }
    }

    /// What the node shall have.
    ///
    /// # Errors
    /// When its certificates were not made.
    pub(in crate::bootstrap) fn spec(&self, node: &Node) -> Result<NodeSpec> {
        let pairs = self
            .pairs
            .get(&node.name)
            .with_context(|| format!("{}: has no certificates yet", node.name))?;
        let shared = self
            .shared
            .as_ref()
            .context("the cluster has no keys yet")?;
        let mut spec = render::node(
            &self.cluster,
            node,
            pairs,
            shared,
            &self.versions,
            self.scope,
        );
        for binary in &mut spec.binaries {
            binary.sha256 = match &binary.source {
                BinarySource::File(path) => self.digests.get(path).cloned(),
                BinarySource::Release(version) => {
                    self.applied.program(&node.name, &binary.name, version)
                }
            };
        }
        Ok(spec)
    }

    /// What the node has of it.
    ///
    /// # Errors
    /// When it is not reached.
    pub(in crate::bootstrap) async fn observe(
        &self,
        node: &Node,
        spec: &NodeSpec,
    ) -> Result<Observed> {
        if self.cluster.is_local() {
            // Nine nodes run the same two programs of this machine; reading them again for each
            // would take seconds.
            let spec = NodeSpec {
                binaries: Vec::new(),
                ..spec.clone()
            };
            return self.host(node).observe(&spec).await;
        }
        self.host(node).observe(spec).await
    }

    /// How to ask the agents.
    ///
    /// # Errors
    /// When the operator has no certificate.
    pub(in crate::bootstrap) fn cluster_client(&self) -> Result<ClusterClient> {
        let shared = self
            .shared
            .as_ref()
            .context("the cluster has no keys yet")?;
        let operator = self
            .operator
            .as_ref()
            .context("the operator has no certificate yet")?;
        let tls = api::tls_config(&shared.ca_bundle, operator)?;
        let dialers: BTreeMap<_, _> = self
            .cluster
            .nodes
            .iter()
            .map(|node| (node.address, self.host(node).dialer()))
            .collect();
        let connect: api::Connect = Arc::new(move |address| {
            let dialer = dialers.get(&address.ip()).cloned();
            async move {
                let dialer = dialer.ok_or_else(|| {
                    std::io::Error::other(format!("{address} is no node of ours"))
                })?;
                Ok(Box::new(dialer.connect(address).await?) as BoxedStream)
            }
            .boxed()
        });
        let cluster_client = ClusterClient::new(connect, tls);
        let tokens = self.state.tokens()?;
        Ok(cluster_client
            .with_token(Product::Consul, tokens.management(Product::Consul))
            .with_token(Product::Nomad, tokens.management(Product::Nomad)))
    }

    /// What is true of the cluster, as its agents tell it.
    ///
    /// # Errors
    /// When the operator has no certificate.
    pub(in crate::bootstrap) fn cluster_view(&self) -> Result<ClusterView<'_>> {
        Ok(ClusterView::new(&self.cluster, self.cluster_client()?))
    }

    /// Connects to all nodes, for commands that begin by asking agents: the patience of a question
    /// is shorter than what some ways to a node take, and a node that is asked much at once may
    /// refuse so many log-ins. Those that cannot be reached show later, as agents that do not
    /// answer.
    pub(in crate::bootstrap) async fn dial(&self) {
        let dials = self.hosts.values().map(|host| async move {
            if let Err(error) = host.dial().await {
                tracing::debug!("{error:#}");
            }
        });
        stream::iter(dials)
            .buffer_unordered(self.parallel())
            .collect::<()>()
            .await;
    }

    /// Gives the end of a daemon's log, for gates that look for causes.
    pub(in crate::bootstrap) fn logs(
        &self,
    ) -> impl Fn(&Node, Product) -> BoxFuture<'static, String> + Send + Sync + use<> {
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

    /// What there is of the cluster, which may be more than this command is about.
    pub(in crate::bootstrap) fn applied_scope(&self) -> Scope {
        if self.applied.consul_only {
            Scope::ConsulOnly
        } else {
            Scope::All
        }
    }

    /// Writes the operator's files.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(in crate::bootstrap) fn write_access(&mut self) -> Result<()> {
        let scope = self.applied_scope();
        access::write_all(&mut self.state, &self.cluster, scope).map(drop)
    }

    /// The address that the node had when it was last applied, if that was another one.
    pub(in crate::bootstrap) fn moved_from(&self, node: &Node) -> Option<IpAddr> {
        let before = self
            .applied_before
            .as_ref()?
            .nodes
            .iter()
            .find(|before| before.name == node.name)?;
        (before.address != node.address).then_some(before.address)
    }

    /// Leaves Nomad out where only Consul was brought up.
    pub(in crate::bootstrap) fn as_applied(&mut self) {
        if self
            .applied_before
            .as_ref()
            .is_some_and(|before| before.consul_only)
        {
            self.scope = Scope::ConsulOnly;
            self.applied.consul_only = true;
        }
    }

    /// Saves the note of what is applied.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(in crate::bootstrap) fn save_applied(&mut self) -> Result<()> {
        // Of what the command was not about, the old note stays.
        let versions = [
            ("consul", Some(self.versions.consul)),
            ("nomad", self.versions.nomad),
        ];
        let known = versions
            .into_iter()
            .filter_map(|(name, version)| Some((name.to_owned(), version?.to_string())));
        self.applied.versions.extend(known);
        let sources = [
            ("consul", Some(&self.cluster.consul)),
            ("nomad", self.cluster.nomad.as_ref()),
        ];
        for (name, source) in sources {
            if let Some(source) = source {
                self.applied
                    .sources
                    .insert(name.to_owned(), source.clone().into());
            }
        }
        self.state.save_cluster(&self.applied)
    }
}
