//! The gate of a phase as a run holds it: with progress, and with its reasons told to people.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::bootstrap::cluster::gates::{self, GateFailure};
use crate::bootstrap::context::Context;
use crate::bootstrap::progress::PhaseProgress;
use crate::bootstrap::topology::Phase;

/// Waits for the gate of a phase.
///
/// # Errors
/// A reason per node that is not well.
pub(in crate::bootstrap) async fn gate(
    context: &Context,
    phase: Phase,
    bar: &PhaseProgress,
    limit: Duration,
) -> Result<()> {
    told(gate_result(context, phase, bar, limit).await?)
}

/// What the gate of a phase comes to.
///
/// # Errors
/// When it cannot be held at all.
pub(super) async fn gate_result(
    context: &Context,
    phase: Phase,
    bar: &PhaseProgress,
    limit: Duration,
) -> Result<Result<(), GateFailure>> {
    let view = context.cluster_view()?;
    let progress = |done, _| bar.set(done, waiting_for(phase));
    let logs = context.logs();
    let gates = gates::Gates {
        view: &view,
        absent: &context.absent,
        logs: &logs,
        progress: &progress,
        deadline: limit,
    };
    Ok(gates.phase(phase).await)
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
