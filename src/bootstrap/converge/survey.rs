//! All that has to be known before a run changes anything: whether the nodes can be worked on, and
//! what those hold up that do not answer.

use anyhow::Result;

use super::look::look;
use super::{dead_servers, preflight};
use crate::bootstrap::context::Context;
use crate::bootstrap::topology::{Phase, Product};

/// Looks at all nodes, and leaves those out that do not answer. `restarts`: products whose servers
/// the command restarts in any case.
///
/// # Errors
/// Everything that is in the way; nothing was changed then.
pub(in crate::bootstrap) async fn run(
    context: &mut Context,
    known: bool,
    restarts: &[Product],
) -> Result<()> {
    preflight::run(context, known).await?;
    for phase in [Phase::ConsulServers, Phase::NomadServers] {
        let product = phase.product();
        let is_dead = |name: &String| context.left_out.contains_key(name);
        let any_dead = context
            .cluster
            .servers(product)
            .any(|node| is_dead(&node.name));
        if !any_dead || !context.phases().contains(&phase) {
            continue;
        }
        let looked = look(context, phase).await?;
        for (name, why) in &looked.silent {
            context.leave_out(name, why);
        }
        let restarts = restarts.contains(&product);
        dead_servers::check(context, product, &looked.works, restarts)?;
    }
    Ok(())
}
