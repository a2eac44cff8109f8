//! Wraps a rarely ready future so that it is polled only after its own waker fired.
//!
//! Timers and signals that hardly ever fire would otherwise be polled each time a byte comes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

pin_project! {
    /// See the module. The caller has to notice what the future cannot be woken for.
    #[derive(Debug)]
    pub struct PollWhenWoken<F> {
        #[pin]
        future: F,
        flag: Option<(Arc<WakeFlag>, Waker)>,
    }
}

/// Wakes the task, and remembers that the future was woken.
#[derive(Debug)]
struct WakeFlag {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future> PollWhenWoken<F> {
    /// Nothing happens before the first poll.
    pub fn new(future: F) -> Self {
        Self { future, flag: None }
    }

    /// Polls the future if it was woken since the last time, or was ready then, or `anyway`. Not to
    /// be called after it was ready, unless the future can be polled again.
    pub fn poll(self: Pin<&mut Self>, anyway: bool, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // The future may have kept the waker of another task: it has to be given that of this one.
        if this
            .flag
            .as_ref()
            .is_none_or(|(flag, _)| !flag.task.will_wake(cx.waker()))
        {
            let flag = Arc::new(WakeFlag {
                woken: AtomicBool::new(true),
                task: cx.waker().clone(),
            });
            *this.flag = Some((Arc::clone(&flag), Waker::from(flag)));
        }
        let Some((flag, waker)) = this.flag else {
            return Poll::Pending;
        };
        // Loaded first: an atomic swap is much more expensive than a load. Taken back before the
        // poll, so that no wake-up is lost.
        let woken = flag.woken.load(Acquire) && flag.woken.swap(false, AcqRel);
        if !woken && !anyway {
            return Poll::Pending;
        }
        let polled = this.future.poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            // What else it waits for may not have been polled in this turn.
            flag.woken.store(true, Release);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_at_first_and_when_it_is_woken() {
        let polls = Rc::new(Cell::new(0));
        let counted = {
            let (polls, mut sleep) = (
                Rc::clone(&polls),
                Box::pin(tokio::time::sleep(Duration::from_secs(1))),
            );
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                sleep.as_mut().poll(cx)
            })
        };
        let mut beside = std::pin::pin!(PollWhenWoken::new(counted));
        for _ in 0..5 {
            let polled = poll_fn(|cx| Poll::Ready(beside.as_mut().poll(false, cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.get(), 1);
        assert!(
            poll_fn(|cx| Poll::Ready(beside.as_mut().poll(true, cx)))
                .await
                .is_pending()
        );
        assert_eq!(polls.get(), 2);
        poll_fn(|cx| beside.as_mut().poll(false, cx)).await;
        assert_eq!(polls.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_is_woken_when_it_goes_on_there() {
        let mut beside = Box::pin(PollWhenWoken::new(tokio::time::sleep(Duration::from_secs(
            1,
        ))));
        assert!(
            poll_fn(|cx| Poll::Ready(beside.as_mut().poll(false, cx)))
                .await
                .is_pending()
        );
        let there =
            tokio::spawn(async move { poll_fn(|cx| beside.as_mut().poll(false, cx)).await });
        there.await.unwrap();
    }
}
