//! The response of an instance that speaks HTTP/1 as a body, for clients that do not get its bytes
//! as they came.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;

use super::h1::{H1Response, poll_fill};
use super::h1_send::RequestWriter;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::h1::buffer::Buffer;
use crate::proxy::http::h1::chunked::Chunks;
use crate::proxy::http::h1::response_head::Framing;
use crate::proxy::http::h1::syntax::Violation;
use crate::proxy::http::h1::write_head;
use crate::proxy::pool::PoolKey;
use crate::proxy::splice::Stream as _;
use crate::proxy::worker::Worker;
use crate::table::{InFlight, TargetState};

/// Bytes still to come from which on they are read to where they stay, not into a buffer that is
/// used again.
const OWN_ROOM_MIN: u64 = 16 << 10;
/// Most of them at once.
const OWN_ROOM_MAX: usize = 64 << 10;

/// The rest of a response.
#[derive(Debug)]
pub struct H1ResponseBody {
    worker: Rc<Worker>,
    target: Arc<TargetState>,
    key: PoolKey,
    /// None: given back, or given up.
    stream: Option<UpstreamStream>,
    buffer: Option<Buffer>,
    outgoing: RequestWriter,
    rest: Rest,
    keep: bool,
    keeps_s: Option<u64>,
}

/// What is still to come.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Box<Chunks>),
    UntilClose,
    Nothing,
}

/// Why one broke off.
#[derive(Debug, thiserror::Error)]
pub enum H1ResponseBodyError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended too early.
    #[error("its connection ended")]
    Early,
    /// The client broke off its request.
    #[error("the client broke off its request")]
    Upload,
    /// What came is not a body.
    #[error("{}", .0.reason)]
    Malformed(Violation),
}

/// What a response becomes: its head and its body, the load counter of its instance, and the time
/// it took.
#[derive(Debug)]
pub struct Opened {
    /// Head and body.
    pub response: Response<Box<H1ResponseBody>>,
    /// Counts the request at the instance while it lives.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head.
    pub took: std::time::Duration,
}

impl H1ResponseBody {
    /// Takes over a response of the instance `target`.
    #[must_use]
    pub fn open(worker: &Rc<Worker>, target: &Arc<TargetState>, answer: H1Response) -> Opened {
        let H1Response {
            key,
            stream,
            mut buffer,
            head,
            fields,
            outgoing,
            in_flight,
            took,
            ..
        } = answer;
        let headers = write_head::response_map(buffer.filled(), &head, &fields);
        buffer.consume(head.length);
        worker.scratch.buffers.give_back_fields(fields);
        let rest = match head.framing {
            Framing::Empty => Rest::Nothing,
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Box::new(Chunks::of_response())),
            Framing::UntilClose => Rest::UntilClose,
        };
        let mut body = Box::new(Self {
            worker: Rc::clone(worker),
            target: Arc::clone(target),
            key,
            stream: Some(stream),
            buffer: Some(buffer),
            outgoing,
            rest,
            keeps_s: head.keeps_s,
            keep: head.keep && head.status != StatusCode::SWITCHING_PROTOCOLS.as_u16(),
        });
        if matches!(body.rest, Rest::Nothing) {
            body.end();
        }
        let mut response = Response::new(body);
        // Three digits, as the parser has seen.
        *response.status_mut() =
            StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = headers;
        Opened {
            response,
            in_flight,
            took,
        }
    }

    /// Whether nothing comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.rest, Rest::Nothing)
    }

    /// Whether the client is waited for, to send more of its request; and how much of that the
    /// instance has taken.
    #[must_use]
    pub fn uploads(&self) -> (bool, u64) {
        (self.outgoing.waits_for_client(), self.outgoing.sent())
    }

    /// Bytes still to come, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.rest {
            Rest::Length(left) => Some(left),
            Rest::Nothing => Some(0),
            Rest::Chunked(_) | Rest::UntilClose => None,
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// See [`H1ResponseBodyError`]; nothing comes after one.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, H1ResponseBodyError>>> {
        let next = ready!(self.poll_frame(cx));
        if matches!(next, Some(Err(_))) {
            self.stream = None;
            self.rest = Rest::Nothing;
        }
        Poll::Ready(next)
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, H1ResponseBodyError>>> {
        loop {
            match self.take() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(violation) => {
                    return Poll::Ready(Some(Err(H1ResponseBodyError::Malformed(violation))));
                }
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(None);
            };
            self.outgoing.poll(stream, cx);
            if self.outgoing.is_broken() {
                return Poll::Ready(Some(Err(H1ResponseBodyError::Upload)));
            }
            if let Rest::Length(left) = &mut self.rest
                && *left >= OWN_ROOM_MIN
                && stream.plain().is_some()
                && self
                    .buffer
                    .as_ref()
                    .is_none_or(|buffer| buffer.filled().is_empty())
            {
                // Until there is something to read there is no room for it.
                if let Err(error) = ready!(stream.poll_readable(cx)) {
                    return Poll::Ready(Some(Err(error.into())));
                }
                let room = usize::try_from(*left)
                    .unwrap_or(OWN_ROOM_MAX)
                    .min(OWN_ROOM_MAX);
                let mut data = BytesMut::with_capacity(room);
                let mut room = (&mut *stream).take(room as u64);
                let read = ready!(pin!(room.read_buf(&mut data)).poll(cx));
                match read {
                    Ok(0) => return Poll::Ready(Some(Err(H1ResponseBodyError::Early))),
                    Ok(read) => {
                        *left -= read as u64;
                        if *left == 0 {
                            self.end();
                        }
                        // A little must not hold much room for as long as its client does not take
                        // it.
                        let little = read < data.capacity() / 2;
                        let data = if little {
                            Bytes::copy_from_slice(&data)
                        } else {
                            data.freeze()
                        };
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                }
            }
            match ready!(poll_fill(stream, &mut self.buffer, &self.worker, cx)) {
                Ok(0) if matches!(self.rest, Rest::UntilClose) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(H1ResponseBodyError::Early))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The next frame of what was read. None: more has to be read, or it is over.
    fn take(&mut self) -> Result<Option<Frame<Bytes>>, Violation> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(None);
        };
        if buffer.filled().is_empty() {
            return Ok(None);
        }
        let data = match &mut self.rest {
            Rest::Nothing => return Ok(None),
            Rest::UntilClose => buffer.filled().len(),
            Rest::Length(left) => {
                let here = buffer
                    .filled()
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                here
            }
            Rest::Chunked(chunks) => {
                let (skipped, data) = chunks.unwrap(buffer.filled())?;
                buffer.consume(skipped);
                data
            }
        };
        let frame =
            (data > 0).then(|| Frame::data(Bytes::copy_from_slice(&buffer.filled()[..data])));
        buffer.consume(data);
        // Of TLS, only a read tells what is decrypted already.
        let plain = self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.plain().is_some());
        if let Some(empty) = self
            .buffer
            .take_if(|buffer| plain && buffer.filled().is_empty())
        {
            self.worker.scratch.buffers.give_back(empty);
        }
        let trailers = match &self.rest {
            Rest::Chunked(chunks) if chunks.is_done() => chunks.trailers()?,
            Rest::Length(0) => None,
            _ => return Ok(frame),
        };
        self.end();
        Ok(frame.or_else(|| trailers.map(Frame::trailers)))
    }

    /// The response is through: its connection is for others now, if nothing speaks against it.
    fn end(&mut self) {
        self.rest = Rest::Nothing;
        let buffer = self.buffer.take();
        let over = buffer
            .as_ref()
            .is_some_and(|buffer| !buffer.filled().is_empty());
        if let Some(buffer) = buffer {
            self.worker.scratch.buffers.give_back(buffer);
        }
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        if self.outgoing.is_through() && self.keep && !over && stream.is_quiet(false) {
            let most = self.worker.settings().proxy.upstream_max_idle;
            let now_ms = self.worker.clock.now_ms();
            self.worker.pool.give_back_h1(
                self.key.clone(),
                &self.target,
                stream,
                now_ms,
                most,
                self.keeps_s,
            );
        }
        self.worker
            .scratch
            .buffers
            .give_back_head(self.outgoing.take_room());
    }
}
