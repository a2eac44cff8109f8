//! The thread behind the queues of one log: it alone waits for the reader.
//!
//! It gathers: rung for a first line, it naps, then takes all that came meanwhile. Those who log
//! thus wake it once per nap, instead of paying a system call per line; and once more if so much
//! comes that it has to be short.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::queue::Shared;
use crate::system::vital;

/// The handle of a writing thread.
#[derive(Debug)]
pub(super) struct WritingThread {
    queues: Arc<Shared>,
    progress: Arc<Progress>,
}

/// How far the thread is with what it was asked for.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Flushes asked for so far.
    asked: u64,
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
        let (bell, rung) = sync_channel(1);
        let queues = Shared::new(bytes_max, dropped, bell);
        let progress = Arc::new(Progress::default());
        let (of_thread, told) = (Arc::clone(&queues), Arc::clone(&progress));
        let work = move || run(&of_thread, &rung, &told, gather, write);
        let running = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        queues.thread.get_or_init(|| running.thread().clone());
        Ok(Self { queues, progress })
    }

    /// Its queues.
    pub(super) fn queues(&self) -> &Arc<Shared> {
        &self.queues
    }

    /// Waits until what is queued now was written, or lost; at most `limit`, as the reader may be
    /// stuck. False: not yet.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        self.ask(limit, false)
    }

    /// The same, after which the thread ends.
    pub(super) fn stop(&self, limit: Duration) -> bool {
        self.ask(limit, true)
    }

    fn ask(&self, limit: Duration, stop: bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.progress.lock();
        if state.stop {
            return true;
        }
        state.stop = stop;
        state.asked += 1;
        let mine = state.asked;
        self.queues.ring();
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(
    queues: &Shared,
    rung: &Receiver<()>,
    progress: &Progress,
    gather: Duration,
    mut write: impl FnMut(&[u8]) -> u64,
) {
    let _vital = vital::guard("the thread that writes a log");
    let mut spare = Vec::new();
    while rung.recv().is_ok() {
        let state = progress.lock();
        let idle = state.asked == state.done;
        drop(state);
        if idle && !gather.is_zero() {
            thread::park_timeout(gather);
        }
        // Read before the lines are taken: what was queued before it was asked for is then surely
        // among them.
        let state = progress.lock();
        let (asked, stop) = (state.asked, state.stop);
        drop(state);
        queues.take_out(&mut spare, &mut write);
        progress.lock().done = asked;
        progress.changed.notify_all();
        if stop {
            return;
        }
    }
}
