//! When a request has to be over (`proxy.request_timeout`): one timer for each, and the list of all
//! of a connection.
//!
//! The timer ends a response that goes on for too long; it is polled where the body is written. A
//! client that takes nothing is not written to, so the timer is not polled there: the watchdog of
//! the connection has the list for that.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::table::clock::ms;

/// The requests of a connection that have to be over at some time.
#[derive(Debug, Default)]
pub struct OpenDeadlines {
    next: Cell<u64>,
    /// When, on the process clock (ms), and a number of its own.
    open: RefCell<BTreeSet<(u64, u64)>>,
}

impl OpenDeadlines {
    /// Since when (ms) all `running` requests of the connection should have been over; none: one of
    /// them may go on.
    #[must_use]
    pub fn all_overdue_since_ms(&self, running: usize) -> Option<u64> {
        let open = self.open.borrow();
        open.last()
            .filter(|_| open.len() >= running)
            .map(|(at_ms, _)| *at_ms)
    }

    fn add(&self, at_ms: u64) -> (u64, u64) {
        let key = (at_ms, self.next.replace(self.next.get() + 1));
        self.open.borrow_mut().insert(key);
        key
    }
}

/// The deadline of one request.
#[derive(Debug)]
pub struct RequestDeadline {
    open: Rc<OpenDeadlines>,
    key: (u64, u64),
    at: Instant,
    /// Made by the first poll.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl RequestDeadline {
    /// A request that began now and may take `limit`.
    #[must_use]
    pub fn new(open: &Rc<OpenDeadlines>, limit: Duration, now_ms: u64) -> Self {
        let key = open.add(now_ms.saturating_add(ms(limit)));
        Self {
            open: Rc::clone(open),
            key,
            at: Instant::now() + limit,
            sleep: None,
        }
    }

    /// When the request has to be over.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Whether it is past. The task is woken when it comes.
    pub fn is_past(&mut self, cx: &mut Context<'_>) -> bool {
        let at = self.at;
        self.sleep
            .get_or_insert_with(|| Box::pin(sleep_until(at)))
            .as_mut()
            .poll(cx)
            .is_ready()
    }
}

impl Drop for RequestDeadline {
    fn drop(&mut self) {
        self.open.open.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_overdue_when_all_it_runs_is() {
        let limited = OpenDeadlines::default();
        assert_eq!(limited.all_overdue_since_ms(0), None);
        let first = limited.add(20);
        limited.add(10);
        limited.add(10);
        assert_eq!(
            (
                limited.all_overdue_since_ms(3),
                limited.all_overdue_since_ms(4)
            ),
            (Some(20), None)
        );
        limited.open.borrow_mut().remove(&first);
        assert_eq!(
            (
                limited.all_overdue_since_ms(2),
                limited.all_overdue_since_ms(3)
            ),
            (Some(10), None)
        );
    }
}
