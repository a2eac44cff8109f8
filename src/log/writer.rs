//! The queue of access log lines and the thread that writes them out.
//!
//! The thread gathers: after a first line it naps, then takes all that came meanwhile. Workers thus wake it at most
//! once per nap, instead of paying a system call per line. Two limits bound the memory: lines and bytes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::access::AccessLogger;
use crate::config::AccessLog;

/// Most lines under way.
const QUEUE_LINES_MAX: usize = 32_768;

/// Most bytes under way.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// How long the writer gathers; also the longest a line waits before it is handed to the system.
const GATHER: Duration = Duration::from_millis(20);

/// Written out at this size even while more is coming.
const BUFFER_BYTES: usize = 64 << 10;

/// The sending side.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: SyncSender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Whether a line would be dropped for its bytes anyway; counts it if so. Spares formatting it.
    pub(super) fn refuses(&self) -> bool {
        let full = self.bytes.load(Relaxed) >= self.bytes_max;
        if full {
            self.dropped.fetch_add(1, Relaxed);
        }
        full
    }

    /// Queues `line`, or drops and counts it.
    pub(super) fn push(&self, line: Vec<u8>) {
        let size = line.len();
        // Counted before it is sent, else the writer could subtract first and wrap.
        self.bytes.fetch_add(size, Relaxed);
        if self.lines.try_send(line).is_err() {
            self.bytes.fetch_sub(size, Relaxed);
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Owns the writer thread.
#[derive(Debug)]
pub struct AccessLogWriter {
    wake: Option<SyncSender<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    done: Receiver<()>,
}

impl AccessLogWriter {
    /// Starts the access log on standard output. `dropped` counts lost lines
    /// ([`Metrics::access_log_dropped`](crate::metrics::Metrics::access_log_dropped)).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(format: AccessLog, dropped: &Arc<AtomicU64>) -> io::Result<(AccessLogger, Self)> {
        Self::start_on(format, dropped, io::stdout())
    }

    /// The same on another sink.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_on(
        format: AccessLog,
        dropped: &Arc<AtomicU64>,
        sink: impl Write + Send + 'static,
    ) -> io::Result<(AccessLogger, Self)> {
        Self::start_bounded(format, dropped, sink, QUEUE_LINES_MAX, QUEUE_BYTES_MAX)
    }

    fn start_bounded(
        format: AccessLog,
        dropped: &Arc<AtomicU64>,
        sink: impl Write + Send + 'static,
        lines_max: usize,
        bytes_max: usize,
    ) -> io::Result<(AccessLogger, Self)> {
        let (lines, queued) = sync_channel(lines_max);
        let (finished, done) = sync_channel(1);
        let bytes = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            queued,
            sink,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            buffered_lines: 0,
            bytes: Arc::clone(&bytes),
            dropped: Arc::clone(dropped),
            stop: Arc::clone(&stop),
        };
        if format != AccessLog::Off {
            thread::Builder::new().name("access-log".to_owned()).spawn(move || {
                writer.run();
                // Nobody may be waiting any more.
                let _ = finished.try_send(());
            })?;
        }
        let wake = Some(lines.clone());
        let queue = Queue { lines, bytes, bytes_max, dropped: Arc::clone(dropped) };
        Ok((AccessLogger::new(format, queue), Self { wake, stop, done }))
    }

    /// Writes out what is queued and ends the thread; waits at most `limit`, as standard output may be stuck.
    pub fn finish(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        let Some(wake) = self.wake.take() else { return };
        self.stop.store(true, Relaxed);
        // Wakes it if it waits; when the queue is full it is awake anyway.
        let _ = wake.try_send(Vec::new());
        let _ = self.done.recv_timeout(limit);
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.end(Duration::from_secs(1));
    }
}

struct Writer<W> {
    queued: Receiver<Vec<u8>>,
    sink: W,
    buffer: Vec<u8>,
    buffered_lines: u64,
    bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl<W: Write> Writer<W> {
    fn run(&mut self) {
        while let Ok(first) = self.queued.recv() {
            if !self.stop.load(Relaxed) {
                thread::sleep(GATHER);
            }
            // Read before draining: what was queued before the stop is then surely drained.
            let stop = self.stop.load(Relaxed);
            self.take(&first);
            while let Ok(line) = self.queued.try_recv() {
                self.take(&line);
            }
            self.write_out();
            if stop {
                return;
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.bytes.fetch_sub(line.len(), Relaxed);
        self.buffer.extend_from_slice(line);
        self.buffered_lines += u64::from(!line.is_empty());
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush()).is_err() {
            // The reader is gone, and may come back (a named pipe): count, go on.
            self.dropped.fetch_add(self.buffered_lines, Relaxed);
        }
        self.buffer.clear();
        self.buffered_lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::log::AccessRecord;

    fn record<'a>(uri: &'a str) -> AccessRecord<'a> {
        AccessRecord {
            time: SystemTime::UNIX_EPOCH,
            remote: [127, 0, 0, 1].into(),
            method: "GET",
            host: "h",
            uri,
            version: http::Version::HTTP_11,
            status: 200,
            bytes_out: 0,
            duration: Duration::ZERO,
            service: None,
            instance: None,
            upstream: None,
            attempts: 1,
            upstream_duration: None,
            route: None,
            error: None,
            request_id: None,
            user_agent: None,
            referer: None,
            tls: None,
            more: None,
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that takes nothing until its gate is opened, and tells when the writer is stuck on it.
    struct Stuck {
        entered: Sender<()>,
        gate: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.gate.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_all_workers_arrive_whole_and_finish_flushes() {
        let (sink, dropped) = (Shared::default(), Arc::default());
        let (logger, writer) = AccessLogWriter::start_on(AccessLog::Common, &dropped, sink.clone()).unwrap();
        thread::scope(|scope| {
            for worker in 0..4 {
                let logger = logger.clone();
                scope.spawn(move || (0..500).for_each(|line| logger.log(&record(&format!("/{worker}/{line}")))));
            }
        });
        writer.finish(Duration::from_secs(10));
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2000);
        assert!(text.lines().all(|line| line.starts_with("127.0.0.1 - - [") && line.ends_with("HTTP/1.1\" 200 0")));
        assert_eq!(dropped.load(Relaxed), 0);
    }

    #[test]
    fn a_line_is_written_without_a_finish() {
        let (sink, dropped) = (Shared::default(), Arc::default());
        let (logger, _writer) = AccessLogWriter::start_on(AccessLog::Json, &dropped, sink.clone()).unwrap();
        logger.log(&record("/"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while sink.0.lock().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "no line was written");
            thread::yield_now();
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_no_time() {
        let (entered, stuck) = channel();
        let (open, gate) = channel();
        let dropped = Arc::default();
        let sink = Stuck { entered, gate };
        let (logger, writer) =
            AccessLogWriter::start_bounded(AccessLog::Common, &dropped, sink, 10, QUEUE_BYTES_MAX).unwrap();
        logger.log(&record("/first"));
        stuck.recv_timeout(Duration::from_secs(10)).unwrap();
        (0..100).for_each(|_| logger.log(&record("/")));
        assert_eq!(dropped.load(Relaxed), 90);
        // The end does not wait for it longer than it is told to.
        writer.finish(Duration::from_millis(1));
        drop(open);
    }

    #[test]
    fn bytes_are_bounded_as_well_as_lines() {
        let (entered, stuck) = channel();
        let (open, gate) = channel();
        let dropped = Arc::default();
        let (logger, _writer) =
            AccessLogWriter::start_bounded(AccessLog::Common, &dropped, Stuck { entered, gate }, 1000, 4096).unwrap();
        logger.log(&record("/first"));
        stuck.recv_timeout(Duration::from_secs(10)).unwrap();
        let long = "a".repeat(1000);
        (0..20).for_each(|_| logger.log(&record(&long)));
        assert_eq!(dropped.load(Relaxed), 16, "four lines of about 1,060 bytes reach the limit");
        drop(open);
    }

    #[test]
    fn a_reader_that_went_away_is_counted() {
        let dropped = Arc::default();
        let (logger, writer) = AccessLogWriter::start_on(AccessLog::Common, &dropped, Broken).unwrap();
        logger.log(&record("/"));
        logger.log(&record("/"));
        writer.finish(Duration::from_secs(10));
        assert_eq!(dropped.load(Relaxed), 2);
    }

    #[test]
    fn off_means_off() {
        let (logger, writer) = AccessLogWriter::start_on(AccessLog::Off, &Arc::default(), Broken).unwrap();
        assert!(!logger.is_on() && !AccessLogger::off().is_on());
        logger.log(&record("/"));
        writer.finish(Duration::from_millis(1));
    }
}
