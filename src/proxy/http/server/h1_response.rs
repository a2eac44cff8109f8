//! An answer on its way to the client: its head, and its body as it comes.

use std::future::poll_fn;
use std::io::Write as _;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Response};

use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::client_io::ClientStream;
use crate::proxy::http::h1::buffer::Buffer;
use crate::proxy::http::h1::chunked::Chunks;
use crate::proxy::http::h1::response_head::Framing;
use crate::proxy::http::h1::write_head::{self, Telling};
use crate::proxy::http::record::{Finish, Lease};
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::server::h1::End;
use crate::proxy::http::server::h1_stream::Front;
use crate::proxy::http::upstream::h1::{DirectAnswer, poll_fill};
use crate::proxy::http::upstream::h1_send::Outgoing;
use crate::proxy::settings::Settings;
use crate::proxy::splice::{Moved, SpliceError, Stream as _};
use crate::proxy::worker::Worker;
use crate::table::Target;

/// A body of which so many bytes are still to come, at least, goes past this process.
const SPLICE_MIN: u64 = 64 << 10;

/// What an answer is passed on with.
#[derive(Clone, Copy, Debug)]
pub struct PassOn<'a> {
    /// This worker.
    pub worker: &'a Rc<Worker>,
    /// The client's connection.
    pub downstream: &'a Rc<Downstream>,
    /// Header rules and pool limits.
    pub settings: &'a Settings,
    /// The client's connection ends with the answer.
    pub close: bool,
}

/// What is left of a body.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// The next part of it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    length: usize,
    data: u64,
}

impl Body {
    fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Piece, &'static str> {
        match self {
            Self::Length(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Ok(Piece { length, data: length as u64 })
            }
            Self::Chunked(chunks) => chunks.feed(bytes).map(|piece| Piece { length: piece.length, data: piece.data }),
            Self::UntilClose => Ok(Piece { length: bytes.len(), data: bytes.len() as u64 }),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::UntilClose => false,
        }
    }
}

impl PassOn<'_> {
    /// Passes on an answer of `target`, to its end, and gives its connection back.
    ///
    /// # Errors
    /// The end of the client's connection.
    pub async fn answer<T: ClientStream>(
        &self,
        front: &mut Front<'_, T>,
        answer: DirectAnswer,
        target: &Target,
        finish: &mut Finish,
    ) -> Result<(), End> {
        let DirectAnswer { key, mut stream, mut buffer, head, fields, interim, mut outgoing, in_flight, took, .. } =
            answer;
        finish.answered(target, head.status, in_flight, Lease::Direct, took);
        let buffers = &self.worker.direct.buffers;
        let mut out = buffers.for_head();
        out.extend_from_slice(&interim);
        let mut put = |date: &str| {
            let telling = Telling { client: &self.downstream.client, settings: self.settings, date, close: self.close };
            write_head::put_answer(&mut out, buffer.filled(), &head, &fields, &telling);
        };
        if head.dated {
            put("");
        } else {
            self.worker.direct.date.with(SystemTime::now(), put);
        }
        buffer.consume(head.length);
        buffers.give_back_fields(fields);
        let mut body = Body::new(head.framing);
        let mut buffer = Some(buffer);
        loop {
            let filled = buffer.as_ref().map_or(&[][..], Buffer::filled);
            let piece = body.take(filled).map_err(|reason| broken(finish, &reason))?;
            let mut tail: &[u8] = b"";
            if matches!(body, Body::UntilClose) && piece.length > 0 {
                // Writing into memory cannot fail.
                let _ = write!(out, "{:x}\r\n", piece.length);
                tail = b"\r\n";
            }
            front.write([&out, &filled[..piece.length], tail]).await.map_err(|_| End::Abrupt)?;
            out.clear();
            finish.add_bytes(usize::try_from(piece.data).unwrap_or(usize::MAX));
            if let Some(buffer) = &mut buffer {
                buffer.consume(piece.length);
            }
            if let Body::Length(left) = &mut body
                && *left >= SPLICE_MIN
            {
                self.splice(front, &mut stream, &mut outgoing, left, finish).await?;
            }
            if body.is_done() {
                break;
            }
            let read = poll_fn(|cx| {
                outgoing.poll(&mut stream, cx);
                if let Poll::Ready(read) = poll_fill(&mut stream, &mut buffer, self.worker, cx) {
                    return Poll::Ready(Some(read));
                }
                front.poll_aside(cx).map(|()| None)
            });
            match read.await {
                None => return Err(End::Abrupt),
                Some(Ok(1..)) => {}
                Some(Ok(0)) if matches!(body, Body::UntilClose) => {
                    front.write([b"0\r\n\r\n", b"", b""]).await.map_err(|_| End::Abrupt)?;
                    break;
                }
                Some(ended) => {
                    self.worker.pool.look_for_loss(&key, &target.state, self.worker.clock.now_ms());
                    return Err(match ended {
                        Ok(_) => broken(finish, &"its connection ended"),
                        Err(error) => broken(finish, &error),
                    });
                }
            }
        }
        let now = Instant::now();
        finish.complete_at(now);
        let over = buffer.as_ref().is_some_and(|buffer| !buffer.filled().is_empty());
        if outgoing.is_through() && head.keep && !over && stream.is_quiet(false) {
            let (now_ms, most) = (self.worker.clock.at(now), self.settings.proxy.upstream_max_idle);
            self.worker.pool.give_back_direct(key, &target.state, stream, now_ms, most);
        }
        buffers.give_back_head(outgoing.take_room());
        buffers.give_back_head(out);
        if let Some(buffer) = buffer {
            buffers.give_back(buffer);
        }
        Ok(())
    }

    /// Lets the rest of a long body go from socket to socket, where both are plain.
    async fn splice<T: ClientStream>(
        &self,
        front: &mut Front<'_, T>,
        stream: &mut UpstreamStream,
        outgoing: &mut Outgoing,
        left: &mut u64,
        finish: &mut Finish,
    ) -> Result<(), End> {
        if stream.plain().is_none() || front.plain().is_none() {
            return Ok(());
        }
        let Some(mut pipe) = self.worker.pipes.take() else { return Ok(()) };
        let activity = self.downstream.watch.activity();
        while *left > 0 {
            let moved = poll_fn(|cx| {
                outgoing.poll(stream, cx);
                let (Some(from), Some(to)) = (stream.plain(), front.plain()) else { return Poll::Ready(None) };
                if let Poll::Ready(moved) = pipe.poll_move(from, to, *left, cx) {
                    return Poll::Ready(Some(moved));
                }
                if !pipe.is_empty() {
                    activity.wrote(true);
                }
                front.poll_aside(cx).map(|()| None)
            });
            match moved.await {
                Some(Ok(Moved::Some(bytes))) => {
                    activity.wrote(false);
                    *left = left.saturating_sub(bytes as u64);
                    finish.add_bytes(bytes);
                }
                Some(Ok(Moved::End)) => return Err(broken(finish, &"its connection ended")),
                Some(Err(SpliceError::Read(error))) => return Err(broken(finish, &error)),
                Some(Err(SpliceError::Write(_))) | None => return Err(End::Abrupt),
            }
        }
        self.worker.pipes.give_back(pipe);
        Ok(())
    }

    /// Sends an answer made here.
    ///
    /// # Errors
    /// The end of the client's connection.
    pub async fn own<T: ClientStream>(
        &self,
        front: &mut Front<'_, T>,
        response: &Response<Bytes>,
        method: &Method,
        finish: &mut Finish,
    ) -> Result<(), End> {
        let mut out = self.worker.direct.buffers.for_head();
        let head_only = *method == Method::HEAD;
        self.worker
            .direct
            .date
            .with(SystemTime::now(), |date| write_head::put_own(&mut out, response, head_only, date, self.close));
        front.write([&out, b"", b""]).await.map_err(|_| End::Abrupt)?;
        self.worker.direct.buffers.give_back_head(out);
        if !head_only {
            finish.add_bytes(response.body().len());
        }
        finish.complete();
        Ok(())
    }
}

/// The upstream broke off inside the body, or what came is none: the client sees a broken answer too.
fn broken(finish: &mut Finish, why: &dyn std::fmt::Display) -> End {
    finish.broke("upstream_body", why);
    End::Abrupt
}
