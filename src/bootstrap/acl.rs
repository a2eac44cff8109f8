//! ACLs of both products: bootstrap, policies, tokens.
use std::time::Duration;

use super::reach::Reach;
use super::secrets::Secret;
use super::topology::{Cluster, Node};

/// Name of Consul's bootstrap token in the [`TokenStore`].
pub const CONSUL_MANAGEMENT: &str = "consul-management";
/// Name of the operator's Consul token: everything but ACLs.
pub const CONSUL_OPERATOR: &str = "consul-operator";
/// Name of the Consul token of Nomad's agents.
pub const CONSUL_NOMAD: &str = "consul-nomad";
/// Name of the Consul token of lb.
pub const CONSUL_LB: &str = "consul-lb";
/// Name of Nomad's bootstrap token.
pub const NOMAD_MANAGEMENT: &str = "nomad-management";
/// Name of the operator's Nomad token: everything but ACLs.
pub const NOMAD_OPERATOR: &str = "nomad-operator";

/// What the name of the Consul token of a node's agent begins with; the node's name follows.
pub const CONSUL_AGENT: &str = "consul-agent-";

/// Name of the Consul token of a node's agent.
#[must_use]
pub fn consul_agent(node: &Node) -> String {
    format!("{CONSUL_AGENT}{}", node.name)
}

/// Keeps tokens for good.
pub trait TokenStore: Send {
    /// The secret of this name.
    fn get(&self, name: &str) -> Option<Secret>;
    /// Keeps it; on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept; nothing is then done with the token.
    fn put(&mut self, name: &str, accessor: &str, secret: &Secret) -> anyhow::Result<()>;
}

/// Consul's bootstrap token: the saved one, or a new one of a cluster that has none.
///
/// # Errors
/// When the cluster has one that is not ours.
pub async fn bootstrap_consul(
    cluster: &Cluster,
    reach: &Reach,
    tokens: &mut dyn TokenStore,
    deadline: Duration,
) -> anyhow::Result<Secret> {
    let _ = (cluster, reach, tokens, deadline);
    anyhow::bail!("not yet")
}

/// All policies and tokens of Consul; makes what is missing. `reach` carries the management token.
///
/// # Errors
/// When Consul refuses.
pub async fn consul_tokens(cluster: &Cluster, reach: &Reach, tokens: &mut dyn TokenStore) -> anyhow::Result<()> {
    let _ = (cluster, reach, tokens);
    anyhow::bail!("not yet")
}

/// Hands their tokens to the agents of these nodes. `reach` carries the management token.
///
/// # Errors
/// When an agent does not take it by the deadline; names all such.
pub async fn give_agent_tokens(
    nodes: &[&Node],
    reach: &Reach,
    tokens: &dyn TokenStore,
    deadline: Duration,
) -> anyhow::Result<()> {
    let _ = (nodes, reach, tokens.get(""), deadline);
    anyhow::bail!("not yet")
}

/// Nomad's bootstrap token: the saved one, or a new one of a cluster that has none.
///
/// # Errors
/// When the cluster has one that is not ours.
pub async fn bootstrap_nomad(
    cluster: &Cluster,
    reach: &Reach,
    tokens: &mut dyn TokenStore,
    deadline: Duration,
) -> anyhow::Result<Secret> {
    let _ = (cluster, reach, tokens, deadline);
    anyhow::bail!("not yet")
}

/// The operator's policy and token of Nomad. `reach` carries the management token.
///
/// # Errors
/// When Nomad refuses.
pub async fn nomad_tokens(cluster: &Cluster, reach: &Reach, tokens: &mut dyn TokenStore) -> anyhow::Result<()> {
    let _ = (cluster, reach, tokens);
    anyhow::bail!("not yet")
}
