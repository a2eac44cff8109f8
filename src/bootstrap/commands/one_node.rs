//! What `replace-node`, `remove-node` and `reboot` share: they take one node out of a living
//! cluster, for good or for a while, and look first at whether the others can do without it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bootstrap::cluster::facts::NomadNode;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::cluster::quorum::{majority, stands};
use crate::bootstrap::cluster::view::Consistency;
use crate::bootstrap::context::Context;
use crate::bootstrap::converge::restart::STOP_PATIENCE;
use crate::bootstrap::converge::{self, silence};
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::nodes::Wipe;
use crate::bootstrap::nodes::spec::NodeSpec;
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::topology::{Node, Phase, Product, Role, Scope};

/// How long servers may take to elect another leader.
const ELECTION: Duration = Duration::from_secs(30);
/// How long a server may be silent before it counts as one that does not serve.
const SILENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// The node of this name, which is worked on whatever was begun with it before.
///
/// # Errors
/// When there is none.
pub(super) fn find(context: &mut Context, name: &str) -> Result<Node> {
    let mut nodes = context.cluster.nodes.iter();
    let Some(node) = nodes.find(|node| node.name == name).cloned() else {
        bail!(UsageError(format!(
            "no node is called {name:?}; there are {}",
            context.node_names()
        )));
    };
    if context.skip.iter().any(|skipped| skipped == name) {
        bail!(UsageError(format!(
            "{name} is what the command is about, and cannot be left out: leave it away from --skip"
        )));
    }
    context.take_in(name);
    Ok(node)
}

/// Products that the command is about, on this node.
pub(super) fn products(context: &Context, node: &Node) -> Vec<Product> {
    let wanted = |product: &Product| context.scope.includes(*product);
    node.products().iter().copied().filter(wanted).collect()
}

/// The phase that starts the servers of a product.
pub(super) fn phase_of_servers(product: Product) -> Phase {
    match product {
        Product::Consul => Phase::ConsulServers,
        Product::Nomad => Phase::NomadServers,
    }
}

/// The products that have a running daemon on the node.
///
/// # Errors
/// When it does not respond.
pub(super) async fn running(context: &Context, node: &Node) -> Result<Vec<Product>> {
    let daemons = context.spec(node)?.daemons;
    let spec = NodeSpec {
        daemons,
        ..NodeSpec::default()
    };
    let seen = context
        .host(node)
        .observe(&spec)
        .await
        .of_node(&node.name)?;
    let mut runs = products(context, node);
    runs.retain(|product| {
        let daemon = seen.daemons.get(product);
        daemon.is_some_and(|daemon| daemon.pid.is_some())
    });
    Ok(runs)
}

/// Why the node is dead; None: it lives. A node of this machine lives as long as an agent of it does.
///
/// # Errors
/// When it responds and refuses.
pub(super) async fn dead(context: &Context, node: &Node) -> Result<Option<String>> {
    match running(context, node).await {
        Err(error) => silence(&node.name, &error).map_or(Err(error), |why| Ok(Some(why))),
        Ok(running) if running.is_empty() && context.cluster.is_local() => {
            Ok(Some("none of its agents runs".to_owned()))
        }
        Ok(_) => Ok(None),
    }
}

/// The servers of a product beside a node.
pub(super) struct Others {
    /// All that belong to the cluster, the node with them if it is one.
    pub(super) total: usize,
    /// Names of those that serve, beside the node.
    pub(super) serving: Vec<String>,
    /// Names of those that do not, beside the node, and why.
    pub(super) silent: Vec<(String, String)>,
}

/// Finds out from all servers of a product but the node's whether they know a leader.
///
/// # Errors
/// When the operator has no certificate.
pub(super) async fn others(context: &Context, product: Product, node: &Node) -> Result<Others> {
    let view = context.cluster_view()?;
    let deadline = Instant::now() + SILENCE.min(context.limit);
    let servers: Vec<&Node> = context
        .cluster
        .servers(product)
        .filter(|server| server.name != node.name)
        .collect();
    loop {
        let asked = servers
            .iter()
            .map(|server| view.leader_seen_by(server, product));
        let answers = futures_util::future::join_all(asked).await;
        let mut found = Others {
            total: context.cluster.servers(product).count(),
            serving: Vec::new(),
            silent: Vec::new(),
        };
        for (server, answer) in servers.iter().zip(answers) {
            let name = server.name.clone();
            match answer {
                _ if context.absent.contains(&name) => {
                    found.silent.push((name, "is left out".to_owned()));
                }
                Ok(Some(_)) => found.serving.push(name),
                Ok(None) => found.silent.push((name, "knows no leader".to_owned())),
                Err(error) => found.silent.push((name, format!("request to {error}"))),
            }
        }
        let is_waited_for = |(name, _): &(String, String)| !context.absent.contains(name);
        if !found.silent.iter().any(is_waited_for) || Instant::now() > deadline {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sees to it that the servers of all products do without the node, and leaves those out that do
/// not serve. A server that runs is not stopped while another one is away, unless that was named by
/// `--skip`.
///
/// # Errors
/// When a majority would be missing.
pub(super) async fn can_do_without(context: &mut Context, node: &Node) -> Result<()> {
    let runs = match running(context, node).await {
        Ok(runs) => runs,
        Err(error) if silence(&node.name, &error).is_some() => Vec::new(),
        Err(error) => return Err(error),
    };
    for product in [Product::Consul, Product::Nomad] {
        let is_there = context.cluster.servers(product).next().is_some();
        if !is_there || !context.scope.includes(product) {
            continue;
        }
        let others = others(context, product, node).await?;
        let silent: String = (others.silent.iter())
            .map(|(name, why)| format!("\n  {name}: {why}"))
            .collect();
        let is_alone = others.total == 1 && node.is_server(product);
        if !is_alone && !stands(others.total, others.serving.len(), 0) {
            bail!(
                "{}, because of this:{silent}\n{} of {} {product} servers serve without {}, and {} have to: start the \
                 others first (`lb bootstrap up`)",
                context.told_unchanged(),
                others.serving.len(),
                others.total,
                node.name,
                majority(others.total)
            );
        }
        let is_skipped = |(name, _): &(String, String)| context.skip.contains(name);
        if node.is_server(product)
            && runs.contains(&product)
            && !others.silent.iter().all(is_skipped)
        {
            bail!(
                "{}, because of this:{silent}\n{} serves, and would be stopped while another {product} server is away: \
                 bring that one back first, or name it with --skip",
                context.told_unchanged(),
                node.name
            );
        }
        for (name, why) in others.silent {
            context.leave_out(&name, &why);
        }
    }
    Ok(())
}

/// Moves the tasks of a Nomad client to others, where it runs and takes any. Whether it was drained.
///
/// # Errors
/// When they have not ended in time.
pub(super) async fn drain(context: &Context, node: &Node) -> Result<bool> {
    if node.role != Role::NomadClient || context.scope != Scope::All {
        return Ok(false);
    }
    let view = context.cluster_view()?;
    let (_, clients) = view.nomad_nodes(Consistency::Default).await?;
    let client = NomadNode::of_name(&clients, &node.name);
    let runs = running(context, node).await.unwrap_or_default();
    if !client.is_some_and(NomadNode::is_up) || !runs.contains(&Product::Nomad) {
        return Ok(false);
    }
    let bar = context
        .progress
        .phase(&format!("{} is drained", node.name), 1);
    context.changes.note(&node.name, "drained");
    peers::drain(&view, node, context.limit).await?;
    bar.done("its tasks have ended, and run elsewhere where they may");
    Ok(true)
}

/// Hands the lead over, where the node's server has it and its version can.
pub(super) async fn hand_over(context: &Context, product: Product, node: &Node) -> Result<()> {
    let view = context.cluster_view()?;
    let leader = view.leader(product).await;
    if leader.is_none_or(|leader| leader.name != node.name) {
        return Ok(());
    }
    // Without it there is an election, which costs seconds and nothing else.
    if let Ok(true) = peers::step_down(&view, product).await {
        wait_other_leader(context, product, node).await?;
    }
    Ok(())
}

/// Stops what still runs there. A machine that is gone cannot be reached, and the command goes on
/// without it.
///
/// # Errors
/// When its certificates are missing.
pub(super) async fn stop(context: &Context, node: &Node) -> Result<()> {
    let spec = context.spec(node)?;
    for daemon in spec.daemons.iter().rev() {
        context.changes.note(&node.name, "stopped");
        if let Err(error) = context.host(node).stop(daemon, STOP_PATIENCE).await {
            context.progress.note(&format!(
                "{}: {} could not be stopped there: {error:#}",
                node.name, daemon.product
            ));
        }
    }
    Ok(())
}

/// Has the others forget the node, whose agents are stopped.
///
/// # Errors
/// When they do not.
pub(super) async fn forget(context: &Context, node: &Node) -> Result<()> {
    let view = context.cluster_view()?;
    context.changes.note(&node.name, "taken out of the cluster");
    if node.role == Role::NomadClient && context.scope == Scope::All {
        peers::purge(&view, node)
            .await
            .context("Nomad does not forget the node")?;
    }
    for product in products(context, node) {
        let member = product == Product::Consul || node.is_server(product);
        if node.is_server(product) {
            wait_other_leader(context, product, node).await?;
        }
        if member && view.servers(product).any(|server| server.name != node.name) {
            peers::forget(&view, product, node, context.limit).await?;
        }
    }
    Ok(())
}

/// Waits until the others are led by one of them. For a second or two after the loss of their
/// leader they still name it.
///
/// # Errors
/// When none of them leads in time.
async fn wait_other_leader(context: &Context, product: Product, node: &Node) -> Result<()> {
    let is_it = |server: &Node| server.name == node.name;
    if context.cluster.servers(product).all(is_it) {
        return Ok(());
    }
    let view = context.cluster_view()?;
    let deadline = Instant::now() + context.limit.min(ELECTION);
    loop {
        let why = match view.raft_peers(product).await {
            Ok(peers) if peers.iter().any(|peer| peer.leader && !peer.is_of(node)) => {
                return Ok(());
            }
            Ok(_) => anyhow::anyhow!("no other server leads"),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(why.context(format!("{product} has elected no leader but {}", node.name)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends the tasks of a stopped client, and removes what is named.
///
/// # Errors
/// When it cannot be removed.
pub(super) async fn wipe(context: &Context, node: &Node, what: &[Wipe]) -> Result<()> {
    let host = context.host(node);
    if node.role == Role::NomadClient && context.scope == Scope::All {
        host.stop_tasks(STOP_PATIENCE).await.of_node(&node.name)?;
    }
    context.changes.note(&node.name, "data removed");
    for &what in what {
        host.wipe(what).await.of_node(&node.name)?;
    }
    Ok(())
}

/// Has the others look for the servers that there are by now, at their next start. They can do
/// without it until then, so that nothing here is a reason to fail.
pub(super) async fn tell_others(context: &mut Context) {
    if let Err(error) = converge::write_quiet_files(context).await {
        context.progress.note(&format!(
            "not all of the others know of it yet, `lb bootstrap up{}` tells them: {error:#}",
            context.flags
        ));
    }
}
