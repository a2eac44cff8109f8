//! `lb bootstrap replace-node`: a new machine, or an empty one, in the place of a lost one.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::invocation::Asked;
use super::terminal::confirm;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::context::{World, compatible};
use crate::bootstrap::converge::restart::STOP_PATIENCE;
use crate::bootstrap::converge::{self, phase_gate, preflight};
use crate::bootstrap::exit::{INTERRUPTED, Wrong};
use crate::bootstrap::nodes::host::Wipe;
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
pub(super) async fn run(asked: &Asked, args: &ReplaceNodeArgs) -> Result<u8> {
    let mut world = asked.whole_world()?;
    compatible::check_known(&world, Some(&args.name))?;
    let Some(node) = world
        .cluster
        .nodes
        .iter()
        .find(|node| node.name == args.name)
        .cloned()
    else {
        let names: Vec<&str> = world.cluster.nodes.iter().map(|node| &*node.name).collect();
        bail!(Wrong(format!(
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
    let passphrase = asked.passphrase.for_key(world.state.is_key_encrypted()?)?;
    world
        .state
        .ensure_authority(passphrase.as_ref(), SystemTime::now())?;
    world.make_keys(&asked.passphrase)?;
    // The others have to be well on their own: before this one is stopped, which may be the one too
    // many, and before anything of it is forgotten.
    world.absent = vec![node.name.clone()];
    world.dial().await;
    without(&world, &node, "others")
        .await
        .context("nothing was changed")?;
    stop(&world, &node).await?;
    without(&world, &node, "without it").await?;
    world.state.forget_node(&node.name)?;
    world.make_keys(&asked.passphrase)?;
    forget(&world, &node).await?;
    if let Some(before) = world.moved_from(&node) {
        let bar = world
            .progress
            .phase(&format!("{} leaves {before}", node.name), 1);
        bar.set(0, "its name is bound to its old address for a while");
        tokio::time::sleep(name_is_free(&node)).await;
        bar.done("its name is free");
    }
    wipe(&world, &node).await?;
    world.absent.clear();
    preflight::run(&world, true).await?;
    world.save_applied()?;
    preflight::claim(&world).await?;
    converge::converge(&mut world).await?;
    for product in products(&world, &node) {
        if node.is_server(product) {
            let bar = world.progress.phase(&format!("{} votes", node.name), 1);
            peers::wait_voter(&world.cluster, &world.reach()?, product, &node, world.limit).await?;
            bar.done("again");
        }
    }
    world.write_access()?;
    world.progress.note(&format!("{} is replaced", node.name));
    Ok(0)
}

/// Waits until the servers that have to do without the node are well.
async fn without(world: &World, node: &Node, word: &str) -> Result<()> {
    for phase in phases_of_servers(world, node) {
        let bar = world
            .progress
            .phase(&format!("{}, {word}", phase_gate::title(phase)), 1);
        phase_gate::gate(world, phase, &bar, world.limit).await?;
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

fn products(world: &World, node: &Node) -> Vec<Product> {
    let wanted = |product: &Product| world.scope.includes(*product);
    node.products().iter().copied().filter(wanted).collect()
}

/// Gates of the servers that have to do without this node, or forget it.
fn phases_of_servers(world: &World, node: &Node) -> Vec<Phase> {
    let phases = products(world, node)
        .into_iter()
        .map(|product| match product {
            Product::Consul => Phase::ConsulServers,
            Product::Nomad => Phase::NomadServers,
        });
    phases
        .filter(|&phase| !world.of_phase(phase).is_empty())
        .collect()
}

/// Stops what still runs there. A machine that is gone cannot be asked, and that is no reason to
/// stop here.
async fn stop(world: &World, node: &Node) -> Result<()> {
    let spec = world.spec(node)?;
    for daemon in spec.daemons.iter().rev() {
        if let Err(error) = world.host(node).stop(daemon, STOP_PATIENCE).await {
            world.progress.note(&format!(
                "{}: {} could not be stopped there: {error:#}",
                node.name, daemon.product
            ));
        }
    }
    Ok(())
}

async fn forget(world: &World, node: &Node) -> Result<()> {
    let reach = world.reach()?;
    if node.role == Role::NomadClient && world.scope == Scope::All {
        peers::purge(&world.cluster, &reach, node)
            .await
            .context("Nomad does not forget the node")?;
    }
    for product in products(world, node) {
        let member = product == Product::Consul || node.is_server(product);
        if node.is_server(product) {
            wait_other_leader(world, product, node).await?;
        }
        if member
            && world
                .cluster
                .servers(product)
                .any(|server| server.name != node.name)
        {
            peers::forget(&world.cluster, &reach, product, node, world.limit).await?;
        }
    }
    Ok(())
}

/// Waits until the others are led by one of them. For a second or two after the loss of their
/// leader they still name it.
async fn wait_other_leader(world: &World, product: Product, node: &Node) -> Result<()> {
    if world
        .cluster
        .servers(product)
        .all(|server| server.name == node.name)
    {
        return Ok(());
    }
    let reach = world.reach()?;
    let deadline = Instant::now() + world.limit.min(ELECTION);
    loop {
        let why = match peers::list(&world.cluster, &reach, product).await {
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

async fn wipe(world: &World, node: &Node) -> Result<()> {
    let host = world.host(node);
    for product in products(world, node) {
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
