//! Bytes both ways between two streams, until both directions have ended.
//!
//! A direction ends with the end of what its reader sends; that is passed on as a half-close and
//! the other direction goes on, so that a response which follows a half-closed request arrives.
//! Connecting, choosing a target and counting connections are left to others; the caller closes the
//! streams by dropping them.
//!
//! Cost: no clock is read and no timer set per chunk. A timer of a quarter of the idle time looks
//! whether bytes moved since it was set, so an idle connection ends after one to one and a quarter
//! idle times. A waiting direction owns no buffer: one is borrowed from the worker's [`BufferPool`]
//! to try a read and given back when nothing was there.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::ServiceMetrics;
use crate::metrics::observer::TargetObserver;
use crate::proxy::splice::{Moved, Pipe, Pipes, SpliceError, Stream};

/// Size of a buffer in bytes: below it, bulk transfers pay for more system calls; above it, nothing
/// was gained.
const BUFFER_BYTES: usize = 64 * 1024;
/// Most idle buffers a worker keeps.
const POOL_MAX: usize = 64;
/// A piece of a long transfer below this size, in bytes, is its end, or it was none.
const SHORT_BYTES: usize = 16 * 1024;
/// Chunks one direction moves before others get their turn.
const ROUNDS_MAX: usize = 8;

/// A worker's buffers. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Rc<RefCell<Vec<Box<[u8]>>>>);

impl BufferPool {
    fn take(&self) -> Box<[u8]> {
        self.0
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut buffers = self.0.borrow_mut();
        if buffers.len() < POOL_MAX {
            buffers.push(buffer);
        }
    }

    /// Buffers that are not in use now.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Why a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides said all they had to say.
    Closed,
    /// No byte either way for the idle time.
    Idle,
    /// The stop signal came.
    Stopped,
    /// The client's connection failed.
    ClientFailed(io::ErrorKind),
    /// The upstream's connection failed.
    UpstreamFailed(io::ErrorKind),
}

/// What a pump did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pumped {
    /// Bytes from the client that the upstream took.
    pub bytes_in: u64,
    /// Bytes from the upstream that the client took.
    pub bytes_out: u64,
    /// Why it ended.
    pub end: End,
    /// Which side said first that it has nothing more to say, if one did.
    pub first: Option<Side>,
}

/// A side of a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

/// What a pump needs beside its streams.
#[derive(Clone, Copy, Debug)]
pub struct PumpContext<'a> {
    /// The worker's buffers.
    pub buffers: &'a BufferPool,
    /// The worker's pipes.
    pub pipes: &'a Pipes,
    /// Gets the bytes while they flow.
    pub metrics: &'a ServiceMetrics,
    /// Is told of them too, where that is wanted.
    pub observer: Option<&'a dyn TargetObserver>,
    /// Longest time without a byte either way; zero: no limit.
    pub idle: Duration,
}

/// Moves bytes until both directions ended, one stream failed, nothing moved for the idle time, or
/// `stop` is ready: a drain deadline, or the grace of an instance that left the table.
///
/// Cancel safe in the sense that dropping it loses only what is on its way.
pub async fn pump<C, U, S>(
    client: &mut C,
    upstream: &mut U,
    context: PumpContext<'_>,
    stop: S,
) -> Pumped
where
    C: Stream,
    U: Stream,
    S: Future<Output = ()>,
{
    let mut inward = Direction::new(context.buffers, context.pipes);
    let mut outward = Direction::new(context.buffers, context.pipes);
    let mut stop = pin!(stop);
    let mut idle = pin!(IdleTimer::new(context.idle));
    let mut first = None;
    let end = poll_fn(|cx| {
        let before = (inward.moved, outward.moved);
        let there = inward.poll(client, upstream, cx);
        if first.is_none() && inward.has_ended() {
            // An upstream that takes no more has ended, too.
            let refused = matches!(there, Poll::Ready(Err(Failure::Write(_))));
            first = Some(if refused {
                Side::Upstream
            } else {
                Side::Client
            });
        }
        let back = outward.poll(upstream, client, cx);
        if first.is_none() && outward.has_ended() {
            first = Some(Side::Upstream);
        }
        let moved = (inward.moved - before.0, outward.moved - before.1);
        context.metrics.bytes_in.fetch_add(moved.0, Relaxed);
        context.metrics.bytes_out.fetch_add(moved.1, Relaxed);
        if let Some(observer) = context.observer {
            observer.bytes(moved.0, moved.1);
        }
        if let Some(end) = ended(&there, &back) {
            return Poll::Ready(end);
        }
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        idle.as_mut()
            .poll(inward.moved + outward.moved, cx)
            .map(|()| End::Idle)
    })
    .await;
    Pumped {
        bytes_in: inward.moved,
        bytes_out: outward.moved,
        end,
        first,
    }
}

fn ended(there: &Poll<Result<(), Failure>>, back: &Poll<Result<(), Failure>>) -> Option<End> {
    match (there, back) {
        (Poll::Ready(Err(Failure::Read(kind))), _) => Some(End::ClientFailed(*kind)),
        (_, Poll::Ready(Err(Failure::Read(kind)))) => Some(End::UpstreamFailed(*kind)),
        // A side that takes no more may still have something to say: its direction decides when it
        // is over.
        (Poll::Pending, _) | (_, Poll::Pending) => None,
        (Poll::Ready(Err(Failure::Write(kind))), _) => Some(End::UpstreamFailed(*kind)),
        (_, Poll::Ready(Err(Failure::Write(kind)))) => Some(End::ClientFailed(*kind)),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Some(End::Closed),
    }
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Read(io::ErrorKind),
    Write(io::ErrorKind),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Copying,
    /// The reader ended; what is left is to tell the writer.
    Closing,
    Done(Result<(), Failure>),
}

struct Direction<'a> {
    pool: &'a BufferPool,
    pipes: &'a Pipes,
    /// Held only while it holds bytes, or more than a little is on its way.
    pipe: Option<Pipe>,
    /// The last read filled the buffer: this is a long transfer.
    long: bool,
    phase: Phase,
    /// Held only while it holds bytes that the writer did not take yet.
    buffer: Option<Box<[u8]>>,
    from: usize,
    to: usize,
    unflushed: bool,
    moved: u64,
}

impl<'a> Direction<'a> {
    fn new(pool: &'a BufferPool, pipes: &'a Pipes) -> Self {
        Self {
            pool,
            pipes,
            pipe: None,
            long: false,
            phase: Phase::Copying,
            buffer: None,
            from: 0,
            to: 0,
            unflushed: false,
            moved: 0,
        }
    }

    fn poll<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>>
    where
        R: Stream,
        W: Stream,
    {
        if let Phase::Copying = self.phase {
            match ready!(self.poll_copy(reader, writer, cx)) {
                Ok(()) => self.phase = Phase::Closing,
                Err(failure) => self.end(Err(failure)),
            }
        }
        if let Phase::Closing = self.phase {
            let result = ready!(Pin::new(writer).poll_shutdown(cx));
            // A peer that is gone already needs no telling.
            let gone = |error: &io::Error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe
                )
            };
            match result {
                Err(error) if !gone(&error) => self.end(Err(Failure::Write(error.kind()))),
                _ => self.end(Ok(())),
            }
        }
        match self.phase {
            Phase::Done(result) => Poll::Ready(result),
            Phase::Copying | Phase::Closing => Poll::Pending,
        }
    }

    fn end(&mut self, result: Result<(), Failure>) {
        self.phase = Phase::Done(result);
        self.release();
    }

    /// Its reader has ended, or one side failed.
    fn has_ended(&self) -> bool {
        !matches!(self.phase, Phase::Copying)
    }

    fn release(&mut self) {
        self.release_buffer();
        if let Some(pipe) = self.pipe.take() {
            self.pipes.give_back(pipe);
        }
    }

    fn release_buffer(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(buffer);
        }
    }

    /// Ready with `Ok` at the end of the reader, once everything was taken by the writer.
    fn poll_copy<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>>
    where
        R: Stream,
        W: Stream,
    {
        for _ in 0..ROUNDS_MAX {
            ready!(self.poll_drain(writer, cx))?;
            if self.long
                && let (Some(from), Some(to)) = (reader.plain(), writer.plain())
                && let Some(spliced) = self.poll_splice(from, to, cx)
            {
                match ready!(spliced)? {
                    Moved::Some(_) => continue,
                    Moved::End => {
                        self.release();
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
            let mut room = ReadBuf::new(buffer);
            match Pin::new(&mut *reader).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if room.filled().is_empty() => {
                    self.release();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => {
                    self.long = room.remaining() == 0;
                    (self.from, self.to) = (0, room.filled().len());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Read(error.kind()))),
                Poll::Pending => {
                    self.release();
                    return self.poll_flush(writer, cx);
                }
            }
        }
        // More is there, but others wait for this thread.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step of a long transfer; none where there is no pipe. A transfer that has to wait may be
    /// over, so it keeps no pipe meanwhile.
    fn poll_splice(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<Moved, Failure>>> {
        self.release_buffer();
        if self.pipe.is_none() {
            self.pipe = self.pipes.take();
        }
        let pipe = self.pipe.as_mut()?;
        Some(match pipe.poll_move(from, to, u64::MAX, cx) {
            Poll::Ready(Ok(moved)) => {
                if let Moved::Some(bytes) = moved {
                    self.moved += bytes as u64;
                    // Short ones are cheaper by a buffer.
                    self.long = bytes >= SHORT_BYTES || !pipe.is_empty();
                    if !self.long {
                        self.release();
                    }
                }
                Poll::Ready(Ok(moved))
            }
            Poll::Ready(Err(SpliceError::Read(error))) => {
                Poll::Ready(Err(Failure::Read(error.kind())))
            }
            Poll::Ready(Err(SpliceError::Write(error))) => {
                Poll::Ready(Err(Failure::Write(error.kind())))
            }
            Poll::Pending => {
                if pipe.is_empty() {
                    self.release();
                }
                Poll::Pending
            }
        })
    }

    /// Ready when the writer took all that is held.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while let (Some(buffer), true) = (&self.buffer, self.from < self.to) {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[self.from..self.to])) {
                Ok(0) => return Poll::Ready(Err(Failure::Write(io::ErrorKind::WriteZero))),
                Ok(written) => {
                    self.from += written;
                    self.moved += written as u64;
                    self.unflushed = true;
                }
                Err(error) => return Poll::Ready(Err(Failure::Write(error.kind()))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// TLS keeps written bytes until it is told that no more follow for now. Never ready unless it
    /// fails: the reader is what the direction waits for.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        if self.unflushed {
            match ready!(Pin::new(writer).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => return Poll::Ready(Err(Failure::Write(error.kind()))),
            }
        }
        Poll::Pending
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

pin_project_lite::pin_project! {
    struct IdleTimer {
        quarter: Duration,
        quiet_quarters: u32,
        moved: u64,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl IdleTimer {
    fn new(idle: Duration) -> Self {
        let quarter = idle / 4;
        let sleep = (!idle.is_zero()).then(|| sleep_until(Instant::now() + quarter));
        Self {
            quarter,
            quiet_quarters: 0,
            moved: 0,
            sleep,
        }
    }

    /// Ready when `moved` stayed the same for the idle time.
    fn poll(self: Pin<&mut Self>, moved: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(mut sleep) = this.sleep.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        loop {
            ready!(sleep.as_mut().poll(cx));
            // The first quarter after a byte counts as moving: it may have begun before that byte.
            *this.quiet_quarters = if moved == *this.moved {
                *this.quiet_quarters + 1
            } else {
                0
            };
            *this.moved = moved;
            if *this.quiet_quarters >= 4 {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(Instant::now() + *this.quarter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::oneshot;

    use super::*;

    impl Stream for DuplexStream {}

    struct Setup {
        client: DuplexStream,
        upstream: DuplexStream,
        near: DuplexStream,
        far: DuplexStream,
        buffers: BufferPool,
        pipes: Pipes,
        metrics: ServiceMetrics,
    }

    /// Streams with room for `room` bytes on their way.
    fn setup(room: usize) -> Setup {
        let (client, near) = duplex(room);
        let (upstream, far) = duplex(room);
        let metrics = ServiceMetrics::new("svc".into());
        Setup {
            client,
            upstream,
            near,
            far,
            buffers: BufferPool::default(),
            pipes: Pipes::default(),
            metrics,
        }
    }

    impl Setup {
        async fn with<T>(
            mut self,
            idle: Duration,
            stop: impl Future<Output = ()>,
            ends: impl AsyncFnOnce(DuplexStream, DuplexStream) -> T,
        ) -> (Pumped, T) {
            let context = PumpContext {
                buffers: &self.buffers,
                pipes: &self.pipes,
                metrics: &self.metrics,
                observer: None,
                idle,
            };
            let pump = async {
                let pumped = pump(&mut self.near, &mut self.far, context, stop).await;
                drop((self.near, self.far));
                pumped
            };
            let (pumped, result) = tokio::join!(pump, ends(self.client, self.upstream));
            assert_eq!(self.metrics.bytes_in.load(Relaxed), pumped.bytes_in);
            assert_eq!(self.metrics.bytes_out.load(Relaxed), pumped.bytes_out);
            (pumped, result)
        }
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    const NO_LIMIT: Duration = Duration::ZERO;

    #[test]
    fn answer_arrives_after_the_client_half_closed() {
        run(async {
            let ends = async |mut client: DuplexStream, mut upstream: DuplexStream| {
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut asked = String::new();
                upstream.read_to_string(&mut asked).await.unwrap();
                upstream.write_all(b"answer to ").await.unwrap();
                upstream.write_all(asked.as_bytes()).await.unwrap();
                drop(upstream);
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let (pumped, answer) = setup(64).with(NO_LIMIT, pending(), ends).await;
            assert_eq!(answer, "answer to question");
            assert_eq!(
                pumped,
                Pumped {
                    bytes_in: 8,
                    bytes_out: 18,
                    end: End::Closed,
                    first: Some(Side::Client)
                }
            );
        });
    }

    #[test]
    fn client_goes_on_after_the_upstream_half_closed() {
        run(async {
            let ends = async |mut client: DuplexStream, mut upstream: DuplexStream| {
                upstream.write_all(b"hello").await.unwrap();
                upstream.shutdown().await.unwrap();
                let mut greeting = String::new();
                client.read_to_string(&mut greeting).await.unwrap();
                client.write_all(b"still here").await.unwrap();
                client.shutdown().await.unwrap();
                let mut heard = String::new();
                upstream.read_to_string(&mut heard).await.unwrap();
                (greeting, heard)
            };
            let (pumped, heard) = setup(64).with(NO_LIMIT, pending(), ends).await;
            assert_eq!(heard, ("hello".to_owned(), "still here".to_owned()));
            assert_eq!(
                (pumped.end, pumped.first),
                (End::Closed, Some(Side::Upstream))
            );
        });
    }

    #[test]
    fn bulk_passes_whole_through_a_narrow_pipe_both_ways() {
        run(async {
            let data: Vec<u8> = (0..300_000u32)
                .map(|n| n.to_le_bytes()[(n % 3) as usize])
                .collect();
            let wanted = data.clone();
            let ends = async |client: DuplexStream, upstream: DuplexStream| {
                let (mut client_read, mut client_write) = tokio::io::split(client);
                let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
                let (mut there, mut back) = (Vec::new(), Vec::new());
                let send = async {
                    client_write.write_all(&data).await.unwrap();
                    client_write.shutdown().await.unwrap();
                };
                let answer = async {
                    upstream_write.write_all(&data).await.unwrap();
                    upstream_write.shutdown().await.unwrap();
                };
                let (_, _, first, second) = tokio::join!(
                    send,
                    answer,
                    upstream_read.read_to_end(&mut there),
                    client_read.read_to_end(&mut back)
                );
                first.unwrap();
                second.unwrap();
                (there, back)
            };
            let (pumped, (there, back)) = setup(1000).with(NO_LIMIT, pending(), ends).await;
            assert!(there == wanted && back == wanted);
            assert_eq!(
                pumped,
                Pumped {
                    bytes_in: 300_000,
                    bytes_out: 300_000,
                    end: End::Closed,
                    first: pumped.first
                }
            );
        });
    }

    #[test]
    fn a_slow_reader_holds_back_the_writer() {
        run(async {
            let ends = async |mut client: DuplexStream, upstream: DuplexStream| {
                // Nothing is read: 100 bytes in each pipe and one buffer fit, not a byte more.
                let mut sent = 0;
                let flood = async {
                    loop {
                        sent += client.write(&[0; 50]).await.unwrap();
                    }
                };
                tokio::time::timeout(Duration::from_secs(1), flood)
                    .await
                    .unwrap_err();
                drop(upstream);
                drop(client);
                sent
            };
            let (_, sent) = setup(100).with(NO_LIMIT, pending(), ends).await;
            assert!(sent <= BUFFER_BYTES + 200, "{sent}");
        });
    }

    #[test]
    fn idle_connections_end_and_hold_no_buffer() {
        run(async {
            let setup = setup(64);
            let buffers = setup.buffers.clone();
            let began = Instant::now();
            let ends = async |mut client: DuplexStream, mut upstream: DuplexStream| {
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_secs(8)).await;
                    client.write_all(b"x").await.unwrap();
                    upstream.read_u8().await.unwrap();
                }
                assert_eq!(
                    buffers.idle(),
                    1,
                    "one buffer serves both directions, and lies in the pool"
                );
                client.read_to_end(&mut Vec::new()).await.unwrap();
            };
            let (pumped, ()) = setup.with(Duration::from_secs(10), pending(), ends).await;
            assert_eq!(
                pumped,
                Pumped {
                    bytes_in: 5,
                    bytes_out: 0,
                    end: End::Idle,
                    first: None
                }
            );
            let took = began.elapsed().as_millis();
            assert!((50_000..=52_600).contains(&took), "{took} ms");
        });
    }

    #[test]
    fn stops_when_told() {
        run(async {
            let (tell, told) = oneshot::channel::<()>();
            let ends = async |mut client: DuplexStream, mut upstream: DuplexStream| {
                client.write_all(b"x").await.unwrap();
                upstream.read_u8().await.unwrap();
                tell.send(()).unwrap();
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            };
            let stop = async { drop(told.await) };
            let (pumped, ()) = setup(64).with(NO_LIMIT, stop, ends).await;
            assert_eq!(
                pumped,
                Pumped {
                    bytes_in: 1,
                    bytes_out: 0,
                    end: End::Stopped,
                    first: None
                }
            );
        });
    }

    #[test]
    fn an_upstream_that_is_gone_ends_it_once_the_client_is_told() {
        run(async {
            let ends = async |mut client: DuplexStream, mut upstream: DuplexStream| {
                upstream.write_all(b"bye").await.unwrap();
                drop(upstream);
                let mut last = String::new();
                client.read_to_string(&mut last).await.unwrap();
                client.write_all(b"too late").await.ok();
                last
            };
            let (pumped, last) = setup(64).with(NO_LIMIT, pending(), ends).await;
            assert_eq!(last, "bye");
            assert_eq!(pumped.end, End::UpstreamFailed(io::ErrorKind::BrokenPipe));
            assert_eq!(pumped.first, Some(Side::Upstream));
        });
    }
}
