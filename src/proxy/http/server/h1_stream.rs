//! The client's side of an HTTP/1 connection: what it sends is read, as a head, as a body or aside,
//! and what it gets is written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use http::HeaderMap;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::downstream::Downstream;
use crate::proxy::http::client_io::{ClientStream, HangUp};
use crate::proxy::http::h1::buffer::{Buffer, Buffers, READ_MIN};
use crate::proxy::http::h1::chunked::Chunks;
use crate::proxy::http::h1::request_head::BodyFraming;
use crate::proxy::http::h1::syntax::{Limits, Violation};
use crate::proxy::splice::Stream as _;

/// Most bytes of next requests that are read while one is being served.
const ASIDE_MAX: usize = 64 << 10;
/// What a client waits for that expects 100 (RFC 9110 section 10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The client's stream.
#[derive(Debug)]
pub struct H1Stream {
    /// None: it was taken back.
    io: Option<ClientStream>,
    buffers: Buffers,
    downstream: Rc<Downstream>,
    /// What was read behind the present request's head, and is not used yet.
    inbox: Option<Buffer>,
    /// Bytes of next requests that were read together with the present one.
    behind: usize,
    body: Body,
    /// The client waits for 100 (Continue).
    expects: bool,
    /// Written before anything else; as far as this is through.
    outbox: Vec<u8>,
    outbox_written: usize,
    /// The client has sent its last byte.
    ended: bool,
    /// Wants to see the client's end once the body is through.
    waits_aside: Option<Waker>,
}

/// What is still to come of a request's body.
#[derive(Debug)]
enum Body {
    Nothing,
    Length(u64),
    Chunked(Box<Chunks>),
    Broken,
}

/// One step of a body.
#[derive(Debug)]
pub enum Step {
    /// Data was handed over.
    Data,
    /// It is over, with these fields behind it.
    End(Option<HeaderMap>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The client left.
    #[error("the client left inside its request: {0}")]
    Left(io::Error),
    /// What came is not a body.
    #[error("{0}")]
    Malformed(#[from] Violation),
}

impl H1Stream {
    /// A stream of which nothing was read, or all that was read was used.
    #[must_use]
    pub fn new(io: ClientStream, buffers: &Buffers, downstream: &Rc<Downstream>) -> Self {
        Self {
            io: Some(io),
            buffers: buffers.clone(),
            downstream: Rc::clone(downstream),
            inbox: None,
            behind: 0,
            body: Body::Nothing,
            expects: false,
            outbox: Vec::new(),
            outbox_written: 0,
            ended: false,
            waits_aside: None,
        }
    }

    /// Takes the socket away; a body that is still read from here gets an error.
    pub fn take_io(&mut self) -> Option<ClientStream> {
        self.body = Body::Broken;
        self.io.take()
    }

    /// Takes away what was read and not used.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.inbox
            .as_ref()
            .map(|inbox| inbox.filled().to_vec())
            .unwrap_or_default()
    }

    /// A body begins behind a head, the first of whose bytes came with it.
    pub fn begin_body(
        &mut self,
        framing: BodyFraming,
        limits: Limits,
        first: &[u8],
        expects: bool,
    ) {
        self.body = match framing {
            BodyFraming::Length(0) => Body::Nothing,
            BodyFraming::Length(length) => Body::Length(length),
            BodyFraming::Chunked => Body::Chunked(Box::new(Chunks::of_request(limits))),
        };
        // A client that sends it at once does not wait for 100.
        self.expects = expects && first.is_empty();
        if !first.is_empty() {
            self.inbox
                .get_or_insert_with(|| self.buffers.for_request())
                .append(first);
        }
        self.downstream
            .watch
            .set_between(matches!(self.body, Body::Nothing));
    }

    /// Whether all of the request's body was read.
    #[must_use]
    pub fn is_body_read(&self) -> bool {
        matches!(self.body, Body::Nothing)
    }

    /// Whether the client waits for 100 (Continue) before it sends its body.
    #[must_use]
    pub fn waits_for_continue(&self) -> bool {
        self.expects
    }

    /// Reads into `ahead`, once there is something to read: while it is empty, none is borrowed. 0:
    /// the client has ended.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill(this: &RefCell<Self>, ahead: &mut Option<Buffer>) -> io::Result<usize> {
        Ok(Self::fill_unless(this, |_| false, ahead)
            .await?
            .unwrap_or(0))
    }

    /// As [`Self::fill`], but none is the result when `given_up`, which is called while there is
    /// nothing in `ahead` and nothing to read.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill_unless(
        this: &RefCell<Self>,
        mut given_up: impl FnMut(&mut Context<'_>) -> bool,
        ahead: &mut Option<Buffer>,
    ) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            let mut this = this.borrow_mut();
            let this = &mut *this;
            ready!(this.poll_outbox(cx))?;
            let Some(io) = &mut this.io else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let buffers = &this.buffers;
            loop {
                let Some(present) = ahead else {
                    if io.poll_readable(cx)?.is_pending() {
                        break;
                    }
                    *ahead = Some(buffers.for_request());
                    continue;
                };
                let polled = present.poll_read(io, cx);
                if polled.is_pending()
                    && present.filled().is_empty()
                    && let Some(empty) = ahead.take()
                {
                    buffers.give_back(empty);
                    break;
                }
                return polled.map_ok(Some);
            }
            if given_up(cx) {
                Poll::Ready(Ok(None))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// The next step of the body; its data goes to `put`, in as many pieces as it has chunks. What
    /// was read of a chunked body is looked at as a whole first: where it turns out to be none,
    /// nothing of it is handed over.
    ///
    /// # Errors
    /// See [`Broken`]; the same ever after.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        put: impl FnMut(&[u8]),
    ) -> Poll<Result<Step, Broken>> {
        let step = ready!(self.poll_step(cx, put));
        match &step {
            Ok(Step::Data) if !self.is_body_over() => {}
            Ok(_) => self.body_ended(Body::Nothing),
            Err(_) => self.body_ended(Body::Broken),
        }
        Poll::Ready(step)
    }

    /// Nothing comes behind what was handed over.
    fn is_body_over(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.is_done() && !chunks.has_trailers(),
            Body::Nothing | Body::Broken => false,
        }
    }

    fn body_ended(&mut self, body: Body) {
        self.downstream
            .watch
            .set_between(matches!(body, Body::Nothing));
        self.body = body;
        self.expects = false;
        if let Some(waker) = self.waits_aside.take() {
            waker.wake();
        }
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        mut put: impl FnMut(&[u8]),
    ) -> Poll<Result<Step, Broken>> {
        loop {
            let filled = self.inbox.as_ref().map_or(&[][..], Buffer::filled);
            let (used, data) = match &mut self.body {
                Body::Nothing | Body::Length(0) => return Poll::Ready(Ok(Step::End(None))),
                Body::Broken => {
                    return Poll::Ready(Err(Broken::Left(io::ErrorKind::BrokenPipe.into())));
                }
                Body::Length(left) => {
                    let here = filled
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    put(&filled[..here]);
                    (here, here)
                }
                Body::Chunked(chunks) => {
                    let (used, data) = unwrapped(chunks, filled, &mut put)?;
                    if chunks.is_done() {
                        let trailers = chunks.trailers()?;
                        if data == 0 {
                            self.use_up(used);
                            return Poll::Ready(Ok(Step::End(trailers)));
                        }
                    }
                    (used, data)
                }
            };
            self.use_up(used);
            if data > 0 {
                return Poll::Ready(Ok(Step::Data));
            }
            ready!(self.poll_more(cx))?;
        }
    }

    fn use_up(&mut self, count: usize) {
        if let Some(inbox) = &mut self.inbox {
            inbox.consume(count);
        }
    }

    /// Reads more of the body.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if std::mem::take(&mut self.expects) {
            self.outbox.extend_from_slice(CONTINUE);
        }
        ready!(self.poll_outbox(cx)).map_err(Broken::Left)?;
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(Broken::Left(io::ErrorKind::NotConnected.into())));
        };
        let buffers = &self.buffers;
        loop {
            let Some(inbox) = &mut self.inbox else {
                // What TLS has decrypted wakes no socket.
                if io.plain().is_some() && io.poll_readable(cx).map_err(Broken::Left)?.is_pending()
                {
                    self.downstream.watch.activity().waits_to_read();
                    return Poll::Pending;
                }
                self.inbox = Some(buffers.for_response());
                continue;
            };
            inbox.make_room(READ_MIN);
            let polled = inbox.poll_read(io, cx);
            if polled.is_pending()
                && inbox.filled().is_empty()
                && let Some(empty) = self.inbox.take()
            {
                buffers.give_back(empty);
            }
            return match ready!(polled) {
                Ok(0) => Poll::Ready(Err(Broken::Left(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(Broken::Left(error))),
            };
        }
    }

    /// The body is not taken for now, so the client is not waited for.
    pub fn pause_body(&self) {
        if !self.is_body_read() {
            self.downstream.watch.activity().stop_reading();
        }
    }

    /// Takes what the client sends while it waits for a response, so that its end is seen; and
    /// writes what is in the outbox. Ready: it is gone for sure.
    pub fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_outbox() && matches!(self.poll_outbox(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        if !self.is_body_read() {
            self.waits_aside = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(io) = &mut self.io else {
            return Poll::Ready(());
        };
        let buffers = &self.buffers;
        while !self.ended
            && self.inbox.as_ref().map_or(0, |inbox| inbox.filled().len()) + self.behind < ASIDE_MAX
        {
            let Some(inbox) = &mut self.inbox else {
                if ready!(io.poll_readable(cx)).is_err() {
                    return Poll::Ready(());
                }
                self.inbox = Some(buffers.for_request());
                continue;
            };
            inbox.make_room(READ_MIN);
            let polled = inbox.poll_read(io, cx);
            if inbox.filled().is_empty()
                && let Some(empty) = self.inbox.take()
            {
                buffers.give_back(empty);
            }
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(0)) => {
                    // It may have no more requests and still want the response (RFC 9112 section
                    // 9.6).
                    self.ended = true;
                    self.downstream.watch.set_ended();
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Pending
    }

    /// So many bytes of next requests lie elsewhere already.
    pub fn set_behind(&mut self, behind: usize) {
        self.behind = behind;
    }

    /// Whether the kernel knows of an end of the client that reading has not come to: behind bytes
    /// that are not taken.
    #[must_use]
    pub fn hangs_up(&self) -> HangUp {
        self.io.as_ref().map_or(HangUp::No, ClientStream::hangs_up)
    }

    /// The client's socket, if bytes can go to it past this process.
    #[must_use]
    pub fn plain(&self) -> Option<&TcpStream> {
        if self.has_outbox() {
            None
        } else {
            self.io.as_ref()?.plain()
        }
    }

    /// Puts what was read and not used behind what is in `ahead`.
    pub fn fetch(&mut self, ahead: &mut Option<Buffer>) {
        let Some(inbox) = self.inbox.take() else {
            return;
        };
        match ahead {
            Some(ahead) if !inbox.filled().is_empty() => ahead.append(inbox.filled()),
            None if !inbox.filled().is_empty() => {
                *ahead = Some(inbox);
                return;
            }
            _ => {}
        }
        self.buffers.give_back(inbox);
    }

    /// Whether something waits to be written first.
    #[must_use]
    pub fn has_outbox(&self) -> bool {
        !self.outbox.is_empty() || !self.downstream.interim.borrow().is_empty()
    }

    /// Writes what was put aside for it: 100 (Continue), and interim responses of instances.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_outbox() {
            if self.outbox.is_empty() {
                // Not before: as long as they wait there, no more of them are read from instances.
                self.outbox = std::mem::take(&mut *self.downstream.interim.borrow_mut());
            }
            let Some(io) = &mut self.io else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            while self.outbox_written < self.outbox.len() {
                let written =
                    ready!(Pin::new(&mut *io).poll_write(cx, &self.outbox[self.outbox_written..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.outbox_written += written;
            }
            ready!(Pin::new(io).poll_flush(cx))?;
            (self.outbox, self.outbox_written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes three pieces one behind another, in one call where the client takes them; `done` is
    /// how much of them is written.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_write(
        &mut self,
        pieces: [&[u8]; 3],
        done: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(cx))?;
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        while *done < total {
            let mut skip = *done;
            let left = pieces.map(|piece| {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                IoSlice::new(&piece[skipped..])
            });
            // Empty slices in front would look like the end to a stream that writes one slice at a
            // time.
            let first = left.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &left[first..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *done += written;
        }
        Pin::new(io).poll_flush(cx)
    }
}

impl Drop for H1Stream {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            self.buffers.give_back(inbox);
        }
    }
}

/// Takes all chunks out of `filled`: how many bytes were used, and how many of them are data.
fn unwrapped(
    chunks: &mut Chunks,
    filled: &[u8],
    put: &mut impl FnMut(&[u8]),
) -> Result<(usize, usize), Violation> {
    let (mut at, mut total) = (0, 0);
    while at < filled.len() && !chunks.is_done() {
        let (skipped, data) = chunks.unwrap(&filled[at..])?;
        if data > 0 {
            put(&filled[at + skipped..at + skipped + data]);
        }
        at += skipped + data;
        total += data;
    }
    Ok((at, total))
}

/// The body of a request in HTTP/1, to be taken piece by piece.
#[derive(Debug)]
pub struct H1Body(Rc<RefCell<H1Stream>>);

impl H1Body {
    /// The body that was begun on this stream.
    #[must_use]
    pub fn new(stream: &Rc<RefCell<H1Stream>>) -> Self {
        Self(Rc::clone(stream))
    }

    /// See [`H1Stream::poll_body`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        put: impl FnMut(&[u8]),
    ) -> Poll<Result<Step, Broken>> {
        self.0.borrow_mut().poll_body(cx, put)
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.borrow().is_body_read()
    }

    /// It is not taken for now.
    pub fn pause(&self) {
        self.0.borrow().pause_body();
    }
}

/// Reads and throws away a body that is not wanted; false if that would take too long, or the
/// client left.
pub async fn discard(stream: &RefCell<H1Stream>, most: usize) -> bool {
    let mut left = most;
    loop {
        let step = poll_fn(|cx| {
            stream
                .borrow_mut()
                .poll_body(cx, |data| left = left.saturating_sub(data.len()))
        });
        match step.await {
            Ok(Step::End(_)) => return true,
            Ok(Step::Data) if stream.borrow().is_body_read() => return true,
            Ok(Step::Data) if left > 0 => {}
            _ => return false,
        }
    }
}
