//! How the data path learns that it should stop, and how it tells that it has.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

/// Where the process stands, as seen by workers. Only ever moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    #[default]
    Serving,
    /// No new connections; running requests may finish, idle connections are closed.
    Draining,
    /// Whatever still runs is cut.
    Cut,
}

/// Sends the phase to all workers.
pub type PhaseSender = watch::Sender<Phase>;

/// Receives it in a worker.
pub type PhaseReceiver = watch::Receiver<Phase>;

/// A worker's own copy of the phase (and one for each of its listeners, which may end before the
/// worker does), with a wake-up for every connection task of the worker. A connection pays one list
/// entry for it, instead of a clone of the cross-thread channel.
#[derive(Debug, Default)]
pub struct LocalPhase {
    phase: Cell<Phase>,
    changed: Notify,
}

impl LocalPhase {
    /// The present phase.
    #[must_use]
    pub fn get(&self) -> Phase {
        self.phase.get()
    }

    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            self.changed.notify_waiters();
        }
    }

    /// Follows the process's phase until it is [`Phase::Cut`]. Run once per worker.
    pub async fn follow(self: Rc<Self>, mut source: PhaseReceiver) {
        loop {
            let phase = *source.borrow_and_update();
            self.advance(phase);
            // A vanished sender means that the process is ending.
            if phase == Phase::Cut || source.changed().await.is_err() {
                self.advance(Phase::Cut);
                return;
            }
        }
    }

    /// Completes at the next change, from its first poll on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits until the phase is at least `phase`. Cancel safe.
    pub async fn reached(&self, phase: Phase) {
        loop {
            let changed = self.changed.notified();
            // Registered before the check: a change in between must not be missed.
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.phase.get() >= phase {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_moves_forward_only_and_wakes_waiting_tasks() {
        let local = tokio::task::LocalSet::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        local.block_on(&runtime, async {
            let phase: Rc<LocalPhase> = Rc::default();
            let waiting = tokio::task::spawn_local({
                let phase = Rc::clone(&phase);
                async move { phase.reached(Phase::Draining).await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            phase.advance(Phase::Cut);
            waiting.await.expect("woken");
            phase.advance(Phase::Serving);
            assert_eq!(phase.get(), Phase::Cut);
            phase.reached(Phase::Cut).await;
        });
    }

    #[test]
    fn a_vanished_sender_cuts() {
        let local = tokio::task::LocalSet::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        local.block_on(&runtime, async {
            let phase: Rc<LocalPhase> = Rc::default();
            let (sender, receiver) = watch::channel(Phase::Serving);
            drop(sender);
            Rc::clone(&phase).follow(receiver).await;
            assert_eq!(phase.get(), Phase::Cut);
        });
    }
}
