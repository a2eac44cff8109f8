//! `lb bootstrap down`: stops the cluster; with `--purge` nothing of it is left.

use anyhow::Result;

use super::foreground;
use super::invocation::Invocation;
use super::terminal::confirm;
use crate::bootstrap::converge::many::each;
use crate::bootstrap::exit::INTERRUPTED;
use crate::bootstrap::nodes::Wipe;
use crate::cli::DownArgs;

/// Stops all nodes against the order of their start.
///
/// # Errors
/// When something cannot be stopped or removed.
pub(super) async fn run(invocation: &Invocation, args: DownArgs) -> Result<u8> {
    let mut context = invocation.open_to_end()?;
    let (name, nodes) = (&context.cluster.name, context.cluster.nodes.len());
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
    foreground::stop_all(&context).await?;
    if !args.purge {
        context.applied.detached = false;
        context.save_applied()?;
        context.progress.note("all nodes are stopped; `lb bootstrap up` starts them again, with the same data and keys");
        return Ok(0);
    }
    each(
        &context,
        context
            .cluster
            .nodes
            .iter()
            .map(|node| context.host(node).wipe(Wipe::Everything)),
    )
    .await?;
    context.state.remove()?;
    context
        .progress
        .note("all nodes are stopped, and nothing of the cluster is left but programs and users");
    Ok(0)
}
