//! Nodes that were away when a gossip key changed. Their agents keep the old key with their data,
//! where it wins over the configuration, and cannot join with it.

use anyhow::{Context as _, Result};

use super::restart::STOP_PATIENCE;
use super::work::Work;
use crate::bootstrap::context::Context;
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::topology::Product;

/// Stops those agents and takes their old keys away, so that they start with the new one.
pub(super) async fn forget_old_keys(
    context: &Context,
    works: &mut [Work],
    product: Product,
) -> Result<()> {
    let Some(keys) = context.state.gossip()? else {
        return Ok(());
    };
    let missed = &keys.of(product).missed;
    for work in works
        .iter_mut()
        .filter(|work| missed.contains(&work.node.name))
    {
        let (host, name) = (context.host(&work.node), &work.node.name);
        let daemon = work.part.daemon(product).with_context(|| name.clone())?;
        context.changes.note(name, "restarted");
        host.stop(daemon, STOP_PATIENCE).await.of_node(name)?;
        host.forget_gossip_keys(product).await.of_node(name)?;
        work.seen.daemons.remove(&product);
        work.plan.decide_daemons(&work.part, &work.seen);
    }
    Ok(())
}

/// Notes that these have the new key.
pub(super) fn note_new_keys(context: &mut Context, works: &[Work], product: Product) -> Result<()> {
    let Some(mut keys) = context.state.gossip()? else {
        return Ok(());
    };
    let missed = &mut keys.of_mut(product).missed;
    let before = missed.len();
    missed.retain(|name| works.iter().all(|work| work.node.name != *name));
    if missed.len() < before {
        context.state.save_gossip(&keys)?;
    }
    Ok(())
}
