//! The access log's writer: standard output, written by a thread of its own.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::access::AccessLoggers;
use super::sink::{Descriptor, Lines};
use super::thread::WritingThread;
use crate::config::AccessLog;

/// Most bytes under way, in all queues together.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// How long the writer gathers; also the longest a line waits before it is handed to the system.
const GATHER: Duration = Duration::from_millis(20);

/// Owns the writer thread.
#[derive(Debug)]
pub struct AccessLogWriter {
    /// None: the log is off, or was ended.
    thread: Option<WritingThread>,
}

impl AccessLogWriter {
    /// Starts the access log on standard output. `dropped` counts lost lines
    /// ([`Metrics::access_log_dropped`](crate::metrics::Metrics::access_log_dropped)).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(format: AccessLog, dropped: &Arc<AtomicU64>) -> io::Result<(AccessLoggers, Self)> {
        Self::start_on(format, dropped, Descriptor::of(io::stdout())?)
    }

    /// The same on another sink.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_on(
        format: AccessLog,
        dropped: &Arc<AtomicU64>,
        sink: impl Write + Send + 'static,
    ) -> io::Result<(AccessLoggers, Self)> {
        Self::start_bounded(format, dropped, sink, QUEUE_BYTES_MAX)
    }

    fn start_bounded(
        format: AccessLog,
        dropped: &Arc<AtomicU64>,
        sink: impl Write + Send + 'static,
        bytes_max: usize,
    ) -> io::Result<(AccessLoggers, Self)> {
        if format == AccessLog::Off {
            return Ok((AccessLoggers::off(), Self { thread: None }));
        }
        let mut lines = Lines::new(sink);
        let write = move |taken: &[u8]| lines.put(taken);
        let thread = WritingThread::start("access-log", (bytes_max, GATHER), dropped, write)?;
        Ok((
            AccessLoggers::new(format, Arc::clone(thread.queues())),
            Self {
                thread: Some(thread),
            },
        ))
    }

    /// Writes out what is queued and ends the thread; waits at most `limit`, as standard output may
    /// be stuck.
    pub fn finish(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        if let Some(thread) = self.thread.take() {
            thread.stop(limit);
        }
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.end(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;
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
            grpc_status: None,
            tcp: None,
            more: None,
        }
    }

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that takes nothing until its gate is opened, and tells when the writer is stuck on
    /// it.
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
        let (sink, dropped) = (SharedBuffer::default(), Arc::default());
        let (loggers, writer) =
            AccessLogWriter::start_on(AccessLog::Common, &dropped, sink.clone()).unwrap();
        thread::scope(|scope| {
            for worker in 0..4 {
                let logger = loggers.logger();
                scope.spawn(move || {
                    (0..500).for_each(|line| logger.log(&record(&format!("/{worker}/{line}"))))
                });
            }
        });
        writer.finish(Duration::from_secs(10));
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2000);
        assert!(
            text.lines()
                .all(|line| line.starts_with("127.0.0.1 - - [")
                    && line.ends_with("HTTP/1.1\" 200 0"))
        );
        assert_eq!(dropped.load(Relaxed), 0);
    }

    #[test]
    fn a_line_is_written_without_a_finish() {
        let (sink, dropped) = (SharedBuffer::default(), Arc::default());
        let (loggers, _writer) =
            AccessLogWriter::start_on(AccessLog::Json, &dropped, sink.clone()).unwrap();
        let logger = loggers.logger();
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
        let (loggers, writer) =
            AccessLogWriter::start_bounded(AccessLog::Common, &dropped, sink, 4096).unwrap();
        let logger = loggers.logger();
        logger.log(&record("/first"));
        stuck.recv_timeout(Duration::from_secs(10)).unwrap();
        let long = "a".repeat(1000);
        (0..20).for_each(|_| logger.log(&record(&long)));
        assert_eq!(
            dropped.load(Relaxed),
            16,
            "four lines of about 1,060 bytes reach the limit"
        );
        // The end does not wait for it longer than it is told to.
        writer.finish(Duration::from_millis(1));
        drop(open);
    }

    #[test]
    fn workers_share_the_bound_evenly() {
        let (entered, stuck) = channel();
        let (open, gate) = channel();
        let dropped = Arc::default();
        let sink = Stuck { entered, gate };
        let (loggers, _writer) =
            AccessLogWriter::start_bounded(AccessLog::Common, &dropped, sink, 1 << 20).unwrap();
        let (one, other) = (loggers.logger(), loggers.logger());
        one.log(&record("/first"));
        stuck.recv_timeout(Duration::from_secs(10)).unwrap();
        let long = "a".repeat(2000);
        (0..300).for_each(|_| one.log(&record(&long)));
        let of_one = dropped.load(Relaxed);
        assert!(
            (40..50).contains(&of_one),
            "half of the bytes are about 255 lines: {of_one}"
        );
        (0..300).for_each(|_| other.log(&record(&long)));
        assert_eq!(
            dropped.load(Relaxed),
            2 * of_one,
            "a stranger to the first one's lines"
        );
        drop(open);
    }

    #[test]
    fn a_reader_that_went_away_is_counted() {
        let dropped = Arc::default();
        let (loggers, writer) =
            AccessLogWriter::start_on(AccessLog::Common, &dropped, Broken).unwrap();
        let logger = loggers.logger();
        logger.log(&record("/"));
        logger.log(&record("/"));
        writer.finish(Duration::from_secs(10));
        assert_eq!(dropped.load(Relaxed), 2);
    }

    #[test]
    fn off_means_off() {
        let (loggers, writer) =
            AccessLogWriter::start_on(AccessLog::Off, &Arc::default(), Broken).unwrap();
        let logger = loggers.logger();
        assert!(!logger.is_on());
        logger.log(&record("/"));
        writer.finish(Duration::from_millis(1));
    }
}
