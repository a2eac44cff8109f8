//! A node's part in a phase, and the steps that bring files and daemon to it.

use anyhow::{Context as _, Result, bail};

use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::plan::{NodePlan, wanted_stamps};
use crate::bootstrap::nodes::spec::{FileSpec, NodeSpec, Observed};
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::topology::{Node, Product};

/// A node, what its part in the phase shall be, and what differs.
pub(in crate::bootstrap) struct Work {
    /// The node.
    pub node: Node,
    /// What belongs to the phase's product, of all that the node shall have.
    pub part: NodeSpec,
    /// What was seen.
    pub seen: Observed,
    /// The difference.
    pub plan: NodePlan,
}

/// Stops before a phase that would end half done.
///
/// # Errors
/// What has to be done by hand, node by node.
pub(super) fn check(works: &[Work]) -> Result<()> {
    let by_hand = works.iter().flat_map(|work| {
        let name = &work.node.name;
        (work.plan.by_hand().into_iter()).map(move |text| format!("\n  {name}: {text}"))
    });
    let by_hand: String = by_hand.collect();
    match by_hand.is_empty() {
        true => Ok(()),
        false => bail!("this has to be done by hand:{by_hand}"),
    }
}

/// Writes the files that differ, and brings units to what they shall be.
pub(super) async fn write(context: &Context, work: &Work) -> Result<()> {
    let files: Vec<&FileSpec> = work
        .part
        .files
        .iter()
        .filter(|file| work.plan.writes(&file.path))
        .collect();
    let (host, name) = (context.host(&work.node), &work.node.name);
    if !files.is_empty() {
        context.changes.note(name, "files written");
        host.write(&files).await.of_node(name)?;
    }
    let removed = work.plan.removes();
    if !removed.is_empty() {
        context.changes.note(name, "files removed");
        host.remove(&removed).await.of_node(name)?;
    }
    for daemon in &work.part.daemons {
        let fixes = work.plan.unit_fixes(daemon.product);
        if !fixes.is_empty() {
            context.changes.note(name, "units put right");
        }
        host.fix_unit(daemon.product, &fixes).await.of_node(name)?;
    }
    Ok(())
}

/// Writes what differs and starts the daemon. The stamps go before the start: whatever runs
/// afterwards has read these files.
pub(super) async fn start(context: &Context, work: &Work, product: Product) -> Result<()> {
    let (host, name) = (context.host(&work.node), &work.node.name);
    let daemon = work.part.daemon(product).with_context(|| name.clone())?;
    write(context, work).await?;
    context.changes.note(name, "started");
    host.stamp(product, &wanted_stamps(&work.part, &work.seen, product))
        .await
        .of_node(name)?;
    host.start(daemon).await.of_node(name)
}
