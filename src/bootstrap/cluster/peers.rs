//! Members that come and go for good: raft peers, gossip members, Nomad's clients.
//!
//! For `replace-node` and `down`. Every function may be run again: what is gone already is no
//! mistake.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Api, ApiError, LIMIT, Reply};
use super::client::ClusterClient;
use crate::bootstrap::topology::{Cluster, Node, Product};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(200);

/// Limit for the answer to a forced leave.
const FORGET_LIMIT: Duration = Duration::from_secs(20);
/// Time between two of them.
const FORGET_AGAIN: Duration = Duration::from_secs(10);

/// A raft peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its raft id.
    pub id: String,
    /// Name of its node; of Nomad without the region. `(unknown)` for one that gossip does not
    /// know.
    pub node: String,
    /// Address of its RPC.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    /// `Name` is autopilot's word for it.
    #[serde(alias = "Name")]
    node: String,
    address: String,
    voter: bool,
    leader: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Client {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    status: String,
}

#[derive(Deserialize)]
struct Details {
    /// Where its agent listens.
    #[serde(rename = "HTTPAddr", default)]
    http_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    client_status: String,
    /// Of system jobs: they stay while `ignore_system_jobs` is on.
    #[serde(default)]
    job_type: String,
}

/// All raft peers.
///
/// Nomad shows its raft configuration to management tokens alone; with a lesser one autopilot is
/// asked, which tells the same with up to two seconds' delay.
///
/// # Errors
/// When no server answers; without a leader none does.
pub async fn list(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
) -> anyhow::Result<Vec<Peer>> {
    let path = "/v1/operator/raft/configuration";
    let found = match cluster_client
        .any_server::<Configuration>(cluster, product, path)
        .await
    {
        Ok((_, found)) => found,
        Err(error) if is_forbidden(&error) => autopilot(cluster, cluster_client, product).await?,
        Err(error) => return Err(error.context(format!("{product}'s raft peers"))),
    };
    let suffix = format!(".{}", cluster.region);
    let name = |node: String| match (product, node.strip_suffix(&suffix)) {
        (Product::Nomad, Some(name)) => name.to_owned(),
        _ => node,
    };
    Ok(found
        .servers
        .into_iter()
        .map(
            |Server {
                 id,
                 node,
                 address,
                 voter,
                 leader,
             }| Peer {
                id,
                node: name(node),
                address,
                voter,
                leader,
            },
        )
        .collect())
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().and_then(ApiError::status) == Some(StatusCode::FORBIDDEN)
}

async fn autopilot(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
) -> anyhow::Result<Configuration> {
    let (server, _) = cluster_client
        .any_server::<Value>(cluster, product, "/v1/status/leader")
        .await?;
    let reply = cluster_client
        .api(server, product)
        .get("/v1/operator/autopilot/health", LIMIT)
        .await?;
    // 429 means unhealthy, and comes with the same content.
    let reply = if reply.status == StatusCode::TOO_MANY_REQUESTS {
        reply
    } else {
        reply.good()?
    };
    Ok(reply.json_whatever_the_status()?)
}

/// Takes a dead node's server out of raft and has its agent counted as gone; good if it was so
/// already.
///
/// The agent is not pruned from the member list: the word of its removal would meet the new agent
/// of the same name, which the leader would then notice only when it next looks at everything, a
/// minute later.
///
/// # Errors
/// When the product refuses, or its server leads (then it is not dead), or a server still takes it
/// for alive at the deadline.
pub async fn forget(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    if node.is_server(product) {
        for peer in list(cluster, cluster_client, product)
            .await?
            .iter()
            .filter(|peer| is_of(peer, node))
        {
            anyhow::ensure!(
                !peer.leader,
                "{}: its {product} server leads: stop it first",
                node.name
            );
            let api = any_api(cluster, cluster_client, product, node).await?;
            let reply = api
                .delete(
                    &format!("/v1/operator/raft/peer?id={}", peer.id),
                    None,
                    LIMIT,
                )
                .await?;
            good_or_gone(reply, "was not found in the Raft configuration")?;
        }
    }
    let (path, member) = match product {
        Product::Consul => (
            format!("/v1/agent/force-leave/{}", node.name),
            node.name.clone(),
        ),
        // Its clients are no members.
        Product::Nomad if !node.is_server(product) => return Ok(()),
        Product::Nomad => {
            let member = format!("{}.{}", node.name, cluster.region);
            (format!("/v1/agent/force-leave?node={member}"), member)
        }
    };
    let others: Vec<&Node> = cluster
        .servers(product)
        .filter(|server| server.name != node.name)
        .collect();
    let told_at = Cell::new(None::<Instant>);
    until(deadline, || async {
        let mut found = None;
        for server in &others {
            let members = members(&cluster_client.api(server, product), product)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let here = members
                .into_iter()
                .find(|(name, standing)| *name == member && *standing != Standing::Left);
            found = here.map(|(_, standing)| (*server, standing)).or(found);
        }
        let Some((server, standing)) = found else {
            return Ok(());
        };
        // Before the server has noticed that the agent is dead the word would be of no effect
        // there; but it would go round, and be about the agent that comes next. For the same reason
        // it is not repeated in haste.
        if standing == Standing::Failed
            && told_at
                .get()
                .is_none_or(|told| told.elapsed() > FORGET_AGAIN)
        {
            told_at.set(Some(Instant::now()));
            let reply = cluster_client
                .api(server, product)
                .put(&path, None, FORGET_LIMIT)
                .await;
            reply
                .and_then(Reply::good)
                .map_err(|error| error.to_string())?;
        }
        Err(format!("is still a member for {}", server.name))
    })
    .await
    .map_err(|last| anyhow::anyhow!("{}: {product} does not let it go: {last}", node.name))
}

/// How a server takes a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    Failed,
    Left,
}

/// Members as a server sees them.
async fn members(api: &Api, product: Product) -> Result<Vec<(String, Standing)>, ApiError> {
    let found: Value = api.get("/v1/agent/members", LIMIT).await?.good()?.json()?;
    let list = if product == Product::Nomad {
        &found["Members"]
    } else {
        &found
    };
    let name = |member: &Value| member["Name"].as_str().unwrap_or_default().to_owned();
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .map(|member| (name(member), standing(&member["Status"])))
        .collect())
}

/// Consul gives Serf's number, Nomad its word.
fn standing(status: &Value) -> Standing {
    match (status.as_u64(), status.as_str()) {
        (Some(3), _) | (_, Some("left")) => Standing::Left,
        (Some(4), _) | (_, Some("failed")) => Standing::Failed,
        _ => Standing::Alive,
    }
}

/// Waits until the node's server votes, and no other peer has its name or address.
///
/// # Errors
/// When it does not by the deadline. Autopilot makes a new server a voter after it was stable for
/// 10 s.
pub async fn wait_voter(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    until(deadline, || async {
        let peers = list(cluster, cluster_client, product)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let own: Vec<&Peer> = peers.iter().filter(|peer| is_of(peer, node)).collect();
        match own.as_slice() {
            [] => Err("is no raft peer yet".to_owned()),
            [peer] if !is_at(peer, node) => Err(format!("is still known at {}", peer.address)),
            [peer] if peer.voter => Ok(()),
            [_] => Err("is a raft peer, but does not vote yet".to_owned()),
            _ => Err(format!("is {} raft peers", own.len())),
        }
    })
    .await
    .map_err(|why| {
        anyhow::anyhow!(
            "{}: its {product} server {why} after {deadline:?}",
            node.name
        )
    })
}

/// Moves all allocations off a Nomad client, and waits until they have ended, those of system jobs
/// last.
///
/// # Errors
/// When they have not by the deadline, or Nomad does not know the client.
pub async fn drain(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    let (api, clients) = clients(cluster, cluster_client, node).await?;
    let client = clients.iter().find(|client| client.status != "down");
    let client =
        client.with_context(|| format!("{}: Nomad knows no such client that is up", node.name))?;
    // In nanoseconds. What is left then Nomad stops by force, which must be seen before our own
    // time is up.
    let nanoseconds = u64::try_from((deadline * 4 / 5).as_nanos()).unwrap_or(u64::MAX / 2);
    let body = json!({ "DrainSpec": { "Deadline": nanoseconds, "IgnoreSystemJobs": false }, "MarkEligible": false });
    api.put(&format!("/v1/node/{}/drain", client.id), Some(&body), LIMIT)
        .await?
        .good()?;
    let path = format!("/v1/node/{}/allocations", client.id);
    until(deadline, || async {
        let reply = api
            .get(&path, LIMIT)
            .await
            .and_then(Reply::json::<Vec<Allocation>>);
        let allocations = reply.map_err(|error| error.to_string())?;
        match allocations
            .iter()
            .filter(|one| matches!(one.client_status.as_str(), "running" | "pending"))
            .count()
        {
            0 => Ok(()),
            left => Err(format!(
                "still has {left} allocations{}",
                system(&allocations)
            )),
        }
    })
    .await
    .map_err(|why| anyhow::anyhow!("{}: {why} after {deadline:?} of draining", node.name))
}

fn system(allocations: &[Allocation]) -> &'static str {
    let some = allocations
        .iter()
        .any(|one| one.job_type == "system" && one.client_status == "running");
    if some { ", of system jobs as well" } else { "" }
}

/// Ends a drain and lets the Nomad client take allocations again.
///
/// # Errors
/// When Nomad refuses.
pub async fn undrain(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    node: &Node,
) -> anyhow::Result<()> {
    let (api, clients) = clients(cluster, cluster_client, node).await?;
    for client in clients.iter().filter(|client| client.status != "down") {
        let body = json!({ "DrainSpec": null, "MarkEligible": true });
        api.put(&format!("/v1/node/{}/drain", client.id), Some(&body), LIMIT)
            .await?
            .good()?;
    }
    Ok(())
}

/// Makes Nomad forget the clients of this name that are down, or that nobody answers for; good if
/// there are none.
///
/// After a change of leader Nomad takes five minutes to call a dead client down
/// (`failover_heartbeat_ttl`), hence the look at its agent.
///
/// # Errors
/// When Nomad refuses.
pub async fn purge(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    node: &Node,
) -> anyhow::Result<()> {
    let (api, clients) = clients(cluster, cluster_client, node).await?;
    for client in clients {
        let path = format!("/v1/node/{}", client.id);
        if client.status != "down" {
            let details: Details = api.get(&path, LIMIT).await?.json()?;
            let Ok(address) = details.http_address.parse::<SocketAddr>() else {
                continue;
            };
            let there = Node {
                address: address.ip(),
                ..node.clone()
            };
            if cluster_client
                .api(&there, Product::Nomad)
                .served_certificate(LIMIT)
                .await
                .is_ok()
            {
                continue;
            }
        }
        api.put(&format!("{path}/purge"), None, LIMIT)
            .await?
            .good()?;
    }
    Ok(())
}

/// Asks the leader to hand over to another server, so that its restart costs no election. False:
/// this version cannot, or there is no other voter.
///
/// # Errors
/// When it refuses.
pub async fn step_down(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
) -> anyhow::Result<bool> {
    let peers = list(cluster, cluster_client, product).await?;
    let leader = peers.iter().find(|peer| peer.leader);
    let heir = peers.iter().find(|peer| peer.voter && !peer.leader);
    let (Some(leader), Some(heir)) = (leader, heir) else {
        return Ok(false);
    };
    let Some(node) = cluster.servers(product).find(|node| is_at(leader, node)) else {
        return Ok(false);
    };
    let api = cluster_client.api(node, product);
    let reply = match product {
        Product::Consul => {
            api.post(
                &format!("/v1/operator/raft/transfer-leader?id={}", heir.id),
                None,
                LIMIT,
            )
            .await?
        }
        Product::Nomad => {
            api.put(
                &format!("/v1/operator/raft/transfer-leadership?id={}", heir.id),
                None,
                LIMIT,
            )
            .await?
        }
    };
    if matches!(
        reply.status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    ) {
        return Ok(false);
    }
    reply.good()?;
    Ok(true)
}

fn is_of(peer: &Peer, node: &Node) -> bool {
    peer.node == node.name || is_at(peer, node)
}

fn is_at(peer: &Peer, node: &Node) -> bool {
    peer.address
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip() == node.address)
}

/// A server that answers, other than the node itself.
async fn any_api(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    product: Product,
    not: &Node,
) -> anyhow::Result<Api> {
    let mut others = cluster.clone();
    others.nodes.retain(|node| node.name != not.name);
    let (server, _) = cluster_client
        .any_server::<Value>(&others, product, "/v1/status/leader")
        .await?;
    Ok(cluster_client.api(server, product))
}

/// Nomad's clients of the node's name, and a server that knows them.
async fn clients(
    cluster: &Cluster,
    cluster_client: &ClusterClient,
    node: &Node,
) -> anyhow::Result<(Api, Vec<Client>)> {
    let (server, mut clients) = cluster_client
        .any_server::<Vec<Client>>(cluster, Product::Nomad, "/v1/nodes")
        .await?;
    clients.retain(|client| client.name == node.name);
    Ok((cluster_client.api(server, Product::Nomad), clients))
}

fn good_or_gone(reply: Reply, gone: &str) -> anyhow::Result<()> {
    if !reply.status.is_success() && reply.text().contains(gone) {
        return Ok(());
    }
    reply.good()?;
    Ok(())
}

/// Looks until all is well; the last reason why not, once the time is up.
async fn until<F: Future<Output = Result<(), String>>>(
    deadline: Duration,
    look: impl Fn() -> F,
) -> Result<(), String> {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() >= end => return Err(why),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}
