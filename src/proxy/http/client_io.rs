//! A client's socket with two additions: bytes that were read to find out what the client speaks
//! are read again, and it is known since when a read or a write has been waiting for the client.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::proxy::splice::Stream;
use crate::table::clock::Clock;

/// Room for the first read: a usual request whole, so that looking ahead costs no system call more.
const PEEK_FIRST: usize = 2048;

/// When the client last did something. One clock read per system call.
#[derive(Debug)]
pub struct Activity {
    clock: Clock,
    last_ms: Cell<u64>,
    read_waits_since_ms: Cell<Option<u64>>,
    write_waits_since_ms: Cell<Option<u64>>,
    reset_at_end: Cell<bool>,
}

impl Activity {
    /// Of a client that was heard right now.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            last_ms: Cell::new(clock.now_ms()),
            read_waits_since_ms: Cell::default(),
            write_waits_since_ms: Cell::default(),
            reset_at_end: Cell::default(),
        }
    }

    /// Process clock (ms) of the last byte either way.
    #[must_use]
    pub fn last_ms(&self) -> u64 {
        self.last_ms.get()
    }

    /// For how long nothing has gone either way.
    #[must_use]
    pub fn silent(&self) -> Duration {
        Duration::from_millis(self.clock.now_ms().saturating_sub(self.last_ms.get()))
    }

    /// Since when a read has been waiting.
    #[must_use]
    pub fn read_waits_since_ms(&self) -> Option<u64> {
        self.read_waits_since_ms.get()
    }

    /// Since when a write has been waiting.
    #[must_use]
    pub fn write_waits_since_ms(&self) -> Option<u64> {
        self.write_waits_since_ms.get()
    }

    /// Present process clock (ms).
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Lets the connection end with RST instead of FIN, so that what was sent does not look
    /// complete.
    pub fn reset_at_end(&self) {
        self.reset_at_end.set(true);
    }

    /// Whether [`Self::reset_at_end`] was called.
    #[must_use]
    pub fn resets_at_end(&self) -> bool {
        self.reset_at_end.get()
    }

    /// There is nothing to read, and a reader waits for it.
    pub fn waits_to_read(&self) {
        self.note(&self.read_waits_since_ms, &Poll::<()>::Pending);
    }

    /// Nothing is to be read for now: the client is not waited for.
    pub fn stop_reading(&self) {
        self.read_waits_since_ms.set(None);
    }

    /// Bytes go to the client past [`ClientIo`]: some were taken, or it takes none for now.
    pub fn wrote(&self, waits: bool) {
        let polled = if waits {
            Poll::Pending
        } else {
            Poll::Ready(())
        };
        self.note(&self.write_waits_since_ms, &polled);
    }

    fn note<T>(&self, waits_since_ms: &Cell<Option<u64>>, polled: &Poll<T>) {
        if polled.is_ready() {
            self.last_ms.set(self.clock.now_ms());
            waits_since_ms.set(None);
        } else if waits_since_ms.get().is_none() {
            waits_since_ms.set(Some(self.clock.now_ms()));
        }
    }
}

/// A client's socket. See the module.
#[derive(Debug)]
pub struct ClientIo {
    stream: TcpStream,
    ahead: Option<Box<Ahead>>,
    activity: Rc<Activity>,
}

/// What was read ahead. Boxed: it is gone with the first read.
#[derive(Debug)]
struct Ahead {
    bytes: Vec<u8>,
    taken: usize,
}

impl ClientIo {
    /// Wraps an accepted socket.
    #[must_use]
    pub fn new(stream: TcpStream, clock: Clock) -> Self {
        let activity = Rc::new(Activity::new(clock));
        Self {
            stream,
            ahead: None,
            activity,
        }
    }

    /// What the client did when.
    #[must_use]
    pub fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// What was read and not yet taken.
    #[must_use]
    pub fn peeked(&self) -> &[u8] {
        self.ahead
            .as_ref()
            .map_or(&[], |ahead| &ahead.bytes[ahead.taken..])
    }

    /// Reads more ahead, up to `most` bytes in all; false at the end of the stream.
    ///
    /// # Errors
    /// Those of the socket; and a client that sent `most` bytes without saying what it speaks.
    pub async fn peek_more(&mut self, most: usize) -> io::Result<bool> {
        if self.peeked().len() >= most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no protocol recognised",
            ));
        }
        let room = || {
            Box::new(Ahead {
                bytes: Vec::with_capacity(PEEK_FIRST),
                taken: 0,
            })
        };
        let read = self
            .stream
            .read_buf(&mut self.ahead.get_or_insert_with(room).bytes)
            .await?;
        Ok(read > 0)
    }

    /// Takes `count` peeked bytes for good.
    pub fn consume(&mut self, count: usize) {
        if let Some(ahead) = &mut self.ahead {
            ahead.taken = (ahead.taken + count).min(ahead.bytes.len());
        }
    }
}

/// A client's stream, in clear or inside TLS.
#[derive(Debug)]
pub enum ClientStream {
    /// In the clear.
    Plain(ClientIo),
    /// Inside TLS. Boxed: it is large.
    Tls(Box<TlsStream<ClientIo>>),
}

impl ClientStream {
    /// Waits until there may be something to read, without reading. What TLS has decrypted already
    /// does not count: read until that is pending first.
    ///
    /// # Errors
    /// Those of the runtime.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = match self {
            Self::Plain(io) => io,
            Self::Tls(stream) => stream.get_ref().0,
        };
        if io.peeked().is_empty() {
            io.stream.poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Looks at the kernel's state, whatever is still to be read before.
    #[must_use]
    pub fn hangs_up(&self) -> HangUp {
        let stream = match self {
            Self::Plain(io) => &io.stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        };
        let mut look = [PollFd::new(stream, PollFlags::RDHUP)];
        match poll(&mut look, Some(&Timespec::default())) {
            Ok(1..)
                if look[0]
                    .revents()
                    .intersects(PollFlags::ERR | PollFlags::HUP) =>
            {
                HangUp::Gone
            }
            Ok(1..) => HangUp::Ended,
            Ok(0) | Err(_) => HangUp::No,
        }
    }
}

/// What the kernel knows of a client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// Nothing.
    No,
    /// It has sent FIN.
    Ended,
    /// It has sent RST, or does not respond any more.
    Gone,
}

impl Stream for ClientIo {
    fn plain(&self) -> Option<&TcpStream> {
        self.peeked().is_empty().then_some(&self.stream)
    }
}

impl Stream for Box<TlsStream<ClientIo>> {}

impl Stream for ClientStream {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(io) => io.plain(),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.activity.reset_at_end.get() {
            // Without it the client gets a FIN, and at worst takes a part for the whole.
            SockRef::from(&self.stream)
                .set_linger(Some(Duration::ZERO))
                .ok();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(ahead) = &mut this.ahead {
            let left = &ahead.bytes[ahead.taken..];
            let count = left.len().min(buf.remaining());
            buf.put_slice(&left[..count]);
            ahead.taken += count;
            if ahead.taken == ahead.bytes.len() {
                this.ahead = None;
            }
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.activity
            .note(&this.activity.read_waits_since_ms, &polled);
        polled
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.activity
            .note(&this.activity.write_waits_since_ms, &polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.activity
            .note(&this.activity.write_waits_since_ms, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
