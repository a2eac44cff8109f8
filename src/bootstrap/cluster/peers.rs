//! Members that come and go for good: raft peers, gossip members, Nomad's clients.
//!
//! For `replace-node`, `remove-node` and `reboot`. Every function may be run again: what is gone
//! already is not a mistake.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::api::{LIMIT, Reply};
use super::facts::{MemberStatus, NomadNode, RaftPeer};
use super::view::{ClusterView, Consistency};
use crate::bootstrap::topology::{Node, Product};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(200);

/// Limit for the response to a forced leave.
const FORGET_LIMIT: Duration = Duration::from_secs(20);
/// Time between two of them.
const FORGET_AGAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    client_status: String,
    /// Of system jobs: they stay while `ignore_system_jobs` is on.
    #[serde(default)]
    job_type: String,
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
    view: &ClusterView<'_>,
    product: Product,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    if node.is_server(product) {
        let peers = view.raft_peers(product).await?;
        let leads = peers.iter().any(|peer| peer.leader && peer.is_of(node));
        anyhow::ensure!(
            !leads,
            "{}: its {product} server leads: stop it first",
            node.name
        );
        remove_peers(view, product, node, &peers).await?;
    }
    let member = view.member_name(node, product);
    let path = match product {
        Product::Consul => format!("/v1/agent/force-leave/{member}"),
        // Its clients are not members.
        Product::Nomad if !node.is_server(product) => return Ok(()),
        Product::Nomad => format!("/v1/agent/force-leave?node={member}"),
    };
    let others: Vec<&Node> = view
        .servers(product)
        .filter(|server| server.name != node.name)
        .collect();
    let told_at = Cell::new(None::<Instant>);
    until(deadline, || async {
        let mut found = None;
        for server in &others {
            let members = view
                .members_seen_by(server, product)
                .await
                .map_err(|error| error.to_string())?;
            let here = members
                .into_iter()
                .find(|one| one.name == member && one.status != MemberStatus::Left);
            found = here.map(|one| (*server, one.status)).or(found);
        }
        let Some((server, status)) = found else {
            return Ok(());
        };
        // Before the server has noticed that the agent is dead the word would be of no effect
        // there; but it would go round, and be about the agent that comes next. For the same reason
        // it is not repeated in haste.
        if status == MemberStatus::Failed
            && told_at
                .get()
                .is_none_or(|told| told.elapsed() > FORGET_AGAIN)
        {
            told_at.set(Some(Instant::now()));
            let reply = view
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

/// Has a living server leave the others, so that they need not count with its vote when it is
/// stopped. It is to be stopped right afterwards, or it may be let in again.
///
/// # Errors
/// When the product refuses.
pub async fn leave(view: &ClusterView<'_>, product: Product, node: &Node) -> anyhow::Result<()> {
    match product {
        Product::Consul => {
            let api = view.api(node, product);
            let reply = api.put("/v1/agent/leave", None, FORGET_LIMIT).await;
            reply.and_then(Reply::good)?;
            Ok(())
        }
        // Its agents have no such call.
        Product::Nomad => {
            let peers = view.raft_peers(product).await?;
            remove_peers(view, product, node, &peers).await
        }
    }
}

/// Takes the peers of a node out of raft; good if there are none.
async fn remove_peers(
    view: &ClusterView<'_>,
    product: Product,
    node: &Node,
    peers: &[RaftPeer],
) -> anyhow::Result<()> {
    for peer in peers.iter().filter(|peer| peer.is_of(node)) {
        let server = view.answering_server(product, Some(node)).await?;
        let api = view.api(server, product);
        let reply = api
            .delete(
                &format!("/v1/operator/raft/peer?id={}", peer.id),
                None,
                LIMIT,
            )
            .await?;
        good_or_gone(reply, "was not found in the Raft configuration")?;
    }
    Ok(())
}

/// Waits until the node's server votes, and no other peer has its name or address.
///
/// # Errors
/// When it does not by the deadline. Autopilot makes a new server a voter after it was stable for
/// 10 s.
pub async fn wait_voter(
    view: &ClusterView<'_>,
    product: Product,
    node: &Node,
    deadline: Duration,
) -> anyhow::Result<()> {
    until(deadline, || async {
        let peers = view
            .raft_peers(product)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let own: Vec<&RaftPeer> = peers.iter().filter(|peer| peer.is_of(node)).collect();
        match own.as_slice() {
            [] => Err("is not a raft peer yet".to_owned()),
            [peer] if !peer.is_at(node) => Err(format!("is still known at {}", peer.address)),
            [peer] if peer.voter => Ok(()),
            [_] => Err("is a raft peer, but does not vote yet".to_owned()),
            _ => Err(format!("stands {} times among the raft peers", own.len())),
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
pub async fn drain(view: &ClusterView<'_>, node: &Node, deadline: Duration) -> anyhow::Result<()> {
    let (server, clients) = clients(view, node).await?;
    let api = view.api(server, Product::Nomad);
    let client = NomadNode::of_name(&clients, &node.name).filter(|client| client.is_up());
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
pub async fn undrain(view: &ClusterView<'_>, node: &Node) -> anyhow::Result<()> {
    let (server, clients) = clients(view, node).await?;
    let api = view.api(server, Product::Nomad);
    for client in clients.iter().filter(|client| client.is_up()) {
        let body = json!({ "DrainSpec": null, "MarkEligible": true });
        api.put(&format!("/v1/node/{}/drain", client.id), Some(&body), LIMIT)
            .await?
            .good()?;
    }
    Ok(())
}

/// Makes Nomad forget the clients of this name that are down, or whose agent does not respond; good
/// if there are none.
///
/// After a change of leader Nomad takes five minutes to call a dead client down
/// (`failover_heartbeat_ttl`), hence the look at its agent.
///
/// # Errors
/// When Nomad refuses.
pub async fn purge(view: &ClusterView<'_>, node: &Node) -> anyhow::Result<()> {
    let (server, clients) = clients(view, node).await?;
    let api = view.api(server, Product::Nomad);
    for client in clients {
        if client.is_up() {
            let details = view.nomad_node(server, &client.id).await?;
            let Ok(address) = details.http_address.parse::<SocketAddr>() else {
                continue;
            };
            let there = Node {
                address: address.ip(),
                ..node.clone()
            };
            if view
                .api(&there, Product::Nomad)
                .served_certificate(LIMIT)
                .await
                .is_ok()
            {
                continue;
            }
        }
        api.put(&format!("/v1/node/{}/purge", client.id), None, LIMIT)
            .await?
            .good()?;
    }
    Ok(())
}

/// Makes the leader hand over to another server, so that its restart costs no election. False:
/// this version cannot, or there is no other voter.
///
/// # Errors
/// When it refuses.
pub async fn step_down(view: &ClusterView<'_>, product: Product) -> anyhow::Result<bool> {
    let peers = view.raft_peers(product).await?;
    let leader = peers.iter().find(|peer| peer.leader);
    let heir = peers.iter().find(|peer| peer.voter && !peer.leader);
    let (Some(leader), Some(heir)) = (leader, heir) else {
        return Ok(false);
    };
    let Some(node) = view
        .cluster
        .servers(product)
        .find(|node| leader.is_at(node))
    else {
        return Ok(false);
    };
    let api = view.api(node, product);
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

/// Nomad's clients of the node's name, and a server that knows them.
async fn clients<'a>(
    view: &ClusterView<'a>,
    node: &Node,
) -> anyhow::Result<(&'a Node, Vec<NomadNode>)> {
    let (server, mut clients) = view.nomad_nodes(Consistency::Default).await?;
    clients.retain(|client| client.name == node.name);
    Ok((server, clients))
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
