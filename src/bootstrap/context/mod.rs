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

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};

use super::changes::Changes;
use super::exit::UsageError;
use super::progress::Progress;
use super::render::{self, Versions};
use super::state::{Applied, OperationKind, State};
use super::topology::{BinarySource, Cluster, Node, PerProduct, Phase, Product, Scope, Target};
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
    /// How many clients are restarted at a time, where that was said.
    pub batch: Option<usize>,
    /// Versions may be further away than the makers support.
    pub force: bool,
    /// Names of nodes that are expected to be dead: nothing is sent to them, and nothing waits for
    /// them.
    pub absent: Vec<String>,
    /// Those of them that this run has to leave for another one, and why.
    pub left_out: BTreeMap<String, String>,
    /// Names that were given with `--skip`.
    pub skip: Vec<String>,
    /// Nodes of the cluster that are no longer described. They belong to it until they are removed.
    pub undescribed: Vec<String>,
    /// The one node that is worked on, where it is only one.
    pub only: Option<String>,
    /// What this run has changed.
    pub changes: Changes,
    /// Certificates of the nodes.
    pub pairs: BTreeMap<String, NodePairs>,
    /// What nodes share.
    pub shared: Option<Shared>,
    /// The operator's own pairs.
    pub operator: Option<PerProduct<Pair>>,
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
        let mut undescribed = Vec::new();
        if let Some(before) = &before {
            remember_sources(&mut cluster, before, &unnamed);
            undescribed = applied::keep_undescribed(&mut cluster, before)?;
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
        context.undescribed = undescribed;
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
            batch: None,
            force: false,
            absent: Vec::new(),
            left_out: BTreeMap::new(),
            skip: Vec::new(),
            undescribed: Vec::new(),
            only: None,
            changes: Changes::default(),
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

    /// Nodes of a phase that are worked on.
    pub(in crate::bootstrap) fn of_phase(&self, phase: Phase) -> Vec<Node> {
        self.cluster
            .of_phase(phase)
            .filter(|node| self.is_worked_on(node))
            .cloned()
            .collect()
    }

    /// Whether the node is expected to live, and meant.
    pub(in crate::bootstrap) fn is_worked_on(&self, node: &Node) -> bool {
        let is_meant = |only: &String| *only == node.name;
        !self.absent.contains(&node.name) && self.only.as_ref().is_none_or(is_meant)
    }

    /// Nodes that the gate of a phase does not wait for: those that are away, and, where only one is
    /// worked on, all other clients, which that one does not need.
    pub(in crate::bootstrap) fn not_waited_for(&self, phase: Phase) -> Vec<String> {
        let is_for_all = matches!(phase, Phase::ConsulServers | Phase::NomadServers);
        let is_waited_for = |node: &&Node| match is_for_all {
            true => !self.absent.contains(&node.name),
            false => self.is_worked_on(node),
        };
        let nodes = self.cluster.nodes.iter();
        nodes
            .filter(|node| !is_waited_for(node))
            .map(|node| node.name.clone())
            .collect()
    }

    /// Leaves a node to another run.
    pub(in crate::bootstrap) fn leave_out(&mut self, name: &str, why: &str) {
        if !self.absent.iter().any(|absent| absent == name) {
            self.absent.push(name.to_owned());
        }
        if !self.left_out.contains_key(name) {
            self.left_out.insert(name.to_owned(), why.to_owned());
        }
    }

    /// Takes a node in again that was left out.
    pub(in crate::bootstrap) fn take_in(&mut self, name: &str) {
        self.absent.retain(|absent| absent != name);
        self.left_out.remove(name);
    }

    /// Leaves the nodes out whose removal was begun: nothing may bring them up again.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(in crate::bootstrap) fn leave_out_removed(&mut self) -> Result<()> {
        for operation in self.state.operations()? {
            let name = operation.nodes.first().cloned().unwrap_or_default();
            let is_member = self.cluster.nodes.iter().any(|node| node.name == name);
            if operation.kind == OperationKind::RemoveNode && is_member {
                self.leave_out(&name, &operation.told());
            }
        }
        Ok(())
    }

    /// Leaves the nodes out that `--skip` names.
    ///
    /// # Errors
    /// When one is not a node of the cluster.
    pub(in crate::bootstrap) fn skip(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            if !self.cluster.nodes.iter().any(|node| node.name == *name) {
                bail!(UsageError(format!(
                    "--skip: no node is called {name:?}; there are {}",
                    self.node_names()
                )));
            }
            self.leave_out(name, "named by --skip");
        }
        self.skip.extend_from_slice(names);
        Ok(())
    }

    /// The names of all nodes, for messages.
    pub(in crate::bootstrap) fn node_names(&self) -> String {
        let names: Vec<&str> = self.cluster.nodes.iter().map(|node| &*node.name).collect();
        names.join(", ")
    }

    /// Takes nodes off the list: those that have left the cluster, and those that do not belong to
    /// it yet.
    pub(in crate::bootstrap) fn forget_nodes(&mut self, names: &[String]) {
        let is_kept = |name: &String| !names.contains(name);
        self.cluster.nodes.retain(|node| is_kept(&node.name));
        self.applied.nodes.retain(|node| is_kept(&node.name));
        self.applied.programs.retain(|name, _| is_kept(name));
        self.absent.retain(is_kept);
        self.undescribed.retain(is_kept);
        self.left_out.retain(|name, _| is_kept(name));
    }

    /// How an error begins that stops a run before its first change, or after it.
    pub(in crate::bootstrap) fn told_unchanged(&self) -> &'static str {
        if self.changes.is_empty() {
            "nothing was changed"
        } else {
            "it goes no further"
        }
    }

    /// What is left for another run, node by node; None: nothing.
    pub(in crate::bootstrap) fn told_left_out(&self) -> Option<String> {
        if self.left_out.is_empty() {
            return None;
        }
        let lines: String = self
            .left_out
            .iter()
            .map(|(name, why)| format!("\n  {name}: {why}"))
            .collect();
        let verb = if self.left_out.len() == 1 {
            "was"
        } else {
            "were"
        };
        Some(format!(
            "{} of {} nodes {verb} left out:{lines}\nrun it again when they are back, or take out for good what will not \
             be: `lb bootstrap remove-node NAME --dead`",
            self.left_out.len(),
            self.cluster.nodes.len()
        ))
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
        let pairs = self.pairs.get(&node.name).with_context(|| {
            format!(
                "{}: has no certificates yet: run `lb bootstrap up` first",
                node.name
            )
        })?;
        let shared = self
            .shared
            .as_ref()
            .context("the cluster has no keys yet: run `lb bootstrap up` first")?;
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

    /// How to reach the agents.
    ///
    /// # Errors
    /// When the operator has no certificate.
    pub(in crate::bootstrap) fn cluster_client(&self) -> Result<ClusterClient> {
        let shared = self
            .shared
            .as_ref()
            .context("the cluster has no keys yet: run `lb bootstrap up` first")?;
        let operator = self
            .operator
            .as_ref()
            .context("the operator has no certificate yet: run `lb bootstrap up` first")?;
        let tls = PerProduct::try_new(|product| {
            api::tls_config(shared.trusted.of(product), operator.of(product))
        })?;
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
                    std::io::Error::other(format!(
                        "{address} is not an address of the cluster's nodes"
                    ))
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
        Ok(ClusterView::new(&self.cluster, self.cluster_client()?).without(&self.absent))
    }

    /// Connects to all nodes, for commands that begin with requests to agents: the patience of a
    /// request is shorter than what some ways to a node take, and a node that gets many at once may
    /// refuse so many log-ins. Those that cannot be reached show later, as agents that do not
    /// respond.
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

    /// Whether the node was applied before this run.
    pub(in crate::bootstrap) fn is_known(&self, node: &Node) -> bool {
        let before = self.applied_before.iter().flat_map(|before| &before.nodes);
        before.into_iter().any(|before| before.name == node.name)
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
