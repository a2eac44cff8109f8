//! `lb bootstrap down`: stops the cluster; with `--purge` nothing of it is left.

use anyhow::Result;

use super::foreground;
use super::invocation::Asked;
use super::terminal::confirm;
use crate::bootstrap::converge::many::each;
use crate::bootstrap::exit::INTERRUPTED;
use crate::bootstrap::nodes::host::Wipe;
use crate::cli::DownArgs;

/// Stops all nodes against the order of their start.
///
/// # Errors
/// When something cannot be stopped or removed.
pub(super) async fn run(asked: &Asked, args: DownArgs) -> Result<u8> {
    let mut world = asked.world_to_end()?;
    let (name, nodes) = (&world.cluster.name, world.cluster.nodes.len());
    let question = match args.purge {
        true => {
            format!(
                "Stop the {nodes} nodes of {name}, and remove their data, configuration, keys and certificates?"
            )
        }
        false => {
            format!("Stop the {nodes} nodes of {name}, and the tasks on them? Data and keys stay.")
        }
    };
    if !confirm(&question, args.yes)? {
        return Ok(INTERRUPTED);
    }
    foreground::stop_all(&world).await?;
    if !args.purge {
        world.applied.detached = false;
        world.save_applied()?;
        world.progress.note("all nodes are stopped; `lb bootstrap up` starts them again, with the same data and keys");
        return Ok(0);
    }
    each(
        &world,
        world
            .cluster
            .nodes
            .iter()
            .map(|node| world.host(node).wipe(Wipe::Everything)),
    )
    .await?;
    world.state.remove()?;
    world
        .progress
        .note("all nodes are stopped, and nothing of the cluster is left but programs and users");
    Ok(0)
}
