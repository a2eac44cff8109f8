//! `lb bootstrap replace-node`: a new machine, or an empty one, in the place of a lost one.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::invocation::Invocation;
use super::terminal::confirm;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::restart::STOP_PATIENCE;
use crate::bootstrap::converge::{self, phase_gate, preflight};
use crate::bootstrap::exit::{INTERRUPTED, UsageError};
use crate::bootstrap::nodes::Wipe;
use crate::bootstrap::topology::{Node, Phase, Product, Role, Scope};
use crate::cli::ReplaceNodeArgs;

/// How long servers may take to elect another leader.
const ELECTION: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Takes the old one out, and brings the new one in. Can be repeated after a failure.
///
/// # Errors
/// When the rest of the cluster is not well, or the new one does not come up.
pub(super) async fn run(invocation: &Invocation, args: &ReplaceNodeArgs) -> Result<u8> {
    let mut context = invocation.open_whole()?;
    compatible::check_known(&context, Some(&args.name))?;
    let Some(node) = context
        .cluster
        .nodes
        .iter()
        .find(|node| node.name == args.name)
        .cloned()
    else {
        let names: Vec<&str> = context
            .cluster
            .nodes
            .iter()
            .map(|node| &*node.name)
            .collect();
        bail!(UsageError(format!(
            "no node is called {:?}; there are {}",
            args.name,
            names.join(", ")
        )));
    };
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
    // The others have to be well on their own: before this one is stopped, which may be the one too
    // many, and before anything of it is forgotten.
    context.absent = vec![node.name.clone()];
    context.dial().await;
    without(&context, &node, "others")
        .await
        .context("nothing was changed")?;
    stop(&context, &node).await?;
    without(&context, &node, "without it").await?;
    context.state.forget_node(&node.name)?;
    context.make_keys(&invocation.passphrase)?;
    forget(&context, &node).await?;
    if let Some(before) = context.moved_from(&node) {
        let bar = context
            .progress
            .phase(&format!("{} leaves {before}", node.name), 1);
        bar.set(0, "its name is bound to its old address for a while");
        tokio::time::sleep(name_is_free(&node)).await;
        bar.done("its name is free");
    }
    wipe(&context, &node).await?;
    context.absent.clear();
    preflight::run(&context, true).await?;
    context.save_applied()?;
    preflight::claim(&context).await?;
    converge::converge(&mut context).await?;
    for product in products(&context, &node) {
        if node.is_server(product) {
            let bar = context.progress.phase(&format!("{} votes", node.name), 1);
            peers::wait_voter(&context.cluster_view()?, product, &node, context.limit).await?;
            bar.done("again");
        }
    }
    context.write_access()?;
    context.progress.note(&format!("{} is replaced", node.name));
    Ok(0)
}

/// Waits until the servers that have to do without the node are well.
async fn without(context: &Context, node: &Node, word: &str) -> Result<()> {
    for phase in phases_of_servers(context, node) {
        let bar = context
            .progress
            .phase(&format!("{}, {word}", phase_gate::title(phase)), 1);
        phase_gate::gate(context, phase, &bar, context.limit).await?;
        bar.done("well");
    }
    Ok(())
}

/// How long after its death an agent's name stays bound to its address. Who comes earlier with
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

fn products(context: &Context, node: &Node) -> Vec<Product> {
    let wanted = |product: &Product| context.scope.includes(*product);
    node.products().iter().copied().filter(wanted).collect()
}

/// Gates of the servers that have to do without this node, or forget it.
fn phases_of_servers(context: &Context, node: &Node) -> Vec<Phase> {
    let phases = products(context, node)
        .into_iter()
        .map(|product| match product {
            Product::Consul => Phase::ConsulServers,
            Product::Nomad => Phase::NomadServers,
        });
    phases
        .filter(|&phase| !context.of_phase(phase).is_empty())
        .collect()
}

/// Stops what still runs there. A machine that is gone cannot be asked, and that is no reason to
/// stop here.
async fn stop(context: &Context, node: &Node) -> Result<()> {
    let spec = context.spec(node)?;
    for daemon in spec.daemons.iter().rev() {
        if let Err(error) = context.host(node).stop(daemon, STOP_PATIENCE).await {
            context.progress.note(&format!(
                "{}: {} could not be stopped there: {error:#}",
                node.name, daemon.product
            ));
        }
    }
    Ok(())
}

async fn forget(context: &Context, node: &Node) -> Result<()> {
    let view = context.cluster_view()?;
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
        if member
            && context
                .cluster
                .servers(product)
                .any(|server| server.name != node.name)
        {
            peers::forget(&view, product, node, context.limit).await?;
        }
    }
    Ok(())
}

/// Waits until the others are led by one of them. For a second or two after the loss of their
/// leader they still name it.
async fn wait_other_leader(context: &Context, product: Product, node: &Node) -> Result<()> {
    if context
        .cluster
        .servers(product)
        .all(|server| server.name == node.name)
    {
        return Ok(());
    }
    let view = context.cluster_view()?;
    let deadline = Instant::now() + context.limit.min(ELECTION);
    loop {
        let why = match view.raft_peers(product).await {
            Ok(peers)
                if peers
                    .iter()
                    .any(|peer| peer.leader && peer.node != node.name) =>
            {
                return Ok(());
            }
            Ok(_) => anyhow::anyhow!("no other server leads"),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(why.context(format!(
                "{product} has elected no other leader since {} was stopped",
                node.name
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn wipe(context: &Context, node: &Node) -> Result<()> {
    let host = context.host(node);
    for product in products(context, node) {
        if product == Product::Nomad && node.role == Role::NomadClient {
            host.stop_tasks(STOP_PATIENCE)
                .await
                .with_context(|| node.name.clone())?;
        }
        host.wipe(Wipe::Data(product))
            .await
            .with_context(|| node.name.clone())?;
    }
    Ok(())
}
