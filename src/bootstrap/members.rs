//! What `status` shows: every node as its daemons and their servers see it.
use serde::Serialize;

use super::reach::Reach;
use super::topology::{Cluster, Scope};

/// The whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Whether anything is not as it should be.
    pub degraded: bool,
    /// Name of the node that leads Consul.
    pub consul_leader: Option<String>,
    /// Name of the node that leads Nomad.
    pub nomad_leader: Option<String>,
    /// Every node of the description, in its order.
    pub nodes: Vec<NodeStatus>,
    /// What is wrong with no node in particular.
    pub problems: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// Its role, as a word: `consul-server`, `nomad-server`, `nomad-client`.
    pub role: &'static str,
    /// Address.
    pub address: String,
    /// Its Consul agent.
    pub consul: AgentStatus,
    /// Its Nomad agent, if it is to have one.
    pub nomad: Option<AgentStatus>,
    /// What is wrong here.
    pub problems: Vec<String>,
}

/// One daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentStatus {
    /// `alive`, `failed`, `left`, `leaving`, `absent`, `unknown`; of Nomad clients `ready`, `down`, `initializing`….
    pub status: String,
    /// Whether its own API answers.
    pub answers: bool,
    /// Version.
    pub version: Option<String>,
    /// Of servers: whether it votes.
    pub voter: Option<bool>,
    /// Of servers: whether it leads.
    pub leader: Option<bool>,
    /// Of Nomad clients: `eligible` or `ineligible`.
    pub eligibility: Option<String>,
    /// Of Nomad clients: whether it is being drained.
    pub drain: Option<bool>,
    /// Days until the certificate that it serves ends; negative when it has.
    pub certificate_days: Option<i64>,
}

/// Asks all nodes at once. `now` in Unix seconds; certificates with fewer than `warn_days` left are a problem.
pub async fn look(cluster: &Cluster, reach: &Reach, scope: Scope, now: i64, warn_days: i64) -> ClusterStatus {
    let _ = (cluster, reach, scope, now, warn_days);
    ClusterStatus::default()
}

/// The tables for people.
#[must_use]
pub fn render(status: &ClusterStatus) -> String {
    let _ = status;
    String::new()
}
