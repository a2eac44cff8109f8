//! `lb bootstrap down`: stops the cluster; with `--purge` nothing of it is left.

use anyhow::Result;

use super::foreground;
use super::invocation::{Invocation, ended};
use super::terminal::confirm;
use crate::bootstrap::context::Context;
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
    foreground::stop_all(&mut context).await?;
    if !args.purge {
        context.applied.detached = false;
        context.save_applied()?;
        context.progress.note(&format!(
            "{} are stopped; `lb bootstrap up` starts them again, with the same data and keys",
            all(&context)
        ));
        return Ok(ended(&context));
    }
    let nodes = context.cluster.nodes.iter();
    let present = nodes.filter(|node| context.is_worked_on(node));
    let wiping = present.map(|node| {
        context
            .changes
            .note(&node.name, "data, configuration and keys removed");
        context.host(node).wipe(Wipe::Everything)
    });
    each(&context, wiping).await?;
    if !context.left_out.is_empty() {
        // The state is what the others are stopped and wiped with.
        context.progress.note(&format!(
            "{} are stopped and nothing of the cluster is left on them; the state stays for the others",
            all(&context)
        ));
        return Ok(ended(&context));
    }
    context.state.remove()?;
    context
        .progress
        .note("all nodes are stopped, and nothing of the cluster is left but programs and users");
    Ok(0)
}

/// The nodes that a run could work on, in words.
fn all(context: &Context) -> String {
    match context.left_out.len() {
        0 => "all nodes".to_owned(),
        left => format!("all nodes but {left}"),
    }
}
