//! The program's log: lines of all threads in one bounded queue, written to standard error by a
//! thread of its own.
//!
//! ```text
//! any thread ── tracing ──> queue ──> thread ──> standard error
//!                           │ full                │ refused (disk full, reader gone)
//!                           └─> dropped, counted <─┘ and told by a line once lines are taken again
//! ```
//!
//! A thread that logs never waits: a pipe that is not read (a log collector that hangs) costs
//! lines, not requests. What ends the process in an orderly way calls [`flush`] before, or holds
//! [`FlushAtEnd`].

use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::queue::Queue;
use super::sink::{Descriptor, Lines};
use super::thread::WritingThread;
use super::{LogError, LogHandle, colour_wanted, subscriber};
use crate::config::{AccessLog, LogConfig, LogFormat};

/// Most bytes that wait: about 2,000 lines, more than a start with a thousand services says at
/// once.
const QUEUE_BYTES_MAX: usize = 256 << 10;
/// Longest wait for standard error at the end of the process.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

static PROGRAM: OnceLock<Program> = OnceLock::new();
static DROPPED: LazyLock<Arc<AtomicU64>> = LazyLock::new(Arc::default);

#[derive(Debug)]
struct Program {
    queue: Arc<Queue>,
    thread: WritingThread,
    /// Writes into the queue whatever the level is: for what must be said.
    unfiltered: Dispatch,
}

/// Sets up the process-wide log on standard error, and has panics reported to it.
///
/// # Errors
/// When `config.level` is not a filter, a log was set up before, or the thread cannot be started.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let colour = colour_wanted();
    let (thread, queue) = start(
        config.format,
        Descriptor::of(io::stderr())?,
        &DROPPED,
        (QUEUE_BYTES_MAX, colour),
    )?;
    let (subscriber, handle) = subscriber(config, Arc::clone(&queue), colour)?;
    let unfiltered = unfiltered(config.format, Arc::clone(&queue), colour)?;
    subscriber.try_init()?;
    if PROGRAM
        .set(Program {
            queue,
            thread,
            unfiltered,
        })
        .is_ok()
    {
        std::panic::set_hook(Box::new(report_panic));
    }
    Ok(handle)
}

/// Says something to a person on standard error. While the log runs it goes the same way as its
/// lines and never waits; without one it is written at once.
pub fn say(text: &str) {
    match PROGRAM.get() {
        Some(program) => program
            .queue
            .push(|lines| lines.extend_from_slice(text.as_bytes())),
        // A reader that is gone cannot be told.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Waits until every line so far was written, at most 2 s: standard error may be stuck.
pub fn flush() {
    if let Some(program) = PROGRAM.get() {
        program.thread.flush(FLUSH_LIMIT);
    }
}

/// Lines that were lost because standard error did not take them.
#[must_use]
pub fn dropped() -> &'static Arc<AtomicU64> {
    &DROPPED
}

/// Calls [`flush`] when it is dropped, be it by a panic.
#[derive(Debug)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// A queue whose lines `sink` gets. `bounds`: its bytes, and whether lines about dropped ones have
/// colour.
fn start(
    format: LogFormat,
    sink: impl Write + Send + 'static,
    dropped: &Arc<AtomicU64>,
    (bytes_max, colour): (usize, bool),
) -> Result<(WritingThread, Arc<Queue>), LogError> {
    let note: Arc<Note> = Arc::default();
    let notes = unfiltered(format, Arc::clone(&note), colour)?;
    let (mut lines, count, mut told) = (Lines::new(sink), Arc::clone(dropped), 0);
    let write = move |taken: &[u8]| {
        // As of now: what was dropped since the queue was emptied comes behind the lines that wait
        // in it by now.
        let dropped = count.load(Relaxed);
        let lost = lines.put(taken);
        if lost == 0 && dropped > told {
            let missing = dropped - told;
            tracing::dispatcher::with_default(&notes, || {
                tracing::warn!(
                    target: "lb::log",
                    lines = missing,
                    "{missing} log lines dropped: standard error did not take them"
                );
            });
            let text = std::mem::take(&mut *note.text());
            if lines.put(&text) == 0 {
                told = dropped;
            }
        }
        lost
    };
    let thread = WritingThread::start("lb-log", (bytes_max, Duration::ZERO), dropped, write)?;
    let queue = Arc::new(Queue::new(thread.queues()));
    Ok((thread, queue))
}

/// What formats warnings and errors as the log does, whatever its level is.
fn unfiltered<W>(format: LogFormat, writer: W, colour: bool) -> Result<Dispatch, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // No more than warnings: the least severe level of all subscribers decides what every line in
    // the program costs.
    let config = LogConfig {
        level: "warn".to_owned(),
        format,
        access: AccessLog::Off,
        access_tcp: false,
        ..LogConfig::default()
    };
    Ok(Dispatch::new(subscriber(&config, writer, colour)?.0))
}

/// In place of the standard library's, which writes to standard error and waits for its reader.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let Some(program) = PROGRAM.get() else { return };
    let thread = std::thread::current();
    let (thread, at) = (
        thread.name().unwrap_or("unnamed"),
        panic.location().map(ToString::to_string),
    );
    let message = panic.payload_as_str().unwrap_or("(no message)");
    tracing::dispatcher::with_default(&program.unfiltered, || {
        tracing::error!(target: "lb::panic", thread, at, "panic: {message}; this is a fault of lb, please report it");
    });
}

/// The formatting layer writes each line by one call.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(|lines| lines.extend_from_slice(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Note(Mutex<Vec<u8>>);

impl Note {
    fn text(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Note {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.text().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A reader that takes nothing until it is told to go on, and refuses when told so.
    struct Reader {
        entered: Sender<()>,
        go_on: Receiver<bool>,
        read: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            // Nothing holds it up any more: takes everything.
            if !self.go_on.recv().unwrap_or(true) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.read
                .lock()
                .unwrap()
                .push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stand {
        thread: WritingThread,
        queue: Arc<Queue>,
        dropped: Arc<AtomicU64>,
        entered: Receiver<()>,
        go_on: Sender<bool>,
        read: Arc<Mutex<String>>,
    }

    fn stand(format: LogFormat, bytes_max: usize) -> Stand {
        let ((enter, entered), (go_on, wait)) = (channel(), channel());
        let (read, dropped) = (Arc::default(), Arc::default());
        let reader = Reader {
            entered: enter,
            go_on: wait,
            read: Arc::clone(&read),
        };
        let (thread, queue) = start(format, reader, &dropped, (bytes_max, false)).unwrap();
        Stand {
            thread,
            queue,
            dropped,
            entered,
            go_on,
            read,
        }
    }

    fn say(queue: &Queue, line: &str) {
        queue.push(|lines| lines.extend_from_slice(format!("{line}\n").as_bytes()));
    }

    #[test]
    fn a_stuck_reader_holds_up_nothing_and_is_told_what_it_missed_where_it_is_missing() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let stand = stand(format, 100);
            say(&stand.queue, "first");
            stand.entered.recv_timeout(PATIENCE).unwrap();
            for number in 0..100 {
                say(&stand.queue, &format!("line {number:05}"));
            }
            // Lines of 11 bytes until 100 of them are there.
            assert_eq!(stand.dropped.load(Relaxed), 90);
            assert!(!stand.thread.flush(Duration::from_millis(1)), "it is stuck");
            drop(stand.go_on);
            assert!(stand.thread.flush(PATIENCE));
            say(&stand.queue, "later");
            assert!(stand.thread.flush(PATIENCE));
            let read = stand.read.lock().unwrap().clone();
            let lines: Vec<&str> = read.lines().collect();
            assert_eq!(
                (lines.len(), lines[0], lines[10], lines[12]),
                (13, "first", "line 00009", "later"),
                "{read}"
            );
            assert!(lines[11].contains("90 log lines dropped"), "{read}");
            assert_eq!(
                format == LogFormat::Json,
                serde_json::from_str::<serde_json::Value>(lines[11]).is_ok()
            );
        }
    }

    #[test]
    fn lines_that_are_refused_are_counted_and_told_once_they_are_taken_again() {
        let stand = stand(LogFormat::Text, 1 << 20);
        for taken in [false, false, true] {
            stand.go_on.send(taken).unwrap();
            say(&stand.queue, "line");
            stand.entered.recv_timeout(PATIENCE).unwrap();
            if !taken {
                assert!(stand.thread.flush(PATIENCE));
            }
        }
        drop(stand.go_on);
        assert!(stand.thread.flush(PATIENCE));
        let read = stand.read.lock().unwrap().clone();
        assert_eq!(stand.dropped.load(Relaxed), 2);
        assert!(
            read.starts_with("line\n") && read.contains("2 log lines dropped"),
            "{read}"
        );
    }

    #[test]
    fn a_flush_waits_for_all_threads() {
        let stand = stand(LogFormat::Text, 1 << 20);
        drop(stand.go_on);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let queue = &stand.queue;
                scope.spawn(move || {
                    for line in 0..200 {
                        queue.push(|lines| {
                            lines.extend_from_slice(format!("{thread} {line}\n").as_bytes())
                        });
                    }
                });
            }
        });
        assert!(stand.thread.flush(PATIENCE));
        assert_eq!(stand.read.lock().unwrap().lines().count(), 800);
        assert_eq!(stand.dropped.load(Relaxed), 0);
    }
}
