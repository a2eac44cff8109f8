//! The gate of a phase as a run holds it: with progress, with its reasons told to people, and
//! without clients that die meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::look::silence;
use crate::bootstrap::cluster::gates::{self, GateFailure};
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::spec::NodeSpec;
use crate::bootstrap::progress::PhaseProgress;
use crate::bootstrap::topology::{Node, Phase, Product, Role};

/// How long a gate stays shut before it is found out whether the nodes behind it live.
const ARE_ALIVE: Duration = Duration::from_secs(10);

/// Waits for the gate of a phase.
///
/// # Errors
/// A reason per node that is not well.
pub(in crate::bootstrap) async fn gate(
    context: &mut Context,
    phase: Phase,
    bar: &PhaseProgress,
    limit: Duration,
) -> Result<()> {
    told(gate_result(context, phase, bar, limit).await?)
}

/// What the gate of a phase comes to. Clients that turn out to be dead are left out of the run, and
/// not waited for.
///
/// # Errors
/// When it cannot be held at all.
pub(super) async fn gate_result(
    context: &mut Context,
    phase: Phase,
    bar: &PhaseProgress,
    limit: Duration,
) -> Result<Result<(), GateFailure>> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Err(failure) = hold(context, phase, bar, left.min(ARE_ALIVE)).await? else {
            return Ok(Ok(()));
        };
        let mut any_died = false;
        for reason in &failure.reasons {
            let nodes = &context.cluster.nodes;
            let node = nodes.iter().find(|node| node.name == reason.node).cloned();
            if let Some(node) = node.filter(|node| node.role == Role::NomadClient)
                && let Some(why) = dead(context, &node, phase.product()).await
            {
                context.leave_out(&node.name, &why);
                any_died = true;
            }
        }
        if !any_died && Instant::now() >= end {
            return Ok(Err(failure));
        }
    }
}

/// Why a node is dead; None: it lives.
async fn dead(context: &Context, node: &Node, product: Product) -> Option<String> {
    let daemons = context.spec(node).ok()?.daemons;
    let spec = NodeSpec {
        daemons: daemons
            .into_iter()
            .filter(|one| one.product == product)
            .collect(),
        ..NodeSpec::default()
    };
    match context.host(node).observe(&spec).await {
        Err(error) => silence(&node.name, &error),
        Ok(seen) => {
            let daemon = seen.daemons.get(&product);
            let runs = daemon.is_some_and(|daemon| daemon.pid.is_some());
            let is_dead = !runs && context.cluster.is_local() && context.is_known(node);
            is_dead.then(|| format!("cannot be started: {product} ended by itself"))
        }
    }
}

async fn hold(
    context: &Context,
    phase: Phase,
    bar: &PhaseProgress,
    limit: Duration,
) -> Result<Result<(), GateFailure>> {
    let progress = |done, _| bar.set(done, waiting_for(phase));
    let absent = context.not_waited_for(phase);
    with_gates(context, &absent, &progress, limit, async |gates| {
        gates.phase(phase).await
    })
    .await
}

/// Waits for what `wait` picks among the gates of this run's cluster.
pub(super) async fn with_gates(
    context: &Context,
    absent: &[String],
    progress: gates::Progress<'_>,
    deadline: Duration,
    wait: impl AsyncFnOnce(gates::Gates<'_>) -> Result<(), GateFailure>,
) -> Result<Result<(), GateFailure>> {
    let view = context.cluster_view()?;
    let logs = context.logs();
    let gates = gates::Gates {
        view: &view,
        absent,
        logs: &logs,
        progress,
        deadline,
    };
    Ok(wait(gates).await)
}

/// Every reason on a line of its own, with what is likely behind it and what to do.
pub(super) fn told(result: Result<(), GateFailure>) -> Result<()> {
    let Err(failure) = result else { return Ok(()) };
    let mut text = format!("{}: not well in time", title(failure.phase));
    for reason in &failure.reasons {
        text.push_str(&format!("\n  {}: {}", reason.node, reason.text));
        if let Some(cause) = &reason.cause {
            text.push_str(&format!(
                "\n    likely cause: {}\n    what to do: {}",
                cause.text, cause.advice
            ));
        }
    }
    bail!(text)
}

/// Name of a phase for people.
pub(in crate::bootstrap) fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::ConsulServers => "Consul servers",
        Phase::ConsulClients => "Consul agents",
        Phase::NomadServers => "Nomad servers",
        Phase::NomadClients => "Nomad clients",
    }
}

fn waiting_for(phase: Phase) -> &'static str {
    match phase {
        Phase::ConsulServers | Phase::NomadServers => "waiting for one leader and all peers",
        Phase::ConsulClients => "waiting for all members, each with a way to the leader",
        Phase::NomadClients => "waiting for all nodes to be ready",
    }
}
