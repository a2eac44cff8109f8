//! `lb bootstrap remove-node`: a node leaves for good, whether it still responds or not.
//!
//! ```text
//!   look ahead (the quorum afterwards) ─▶ note ─▶ drain ─▶ leave ─▶ stop ─▶ forget ─▶ wipe ─▶ over
//!                                                 └─── only where it responds ────┘
//! ```

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use super::invocation::{Invocation, no_cluster};
use super::one_node::{self, products};
use super::terminal::confirm;
use crate::bootstrap::cluster::api::LIMIT;
use crate::bootstrap::cluster::facts::RaftPeer;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::cluster::quorum::{majority, stands};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::exit::INTERRUPTED;
use crate::bootstrap::nodes::Wipe;
use crate::bootstrap::state::{OperationKind, State};
use crate::bootstrap::topology::{Node, Product};
use crate::cli::RemoveNodeArgs;

/// Removes it. Can be repeated after a failure.
///
/// # Errors
/// When the rest cannot do without it, or it is not as dead or alive as was said; nothing is changed
/// then. When a step fails.
pub(super) async fn run(invocation: &Invocation, args: &RemoveNodeArgs) -> Result<u8> {
    if is_removed(invocation, &args.name)? {
        return Ok(0);
    }
    let mut context = invocation.open_whole()?;
    compatible::check(&context)?;
    // What was never brought up is nothing to count with.
    let newcomers: Vec<String> = (context.cluster.nodes.iter())
        .filter(|node| !context.is_known(node))
        .map(|node| node.name.clone())
        .collect();
    context.forget_nodes(&newcomers);
    context.read_keys()?;
    let node = one_node::find(&mut context, &args.name)?;
    let is_described = !context.undescribed.contains(&node.name);
    context.dial().await;
    look_ahead(&mut context, &node, args.dead).await?;
    let question = match args.dead {
        true => format!("Take {} out of the cluster for good?", node.name),
        false => format!(
            "Take {} out of the cluster for good, and remove everything on {}?",
            node.name, node.address
        ),
    };
    if !confirm(&question, args.yes)? {
        return Ok(INTERRUPTED);
    }
    remove(&mut context, &node, args.dead).await?;
    let flags = context.flags.clone();
    one_node::tell_others(&mut context).await;
    if is_described {
        context.progress.note(&format!(
            "it is still described in {}: take it out there, or `lb bootstrap up{flags}` sets it up anew",
            context.source
        ));
    }
    Ok(0)
}

/// Ends the note of a removal that was killed after its last step. Whether there was one.
fn is_removed(invocation: &Invocation, name: &str) -> Result<bool> {
    let dir = &invocation.described.cluster.state;
    let Some(mut state) = State::open(dir)? else {
        bail!(no_cluster(dir))
    };
    let known = state.cluster()?.is_some_and(|applied| {
        let mut nodes = applied.nodes.iter();
        nodes.any(|node| node.name == name)
    });
    match state.operation(OperationKind::RemoveNode, Some(name))? {
        Some(operation) if !known => state.end_operation(&operation).map(|()| true),
        _ => Ok(false),
    }
}

/// Whether the node may go, before anything is changed.
///
/// # Errors
/// When it is not as dead or alive as was said, or too few servers would be left.
pub(super) async fn look_ahead(context: &mut Context, node: &Node, said_dead: bool) -> Result<()> {
    let begun = context
        .state
        .operation(OperationKind::RemoveNode, Some(&node.name))?
        .is_some();
    let unchanged = context.told_unchanged();
    match one_node::dead(context, node).await? {
        None if said_dead => bail!(
            "{unchanged}: {} responds, so it is not dead: leave --dead away, and it is drained, stopped and wiped",
            node.name
        ),
        // On this machine one that was stopped half-way through its removal looks dead.
        Some(_) if begun && context.cluster.is_local() => {}
        Some(why) if !said_dead => bail!(
            "{unchanged}: {} does not respond ({why}): add --dead to take it out without stopping and wiping it",
            node.name
        ),
        _ => {}
    }
    for product in products(context, node) {
        if node.is_server(product) {
            quorum_stands(context, product, node, said_dead).await?;
        }
    }
    Ok(())
}

/// Sees to it that those servers decide that are left, and leaves those out that do not serve. A
/// living one goes only where the others could do without it even if raft had not yet, or has
/// already, forgotten those that are dead.
async fn quorum_stands(
    context: &mut Context,
    product: Product,
    node: &Node,
    is_dead: bool,
) -> Result<()> {
    let unchanged = context.told_unchanged();
    let others = one_node::others(context, product, node).await?;
    let peers = context.cluster_view()?.raft_peers(product).await;
    let peers = peers.with_context(|| format!("{unchanged}: {product} has no leader"))?;
    let left = peers.iter().filter(|peer| !peer.is_of(node));
    let left: Vec<_> = left.filter(|peer| peer.voter).collect();
    let serves = |peer: &&&RaftPeer| {
        let servers = context.cluster.servers(product);
        let mut serving = servers.filter(|server| others.serving.contains(&server.name));
        serving.any(|server| peer.is_of(server))
    };
    let serving = left.iter().filter(serves).count();
    if left.is_empty() {
        bail!(
            "{unchanged}: {} is the last {product} server: add another one first, or end the cluster (`lb bootstrap down`)",
            node.name
        );
    }
    let is_member = context
        .cluster
        .servers(product)
        .any(|server| server.name == node.name);
    let members = others.total - usize::from(is_member);
    let voters = if is_dead {
        left.len()
    } else {
        left.len().max(members)
    };
    if !stands(voters, serving, 0) {
        let silent: String = (others.silent.iter())
            .map(|(name, why)| format!("\n  {name}: {why}"))
            .collect();
        bail!(
            "{unchanged}: without {} {product} has {voters} servers, of which {serving} serve and {} have to:{silent}\n\
             start the others first (`lb bootstrap up`), or put other machines in their place",
            node.name,
            majority(voters)
        );
    }
    if voters % 2 == 0 {
        context.progress.note(&format!(
            "warning: {voters} {product} servers are left: an even number outlives no more failures than {}",
            voters - 1
        ));
    }
    for (name, why) in others.silent {
        context.leave_out(&name, &why);
    }
    Ok(())
}

/// Removes a node that may go.
///
/// # Errors
/// When a step fails; run again, it goes on.
pub(super) async fn remove(context: &mut Context, node: &Node, is_dead: bool) -> Result<()> {
    let dead = if is_dead { " --dead" } else { "" };
    let operation = context.state.begin_operation(
        OperationKind::RemoveNode,
        format!("remove-node {}{dead}", node.name),
        vec![node.name.clone()],
        SystemTime::now(),
    )?;
    let name = &node.name;
    let steps = steps(context, node, is_dead).await;
    steps.with_context(|| {
        format!("`remove-node {name}{dead}` is not over; the same command goes on from here")
    })?;
    context.state.end_operation(&operation)?;
    context.progress.note(&match is_dead {
        true => format!(
            "{name} is taken out; should its machine come back, keep it off the network until it is wiped: its keys are \
             still on it"
        ),
        false => format!("{name} is removed, and nothing of the cluster is left on it but programs and users"),
    });
    Ok(())
}

async fn steps(context: &mut Context, node: &Node, is_dead: bool) -> Result<()> {
    if !is_dead {
        one_node::drain(context, node).await?;
        let running = one_node::running(context, node).await?;
        for product in products(context, node) {
            if node.is_server(product) && running.contains(&product) {
                one_node::hand_over(context, product, node).await?;
                context.changes.note(&node.name, "taken out of the cluster");
                peers::leave(&context.cluster_view()?, product, node).await?;
            }
        }
        one_node::stop(context, node).await?;
    }
    context.absent.push(node.name.clone());
    one_node::forget(context, node).await?;
    if !is_dead {
        one_node::wipe(context, node, &[Wipe::Everything]).await?;
    }
    forget_token(context, node).await?;
    context.state.forget_node(&node.name)?;
    context.forget_nodes(std::slice::from_ref(&node.name));
    context.save_applied()?;
    context.write_access()
}

/// Has Consul forget the token of the node's agent.
async fn forget_token(context: &mut Context, node: &Node) -> Result<()> {
    let mut tokens = context.state.tokens()?;
    let Some(token) = tokens.agents.remove(&node.name) else {
        return Ok(());
    };
    let view = context.cluster_view()?;
    let server = view.answering_server(Product::Consul, Some(node)).await?;
    let api = view.api(server, Product::Consul);
    let path = format!("/v1/acl/token/{}", token.accessor);
    // One that is gone already is not a mistake.
    let reply = api.delete(&path, None, LIMIT).await?;
    if !matches!(reply.status.as_u16(), 403 | 404) {
        reply.good()?;
    }
    context.state.save_tokens(&tokens)
}
