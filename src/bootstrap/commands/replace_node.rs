//! `lb bootstrap replace-node`: a new machine, or an empty one, in the place of a lost one.
//!
//! ```text
//!   look ahead (the machine, the quorum without the node) ─▶ note ─▶ drain ─▶ stop ─▶ forget ─▶ wipe
//!     ─▶ bring up, this node alone ─▶ over
//! ```
//! Up to the note nothing is changed. From there on every step may be repeated, and the same command
//! goes on from wherever it was interrupted.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::invocation::Invocation;
use super::one_node::{self, phase_of_servers, products};
use super::terminal::confirm;
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::{self, phase_gate, preflight};
use crate::bootstrap::exit::INTERRUPTED;
use crate::bootstrap::nodes::Wipe;
use crate::bootstrap::state::OperationKind;
use crate::bootstrap::topology::{Node, Phase, Product};
use crate::cli::ReplaceNodeArgs;

/// How long each gate of the others may take, once the node is back.
const SETTLE: Duration = Duration::from_secs(60);

/// Takes the old one out, and brings the new one in. Can be repeated after a failure.
///
/// # Errors
/// When the rest of the cluster cannot do without it, or the new one does not come up.
pub(super) async fn run(invocation: &Invocation, args: &ReplaceNodeArgs) -> Result<u8> {
    let mut context = invocation.open_whole()?;
    compatible::check_known(&context, Some(&args.name))?;
    let node = one_node::find(&mut context, &args.name)?;
    let question = format!(
        "Remove {} and everything on {}, and set it up anew?",
        node.name, node.address
    );
    if !confirm(&question, args.yes)? {
        return Ok(INTERRUPTED);
    }
    // Its certificates are forgotten only when new ones can be signed.
    let passphrase = invocation
        .passphrase
        .for_key(context.state.is_key_encrypted()?)?;
    context
        .state
        .ensure_authorities(passphrase.as_ref(), SystemTime::now())?;
    context.make_keys(&invocation.passphrase)?;
    context.dial().await;
    look_ahead(&mut context, &node).await?;
    let operation = context.state.begin_operation(
        OperationKind::ReplaceNode,
        format!("replace-node {}", node.name),
        vec![node.name.clone()],
        SystemTime::now(),
    )?;
    replace(&mut context, invocation, &node)
        .await
        .with_context(|| {
            format!(
                "`replace-node {}` is not over; the same command goes on from here",
                node.name
            )
        })?;
    context.state.end_operation(&operation)?;
    context.progress.note(&format!("{} is replaced", node.name));
    settle(&mut context).await;
    Ok(0)
}

/// All that will be needed: the machine, and the others without it.
async fn look_ahead(context: &mut Context, node: &Node) -> Result<()> {
    context.only = Some(node.name.clone());
    preflight::run(context, true).await?;
    context.only = None;
    if let Some(why) = context.left_out.get(&node.name) {
        bail!(
            "{}, because of this:\n  {}: {why}\nan empty machine has to be there under its address; to do without the \
             node: `lb bootstrap remove-node {} --dead`",
            context.told_unchanged(),
            node.name,
            node.name
        );
    }
    one_node::can_do_without(context, node).await?;
    context.absent.push(node.name.clone());
    let unchanged = context.told_unchanged();
    without(context, node, "others").await.context(unchanged)
}

async fn replace(context: &mut Context, invocation: &Invocation, node: &Node) -> Result<()> {
    one_node::drain(context, node).await?;
    for product in products(context, node) {
        if node.is_server(product) {
            one_node::hand_over(context, product, node).await?;
        }
    }
    one_node::stop(context, node).await?;
    without(context, node, "without it").await?;
    context.state.forget_node(&node.name)?;
    context.make_keys(&invocation.passphrase)?;
    one_node::forget(context, node).await?;
    if let Some(before) = context.moved_from(node) {
        let bar = context
            .progress
            .phase(&format!("{} leaves {before}", node.name), 1);
        bar.set(0, "its name is bound to its old address for a while");
        tokio::time::sleep(name_is_free(node)).await;
        bar.done("its name is free");
    }
    let all: Vec<Wipe> = products(context, node)
        .into_iter()
        .map(Wipe::Data)
        .collect();
    one_node::wipe(context, node, &all).await?;
    context.absent.retain(|absent| *absent != node.name);
    context.only = Some(node.name.clone());
    context.save_applied()?;
    preflight::claim(context).await?;
    converge::converge(context).await?;
    context.only = None;
    context.write_access()
}

/// Puts right what else differs, as `up` does, now that the node is back; where nodes are away,
/// only what touches no daemon. It is not a part of the replacement, which succeeds without it.
async fn settle(context: &mut Context) {
    if !context.left_out.is_empty() {
        one_node::tell_others(context).await;
        return;
    }
    context.limit = context.limit.min(SETTLE);
    if let Err(error) = converge::converge(context).await {
        context.progress.note(&format!(
            "not all of the others are as described, `lb bootstrap up{}` sees to it: {error:#}",
            context.flags
        ));
    }
}

/// Waits until the servers that have to do without the node are well.
async fn without(context: &mut Context, node: &Node, word: &str) -> Result<()> {
    for phase in phases_of_servers(context, node) {
        let bar = context
            .progress
            .phase(&format!("{}, {word}", phase_gate::title(phase)), 1);
        phase_gate::gate(context, phase, &bar, context.limit).await?;
        bar.done("well");
    }
    Ok(())
}

/// How long after its death an agent's name stays bound to its address. What comes earlier with
/// another address is not let in (`Conflicting address`), and may try again only when gossip next
/// compares everything. Consul gives the name free after 30 s (`DeadNodeReclaimTime`); Nomad's
/// servers when they forget the dead, which is 30 s (`GossipToTheDeadTime`) and one round of
/// probes.
fn name_is_free(node: &Node) -> Duration {
    Duration::from_secs(if node.is_server(Product::Nomad) {
        45
    } else {
        32
    })
}

/// Gates of the servers that have to do without this node, or forget it.
fn phases_of_servers(context: &Context, node: &Node) -> Vec<Phase> {
    let phases = products(context, node).into_iter().map(phase_of_servers);
    phases
        .filter(|&phase| !context.of_phase(phase).is_empty())
        .collect()
}
