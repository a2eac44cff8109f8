//! The facts of a living cluster, fetched: the one place that knows which endpoint tells what, and
//! which agent is called.
//!
//! Nothing is kept: a gate reads a little, again and again, and must see what is true by now. What
//! the responses mean is in `facts`, what to make of them the callers' business.

use anyhow::Context as _;
use futures_util::future::join_all;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{Api, ApiError, LIMIT};
use super::client::ClusterClient;
use super::facts::{
    AutopilotHealth, Member, MemberStatus, Members, NomadNode, NomadNodeDetails, RaftConfiguration,
    RaftPeer,
};
use crate::bootstrap::topology::{Cluster, Node, Product};

const MEMBERS: &str = "/v1/agent/members";
const LEADER: &str = "/v1/status/leader";

/// Whether a server may tell what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It forwards the request to the leader.
    Default,
    /// What it remembers will do: without a leader there is nothing else.
    Stale,
}

/// A cluster, and how its agents are reached. Cheap to clone.
#[derive(Clone)]
pub struct ClusterView<'a> {
    /// As described.
    pub cluster: &'a Cluster,
    /// The way to its agents.
    pub client: ClusterClient,
    absent: &'a [String],
}

impl<'a> ClusterView<'a> {
    /// Sends no request yet.
    #[must_use]
    pub fn new(cluster: &'a Cluster, client: ClusterClient) -> Self {
        Self {
            cluster,
            client,
            absent: &[],
        }
    }

    /// The same, without requests to servers that are known to be away.
    #[must_use]
    pub fn without(self, absent: &'a [String]) -> Self {
        Self { absent, ..self }
    }

    /// Whether the node is known to be away.
    #[must_use]
    pub fn is_absent(&self, node: &Node) -> bool {
        self.absent.contains(&node.name)
    }

    /// The servers of a product that may get requests.
    pub fn servers(&self, product: Product) -> impl Iterator<Item = &'a Node> {
        let absent = self.absent;
        let servers = self.cluster.servers(product);
        servers.filter(move |node| !absent.contains(&node.name))
    }

    /// The API of one agent.
    #[must_use]
    pub fn api(&self, node: &Node, product: Product) -> Api {
        self.client.api(node, product)
    }

    /// The first good response of any server to a request of the caller's own.
    ///
    /// # Errors
    /// When none gives a good response.
    pub async fn any_server<T: DeserializeOwned>(
        &self,
        product: Product,
        path: &str,
    ) -> anyhow::Result<(&'a Node, T)> {
        self.client
            .any_server(self.servers(product), product, path)
            .await
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
    /// When it gives no good response.
    pub async fn members_seen_by(
        &self,
        node: &Node,
        product: Product,
    ) -> Result<Vec<Member>, ApiError> {
        let Members(members) = self.ask(node, product, MEMBERS).await?;
        Ok(members)
    }

    /// The members as the server sees them that leads, or else the one that knows most of them to
    /// be alive: one that was started a moment ago has not heard of all yet.
    ///
    /// # Errors
    /// When none gives a good response.
    pub async fn members_of_most(
        &self,
        product: Product,
        leader: Option<&Node>,
    ) -> anyhow::Result<(&'a Node, Vec<Member>)> {
        let views = self.members_by_server(product).await?;
        let leads = |server: &Node| leader.is_some_and(|leader| leader.name == server.name);
        views
            .into_iter()
            .max_by_key(|(server, members)| (leads(server), alive(members)))
            .with_context(|| format!("the cluster has no {product} server"))
    }

    /// The members as the first server that responds sees them.
    ///
    /// # Errors
    /// When none gives a good response.
    pub async fn members(&self, product: Product) -> anyhow::Result<(&'a Node, Vec<Member>)> {
        let (server, Members(members)) = self.any_server(product, MEMBERS).await?;
        Ok((server, members))
    }

    /// The members as each server that responds sees them: what one has not heard of yet another
    /// may know.
    ///
    /// # Errors
    /// When none gives a good response.
    pub async fn members_by_server(
        &self,
        product: Product,
    ) -> anyhow::Result<Vec<(&'a Node, Vec<Member>)>> {
        let views = self
            .client
            .every_server(self.servers(product), product, MEMBERS)
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
    /// When the agent gives no good response.
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
        let servers: Vec<&Node> = self.servers(product).collect();
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

    /// A server that responds, whether it knows a leader or not; not `except`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn answering_server(
        &self,
        product: Product,
        except: Option<&Node>,
    ) -> anyhow::Result<&'a Node> {
        let servers = self
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
    /// When it gives no good response.
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
    /// is read, which tells the same with up to two seconds' delay.
    ///
    /// # Errors
    /// When no server responds; without a leader none does.
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
    /// When the server gives no good response.
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

    /// Nomad's clients, and the server that told them. Of what servers remember, the newest counts;
    /// a server that has just started remembers nothing, and its empty list does not count.
    ///
    /// # Errors
    /// When no server gives a good response.
    pub async fn nomad_nodes(
        &self,
        consistency: Consistency,
    ) -> anyhow::Result<(&'a Node, Vec<NomadNode>)> {
        if consistency == Consistency::Default {
            return self.any_server(Product::Nomad, "/v1/nodes").await;
        }
        let servers: Vec<&Node> = self.servers(Product::Nomad).collect();
        let asked = join_all(servers.iter().map(|node| {
            let api = self.api(node, Product::Nomad);
            async move { api.get("/v1/nodes?stale=true", LIMIT).await?.good() }
        }))
        .await;
        let (mut newest, mut last) = (None, None);
        for (server, answer) in servers.into_iter().zip(asked) {
            match answer {
                Ok(reply) if is_newer(reply.index, newest.as_ref().map(|(_, index, _)| *index)) => {
                    newest = Some((server, reply.index.unwrap_or(0), reply));
                }
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        match (newest, last) {
            (Some((server, _, reply)), _) => Ok((server, reply.json()?)),
            (None, Some(error)) => Err(error.into()),
            (None, None) => {
                anyhow::bail!("no Nomad server knows its clients yet: wait until one leads")
            }
        }
    }

    /// What a server of Nomad tells of one client.
    ///
    /// # Errors
    /// When it gives no good response, or does not know the client.
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

fn alive(members: &[Member]) -> usize {
    let is_alive = |member: &&Member| member.status == MemberStatus::Alive;
    members.iter().filter(is_alive).count()
}

/// Whether a remembered response is to be taken, rather than the best one before.
fn is_newer(index: Option<u64>, best: Option<u64>) -> bool {
    match (index, best) {
        (None | Some(0), _) => false,
        (Some(_), None) => true,
        (Some(index), Some(best)) => index > best,
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().and_then(ApiError::status) == Some(StatusCode::FORBIDDEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_remembered_the_newest_counts_and_nothing_is_no_answer() {
        for (index, best, expected) in [
            (None, None, false),
            (Some(0), None, false),
            (Some(0), Some(7), false),
            (Some(7), None, true),
            (Some(7), Some(7), false),
            (Some(8), Some(7), true),
        ] {
            assert_eq!(is_newer(index, best), expected, "{index:?} after {best:?}");
        }
    }
}
