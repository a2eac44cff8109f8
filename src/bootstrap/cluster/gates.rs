//! Whether a phase of the start is really over, and whether a restarted server is really back.
//!
//! A gate looks at all nodes at once, again and again, until all are well or its time is up; then
//! it tells for each node that is not what was requested and seen. What is looked at: `consul`,
//! `nomad` and `rolling` below this file. Starting things, and what to do when a gate stays shut,
//! is left to the callers.
//!
//! Membership alone proves little: gossip needs only the gossip key, so a node with an expired
//! certificate is "alive". So each node also gets a request that its agent can only serve by way of
//! the servers, over TLS.

mod consul;
mod nomad;
mod rolling;

use std::fmt;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::Instant;

use super::api::{ApiError, LIMIT};
use super::diagnosis::{self, Cause};
use super::view::ClusterView;
use crate::bootstrap::topology::{Node, Phase, Product};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(100);

/// Gives the end of a daemon's log on a node; empty when it cannot be had.
pub type Logs<'a> = &'a (dyn Fn(&Node, Product) -> BoxFuture<'static, String> + Send + Sync);

/// Told how many nodes are well, of how many.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// One node that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Name of the node.
    pub node: String,
    /// What was requested and seen.
    pub text: String,
    /// What it means, if it is known.
    pub cause: Option<Cause>,
}

/// A gate that did not open in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateFailure {
    /// Of this phase; after the restart of a server, the phase that starts servers of its product.
    pub phase: Phase,
    /// A reason per node that is not well.
    pub reasons: Vec<Reason>,
}

impl std::error::Error for GateFailure {}

impl fmt::Display for GateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.phase {
            Phase::ConsulServers => "Consul's servers are not ready",
            Phase::ConsulClients => "not all Consul agents are ready",
            Phase::NomadServers => "Nomad's servers are not ready",
            Phase::NomadClients => "not all Nomad clients are ready",
        };
        f.write_str(what)?;
        for reason in &self.reasons {
            write!(f, "\n  {}: {}", reason.node, reason.text)?;
            if let Some(cause) = reason.cause {
                write!(
                    f,
                    "\n    cause: {}\n    to do: {}",
                    cause.text, cause.advice
                )?;
            }
        }
        Ok(())
    }
}

/// What every gate needs.
#[derive(Clone, Copy)]
pub struct Gates<'a> {
    /// The cluster, and how to reach its agents. With ACLs and before their bootstrap it has no
    /// token; then the gates leave out what needs one.
    pub view: &'a ClusterView<'a>,
    /// Names of nodes that are expected to be dead, for instance because they are being replaced.
    pub absent: &'a [String],
    /// Where to look for causes.
    pub logs: Logs<'a>,
    /// For bars.
    pub progress: Progress<'a>,
    /// How long each gate may take.
    pub deadline: Duration,
}

/// How one node was found: well, or why not.
type Finding<'c> = (&'c Node, Result<(), String>);

impl<'a> Gates<'a> {
    /// Waits until a phase is over.
    ///
    /// # Errors
    /// When it is not by the deadline.
    pub async fn phase(&self, phase: Phase) -> Result<(), GateFailure> {
        self.until(phase, || async move {
            match phase {
                Phase::ConsulServers => self.consul_servers().await,
                Phase::ConsulClients => self.consul_agents().await,
                Phase::NomadServers => self.nomad_servers().await,
                Phase::NomadClients => self.nomad_clients().await,
            }
        })
        .await
    }

    /// Waits until a restarted server is back, and the cluster can stand the loss of as many
    /// servers as before.
    ///
    /// # Errors
    /// When it is not so by the deadline.
    pub async fn rolling(&self, product: Product, restarted: &Node) -> Result<(), GateFailure> {
        let phase = match product {
            Product::Consul => Phase::ConsulServers,
            Product::Nomad => Phase::NomadServers,
        };
        self.until(phase, || self.restarted_server(product, restarted))
            .await
    }

    async fn until<F>(&self, phase: Phase, look: impl Fn() -> F) -> Result<(), GateFailure>
    where
        F: Future<Output = Vec<Finding<'a>>>,
    {
        let end = Instant::now() + self.deadline;
        loop {
            let findings = look().await;
            let well = findings
                .iter()
                .filter(|(_, finding)| finding.is_ok())
                .count();
            (self.progress)(well, findings.len());
            if well == findings.len() {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(GateFailure {
                    phase,
                    reasons: self.reasons(phase.product(), findings).await,
                });
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn reasons(&self, product: Product, findings: Vec<Finding<'a>>) -> Vec<Reason> {
        let bad = findings
            .into_iter()
            .filter_map(|(node, finding)| Some((node, finding.err()?)));
        join_all(bad.map(|(node, text)| async move {
            let log = tokio::time::timeout(LIMIT, (self.logs)(node, product))
                .await
                .unwrap_or_default();
            Reason {
                node: node.name.clone(),
                cause: diagnosis::find(&log, &text),
                text,
            }
        }))
        .await
    }

    fn is_present(&self, node: &Node) -> bool {
        !self.absent.contains(&node.name)
    }

    /// The servers that shall be there.
    fn present_servers(&self, product: Product) -> Vec<&'a Node> {
        self.view
            .cluster
            .servers(product)
            .filter(|node| self.is_present(node))
            .collect()
    }

    /// The leader that an agent names; an error if it names none.
    async fn leader_seen_by(&self, node: &Node, product: Product) -> Result<String, String> {
        match self.view.leader_seen_by(node, product).await {
            Ok(Some(leader)) => Ok(leader),
            Ok(None) => Err("knows no leader".to_owned()),
            Err(error) => Err(failed_request(&error)),
        }
    }
}

/// An error as a reason.
fn failed_request(error: &ApiError) -> String {
    format!("request to {error}")
}

/// How each present server is found in what it says itself: a leader, and all servers of the
/// description as peers.
async fn servers_of<'a>(gates: &Gates<'a>, product: Product) -> Vec<Finding<'a>> {
    let servers = gates.present_servers(product);
    let views = join_all(servers.iter().map(|node| async move {
        let leader = gates.leader_seen_by(node, product).await?;
        let peers = gates.view.peer_addresses_seen_by(node, product).await;
        Ok::<_, String>((leader, peers.map_err(|error| failed_request(&error))?))
    }))
    .await;
    judge_servers(gates, product, &servers, views)
}

/// The leader and the peers that a server names.
type View = Result<(String, Vec<String>), String>;

fn judge_servers<'a>(
    gates: &Gates<'a>,
    product: Product,
    servers: &[&'a Node],
    views: Vec<View>,
) -> Vec<Finding<'a>> {
    let mut agreed: Option<(String, String)> = None;
    let mut findings = Vec::with_capacity(servers.len());
    for (&node, view) in servers.iter().zip(views) {
        let finding = view.and_then(|(leader, peers)| {
            judge_peers(gates, product, &peers)?;
            match &agreed {
                None => agreed = Some((node.name.clone(), leader)),
                Some((other, theirs)) if *theirs != leader => {
                    return Err(format!(
                        "says that {leader} leads, but {other} says that {theirs} does"
                    ));
                }
                Some(_) => {}
            }
            Ok(())
        });
        findings.push((node, finding));
    }
    findings
}

fn judge_peers(gates: &Gates<'_>, product: Product, peers: &[String]) -> Result<(), String> {
    let all: Vec<&Node> = gates.view.cluster.servers(product).collect();
    if let Some(stranger) = peers
        .iter()
        .find(|peer| !all.iter().any(|node| node.is_rpc(product, peer)))
    {
        let product = product.name();
        return Err(format!(
            "has {stranger} among its raft peers, which is no server of the description; if that server is gone for good: \
             {product} operator raft remove-peer -address={stranger}"
        ));
    }
    let missing: Vec<&str> = all
        .iter()
        .filter(|node| {
            gates.is_present(node) && !peers.iter().any(|peer| node.is_rpc(product, peer))
        })
        .map(|node| node.name.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "has {} of {} raft peers; missing: {}",
        peers.len(),
        all.len(),
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests;
