//! What `status` shows: every node as its daemons and their servers see it.
//!
//! Works with any part of the cluster dead: all requests go out at once and are short, whatever a
//! living server can tell is taken from it, and what cannot be found out is `unknown`. Tables are
//! made in `table`; exit codes by the caller.

mod table;

use futures_util::future::join_all;
use serde::Serialize;

use super::api::{ApiError, LIMIT};
use super::facts::{Member, NomadNode, RaftPeer};
use super::view::{ClusterView, Consistency};
use crate::bootstrap::plural::counted;
use crate::bootstrap::topology::{Cluster, Node, Product, Role, Scope};

pub use table::render;

/// The whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Whether anything is not as it should be.
    pub degraded: bool,
    /// Name of the node that leads Consul.
    pub consul_leader: Option<String>,
    /// Name of the node that leads Nomad.
    pub nomad_leader: Option<String>,
    /// Days until the CA's own certificate ends; negative when it has.
    pub ca_days: Option<i64>,
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
    /// `alive`, `failed`, `left`, `leaving`, `absent`, `unknown`; of Nomad clients `ready`, `down`,
    /// `initializing`….
    pub status: String,
    /// Whether its own API responds.
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

impl ClusterStatus {
    /// Notes something else that is not as it should be.
    pub fn add_problem(&mut self, problem: String) {
        self.problems.push(problem);
        self.degraded = true;
    }

    /// Notes how long the CA lasts. With fewer than `warn_days` left that is a problem: nothing it
    /// signs outlives it.
    pub fn judge_ca(&mut self, days: i64, warn_days: i64) {
        self.ca_days = Some(days);
        if days < warn_days {
            let when = match days {
                ..0 => "has expired".to_owned(),
                _ => format!("ends in {}", counted(days, "day")),
            };
            self.problems.push(format!(
                "the CA {when}; run `lb bootstrap rotate-certs --ca`"
            ));
            self.degraded = true;
        }
    }
}

/// What the servers of one product tell about all.
struct ServerView {
    product: Product,
    /// The members; an error if no server tells any.
    members: Result<Vec<Member>, String>,
    /// The clients of Nomad.
    clients: Result<Vec<NomadNode>, String>,
    peers: Option<Vec<RaftPeer>>,
    leader: Option<String>,
}

/// What a daemon tells about itself.
struct AgentView {
    /// None: it responds, and knows a leader.
    trouble: Option<String>,
    answers: bool,
    certificate_end: Option<i64>,
}

/// Looks at all nodes at once. `now` in Unix seconds; certificates with fewer than `warn_days` left
/// are a problem.
pub async fn look(view: &ClusterView<'_>, scope: Scope, now: i64, warn_days: i64) -> ClusterStatus {
    let cluster = view.cluster;
    let with_nomad = scope == Scope::All && cluster.servers(Product::Nomad).next().is_some();
    let nomad_servers = async {
        if with_nomad {
            Some(ask_servers(view, Product::Nomad).await)
        } else {
            None
        }
    };
    let owns = join_all(cluster.nodes.iter().map(|node| async move {
        let nomad = async {
            if with_nomad && node.products().contains(&Product::Nomad) {
                Some(ask_agent(view, node, Product::Nomad).await)
            } else {
                None
            }
        };
        tokio::join!(ask_agent(view, node, Product::Consul), nomad)
    }));
    let (consul, nomad, owns) =
        tokio::join!(ask_servers(view, Product::Consul), nomad_servers, owns);
    let mut status = ClusterStatus {
        consul_leader: consul.leader.clone(),
        nomad_leader: nomad.as_ref().and_then(|servers| servers.leader.clone()),
        problems: general_problems(cluster, &consul),
        ..ClusterStatus::default()
    };
    status.problems.extend(
        nomad
            .iter()
            .flat_map(|servers| general_problems(cluster, servers)),
    );
    for (node, (own_consul, own_nomad)) in cluster.nodes.iter().zip(owns) {
        status.nodes.push(judge(
            cluster,
            node,
            (&consul, own_consul),
            nomad.as_ref().zip(own_nomad),
            now,
            warn_days,
        ));
    }
    status.degraded =
        !status.problems.is_empty() || status.nodes.iter().any(|node| !node.problems.is_empty());
    status
}

async fn ask_servers(view: &ClusterView<'_>, product: Product) -> ServerView {
    let leader = view.leader(product).await;
    let members = async {
        match view.members_of_most(product, leader).await {
            Ok((_, members)) if members.is_empty() => {
                Err("the token has no right to see members".to_owned())
            }
            Ok((_, members)) => Ok(members),
            Err(error) => Err(format!("{error:#}")),
        }
    };
    let clients = async {
        if product == Product::Consul {
            return Ok(Vec::new());
        }
        match view.nomad_nodes(consistency(leader)).await {
            Ok((_, clients)) => Ok(clients),
            Err(error) => Err(format!("{error:#}")),
        }
    };
    let (members, clients, peers) = tokio::join!(members, clients, view.raft_peers(product));
    ServerView {
        product,
        members,
        clients,
        peers: peers.ok(),
        leader: leader.map(|node| node.name.clone()),
    }
}

/// What servers remember may be old, and is requested only where none of them leads.
fn consistency(leader: Option<&Node>) -> Consistency {
    match leader {
        Some(_) => Consistency::Default,
        None => Consistency::Stale,
    }
}

async fn ask_agent(view: &ClusterView<'_>, node: &Node, product: Product) -> AgentView {
    let api = view.api(node, product);
    // A client of Nomad gets the first by way of a server as well.
    let (leader, certificate) = tokio::join!(
        view.leader_seen_by(node, product),
        api.served_certificate(LIMIT)
    );
    let answers = match &leader {
        Ok(_) | Err(ApiError::Status { .. } | ApiError::Content { .. }) => true,
        // It hangs while there is no leader; whether it listens is told by the handshake.
        Err(ApiError::Timeout { .. }) => certificate.is_ok(),
        Err(_) => false,
    };
    let trouble = match leader {
        Ok(None) => Some("knows no leader".to_owned()),
        Ok(Some(_)) => None,
        Err(error) if answers => Some(format!("cannot reach the servers: {error}")),
        Err(error) => Some(format!("does not respond: {error}")),
    };
    AgentView {
        trouble,
        answers,
        certificate_end: certificate.ok().and_then(|leaf| end_of(&leaf)),
    }
}

/// When a certificate ends, in Unix seconds.
fn end_of(der: &[u8]) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn general_problems(cluster: &Cluster, servers: &ServerView) -> Vec<String> {
    let product = servers.product;
    let mut problems = Vec::new();
    if let Err(error) = &servers.members {
        problems.push(format!("{product}: no server tells the members: {error}"));
    }
    if let Err(error) = &servers.clients {
        problems.push(format!("{product}: no server tells the clients: {error}"));
    }
    if servers.leader.is_none() {
        problems.push(format!("{product}: no server leads"));
    } else if servers.peers.is_none() {
        problems.push(format!("{product}: the raft peers cannot be read"));
    }
    let known = |peer: &&RaftPeer| cluster.servers(product).any(|node| peer.is_at(node));
    for stranger in servers.peers.iter().flatten().filter(|peer| !known(peer)) {
        problems.push(format!(
            "{product}: raft peer {} ({}) is not in the description",
            stranger.node, stranger.address
        ));
    }
    problems
}

fn judge(
    cluster: &Cluster,
    node: &Node,
    consul: (&ServerView, AgentView),
    nomad: Option<(&ServerView, AgentView)>,
    now: i64,
    warn_days: i64,
) -> NodeStatus {
    let mut problems = Vec::new();
    let mut agent = |(servers, own): (&ServerView, AgentView)| {
        let status = agent_status(cluster, node, servers, &own, now);
        problems.extend(agent_problems(
            node,
            servers.product,
            &status,
            &own,
            warn_days,
        ));
        status
    };
    let consul = agent(consul);
    let nomad = nomad.map(agent);
    let role = match node.role {
        Role::ConsulServer => "consul-server",
        Role::NomadServer => "nomad-server",
        Role::NomadClient => "nomad-client",
    };
    NodeStatus {
        name: node.name.clone(),
        role,
        address: node.address.to_string(),
        consul,
        nomad,
        problems,
    }
}

fn agent_status(
    cluster: &Cluster,
    node: &Node,
    servers: &ServerView,
    own: &AgentView,
    now: i64,
) -> AgentStatus {
    let mut status = AgentStatus {
        answers: own.answers,
        certificate_days: own
            .certificate_end
            .map(|end| (end - now).div_euclid(86_400)),
        ..AgentStatus::default()
    };
    if node.is_server(servers.product) {
        status.leader = servers.leader.as_ref().map(|leader| *leader == node.name);
        status.voter = servers
            .peers
            .as_ref()
            .map(|peers| peers.iter().any(|peer| peer.voter && peer.is_at(node)));
    }
    match (servers.product, node.role) {
        (Product::Nomad, Role::NomadClient) => client_status(&mut status, servers, &node.name),
        (Product::Nomad, _) => member_status(
            &mut status,
            servers,
            &format!("{}.{}", node.name, cluster.region),
        ),
        (Product::Consul, _) => member_status(&mut status, servers, &node.name),
    }
    status
}

fn member_status(status: &mut AgentStatus, servers: &ServerView, name: &str) {
    let Ok(members) = &servers.members else {
        "unknown".clone_into(&mut status.status);
        return;
    };
    let Some(member) = members.iter().find(|member| member.name == name) else {
        "absent".clone_into(&mut status.status);
        return;
    };
    status.status = member.status.to_string();
    status.version = member.version().map(ToOwned::to_owned);
}

fn client_status(status: &mut AgentStatus, servers: &ServerView, name: &str) {
    let Ok(clients) = &servers.clients else {
        "unknown".clone_into(&mut status.status);
        return;
    };
    let Some(client) = NomadNode::of_name(clients, name) else {
        "absent".clone_into(&mut status.status);
        return;
    };
    status.status.clone_from(&client.status);
    status
        .eligibility
        .clone_from(&client.scheduling_eligibility);
    status.drain = client.drain;
    status.version.clone_from(&client.version);
}

fn agent_problems(
    node: &Node,
    product: Product,
    status: &AgentStatus,
    own: &AgentView,
    warn_days: i64,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !matches!(status.status.as_str(), "alive" | "ready") {
        problems.push(format!("{product}: {}", status.status));
    }
    if let Some(trouble) = &own.trouble {
        problems.push(format!("{product}: {trouble}"));
    }
    if status.voter == Some(false) {
        problems.push(format!("{product}: does not vote"));
    }
    if status.drain == Some(true) {
        problems.push(format!("{product}: is being drained"));
    } else if status
        .eligibility
        .as_deref()
        .is_some_and(|word| word != "eligible")
    {
        problems.push(format!("{product}: takes no allocations (ineligible)"));
    }
    match status.certificate_days {
        Some(days) if days < 0 => {
            problems.push(format!(
                "{product}: its certificate has expired; run `lb bootstrap rotate-certs`"
            ));
        }
        Some(days) if days < warn_days => problems.push(format!(
            "{product}: the certificate that {} serves ends in {}; run `lb bootstrap rotate-certs`",
            node.name,
            counted(days, "day")
        )),
        _ => {}
    }
    problems
}

#[cfg(test)]
mod tests;
