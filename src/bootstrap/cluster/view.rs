//! The facts of a living cluster, fetched: the one place that knows which endpoint tells what, and
//! which agent is asked.
//!
//! Nothing is kept: a gate asks for little, again and again, and must see what is true by now. What
//! the answers mean is in `facts`, what to make of them the callers' business.

use futures_util::future::join_all;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{Api, ApiError, LIMIT};
use super::client::ClusterClient;
use super::facts::{
    AutopilotHealth, Member, Members, NomadNode, NomadNodeDetails, RaftConfiguration, RaftPeer,
};
use crate::bootstrap::topology::{Cluster, Node, Product};

const MEMBERS: &str = "/v1/agent/members";
const LEADER: &str = "/v1/status/leader";

/// Whether a server may tell what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It asks the leader.
    Default,
    /// What it remembers will do: without a leader there is nothing else.
    Stale,
}

/// A cluster, and how its agents are asked. Cheap to clone.
#[derive(Clone)]
pub struct ClusterView<'a> {
    /// As described.
    pub cluster: &'a Cluster,
    /// The way to its agents.
    pub client: ClusterClient,
}

impl<'a> ClusterView<'a> {
    /// Asks nothing yet.
    #[must_use]
    pub fn new(cluster: &'a Cluster, client: ClusterClient) -> Self {
        Self { cluster, client }
    }

    /// The API of one agent.
    #[must_use]
    pub fn api(&self, node: &Node, product: Product) -> Api {
        self.client.api(node, product)
    }

    /// The first good answer of any server to a question of the caller's own.
    ///
    /// # Errors
    /// When none answers well.
    pub async fn any_server<T: DeserializeOwned>(
        &self,
        product: Product,
        path: &str,
    ) -> anyhow::Result<(&'a Node, T)> {
        let servers = self.cluster.servers(product);
        self.client.any_server(servers, product, path).await
    }

    /// What the node's agent is called in the product's gossip pool.
    #[must_use]
    pub fn member_name(&self, node: &Node, product: Product) -> String {
        match product {
            Product::Consul => node.name.clone(),
            Product::Nomad => format!("{}.{}", node.name, self.cluster.region),
        }
    }

    /// The members as one agent sees them. None at all: the token has no right to see them.
    ///
    /// # Errors
    /// When it does not answer well.
    pub async fn members_seen_by(
        &self,
        node: &Node,
        product: Product,
    ) -> Result<Vec<Member>, ApiError> {
        let Members(members) = self.ask(node, product, MEMBERS).await?;
        Ok(members)
    }

    /// The members as the first server that answers sees them.
    ///
    /// # Errors
    /// When none answers well.
    pub async fn members(&self, product: Product) -> anyhow::Result<(&'a Node, Vec<Member>)> {
        let (server, Members(members)) = self.any_server(product, MEMBERS).await?;
        Ok((server, members))
    }

    /// The members as each server that answers sees them: what one has not heard of yet another may
    /// know.
    ///
    /// # Errors
    /// When none answers well.
    pub async fn members_by_server(
        &self,
        product: Product,
    ) -> anyhow::Result<Vec<(&'a Node, Vec<Member>)>> {
        let views = self
            .client
            .every_server(self.cluster.servers(product), product, MEMBERS)
            .await?;
        Ok(views
            .into_iter()
            .map(|(server, Members(members))| (server, members))
            .collect())
    }

    /// The RPC address of the server that leads, as one agent knows it; None while it knows of
    /// none. It goes over RPC, so that it also tests the agent's certificates.
    ///
    /// # Errors
    /// When the agent does not answer well.
    pub async fn leader_seen_by(
        &self,
        node: &Node,
        product: Product,
    ) -> Result<Option<String>, ApiError> {
        let leader: Option<String> = self.ask(node, product, LEADER).await?;
        Ok(leader.filter(|leader| !leader.is_empty()))
    }

    /// The node whose server leads, as most servers see it.
    pub async fn leader(&self, product: Product) -> Option<&'a Node> {
        let servers: Vec<&Node> = self.cluster.servers(product).collect();
        let views = join_all(
            servers
                .iter()
                .map(|node| self.leader_seen_by(node, product)),
        )
        .await;
        let named: Vec<String> = views.into_iter().flatten().flatten().collect();
        let votes = |node: &Node| {
            named
                .iter()
                .filter(|leader| node.is_rpc(product, leader))
                .count()
        };
        servers
            .into_iter()
            .filter(|node| votes(node) > 0)
            .max_by_key(|node| votes(node))
    }

    /// A server that answers, whether it knows a leader or not; not `except`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn answering_server(
        &self,
        product: Product,
        except: Option<&Node>,
    ) -> anyhow::Result<&'a Node> {
        let servers = self
            .cluster
            .servers(product)
            .filter(|node| except.is_none_or(|except| except.name != node.name));
        let (server, _) = self
            .client
            .any_server::<Value>(servers, product, LEADER)
            .await?;
        Ok(server)
    }

    /// The RPC addresses of the raft peers, as one server knows them.
    ///
    /// # Errors
    /// When it does not answer well.
    pub async fn peer_addresses_seen_by(
        &self,
        node: &Node,
        product: Product,
    ) -> Result<Vec<String>, ApiError> {
        self.ask(node, product, "/v1/status/peers").await
    }

    /// All raft peers.
    ///
    /// Nomad shows its raft configuration to management tokens alone; with a lesser one autopilot
    /// is asked, which tells the same with up to two seconds' delay.
    ///
    /// # Errors
    /// When no server answers; without a leader none does.
    pub async fn raft_peers(&self, product: Product) -> anyhow::Result<Vec<RaftPeer>> {
        let path = "/v1/operator/raft/configuration";
        let peers = match self.any_server::<RaftConfiguration>(product, path).await {
            Ok((_, found)) => found.servers,
            Err(error) if is_forbidden(&error) => {
                let server = self.answering_server(product, None).await?;
                let health = self.autopilot_seen_by(server, product).await?;
                health.servers.into_iter().map(RaftPeer::from).collect()
            }
            Err(error) => return Err(error.context(format!("{product}'s raft peers"))),
        };
        Ok(match product {
            Product::Consul => peers,
            Product::Nomad => peers
                .into_iter()
                .map(|peer| peer.without_region(&self.cluster.region))
                .collect(),
        })
    }

    /// The verdict of autopilot, as one server passes it on. It lags by up to two seconds.
    ///
    /// # Errors
    /// When the server does not answer well.
    pub async fn autopilot_seen_by(
        &self,
        node: &Node,
        product: Product,
    ) -> Result<AutopilotHealth, ApiError> {
        let reply = self
            .api(node, product)
            .get("/v1/operator/autopilot/health", LIMIT)
            .await?;
        // 429 means unhealthy, and comes with the same content.
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            return reply.json_whatever_the_status();
        }
        reply.json()
    }

    /// Nomad's clients, and the server that told them.
    ///
    /// # Errors
    /// When no server answers well.
    pub async fn nomad_nodes(
        &self,
        consistency: Consistency,
    ) -> anyhow::Result<(&'a Node, Vec<NomadNode>)> {
        let path = match consistency {
            Consistency::Default => "/v1/nodes",
            Consistency::Stale => "/v1/nodes?stale=true",
        };
        self.any_server(Product::Nomad, path).await
    }

    /// What a server of Nomad tells of one client.
    ///
    /// # Errors
    /// When it does not answer well, or does not know the client.
    pub async fn nomad_node(&self, server: &Node, id: &str) -> Result<NomadNodeDetails, ApiError> {
        self.ask(server, Product::Nomad, &format!("/v1/node/{id}"))
            .await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        node: &Node,
        product: Product,
        path: &str,
    ) -> Result<T, ApiError> {
        self.api(node, product).get(path, LIMIT).await?.json()
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().and_then(ApiError::status) == Some(StatusCode::FORBIDDEN)
}
