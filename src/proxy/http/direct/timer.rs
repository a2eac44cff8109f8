//! A deadline that moves with every request, at the price of one timer that fires now and then.
//!
//! Arming and disarming a timer for each request costs more than looking at the clock when an old one fires: the limits
//! are seconds, the requests microseconds apart.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one connection.
#[derive(Debug, Default)]
pub struct Timer(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// The task that it wakes.
    task: Waker,
}

impl Timer {
    /// Ready when `deadline` has passed.
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Armed { sleep, task }) = &mut self.0 else {
            let mut sleep = Box::pin(sleep_until(deadline));
            let polled = sleep.as_mut().poll(cx);
            self.0 = Some(Armed { sleep, task: cx.waker().clone() });
            return polled;
        };
        let armed = sleep.deadline() <= deadline;
        if armed && !sleep.is_elapsed() && task.will_wake(cx.waker()) {
            // It will fire, soon enough, and for this task.
            return Poll::Pending;
        }
        task.clone_from(cx.waker());
        if !armed {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // It was armed for an earlier request.
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_deadline_is_not_a_new_one() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let first = start + Duration::from_secs(2);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(first, cx))).await.is_pending());
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = Instant::now() + Duration::from_secs(2);
        poll_fn(|cx| timer.poll_until(second, cx)).await;
        assert_eq!(start.elapsed().as_secs(), 3);
        let sooner = Instant::now() + Duration::from_secs(1);
        poll_fn(|cx| timer.poll_until(sooner, cx)).await;
        assert_eq!(start.elapsed().as_secs(), 4);
    }
}
