//! Work that may hang (files on a network that is gone, a pipe in the place of a file), on a thread
//! beside the caller's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// One piece of work at a time; one that hangs keeps a thread, and no more than one.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    turn: Arc<Semaphore>,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AsideError {
    /// It still runs.
    #[error("not done within {} s: a file system or a pipe does not respond", .0.as_secs())]
    Late(Duration),
    /// It panicked.
    #[error("the work panicked: this is a fault of lb, the log has the details")]
    Panicked,
}

impl Default for Aside {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Aside {
    /// Does `work` on a thread of the runtime that may block, and waits for it, and before it for
    /// what hangs there already, at most `limit` together. Work that is late goes on; its result is
    /// lost.
    ///
    /// # Errors
    /// Late, or a panic.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AsideError> {
        let deadline = Instant::now() + limit;
        let turn = tokio::time::timeout_at(deadline, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(AsideError::Late(limit));
        };
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match tokio::time::timeout_at(deadline, working).await {
            Ok(done) => done.map_err(|_| AsideError::Panicked),
            Err(_) => Err(AsideError::Late(limit)),
        }
    }
}

/// The same for a look that is taken again and again: that it fails is told once, until it
/// succeeds.
#[derive(Debug)]
pub(super) struct Look {
    aside: Aside,
    limit: Duration,
    /// What cannot be done, and what that means.
    problem: &'static str,
    told: bool,
}

impl Look {
    /// One that may take `limit`.
    pub(super) fn new(limit: Duration, problem: &'static str) -> Self {
        Self {
            aside: Aside::default(),
            limit,
            problem,
            told: false,
        }
    }

    /// Does `work`; none if there is no result.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let done = self.aside.run(self.limit, work).await;
        if let Err(error) = &done
            && !self.told
        {
            tracing::warn!(%error, "{}", self.problem);
        }
        self.told = done.is_err();
        done.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_hangs_costs_one_thread_and_is_waited_for_no_longer_than_it_is_told() {
        let aside = Aside::default();
        let (open, gate) = channel::<()>();
        assert_eq!(
            aside.run(SHORT, move || gate.recv()).await,
            Err(AsideError::Late(SHORT))
        );
        assert_eq!(
            aside.run(SHORT, || panic!("cannot start the work")).await,
            Err::<(), _>(AsideError::Late(SHORT))
        );
        drop(open);
        assert_eq!(aside.run(LONG, || 7).await, Ok(7));
        assert_eq!(
            aside.run(LONG, || panic!("in it")).await,
            Err::<(), _>(AsideError::Panicked)
        );
        assert_eq!(aside.run(LONG, || 8).await, Ok(8));
    }
}
