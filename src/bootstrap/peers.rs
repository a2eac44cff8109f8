//! Members that come and go for good: raft peers, gossip members, Nomad's nodes.
use std::time::Duration;

use super::reach::Reach;
use super::topology::{Cluster, Node, Product};

/// A raft peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its raft id.
    pub id: String,
    /// Name of its node: Nomad's without the region.
    pub node: String,
    /// Address of its RPC.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
}

/// All raft peers.
///
/// # Errors
/// When no server answers.
pub async fn list(cluster: &Cluster, reach: &Reach, product: Product) -> anyhow::Result<Vec<Peer>> {
    let _ = (cluster, reach, product);
    anyhow::bail!("not yet")
}

/// Takes a dead node's server out of raft and its agent out of the member list; good if it is in neither.
///
/// # Errors
/// When the product refuses.
pub async fn forget(cluster: &Cluster, reach: &Reach, product: Product, node: &Node) -> anyhow::Result<()> {
    let _ = (cluster, reach, product, node);
    anyhow::bail!("not yet")
}

/// Waits until the node's server votes.
///
/// # Errors
/// When it does not by the deadline.
pub async fn wait_voter(
    cluster: &Cluster,
    reach: &Reach,
    product: Product,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    let _ = (cluster, reach, product, node, deadline);
    anyhow::bail!("not yet")
}

/// Moves all allocations off a Nomad client, and waits until they are gone.
///
/// # Errors
/// When they are not by the deadline.
pub async fn drain(cluster: &Cluster, reach: &Reach, node: &Node, deadline: Duration) -> anyhow::Result<()> {
    let _ = (cluster, reach, node, deadline);
    anyhow::bail!("not yet")
}

/// Lets a drained Nomad client take allocations again.
///
/// # Errors
/// When Nomad refuses.
pub async fn undrain(cluster: &Cluster, reach: &Reach, node: &Node) -> anyhow::Result<()> {
    let _ = (cluster, reach, node);
    anyhow::bail!("not yet")
}

/// Makes Nomad forget a client that is down; good if it knows none of this name.
///
/// # Errors
/// When Nomad refuses.
pub async fn purge(cluster: &Cluster, reach: &Reach, node: &Node) -> anyhow::Result<()> {
    let _ = (cluster, reach, node);
    anyhow::bail!("not yet")
}

/// Asks the leader to hand over to another server, so that its restart costs no election. False: this version cannot.
///
/// # Errors
/// When it refuses.
pub async fn step_down(cluster: &Cluster, reach: &Reach, product: Product) -> anyhow::Result<bool> {
    let _ = (cluster, reach, product);
    Ok(false)
}
