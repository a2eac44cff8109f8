//! The walk from what the nodes have to what they shall have, phase by phase, each behind its gate.
//!
//! ```text
//!   for each phase:  observe all its nodes ─▶ plan each
//!     down?          prepare and start all of them at once
//!     certificates?  write and reload, one node after the other
//!     restart?       gate, then one node after the other, leader last, a gate after each
//!     gate
//! ```
//! See docs/decisions/0006-bootstrap-converges.md for what makes it safe to kill at any point.

mod batches;
mod checks;
mod dead_servers;
mod lb_service;
mod look;
mod lost;
pub(super) mod many;
mod missed;
pub(super) mod phase_gate;
pub(super) mod preflight;
mod resolver;
pub(super) mod restart;
pub(super) mod survey;
mod tokens;
mod work;

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::progress::PhaseProgress;
use super::state::Program;
use super::topology::{BinarySource, Node, Phase, Product};
use crate::bootstrap::cluster::acl;
use crate::bootstrap::cluster::facts::NomadNode;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::cluster::view::Consistency;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::Package;
use crate::bootstrap::nodes::plan::{DaemonAction, NodePlan, wanted_stamps};
use crate::bootstrap::of_node::OfNode as _;
pub(super) use look::{Looked, look, silence};
use many::{each, each_result};
use phase_gate::{gate, title};
use restart::{restart_all, rolling_gate};
use work::{Work, start, write};

/// Pause between two looks whether a token is known.
const LOOK: Duration = Duration::from_secs(1);

/// Goes through all phases. The plans that were carried out; all empty when nothing differed.
///
/// # Errors
/// What could not be done, or the gate that did not open, with a reason per node.
pub(in crate::bootstrap) async fn converge(context: &mut Context) -> Result<Vec<NodePlan>> {
    converge_with(context, async |_, _| Ok(false)).await
}

/// The same, with something between the phases. It says whether it put other data into the phase's
/// product, whose tokens are then seen to once more.
///
/// # Errors
/// As [`converge`], and what it fails with.
pub(in crate::bootstrap) async fn converge_with(
    context: &mut Context,
    mut between: impl AsyncFnMut(&mut Context, Phase) -> Result<bool>,
) -> Result<Vec<NodePlan>> {
    let mut done: Vec<NodePlan> = Vec::new();
    for phase in context.phases() {
        if context.only.is_some() && context.of_phase(phase).is_empty() {
            continue;
        }
        done.extend(run_phase(context, phase).await?);
        lb_service::after(context, phase).await?;
        resolver::after(context, phase).await?;
        let mut again = tokens::after(context, phase).await?.then_some("with ACLs");
        if between(context, phase).await? {
            tokens::after(context, phase).await?;
            again = Some("with their data");
        }
        if let Some(word) = again {
            // Some of what the gate reads is shown only to a holder of a token: now there is one.
            let bar = context.progress.phase(
                &format!("{} {word}", title(phase)),
                context.of_phase(phase).len(),
            );
            gate(context, phase, &bar, context.limit).await?;
            bar.done("well");
        }
    }
    done.retain(|plan| !plan.is_empty());
    Ok(done)
}

/// Restarts the agents of a phase one after the other, whether they differ from what they shall be
/// or not.
///
/// # Errors
/// As [`converge`].
pub(in crate::bootstrap) async fn restart_each(context: &mut Context, phase: Phase) -> Result<()> {
    let Looked { works, silent } = look(context, phase).await?;
    for (name, why) in silent {
        context.leave_out(&name, &why);
    }
    if matches!(phase, Phase::ConsulServers | Phase::NomadServers) {
        dead_servers::check(context, phase.product(), &works, true)?;
    }
    let bar = context.progress.phase(title(phase), works.len());
    restart_all(context, phase, works.iter().collect(), &[], &bar).await?;
    bar.done(&format!("{} restarted", works.len()));
    Ok(())
}

/// One phase, from looking to its gate.
///
/// # Errors
/// As [`converge`].
async fn run_phase(context: &mut Context, phase: Phase) -> Result<Vec<NodePlan>> {
    let Looked { mut works, silent } = look(context, phase).await?;
    for (name, why) in silent {
        context.leave_out(&name, &why);
    }
    work::check(&works)?;
    let bar = context.progress.phase(title(phase), works.len());
    let product = phase.product();
    let is_of_servers = matches!(phase, Phase::ConsulServers | Phase::NomadServers);
    let wanted =
        |action: DaemonAction| move |work: &&Work| work.plan.daemon(product) == Some(action);
    missed::forget_old_keys(context, &mut works, product).await?;
    if is_of_servers {
        dead_servers::check(context, product, &works, false)?;
    }

    // Programs come first: what a release hashes to is known only when it is there.
    let installing = works.iter_mut().map(|work| install(context, work));
    let installed = each_result(context, installing).await;
    let nodes = works.iter().map(|work| work.node.clone());
    let results = nodes.zip(installed).collect();
    let releases: Vec<Installed> = lost::sort_out(context, &mut works, results)?
        .into_iter()
        .flatten()
        .collect();
    if !releases.is_empty() {
        for (node, name, program) in releases {
            context
                .applied
                .programs
                .entry(node)
                .or_default()
                .insert(name, program);
        }
        context.save_applied()?;
    }
    bar.set(0, "starting");
    let is_cold = works.iter().all(|work| wanted(DaemonAction::Start)(&work));
    let down: Vec<&Work> = works.iter().filter(wanted(DaemonAction::Start)).collect();
    let starting = down.iter().map(|work| start(context, work, product));
    let results = each_result(context, starting).await;
    let nodes: Vec<Node> = down.iter().map(|work| work.node.clone()).collect();
    lost::sort_out(
        context,
        &mut works,
        nodes.iter().cloned().zip(results).collect(),
    )?;
    if is_of_servers {
        dead_servers::check(context, product, &works, false)?;
    }
    let started: Vec<Node> = nodes
        .into_iter()
        .filter(|node| is_of_servers && !is_cold && context.is_worked_on(node))
        .collect();
    let mut results = Vec::new();
    for work in works
        .iter()
        .filter(|work| !work.plan.is_empty() && work.plan.daemon(product).is_none())
    {
        results.push((work.node.clone(), write(context, work).await));
    }
    for work in works.iter().filter(wanted(DaemonAction::Reload)) {
        bar.set(0, &format!("{} reads its certificates", work.node.name));
        results.push((work.node.clone(), reload(context, work, product).await));
    }
    lost::sort_out(context, &mut works, results)?;
    let restarts: Vec<&Work> = works.iter().filter(wanted(DaemonAction::Restart)).collect();
    if !restarts.is_empty() {
        restart_all(context, phase, restarts, &started, &bar).await?;
    }
    gate(context, phase, &bar, context.limit).await?;
    works.retain(|work| context.is_worked_on(&work.node));
    if is_of_servers {
        wait_voters(context, &works, product, &bar).await?;
    }
    for node in &started {
        bar.set(works.len(), &format!("{} catches up", node.name));
        rolling_gate(context, product, node).await?;
    }
    missed::note_new_keys(context, &works, product)?;
    if phase == Phase::NomadClients {
        tell_idle(context).await;
    }
    bar.done(&summary(&works, product));
    Ok(works.into_iter().map(|work| work.plan).collect())
}

/// Waits until all servers vote that are there: autopilot lets those that came to others after 10 s,
/// and until then they bear no loss.
async fn wait_voters(
    context: &Context,
    works: &[Work],
    product: Product,
    bar: &PhaseProgress,
) -> Result<()> {
    // Before the bootstrap of ACLs the peers are not shown.
    if context.cluster.acl && context.state.tokens()?.management(product).is_none() {
        return Ok(());
    }
    let view = context.cluster_view()?;
    // Nor are they to a saved token that the product does not know, because its data was lost. That
    // is certain only once they say so, which may be a moment after they know a leader.
    let is_lost = async {
        while !(context.cluster.acl && acl::is_token_lost(&view, product).await) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let vote = async {
        for work in works {
            let node = &work.node;
            let what = format!("waiting for the vote of {}", node.name);
            bar.set(works.len(), &what);
            peers::wait_voter(&view, product, node, context.limit).await?;
        }
        Ok(())
    };
    tokio::select! {
        voted = vote => voted,
        () = is_lost => Ok(()),
    }
}

/// Tells of clients that are worked on like all others, and are not waited for: those that take no
/// allocations because an operator has taken them out of use.
async fn tell_idle(context: &Context) {
    let Ok(view) = context.cluster_view() else {
        return;
    };
    // The gate has just seen them; what cannot be told now must not make the run fail.
    let Ok((_, clients)) = view.nomad_nodes(Consistency::Default).await else {
        return;
    };
    for node in context.of_phase(Phase::NomadClients) {
        let client = NomadNode::of_name(&clients, &node.name);
        if let Some(word) = client.and_then(NomadNode::idle) {
            context
                .progress
                .note(&format!("{}: {word}; it was not waited for", node.name));
        }
    }
}

/// A program that was installed from a release: node, name, and what it is.
type Installed = (String, String, Program);

/// Makes users and folders, and installs programs; afterwards the plan knows their digests.
async fn install(context: &Context, work: &mut Work) -> Result<Vec<Installed>> {
    let (host, name) = (context.host(&work.node), work.node.name.clone());
    if work.plan.is_empty() {
        return Ok(Vec::new());
    }
    host.ensure_users(&work.part.users).await.of_node(&name)?;
    host.ensure_directories(&work.part.directories)
        .await
        .of_node(&name)?;
    let packages = work.part.packages.iter().copied();
    let packages: Vec<Package> = packages
        .filter(|package| work.plan.installs(package.name()))
        .collect();
    if !packages.is_empty() {
        context.changes.note(&name, "packages installed");
        host.install_packages(&packages).await.of_node(&name)?;
    }
    let mut installed = Vec::new();
    if context.cluster.is_local() {
        return Ok(installed);
    }
    for binary in work
        .part
        .binaries
        .iter_mut()
        .filter(|binary| work.plan.writes(&binary.path))
    {
        context.changes.note(&name, "programs installed");
        let digest = host
            .install(binary, &context.releases)
            .await
            .of_node(&name)?;
        if let BinarySource::Release(version) = &binary.source {
            let program = Program {
                version: version.clone(),
                sha256: digest.clone(),
            };
            installed.push((name.clone(), binary.name.clone(), program));
        }
        binary.sha256 = Some(digest);
    }
    work.plan.decide_daemons(&work.part, &work.seen);
    Ok(installed)
}

async fn reload(context: &Context, work: &Work, product: Product) -> Result<()> {
    let (host, name) = (context.host(&work.node), &work.node.name);
    let daemon = work.part.daemon(product).with_context(|| name.clone())?;
    write(context, work).await?;
    context.changes.note(name, "reloaded");
    host.reload(daemon).await.of_node(name)?;
    host.stamp(product, &wanted_stamps(&work.part, &work.seen, product))
        .await
        .of_node(name)
}

fn summary(works: &[Work], product: Product) -> String {
    let count = |action| {
        works
            .iter()
            .filter(|work| work.plan.daemon(product) == Some(action))
            .count()
    };
    let parts: Vec<String> = [
        (count(DaemonAction::Start), "started"),
        (count(DaemonAction::Restart), "restarted"),
        (count(DaemonAction::Reload), "reloaded"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let written = works.iter().filter(|work| !work.plan.is_empty()).count();
    match (parts.is_empty(), written) {
        (false, _) => format!("{} up, {}", works.len(), parts.join(", ")),
        (true, 0) => format!("{} up, unchanged", works.len()),
        (true, written) => format!("{} up, files of {written} written", works.len()),
    }
}

/// Writes what nodes read at their next start only, on all nodes that respond: which nodes to join,
/// after a node has come, moved or gone. No daemon is touched.
///
/// # Errors
/// What could not be written.
pub(in crate::bootstrap) async fn write_quiet_files(context: &mut Context) -> Result<()> {
    for phase in context.phases() {
        let Looked { works, silent } = look(context, phase).await?;
        for (name, why) in silent {
            context.leave_out(&name, &why);
        }
        let quiet = works
            .iter()
            .filter(|work| work.plan.daemon(phase.product()).is_none());
        each(context, quiet.map(|work| write(context, work))).await?;
    }
    Ok(())
}
