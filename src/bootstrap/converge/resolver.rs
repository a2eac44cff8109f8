//! `.consul` on the nodes, once their agents run: systemd-resolved reads what was written for it.

use anyhow::Result;

use super::many::each;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::RESOLVER_FILE;
use crate::bootstrap::nodes::spec::sha256;
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::topology::{Phase, Product};

/// Sees to it on the nodes of this phase; nothing where it is not configured.
///
/// # Errors
/// The node on which systemd-resolved does not start.
pub(super) async fn after(context: &Context, phase: Phase) -> Result<()> {
    if phase.product() != Product::Consul || !context.cluster.features.consul_dns {
        return Ok(());
    }
    let nodes = context.of_phase(phase);
    let taking = nodes.iter().map(|node| async move {
        let spec = context.spec(node)?;
        let file = spec.files.iter().find(|file| file.path == RESOLVER_FILE);
        let Some(file) = file else { return Ok(false) };
        let host = context.host(node);
        let taken = host.take_up_resolver(&sha256(&file.content)).await;
        taken.of_node(&node.name)
    });
    each(context, taking).await.map(drop)
}
