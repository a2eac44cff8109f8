//! How many password hashes are computed at a time, and how many requests may wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may wait for a permit. At 50 ms a hash and two at a time the last of them waits
/// six seconds.
const WAITING_MAX: usize = 256;

/// The permits of one process.
#[derive(Debug)]
pub(super) struct HashPermits {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for HashPermits {
    /// Half of the cores: an attacker that guesses passwords takes no more than that from the
    /// traffic.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((cores / 2).max(1))
    }
}

impl HashPermits {
    fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a permit, which lasts until it is dropped. None: too many wait already. Cancel
    /// safe.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        let _place = WaitingPlace::take(&self.waiting)?;
        Arc::clone(&self.free).acquire_owned().await.ok()
    }
}

/// A place in the queue.
struct WaitingPlace<'a>(&'a AtomicUsize);

impl<'a> WaitingPlace<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        // Counted before it is compared: the place is given back by its drop either way.
        (waiting.fetch_add(1, Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn permits_are_few_and_the_queue_has_an_end() {
        let hash_permits = HashPermits::new(1);
        let first = hash_permits
            .acquire()
            .now_or_never()
            .flatten()
            .expect("a free permit");
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| Box::pin(hash_permits.acquire()))
            .collect();
        for wait in &mut waiting {
            assert!(wait.as_mut().now_or_never().is_none());
        }
        assert!(
            hash_permits
                .acquire()
                .now_or_never()
                .expect("a result at once")
                .is_none(),
            "the queue is full"
        );
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().flatten().is_some());
        waiting.clear();
        assert_eq!(hash_permits.waiting.load(Relaxed), 0);
        assert!(
            hash_permits.acquire().now_or_never().flatten().is_some(),
            "a request that went away holds nothing"
        );
    }
}
