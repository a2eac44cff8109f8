//! A body on its way into a stream, as fast as the other side makes room.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;
use tokio::task::JoinHandle;

/// Moves one body into one stream.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and waits for room.
    held: Option<Bytes>,
    /// Bytes handed to the stream.
    sent: u64,
    /// The next piece goes without room.
    ahead: bool,
    /// What the other side is told if the body breaks off and does not say why.
    on_break: Reason,
}

/// Why a body did not get through.
#[derive(Debug, thiserror::Error)]
pub enum PumpError<E> {
    /// It broke off by itself.
    #[error("{0}")]
    Body(E),
    /// The other side wants no more of it.
    #[error("reset by the other side: {0}")]
    Reset(Reason),
    /// The stream, or its connection, ended.
    #[error("{0}")]
    Stream(#[from] h2::Error),
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    /// Of a client's upload. A stream that we open has no room before it was announced: the first
    /// piece, which is often the only one, is handed over all the same, and waits in the
    /// connection.
    #[must_use]
    pub fn of_upload(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            held: None,
            sent: 0,
            ahead: true,
            on_break: Reason::CANCEL,
        }
    }

    /// Of an upstream's response, or one of our own.
    #[must_use]
    pub fn of_response(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            held: None,
            sent: 0,
            ahead: false,
            on_break: Reason::INTERNAL_ERROR,
        }
    }

    /// How many bytes were handed to the stream.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the other side is waited for, to make room.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.held.is_some()
    }

    /// Resets the stream; what is left of the body.
    pub fn cancel(mut self) -> B {
        self.stream.send_reset(Reason::CANCEL);
        self.body
    }

    /// Moves on. Ready when the last byte is with the connection.
    ///
    /// # Errors
    /// See [`PumpError`]. The stream is reset then, so that the other side does not take a part for
    /// the whole.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError<B::Error>>> {
        loop {
            if let Some(mut data) = self.held.take() {
                let room = if std::mem::take(&mut self.ahead) {
                    data.len()
                } else {
                    match self.poll_room(cx) {
                        Poll::Ready(room) => room?,
                        Poll::Pending => {
                            self.held = Some(data);
                            return Poll::Pending;
                        }
                    }
                };
                // No more than there is room for: what waits in the connection is seen by no clock,
                // and not counted.
                if room < data.len() {
                    self.held = Some(data.split_off(room));
                }
                self.sent += data.len() as u64;
                let last = self.held.is_none() && self.body.is_end_stream();
                self.stream.send_data(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                if self.held.is_some() {
                    // Room for it was reserved together with that for the rest.
                    continue;
                }
            }
            // The body first, then room for what is there: room that is reserved ahead is taken
            // from other streams.
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                // Polled here alone: the task that polls this is woken by every change of the
                // stream's room, too.
                Poll::Pending => {
                    return self
                        .stream
                        .poll_reset(cx)?
                        .map(|reason| Err(PumpError::Reset(reason)));
                }
                Poll::Ready(frame) => frame,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream
                        .send_reset(error.reason().unwrap_or(self.on_break));
                    return Poll::Ready(Err(PumpError::Body(error)));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
            };
            match frame.into_data() {
                // Empty ones need no room.
                Ok(data) if data.is_empty() && self.body.is_end_stream() => {
                    self.stream.send_data(data, true)?;
                    return Poll::Ready(Ok(()));
                }
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.stream.reserve_capacity(data.len());
                    self.held = Some(data);
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        self.stream.send_trailers(trailers)?;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Waits until the stream and its connection take at least one byte: how many they take.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, h2::Error>> {
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => room.map(drop)?,
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            }
        }
        Poll::Ready(Ok(self.stream.capacity()))
    }
}

/// An upload that goes on while its response comes in. It ends when this is dropped.
#[derive(Debug)]
pub struct Upload(JoinHandle<()>);

impl Upload {
    /// Sends the rest of a body.
    #[must_use]
    pub fn spawn<B>(mut pump: Pump<B>) -> Self
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::fmt::Display + ResetReason,
    {
        Self(tokio::task::spawn_local(async move {
            if let Err(error) = poll_fn(|cx| pump.poll(cx)).await {
                tracing::debug!(%error, "an upload ended early");
            }
        }))
    }
}

impl Upload {
    /// Whether something of it is still to be sent.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.0.is_finished()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An error that may say what HTTP/2 calls it.
pub trait ResetReason {
    /// The name.
    fn reason(&self) -> Option<Reason>;
}
