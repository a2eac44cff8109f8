//! Log lines between the threads that write them and the one that hands them to the system.
//!
//! Of the access log each worker has a buffer of its own and formats its lines in it; the thread
//! swaps it for an empty one. So a line costs no allocation, no copy and no wait: the lock is the
//! worker's alone but for the moment of the swap. The first line in an empty buffer wakes the
//! writer; lines behind it do not, as long as the thread has not fetched it. A line that fills the
//! buffer half way wakes the writer before its pause is over. The program's log has one buffer for
//! all threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

/// A buffer that grew beyond this in a burst is given back, in bytes.
const KEPT_MAX: usize = 1 << 20;

/// What each queue may hold however many there are, in bytes.
const SHARE_MIN: usize = 256 << 10;

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
}

/// What all queues of a log have in common.
#[derive(Debug)]
pub(super) struct Queues {
    queues: Mutex<Vec<Arc<Mutex<Waiting>>>>,
    /// Bytes that each of them may hold, and a line more.
    share: AtomicUsize,
    bytes_max: usize,
    dropped: Arc<AtomicU64>,
    wake: SyncSender<()>,
    /// The writer thread.
    pub(super) thread: OnceLock<Thread>,
}

impl Queues {
    /// No queues yet; they will share `bytes_max`. `wake` has room for one, and wakes the thread
    /// that calls [`Self::take_out`]; `dropped` counts lines.
    pub(super) fn new(
        bytes_max: usize,
        dropped: &Arc<AtomicU64>,
        wake: SyncSender<()>,
    ) -> Arc<Self> {
        Arc::new(Self {
            queues: Mutex::default(),
            share: AtomicUsize::new(bytes_max),
            bytes_max,
            dropped: Arc::clone(dropped),
            wake,
            thread: OnceLock::new(),
        })
    }

    pub(super) fn wake_writer(&self) {
        // Full: it was woken already.
        let _ = self.wake.try_send(());
    }

    /// Takes out what is in all of them. `write` may wait as long as it likes; it returns how many
    /// lines could not be written, which are counted. `spare` is for use by the next call.
    pub(super) fn take_out(&self, spare: &mut Vec<u8>, mut write: impl FnMut(&[u8]) -> u64) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose worker has ended go once they are empty.
        queues.retain(|queue| Arc::strong_count(queue) > 1 || !lock(queue).bytes.is_empty());
        self.divide(queues.len());
        let present = queues.clone();
        drop(queues);
        for queue in present {
            let mut waiting = lock(&queue);
            if waiting.bytes.is_empty() {
                continue;
            }
            std::mem::swap(&mut waiting.bytes, spare);
            let lines = std::mem::take(&mut waiting.lines);
            drop(waiting);
            // The reader is gone, and may come back (a named pipe): count, go on. A line may hold
            // line breaks.
            self.dropped.fetch_add(write(spare).min(lines), Relaxed);
            spare.clear();
            spare.shrink_to(KEPT_MAX);
        }
    }

    fn divide(&self, queues: usize) {
        self.share.store(
            (self.bytes_max / queues.max(1)).max(SHARE_MIN.min(self.bytes_max)),
            Relaxed,
        );
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    own: Arc<Mutex<Waiting>>,
    shared: Arc<Queues>,
}

impl Queue {
    pub(super) fn new(shared: &Arc<Queues>) -> Self {
        let own = Arc::default();
        let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.push(Arc::clone(&own));
        shared.divide(queues.len());
        drop(queues);
        Self {
            own,
            shared: Arc::clone(shared),
        }
    }

    /// Has `put` append one line, or counts a dropped one when the queue is full.
    pub(super) fn push(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let share = self.shared.share.load(Relaxed);
        let mut own = lock(&self.own);
        let before = own.bytes.len();
        if before >= share {
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        let is_first = own.lines == 0;
        put(&mut own.bytes);
        own.lines += 1;
        let half = before < share / 2 && own.bytes.len() >= share / 2;
        drop(own);
        if is_first {
            self.shared.wake_writer();
        }
        if half && let Some(thread) = self.shared.thread.get() {
            thread.unpark();
        }
    }
}

/// A worker that panicked inside a line left the beginning of one, and no more than that.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::*;

    fn push(queue: &Queue, line: &str) {
        queue.push(|lines| lines.extend_from_slice(line.as_bytes()));
    }

    fn taken(shared: &Queues) -> String {
        let mut lines = Vec::new();
        shared.take_out(&mut Vec::new(), |taken| {
            lines.extend_from_slice(taken);
            0
        });
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn the_first_line_rings_and_those_behind_it_do_not() {
        let (wake, woken) = sync_channel(1);
        let shared = Queues::new(1 << 20, &Arc::default(), wake);
        let queue = Queue::new(&shared);
        for lines in ["a\nb\n", "c\n"] {
            for line in lines.split_inclusive('\n') {
                push(&queue, line);
            }
            woken.try_recv().unwrap();
            assert!(woken.try_recv().is_err());
            assert_eq!(taken(&shared), lines);
        }
    }

    #[test]
    fn half_a_queue_ends_the_nap() {
        let (wake, _woken) = sync_channel(1);
        let shared = Queues::new(1000, &Arc::default(), wake);
        shared.thread.set(std::thread::current()).unwrap();
        let queue = Queue::new(&shared);
        for length in [499, 1, 400] {
            push(&queue, &"x".repeat(length));
        }
        let start = Instant::now();
        std::thread::park_timeout(Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_line_that_panics_costs_no_other() {
        let (wake, woken) = sync_channel(1);
        let shared = Queues::new(1 << 20, &Arc::default(), wake);
        let queue = Queue::new(&shared);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            queue.push(|line| {
                line.extend_from_slice(b"half\n");
                panic!("inside a line");
            });
        }));
        assert!(panicked.is_err() && woken.try_recv().is_err());
        push(&queue, "whole\n");
        woken.try_recv().unwrap();
        assert_eq!(taken(&shared), "half\nwhole\n");
    }

    #[test]
    fn lines_of_a_worker_that_ended_are_written_and_its_queue_goes() {
        let (wake, _woken) = sync_channel(1);
        let shared = Queues::new(1 << 20, &Arc::default(), wake);
        let (stays, ends) = (Queue::new(&shared), Queue::new(&shared));
        push(&ends, "last\n");
        drop(ends);
        assert_eq!(taken(&shared), "last\n");
        push(&stays, "next\n");
        assert_eq!(taken(&shared), "next\n");
        assert_eq!(
            shared.share.load(Relaxed),
            1 << 20,
            "it shares with no other queue any more"
        );
    }
}
