//! A deadline that moves with every request, at the price of one timer that fires now and then.
//!
//! Arming and disarming a timer for each request costs more than looking at the clock when an old
//! one fires: the limits are seconds, the requests microseconds apart.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one connection.
#[derive(Debug, Default)]
pub struct MovingDeadline(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// The task that it wakes; none, as long as that is not sure.
    task: Option<Waker>,
}

impl MovingDeadline {
    /// Ready when `deadline` has passed.
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let armed = self.0.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep_until(deadline)),
            task: None,
        });
        let early_enough = armed.sleep.deadline() <= deadline;
        let for_us = armed
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(cx.waker()));
        if early_enough && for_us && !armed.sleep.is_elapsed() {
            return Poll::Pending;
        }
        if !early_enough {
            armed.sleep.as_mut().reset(deadline);
        }
        loop {
            // For a task without budget the runtime returns pending, whatever it polls, and sets no
            // timer.
            armed.task = has_budget_remaining().then(|| cx.waker().clone());
            ready!(armed.sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            // It was armed for an earlier request.
            armed.sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_asked_for_without_budget_fires_all_the_same() {
        let mut timer = MovingDeadline::default();
        let deadline = Instant::now() + Duration::from_secs(1);
        poll_fn(|cx| {
            while has_budget_remaining() {
                let _ = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
            }
            assert!(timer.poll_until(deadline, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        assert!(
            poll_fn(|cx| Poll::Ready(timer.poll_until(deadline, cx)))
                .await
                .is_pending()
        );
        poll_fn(|cx| timer.poll_until(deadline, cx)).await;
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_deadline_is_not_a_new_one() {
        let mut timer = MovingDeadline::default();
        let start = Instant::now();
        let first = start + Duration::from_secs(2);
        assert!(
            poll_fn(|cx| Poll::Ready(timer.poll_until(first, cx)))
                .await
                .is_pending()
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = Instant::now() + Duration::from_secs(2);
        poll_fn(|cx| timer.poll_until(second, cx)).await;
        assert_eq!(start.elapsed().as_secs(), 3);
        let sooner = Instant::now() + Duration::from_secs(1);
        poll_fn(|cx| timer.poll_until(sooner, cx)).await;
        assert_eq!(start.elapsed().as_secs(), 4);
    }
}
