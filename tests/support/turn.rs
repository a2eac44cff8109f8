//! Turns of heavy tests: those of one kind may run side by side, those of different kinds may not.
//!
//! A test binary runs as many tests at once as there are cores. Nine nodes beside nine others of the
//! same kind is what their deadlines allow for; beside machines with an sshd each, or beside tests
//! that measure how late a change is seen, they would make each other fail. Light tests need no
//! turn.

use std::sync::{Condvar, Mutex, PoisonError};

/// The kind that runs, and how many of it.
static RUNNING: Mutex<(&str, usize)> = Mutex::new(("", 0));
static ENDED: Condvar = Condvar::new();

/// Held for as long as the test loads the machine. A test that holds one must not wait for another
/// kind: it would wait for itself.
#[must_use = "the turn ends when this is dropped"]
pub struct Turn(());

impl Turn {
    /// Waits until no test of another kind runs.
    pub fn of(kind: &'static str) -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |(other, count)| *count > 0 && *other != kind)
            .unwrap_or_else(PoisonError::into_inner);
        *running = (kind, running.1 + 1);
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
        ENDED.notify_all();
    }
}
