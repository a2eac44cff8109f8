//! One node, and the way to it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::spec::{BinarySpec, DaemonSpec, DirSpec, FileSpec, NodeSpec, Observed, Owner, Stamps};
use crate::bootstrap::topology::{Cluster, Node, Product, Runner, Target};




/// One node, and the way to it. Cheap to clone; dials nothing until it is asked for something.
#[derive(Clone)]
pub struct Host(Arc<Machine>);

impl Host {
    /// The node of this cluster.
    #[must_use]
    pub fn new(cluster: &Cluster, node: &Node, control: &ControlDir) -> Self {
        let (channel, runner) = match &cluster.target {
            Target::Local => (Channel::local(&node.name), Runner::Process),
            Target::Ssh(ssh) => (Channel::ssh(node, ssh, control), ssh.runner),
        };
        Self(Arc::new(Machine {
            name: node.name.clone(),
            address: node.address,
            layout: cluster.layout(node),
            runner,
            local: cluster.is_local(),
            channel,
        }))
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the node can be worked on, and what is in the way. One round trip.
    ///
    /// # Errors
    /// When it is not reached, or its shell does not have root's rights (ssh target).
    pub async fn preflight(&self, spec: &NodeSpec, ask: &Preflight) -> Result<Facts> {
        preflight::run(&self.0, spec, ask).await
    }

    /// Marks the node as one of this cluster.
    ///
    /// # Errors
    /// When it carries the mark of another one.
    pub async fn claim(&self, cluster_id: &str) -> Result<()> {
        files::claim(&self.0, cluster_id).await
    }

    /// What the node has of all that `spec` names. One round trip.
    ///
    /// On the local target owners are ignored: the owner that the specification asks for is
    /// reported.
    ///
    /// # Errors
    /// When the node is not reached, or something cannot be read.
    pub async fn observe(&self, spec: &NodeSpec) -> Result<Observed> {
        observe::run(&self.0, spec).await
    }

    /// Makes the system users that are missing: own group, no shell, no home. Nothing on the local
    /// target.
    ///
    /// # Errors
    /// When the node is not reached, or has no tool to make users.
    pub async fn ensure_users(&self, users: &[Owner]) -> Result<()> {
        files::ensure_users(&self.0, users).await
    }

    /// Makes folders, and gives those that exist the right mode and owner.
    ///
    /// # Errors
    /// When the node is not reached, or a path is taken by something else.
    pub async fn ensure_directories(&self, dirs: &[DirSpec]) -> Result<()> {
        files::ensure_directories(&self.0, dirs).await
    }

    /// Writes files, each at once: under another name first, with mode and owner, and renamed. One
    /// round trip.
    ///
    /// # Errors
    /// When the node is not reached, or a folder is missing.
    pub async fn write(&self, files: &[&FileSpec]) -> Result<()> {
        files::write(&self.0, files).await
    }

    /// Removes files and folders inside the layout's folders.
    ///
    /// # Errors
    /// When a path lies elsewhere (then nothing is removed), or the node is not reached.
    pub async fn remove(&self, paths: &[String]) -> Result<()> {
        files::remove(&self.0, paths).await
    }

    /// Installs a program unless it is there already; the SHA-256 of what is there now.
    ///
    /// # Errors
    /// When the program is for another processor, or a release archive is not what it ought to be;
    /// then nothing is installed.
    pub async fn install(&self, binary: &BinarySpec, releases: &Releases) -> Result<String> {
        binaries::install(&self.0, binary, releases).await
    }

    /// Starts a daemon, unless it runs.
    ///
    /// # Errors
    /// When it ends at once; with the last lines of its log.
    pub async fn start(&self, daemon: &DaemonSpec) -> Result<()> {
        daemons::start(&self.0, daemon).await
    }

    /// Stops a daemon by SIGINT; by SIGKILL, and a warning in the log, when it still runs after
    /// `patience`.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop(&self, daemon: &DaemonSpec, patience: Duration) -> Result<()> {
        daemons::stop(&self.0, daemon, patience).await
    }

    /// Keeps a stopped daemon from being started with the machine, until [`Host::start`] is called
    /// again.
    ///
    /// # Errors
    /// When the node is not reached, or systemd refuses.
    pub async fn disable(&self, daemon: &DaemonSpec) -> Result<()> {
        daemons::disable(&self.0, daemon).await
    }

    /// Has a daemon read its certificates and keys again (SIGHUP).
    ///
    /// # Errors
    /// When it does not run.
    pub async fn reload(&self, daemon: &DaemonSpec) -> Result<()> {
        daemons::reload(&self.0, daemon).await
    }

    /// Notes on the node what its daemon has been started with. A stamp that is `None` is removed.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn stamp(&self, product: Product, stamps: &Stamps) -> Result<()> {
        daemons::stamp(&self.0, product, stamps).await
    }

    /// The last lines of a daemon's log.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn log(&self, product: Product, lines: usize) -> Result<String> {
        daemons::log(&self.0, product, lines).await
    }

    /// Ends the tasks that a stopped Nomad client left running, and unmounts what it mounted below
    /// its data folder. How many processes it ended.
    ///
    /// # Errors
    /// When the node is not reached, or a process survives SIGKILL, or something cannot be
    /// unmounted.
    pub async fn stop_tasks(&self, patience: Duration) -> Result<usize> {
        tasks::stop(&self.0, patience).await
    }

    /// Removes what the cluster left on the node. The daemons must be stopped.
    ///
    /// # Errors
    /// When a daemon still runs, something is mounted below the data folder, or the node does not
    /// carry our mark.
    pub async fn wipe(&self, what: Wipe) -> Result<()> {
        tasks::wipe(&self.0, what).await
    }

    /// Makes the connection that all that follows shares. Of use before many streams are opened at
    /// once.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn dial(&self) -> Result<()> {
        self.0.channel.dial().await
    }

    /// How to open a byte stream to an address as seen from that node.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.0.channel.dialer()
    }
}
