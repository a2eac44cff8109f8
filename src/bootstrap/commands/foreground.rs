//! A local cluster in the foreground: watched until it is to stop, then stopped in order.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;

use crate::bootstrap::context::Context;
use crate::bootstrap::converge::many::{each_result, fail_together};
use crate::bootstrap::converge::{phase_gate, silence};
use crate::bootstrap::exit::INTERRUPTED;
use crate::bootstrap::nodes::spec::NodeSpec;
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::state::Foreground;
use crate::bootstrap::topology::{Node, Phase, Product};
pub(super) use crate::system::signals::end_came_with_terminal as asked_to_stop;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long an agent, or its tasks, may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of the log shown of an agent that ended by itself.
const LOG_LINES: usize = 5;

/// Takes the cluster into the foreground, where it belongs there: it is new, was stopped, or ran
/// there before. One that was left in the background stays there, and one that another command has
/// in its foreground is that command's.
///
/// # Errors
/// When the state cannot be read.
pub(super) fn take(context: &Context) -> Result<Option<Foreground>> {
    if context
        .state
        .cluster()?
        .is_some_and(|applied| applied.detached)
    {
        return Ok(None);
    }
    context.state.foreground()
}

/// Stops everything; left as it is at a second request to stop. Whether all was stopped.
///
/// # Errors
/// When something cannot be stopped.
pub(super) async fn stop_all_unless_asked_again(context: &mut Context) -> Result<bool> {
    let flags = context.flags.clone();
    let progress = context.progress.clone();
    tokio::select! {
        stopped = stop_all(context) => stopped.map(|()| true),
        () = asked_to_stop() => {
            progress.note(&format!("left as it is; `lb bootstrap down{flags}` stops what still runs"));
            Ok(false)
        }
    }
}

/// Tells of agents that end or come back, until `stop` (see [`asked_to_stop`]); then stops all. The
/// exit code.
///
/// # Errors
/// When an agent cannot be stopped.
pub(super) async fn until_stopped(
    context: &mut Context,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<u8> {
    let mut down: BTreeSet<(String, Product)> = BTreeSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        // That the machine is short of something just now is not a reason to let go of the cluster.
        let Ok(now) = ended(context).await else {
            continue;
        };
        if now.len() == agents(context) {
            context
                .progress
                .note("all nodes were stopped by another command");
            return Ok(0);
        }
        for (node, product) in now.difference(&down) {
            let log = match context
                .cluster
                .nodes
                .iter()
                .find(|candidate| candidate.name == *node)
            {
                Some(node) => context
                    .host(node)
                    .log(*product, LOG_LINES)
                    .await
                    .unwrap_or_default(),
                None => String::new(),
            };
            context.progress.note(&format!(
                "{node}: {product} ended; `up` starts it again\n{}",
                log.trim_end()
            ));
        }
        for (node, product) in down.difference(&now) {
            context.progress.note(&format!("{node}: {product} is back"));
        }
        down = now;
    }
    context.progress.note("stopping all nodes");
    let stopped = stop_all_unless_asked_again(context).await?;
    Ok(if stopped { 0 } else { INTERRUPTED })
}

fn agents(context: &Context) -> usize {
    context
        .phases()
        .into_iter()
        .map(|phase| context.of_phase(phase).len())
        .sum()
}

async fn ended(context: &Context) -> Result<BTreeSet<(String, Product)>> {
    let mut ended = BTreeSet::new();
    for node in context
        .cluster
        .nodes
        .iter()
        .filter(|node| context.is_worked_on(node))
    {
        let daemons = context.spec(node)?.daemons;
        let spec = NodeSpec {
            daemons: daemons.clone(),
            ..NodeSpec::default()
        };
        let seen = context.host(node).observe(&spec).await?;
        let runs = |product| {
            seen.daemons
                .get(product)
                .is_some_and(|daemon| daemon.pid.is_some())
        };
        ended.extend(
            daemons
                .iter()
                .filter(|daemon| !runs(&daemon.product))
                .map(|daemon| (node.name.clone(), daemon.product)),
        );
    }
    Ok(ended)
}

/// Stops everything against the order of its start: tasks and their clients first, Consul's servers
/// last. Nodes that do not respond are left out.
///
/// # Errors
/// When something cannot be stopped.
pub(super) async fn stop_all(context: &mut Context) -> Result<()> {
    for phase in context.phases().into_iter().rev() {
        let nodes = context.of_phase(phase);
        let bar = context
            .progress
            .phase(&format!("stop {}", phase_gate::title(phase)), nodes.len());
        let stopping = nodes.iter().map(|node| stop(context, node, phase));
        let results = each_result(context, stopping).await;
        let mut failed = Vec::new();
        let mut tasks: Vec<usize> = Vec::new();
        for (node, result) in nodes.iter().zip(results) {
            match result {
                Ok(count) => tasks.push(count),
                Err(error) => match silence(&node.name, &error) {
                    Some(why) => context.leave_out(&node.name, &why),
                    None => failed.push(error),
                },
            }
        }
        let stopped = tasks.len();
        fail_together(failed)?;
        match tasks.iter().sum::<usize>() {
            0 => bar.done(&format!("{stopped} stopped")),
            tasks => bar.done(&format!(
                "{stopped} stopped, {tasks} processes of their tasks ended"
            )),
        }
    }
    Ok(())
}

async fn stop(context: &Context, node: &Node, phase: Phase) -> Result<usize> {
    let spec = context.spec(node)?;
    let Some(daemon) = spec.daemon(phase.product()) else {
        return Ok(0);
    };
    let host = context.host(node);
    context.changes.note(&node.name, "stopped");
    host.stop(daemon, PATIENCE).await.of_node(&node.name)?;
    // A cluster that was stopped stays so when its machines start.
    host.disable(daemon).await.of_node(&node.name)?;
    match phase {
        // The tasks of a client outlive its agent.
        Phase::NomadClients => {
            host.stop_lb().await.of_node(&node.name)?;
            host.stop_tasks(PATIENCE).await.of_node(&node.name)
        }
        _ => Ok(0),
    }
}
