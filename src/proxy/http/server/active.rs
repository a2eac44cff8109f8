//! Active connections: those that hold what serving takes, because they were served just now or may
//! be any moment.
//!
//! One task for each worker looks at all of them now and then, and tells those to park that have
//! been quiet for a while. A timer for each connection would cost the busy ones more than this
//! costs all of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use super::downstream::Downstream;
use crate::table::clock::Clock;

/// So many connections may stay active for as long as they are not much too quiet: a few KB for
/// each.
const UNHURRIED_MAX: usize = 128;
/// After so long one is parked in any case.
const QUIET: Duration = Duration::from_secs(1);
/// Between two looks at few.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at more than [`UNHURRIED_MAX`]; also how long of those that are too many one
/// has to have been quiet.
const LOOK_EVERY_HURRIED: Duration = Duration::from_millis(20);
/// And so much more for each of them, so that looking stays a small part of all time.
const LOOK_PER_CONNECTION: Duration = Duration::from_micros(10);

/// The connections of a worker that are active and wait for a next request, or did so before the
/// one they have.
#[derive(Debug, Default)]
pub struct Active {
    list: RefCell<Slab<Waiting>>,
    /// The first came, or the first of too many.
    more: Notify,
}

#[derive(Debug)]
struct Waiting {
    downstream: Rc<Downstream>,
    waker: Waker,
}

/// One connection among them, until this is dropped.
#[derive(Debug)]
pub struct Listed<'a> {
    active: &'a Active,
    key: usize,
}

impl Active {
    /// Adds the connection whose task is being polled.
    pub fn enter(&self, downstream: &Rc<Downstream>, cx: &Context<'_>) -> Listed<'_> {
        let mut list = self.list.borrow_mut();
        let key = list.insert(Waiting {
            downstream: Rc::clone(downstream),
            waker: cx.waker().clone(),
        });
        if list.len() == 1 || list.len() == UNHURRIED_MAX + 1 {
            self.more.notify_one();
        }
        Listed { active: self, key }
    }

    /// Looks after them for as long as the worker runs.
    pub async fn look_after(&self, clock: Clock) {
        loop {
            let count = self.list.borrow().len();
            if count == 0 {
                self.more.notified().await;
            } else if count <= UNHURRIED_MAX {
                // A crowd that gathers meanwhile is looked at sooner.
                tokio::time::timeout(LOOK_EVERY, self.more.notified())
                    .await
                    .ok();
            } else {
                let all = u32::try_from(count).unwrap_or(u32::MAX);
                tokio::time::sleep(LOOK_EVERY_HURRIED + LOOK_PER_CONNECTION * all).await;
            }
            self.look(clock.now_ms());
        }
    }

    fn look(&self, now_ms: u64) {
        let list = self.list.borrow();
        let mut too_many = list.len().saturating_sub(UNHURRIED_MAX);
        for (_, waiting) in list.iter() {
            let Some(since_ms) = waiting.downstream.watch.quiet_since_ms() else {
                continue;
            };
            let quiet = Duration::from_millis(now_ms.saturating_sub(since_ms));
            let hurried = too_many > 0 && quiet >= LOOK_EVERY_HURRIED;
            if hurried || quiet >= QUIET {
                too_many = too_many.saturating_sub(1);
                waiting.downstream.watch.tell_to_park();
                waiting.waker.wake_by_ref();
            }
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.active.list.borrow_mut().remove(self.key);
    }
}
