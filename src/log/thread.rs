//! The thread behind the queues of one log: it alone waits for the reader.
//!
//! It gathers: woken for a first line, it pauses, then takes all that came meanwhile. Threads that
//! log thus wake it once per pause, instead of paying a system call per line; and once more if so
//! much comes that the pause has to be short.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::Queues;
use crate::system::vital;

/// The handle of a writing thread.
#[derive(Debug)]
pub(super) struct WritingThread {
    queues: Arc<Queues>,
    progress: Arc<Progress>,
}

/// How far the thread is with the flushes that were requested.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<FlushState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FlushState {
    /// Flushes requested so far.
    requested: u64,
    /// Of those, how many are done.
    done: u64,
    stop: bool,
}

impl WritingThread {
    /// Starts it. The queues hold `bytes_max` together, `dropped` counts lost lines, `write` gets
    /// whole lines and returns how many of them are lost. Lines wait for `gather` at most before
    /// they are written.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        name: &str,
        (bytes_max, gather): (usize, Duration),
        dropped: &Arc<AtomicU64>,
        write: impl FnMut(&[u8]) -> u64 + Send + 'static,
    ) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let queues = Queues::new(bytes_max, dropped, wake);
        let progress = Arc::new(Progress::default());
        let (of_thread, told) = (Arc::clone(&queues), Arc::clone(&progress));
        let work = move || run(&of_thread, &woken, &told, gather, write);
        let running = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        queues.thread.get_or_init(|| running.thread().clone());
        Ok(Self { queues, progress })
    }

    pub(super) fn queues(&self) -> &Arc<Queues> {
        &self.queues
    }

    /// Waits until what is queued now was written, or lost; at most `limit`, as the reader may be
    /// stuck. False: not yet.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        self.await_flush(limit, false)
    }

    /// The same, after which the thread ends.
    pub(super) fn stop(&self, limit: Duration) -> bool {
        self.await_flush(limit, true)
    }

    fn await_flush(&self, limit: Duration, stop: bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.progress.lock();
        if state.stop {
            return true;
        }
        state.stop = stop;
        state.requested += 1;
        let mine = state.requested;
        self.queues.wake_writer();
        if let Some(thread) = self.queues.thread.get() {
            thread.unpark();
        }
        while state.done < mine {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.progress.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, FlushState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(
    queues: &Queues,
    woken: &Receiver<()>,
    progress: &Progress,
    gather: Duration,
    mut write: impl FnMut(&[u8]) -> u64,
) {
    let _vital = vital::guard("the thread that writes a log");
    let mut spare = Vec::new();
    while woken.recv().is_ok() {
        let state = progress.lock();
        let idle = state.requested == state.done;
        drop(state);
        if idle && !gather.is_zero() {
            thread::park_timeout(gather);
        }
        // Read before the lines are taken: what was queued before the flush was requested is then
        // surely among them.
        let state = progress.lock();
        let (requested, stop) = (state.requested, state.stop);
        drop(state);
        queues.take_out(&mut spare, &mut write);
        progress.lock().done = requested;
        progress.changed.notify_all();
        if stop {
            return;
        }
    }
}
