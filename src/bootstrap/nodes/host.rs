//! One node, and the way to it. What can be done there stands where its scripts do.

use std::net::IpAddr;

use anyhow::Result;

use super::channel::Channel;
use super::control::ControlDir;
use super::dialer::Dialer;
use crate::bootstrap::topology::{Cluster, Layout, Node, Runner, Target};

/// File in [`Layout::run`] that holds the id of the cluster to which the node belongs.
pub(super) const MARK: &str = "cluster-id";

/// See the module. Dials nothing until it is used.
#[derive(Clone)]
pub struct Host {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) layout: Layout,
    pub(super) runner: Runner,
    /// The node is this machine: owners are left alone.
    pub(super) local: bool,
    pub(super) channel: Channel,
}

impl Host {
    /// The node of this cluster.
    #[must_use]
    pub fn new(cluster: &Cluster, node: &Node, control: &ControlDir) -> Self {
        let (channel, runner) = match &cluster.target {
            Target::Local => (Channel::local(&node.name), Runner::Process),
            Target::Ssh(ssh) => (Channel::ssh(node, ssh, control), ssh.runner),
        };
        Self {
            name: node.name.clone(),
            address: node.address,
            layout: cluster.layout(node),
            runner,
            local: cluster.is_local(),
            channel,
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the connection that all that follows shares. Of use before many streams are opened at
    /// once.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn dial(&self) -> Result<()> {
        self.channel.dial().await
    }

    /// How to open a byte stream to an address as seen from that node.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.channel.dialer()
    }

    /// A node behind ssh as far as scripts go; what is run there is run here.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            name: "consul-0".to_owned(),
            address: [127, 0, 34, 1].into(),
            layout: Layout::system(),
            runner: Runner::Process,
            local: false,
            channel: Channel::local("consul-0"),
        }
    }
}
