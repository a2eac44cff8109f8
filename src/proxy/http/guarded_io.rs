//! A client stream whose bytes pass the [`Guard`] before the HTTP library sees any of them.
//!
//! Bytes of a read that holds a violation are not handed on, not even those before it: on a connection that is lost
//! anyway nothing is worth the risk of a half-understood request. The reader gets an error, ends, and the client gets
//! the status if no answer is on its way: [`GuardedIo`] writes it itself, because the library drops the stream on
//! an error. It leaves it to the exchange to say when an answer is on its way ([`GuardHandle::exchange`]).
//!
//! The end of the client's stream is held back while requests that came before it are being answered: the library
//! would drop them, but a client may send FIN behind its last request and still want the answer (RFC 9112 section
//! 9.6). One that is gone altogether looks the same; the connection's watchdog tells them apart by time.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::http::strict::{Guard, Limits, Violation};

#[derive(Debug, Default)]
struct Shared {
    violation: Cell<Option<Violation>>,
    pass: Cell<bool>,
    exchanges: Cell<u32>,
    heads: Cell<u64>,
    /// Exchanges that are over; as many as `heads` when all requests read so far are answered.
    answered: Cell<u64>,
    between: Cell<bool>,
    ended: Cell<bool>,
    /// Interim answers that wait for a moment when the library has nothing unwritten.
    interim: RefCell<Vec<u8>>,
}

/// What the driver of a connection knows of its guard. Of one thread, like the connection.
#[derive(Clone, Debug)]
pub struct GuardHandle(Rc<Shared>);

impl GuardHandle {
    /// For a stream whose reader follows its messages by itself, and says so here.
    #[must_use]
    pub fn alone() -> Self {
        Self(Rc::new(Shared { between: Cell::new(true), ..Shared::default() }))
    }

    /// One more whole head was read.
    pub fn note_head(&self) {
        self.0.heads.set(self.0.heads.get() + 1);
    }

    /// Whether nothing of a next request was read yet.
    pub fn note_between(&self, between: bool) {
        self.0.between.set(between);
    }

    /// The client has sent its last byte.
    pub fn note_end(&self) {
        self.0.ended.set(true);
    }

    /// Why reading ended, if it did so by force. While this is set, whatever the client sent last was never passed on.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.0.violation.get()
    }

    /// Lets everything pass from the next read on. Call before the 101 (or the 200 of a CONNECT) is written.
    pub fn pass_through(&self) {
        self.0.pass.set(true);
    }

    /// Notes that a request is being answered, until the result is dropped: keep it with the answer's body.
    #[must_use]
    pub fn exchange(&self) -> ExchangeMark {
        self.0.exchanges.set(self.0.exchanges.get() + 1);
        ExchangeMark(Rc::clone(&self.0))
    }

    /// Complete request heads read so far.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.0.heads.get()
    }

    /// The client has sent its last byte.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// Lets `heads` (whole interim answers) be written before whatever the library writes next.
    pub fn send_interim(&self, heads: &[u8]) {
        self.0.interim.borrow_mut().extend_from_slice(heads);
    }

    /// Whether interim answers still wait.
    #[must_use]
    pub fn has_interim(&self) -> bool {
        !self.0.interim.borrow().is_empty()
    }

    /// Nothing of a next request was read yet (also before the first).
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        self.0.between.get()
    }
}

/// A request being answered.
#[derive(Debug)]
pub struct ExchangeMark(Rc<Shared>);

impl Drop for ExchangeMark {
    fn drop(&mut self) {
        self.0.exchanges.set(self.0.exchanges.get().saturating_sub(1));
        self.0.answered.set(self.0.answered.get() + 1);
    }
}

/// The wrapped stream.
#[derive(Debug)]
pub struct GuardedIo<T> {
    io: T,
    guard: Guard,
    shared: Rc<Shared>,
    /// The answer to a violation that is still to be written.
    refusal: &'static [u8],
    /// The library has bytes of an answer that the client did not take yet: ours would land in their middle.
    write_blocked: bool,
    /// An interim answer is written in part: nothing else may come before its rest.
    interim_begun: bool,
}

impl<T> GuardedIo<T> {
    /// Wraps `io`, which has not been read yet.
    #[must_use]
    pub fn new(io: T, limits: Limits) -> (Self, GuardHandle) {
        let shared = Rc::new(Shared { between: Cell::new(true), ..Shared::default() });
        let handle = GuardHandle(Rc::clone(&shared));
        (
            Self { io, guard: Guard::new(limits), shared, refusal: &[], write_blocked: false, interim_begun: false },
            handle,
        )
    }

    /// The stream below.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The stream below, for a tunnel that needs no guard any more.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Whole requests were read whose answers are not all written. (A client that ends inside a request is told so
    /// at once.)
    fn owes_answers(&self) -> bool {
        let open = self.shared.heads.get() > self.shared.answered.get() || self.write_blocked;
        open && self.guard.is_between_requests()
    }

    fn judge(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.shared.pass.get() {
            self.guard.pass_through();
        }
        let verdict = self.guard.feed(bytes);
        self.shared.heads.set(self.guard.heads());
        self.shared.between.set(self.guard.is_between_requests());
        verdict
    }
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// Writes interim answers that wait.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.shared.interim.borrow_mut();
        while !interim.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.drain(..written);
            self.interim_begun = !interim.is_empty();
        }
        Poll::Ready(Ok(()))
    }

    /// Before the library's own bytes: the rest of an interim answer that was begun. One that was not is dropped,
    /// because nobody can tell any more whether these bytes belong to an earlier answer or to its own.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim_begun {
            return self.poll_interim(cx);
        }
        self.shared.interim.borrow_mut().clear();
        Poll::Ready(Ok(()))
    }

    /// Writes what is left of the refusal, then reports the violation.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, violation: Violation) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.refusal)) {
                Ok(written) if written > 0 => self.refusal = &self.refusal[written..],
                // The client is gone; the violation is the better reason.
                _ => self.refusal = &[],
            }
        }
        // TLS streams keep what is written until they are flushed.
        let _ = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(violation) = this.shared.violation.get() {
            return this.poll_refuse(cx, violation);
        }
        let before = buf.filled().len();
        if !this.shared.ended.get() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            this.shared.ended.set(buf.filled().len() == before && buf.remaining() > 0);
        }
        if this.shared.ended.get() {
            // No waker: the library reads again when it has written the answer.
            return if this.owes_answers() { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        match this.judge(&buf.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(violation) => {
                buf.set_filled(before);
                this.shared.violation.set(Some(violation));
                if this.shared.exchanges.get() == 0 && !this.write_blocked {
                    this.refusal = violation.response();
                }
                this.poll_refuse(cx, violation)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.write_blocked = result.is_pending() || matches!(result, Poll::Ready(Ok(written)) if written < buf.len());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.write_blocked = result.is_pending() || matches!(result, Poll::Ready(Ok(written)) if written < len);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes when it has written all it had: the moment for an interim answer.
        if !self.write_blocked {
            ready!(self.poll_interim(cx))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 512, fields_max: 8, h2_preface: false };
    const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const BAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n";

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn good_bytes_pass_unchanged() {
        run(async {
            let (mut client, io) = duplex(1024);
            let (mut guarded, handle) = GuardedIo::new(io, LIMITS);
            client.write_all(GOOD).await.unwrap();
            let mut read = vec![0; GOOD.len()];
            guarded.read_exact(&mut read).await.unwrap();
            assert_eq!(read, GOOD);
            assert_eq!((handle.heads(), handle.is_between_requests(), handle.violation()), (1, true, None));
        });
    }

    #[test]
    fn a_violation_is_answered_and_nothing_of_it_read() {
        run(async {
            // Ten bytes of room: the refusal goes out in pieces.
            let (mut client, io) = duplex(10);
            let (mut guarded, handle) = GuardedIo::new(io, LIMITS);
            let reader = async {
                let mut read = Vec::new();
                let error = guarded.read_to_end(&mut read).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(!String::from_utf8_lossy(&read).contains("\r\n\r\n"), "no whole head");
                drop(guarded);
            };
            let writer = async {
                client.write_all(BAD).await.ok();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
            };
            tokio::join!(reader, writer);
            assert_eq!(handle.violation().unwrap().status, 400);
        });
    }

    #[test]
    fn no_refusal_inside_an_answer() {
        run(async {
            let (mut client, io) = duplex(1024);
            let (mut guarded, handle) = GuardedIo::new(io, LIMITS);
            let mark = handle.exchange();
            client.write_all(BAD).await.unwrap();
            let mut room = [0; 256];
            assert!(guarded.read(&mut room).await.is_err());
            assert!(guarded.read(&mut room).await.is_err(), "and again");
            drop((mark, guarded));
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "");
        });
    }

    #[test]
    fn passes_through_after_an_upgrade() {
        run(async {
            let (mut client, io) = duplex(1024);
            let (mut guarded, handle) = GuardedIo::new(io, LIMITS);
            handle.pass_through();
            client.write_all(b"\x81\n\n").await.unwrap();
            let mut read = [0; 3];
            guarded.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"\x81\n\n");
        });
    }

    /// What a client gets that sends `first` to a hyper server behind the guard, and how many requests that one saw.
    async fn exchange_with_hyper(first: &[u8]) -> (String, u32) {
        use http_body_util::{BodyExt, Full};
        use hyper::body::{Bytes, Incoming};
        use hyper::service::service_fn;

        let (mut client, io) = duplex(4096);
        let (guarded, handle) = GuardedIo::new(io, LIMITS);
        let seen = Cell::new(0);
        let service = service_fn(|request: http::Request<Incoming>| {
            let (mark, seen, handle) = (handle.exchange(), &seen, handle.clone());
            async move {
                seen.set(seen.get() + 1);
                let whole = request.into_body().collect().await;
                let status =
                    if whole.is_err() { handle.violation().map_or(500, |violation| violation.status) } else { 200 };
                drop(mark);
                Ok::<_, io::Error>(http::Response::builder().status(status).body(Full::new(Bytes::new())).unwrap())
            }
        });
        // The client half-closes after its last request, and still wants its answers.
        let server =
            hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(guarded), service);
        let talk = async {
            client.write_all(first).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (_, answer) = tokio::join!(server, talk);
        (answer, seen.get())
    }

    #[test]
    fn hyper_behind_the_guard() {
        run(async {
            let (answer, seen) = exchange_with_hyper(&GOOD.repeat(2)).await;
            assert_eq!((answer.matches("HTTP/1.1 200 OK").count(), seen), (2, 2), "{answer}");
            let (answer, seen) = exchange_with_hyper(BAD).await;
            assert_eq!((answer.matches("HTTP/1.1 400 ").count(), seen), (1, 0), "{answer}");
            let (answer, seen) = exchange_with_hyper(&[GOOD, BAD].concat()).await;
            assert_eq!((answer.matches("HTTP/1.1 400 ").count(), seen), (1, 0), "{answer}");
            let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let (answer, seen) = exchange_with_hyper(&[&chunked[..], b"1\r\nx\r\n0\r\n\r\n"].concat()).await;
            assert_eq!((answer.matches("HTTP/1.1 200 OK").count(), seen), (1, 1), "{answer}");
            let (answer, _) = exchange_with_hyper(&[&chunked[..], b"0x1\r\nx"].concat()).await;
            assert_eq!(answer.matches("HTTP/1.1 400 ").count(), 1, "{answer}");
        });
    }

    /// The head came in a read of its own, so the service runs when the body turns out bad.
    #[test]
    fn a_bad_body_reaches_the_service_as_an_error() {
        run(async {
            use http_body_util::{BodyExt, Full};
            use hyper::body::{Bytes, Incoming};
            use hyper::service::service_fn;

            let (mut client, io) = duplex(4096);
            let (guarded, handle) = GuardedIo::new(io, LIMITS);
            let (called, was_called) = tokio::sync::oneshot::channel();
            let called = Cell::new(Some(called));
            let failed = Cell::new(false);
            let service = service_fn(|request: http::Request<Incoming>| {
                let mark = handle.exchange();
                called.take().map(|called| called.send(()));
                let failed = &failed;
                async move {
                    failed.set(request.into_body().collect().await.is_err());
                    drop(mark);
                    Ok::<_, io::Error>(http::Response::new(Full::new(Bytes::new())))
                }
            });
            let server = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(guarded), service);
            let talk = async {
                client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                was_called.await.unwrap();
                client.write_all(b"1\r\nx\r\n+1\r\nyyyyy\r\n0\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                String::from_utf8(answer).unwrap()
            };
            let (_, answer) = tokio::join!(server, talk);
            assert!(failed.get(), "a body that ends in a violation must never look complete");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the service answers, not the guard: {answer}");
            assert_eq!(handle.violation().map(|violation| violation.status), Some(400));
        });
    }
}
