//! Whether a phase of the start is really over, and whether a restarted server is really back.
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::causes::Cause;
use super::reach::Reach;
use super::topology::{Cluster, Node, Phase, Product};

/// Gives the end of a daemon's log on a node; empty when it cannot be had.
pub type Logs<'a> = &'a (dyn Fn(&Node, Product) -> BoxFuture<'static, String> + Send + Sync);

/// Told how many nodes are well, of how many.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// One node that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Name of the node.
    pub node: String,
    /// What was asked and seen.
    pub text: String,
    /// What it means, if it is known.
    pub cause: Option<Cause>,
}

/// A gate that did not open in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{phase:?}")]
pub struct GateFailure {
    /// Of this phase; after the restart of a server, the phase that starts servers of its product.
    pub phase: Phase,
    /// A reason per node that is not well.
    pub reasons: Vec<Reason>,
}

/// What every gate needs.
#[derive(Clone, Copy)]
pub struct Gates<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// How to ask it.
    pub reach: &'a Reach,
    /// Names of nodes that are expected to be dead, for instance because they are being replaced.
    pub absent: &'a [String],
    /// Where to look for causes.
    pub logs: Logs<'a>,
    /// For bars.
    pub progress: Progress<'a>,
    /// How long each gate may take.
    pub deadline: Duration,
}

impl Gates<'_> {
    /// Waits until a phase is over.
    ///
    /// # Errors
    /// When it is not by the deadline.
    pub async fn phase(&self, phase: Phase) -> Result<(), GateFailure> {
        Err(GateFailure { phase, reasons: Vec::new() })
    }

    /// Waits until a restarted server is back, and the cluster can stand the loss of as many as before.
    ///
    /// # Errors
    /// When it is not so by the deadline.
    pub async fn rolling(&self, product: Product, restarted: &Node) -> Result<(), GateFailure> {
        let _ = (product, restarted);
        Err(GateFailure { phase: Phase::ConsulServers, reasons: Vec::new() })
    }
}

/// The node whose server leads, as most servers see it.
pub async fn leader_of<'c>(cluster: &'c Cluster, reach: &Reach, product: Product) -> Option<&'c Node> {
    let _ = (cluster, reach, product);
    None
}
