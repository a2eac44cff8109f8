//! lb by systemd, where Nomad's clients run no programs as they are: after all else, one batch of
//! nodes at a time, so that the others go on serving.

use anyhow::{Context as _, Result};

use super::many::each;
use super::restart::batch_size;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::spec::{NodeSpec, sha256};
use crate::bootstrap::topology::{Node, Phase};

/// Runs it on the nodes of this phase; nothing where Nomad's job does.
///
/// # Errors
/// The node on which it does not stay up.
pub(super) async fn after(context: &Context, phase: Phase) -> Result<()> {
    if phase != Phase::NomadClients || context.cluster.raw_exec || context.versions.lb.is_none() {
        return Ok(());
    }
    let nodes = context.of_phase(phase);
    let nodes: Vec<Node> = nodes
        .into_iter()
        .filter(|node| context.host(node).has_units())
        .collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let bar = context.progress.phase("lb", nodes.len());
    let (mut done, mut changed) = (0, 0);
    for batch in nodes.chunks(batch_size(context, phase)) {
        let names: Vec<&str> = batch.iter().map(|node| &*node.name).collect();
        bar.set(done, &format!("on {}", names.join(", ")));
        done += batch.len();
        let runs = batch.iter().map(|node| async move {
            let stamp = stamp(&context.spec(node)?);
            let run = context.host(node).run_lb(&stamp).await;
            run.with_context(|| node.name.clone())
        });
        changed += each(context, runs)
            .await?
            .into_iter()
            .filter(|&changed| changed)
            .count();
    }
    bar.done(&match changed {
        0 => format!("{} up, unchanged", nodes.len()),
        _ => format!("{} up, {changed} started", nodes.len()),
    });
    Ok(())
}

/// Digest of what it has to be started with: its program and its unit.
fn stamp(spec: &NodeSpec) -> String {
    let program = spec.binaries.iter().find(|binary| binary.name == "lb");
    let program = program.and_then(|binary| binary.sha256.clone());
    let unit = spec
        .files
        .iter()
        .find(|file| file.path.ends_with("/lb.service"));
    let mut all = unit.map(|unit| unit.content.clone()).unwrap_or_default();
    all.extend_from_slice(program.unwrap_or_default().as_bytes());
    sha256(&all)
}
