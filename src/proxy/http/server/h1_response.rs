//! A response on its way to a client that speaks HTTP/1: its head, and its body as it comes.
//!
//! Bytes of an instance that speaks HTTP/1 too pass as they came, where nothing has to be done to
//! them. The end of a response is known before its first byte is passed on: by its length, by its
//! chunks, which are followed, or by the end of its connection, which is turned into chunks. What
//! comes behind that end is never passed on, and its connection never used again. Where the
//! instance breaks off, the client's connection ends before the length, or the last chunk, that was
//! promised.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::body::{Body as _, Frame};
use tokio::time::Instant;

use super::downstream::Downstream;
use super::end::End;
use super::h1_stream::H1Stream;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::error::ProxyError;
use crate::proxy::http::h1::buffer::Buffer;
use crate::proxy::http::h1::chunked::{Chunks, put_size};
use crate::proxy::http::h1::response_head::Framing;
use crate::proxy::http::h1::spelling::Spelling;
use crate::proxy::http::h1::write_head::{self, Fate, Framed, Telling};
use crate::proxy::http::headers;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::response_body::{BodyError, ResponseBody};
use crate::proxy::http::upstream::h1::{H1Response, poll_fill};
use crate::proxy::http::upstream::h1_send::RequestWriter;
use crate::proxy::http::upstream::quiet::{FELL_SILENT, quiet_max};
use crate::proxy::http::upstream::response::UpstreamResponse;
use crate::proxy::moving_deadline::MovingDeadline;
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::splice::{Moved, SpliceError, Stream as _};
use crate::proxy::worker::Worker;
use crate::table::Target;

/// A body of which so many bytes are still to come, at least, goes past this process.
const SPLICE_MIN: u64 = 64 << 10;

/// What a response is passed on with.
#[derive(Debug)]
pub struct Responder<'a> {
    /// This worker.
    pub worker: &'a Rc<Worker>,
    /// The client's connection.
    pub downstream: &'a Rc<Downstream>,
    /// Its stream.
    pub client: &'a RefCell<H1Stream>,
    /// Header rules and pool limits.
    pub settings: &'a Settings,
    /// The version that the client speaks.
    pub version: Version,
    /// It requested the head alone.
    pub head_only: bool,
    /// What becomes of its connection.
    pub fate: Fate,
    /// The connection of the response is this client's alone from now on.
    pub binds: bool,
    /// It, once the response is through.
    pub bound: Option<BoundConnection>,
    /// A cookie that the response of the instance sets beside its own.
    pub cookie: Option<HeaderValue>,
    /// The timer of the client's connection.
    pub timer: &'a mut MovingDeadline,
}

/// A connection to an instance that belongs to one client connection.
#[derive(Debug)]
pub struct BoundConnection {
    /// How it was made.
    pub key: PoolKey,
    /// The key of its instance.
    pub instance: u64,
    /// The connection.
    pub stream: UpstreamStream,
}

/// What is left of a body.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Box<Chunks>),
    UntilClose,
}

/// The next part of it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Bytes that were used.
    length: usize,
    /// Those of them that pass as they came.
    passes: usize,
    data: u64,
}

impl Body {
    fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Box::new(Chunks::of_response())),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Piece, &'static str> {
        match self {
            Self::Length(left) => {
                let length = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Ok(Piece {
                    length,
                    passes: length,
                    data: length as u64,
                })
            }
            Self::Chunked(chunks) => {
                let piece = chunks.feed(bytes).map_err(|violation| violation.reason)?;
                Ok(Piece {
                    length: piece.length,
                    passes: piece.passes,
                    data: piece.data,
                })
            }
            Self::UntilClose => {
                let length = bytes.len();
                Ok(Piece {
                    length,
                    passes: length,
                    data: length as u64,
                })
            }
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

/// What the wait for more of a response came to.
enum Waited {
    Read(io::Result<usize>),
    ClientGone,
    /// The client broke off its upload.
    UploadBroken,
    Overdue,
    /// Nothing came for too long.
    Silent,
}

/// How long the instance may be waited for, in one wait.
struct Quiet {
    max: Option<Duration>,
    since: Option<Instant>,
    /// Bytes of the request that it had taken.
    sent: u64,
}

impl Quiet {
    /// When this wait ends at the latest: by `ends_by`, and by the silence of the instance where it
    /// is `for_instance`, which has taken `sent` bytes of the request so far.
    fn waits_until(
        &mut self,
        ends_by: Option<Instant>,
        for_instance: bool,
        sent: u64,
    ) -> Option<Instant> {
        if !for_instance || std::mem::replace(&mut self.sent, sent) != sent {
            self.since = None;
        }
        if !for_instance {
            return ends_by;
        }
        let Some(max) = self.max else { return ends_by };
        let silent_at = *self.since.get_or_insert_with(Instant::now) + max;
        Some(ends_by.map_or(silent_at, |by| by.min(silent_at)))
    }
}

impl Responder<'_> {
    /// Whether the bytes of a response framed like this can pass as they came.
    #[must_use]
    pub fn passes_bytes(&self, framing: Framing) -> bool {
        self.version == Version::HTTP_11 || matches!(framing, Framing::Empty | Framing::Length(_))
    }

    /// Passes on the bytes of the response of `target` that was found, to its end, and gives its
    /// connection back.
    ///
    /// # Errors
    /// The end of the client's connection.
    pub async fn bytes(
        &mut self,
        found: &mut Option<UpstreamResponse>,
        target: &Target,
        finish: &mut RequestRecord,
    ) -> Result<(), End> {
        // Of most all is there already.
        let limit = self.settings.proxy.response_idle_timeout;
        let waits = found.as_ref().filter(|response| !response.is_whole());
        let quiet_max = waits.and_then(|response| quiet_max(limit, response.field("content-type")));
        let Some(UpstreamResponse::H1(response)) = found.take() else {
            return Err(End::Abrupt);
        };
        let H1Response {
            key,
            mut stream,
            mut buffer,
            head,
            fields,
            mut outgoing,
            in_flight,
            took,
            ..
        } = response;
        finish.set_response(target, head.status, in_flight, None, took);
        let buffers = &self.worker.scratch.buffers;
        let mut out = buffers.for_head();
        let mut put = |date: &str| {
            let telling = Telling {
                client: &self.downstream.client,
                settings: self.settings,
                date,
                fate: self.fate,
                edits: finish.response_edits(),
                cookie: self.cookie.as_ref(),
            };
            write_head::put_response(&mut out, buffer.filled(), &head, &fields, &telling);
        };
        if head.dated {
            put("");
        } else {
            self.worker.scratch.date.with(SystemTime::now(), put);
        }
        buffer.consume(head.length);
        buffers.give_back_fields(fields);
        let mut body = Body::new(head.framing);
        let mut buffer = Some(buffer);
        loop {
            let filled = buffer.as_ref().map_or(&[][..], Buffer::filled);
            let piece = body
                .take(filled)
                .map_err(|reason| broken(finish, &reason))?;
            let mut tail: &[u8] = b"";
            let mut trailers = Vec::new();
            match &body {
                Body::UntilClose if piece.length > 0 => {
                    put_size(&mut out, piece.length);
                    tail = b"\r\n";
                }
                Body::Chunked(chunks) if chunks.is_done() => {
                    chunks
                        .put_trailers(&mut trailers)
                        .map_err(|violation| broken(finish, &violation.reason))?;
                    tail = &trailers;
                }
                _ => {}
            }
            let pieces = [&out[..], &filled[..piece.passes], tail];
            self.write(pieces, |cx| outgoing.poll(&mut stream, cx))
                .await?;
            out.clear();
            finish.add_bytes(usize::try_from(piece.data).unwrap_or(usize::MAX));
            if let Some(buffer) = &mut buffer {
                buffer.consume(piece.length);
            }
            if let Body::Length(left) = &mut body
                && *left >= SPLICE_MIN
            {
                self.splice(&mut stream, &mut outgoing, left, quiet_max, finish)
                    .await?;
            }
            if body.is_done() {
                break;
            }
            let limits = (finish.ends_by(), quiet_max);
            match self
                .more(&mut stream, &mut buffer, &mut outgoing, limits)
                .await
            {
                Waited::Read(Ok(1..)) => {}
                Waited::Read(Ok(0)) if matches!(body, Body::UntilClose) => {
                    self.write([b"0\r\n\r\n", b"", b""], |_| {}).await?;
                    break;
                }
                Waited::Read(ended) => {
                    self.worker
                        .pool
                        .look_for_loss(&key, &target.state, self.worker.clock.now_ms());
                    return Err(match ended {
                        Ok(_) => broken(finish, &"its connection ended"),
                        Err(error) => broken(finish, &error),
                    });
                }
                Waited::ClientGone | Waited::UploadBroken => return Err(End::Abrupt),
                Waited::Overdue => return Err(overdue(finish)),
                Waited::Silent => return Err(broken(finish, &FELL_SILENT)),
            }
        }
        let now = Instant::now().into_std();
        finish.complete_at(now);
        let over = buffer
            .as_ref()
            .is_some_and(|buffer| !buffer.filled().is_empty());
        if outgoing.is_through() && head.keep && !over && stream.is_quiet(false) {
            let (now_ms, most) = (
                self.worker.clock.at(now),
                self.settings.proxy.upstream_max_idle,
            );
            match self.binds {
                true => {
                    self.bound = Some(BoundConnection {
                        key,
                        instance: target.state.key,
                        stream,
                    })
                }
                false => self.worker.pool.give_back_h1(
                    key,
                    &target.state,
                    stream,
                    now_ms,
                    most,
                    head.keeps_s,
                ),
            }
        }
        buffers.give_back_head(outgoing.take_room());
        buffers.give_back_head(out);
        if let Some(buffer) = buffer {
            buffers.give_back(buffer);
        }
        Ok(())
    }

    /// Writes to the client; `also` is called whenever the task is woken meanwhile.
    async fn write(
        &self,
        pieces: [&[u8]; 3],
        mut also: impl FnMut(&mut Context<'_>),
    ) -> Result<(), End> {
        let mut done = 0;
        poll_fn(|cx| {
            also(cx);
            self.client.borrow_mut().poll_write(pieces, &mut done, cx)
        })
        .await
        .map_err(|_| End::Abrupt)
    }

    /// Reads on, and sends on what is left of the request. `ends_by` is when the request has to be
    /// over, `quiet_max` how long its instance may be waited for.
    async fn more(
        &mut self,
        stream: &mut UpstreamStream,
        buffer: &mut Option<Buffer>,
        outgoing: &mut RequestWriter,
        (ends_by, quiet_max): (Option<Instant>, Option<Duration>),
    ) -> Waited {
        let mut quiet = Quiet {
            max: quiet_max,
            since: None,
            sent: 0,
        };
        poll_fn(|cx| {
            outgoing.poll(stream, cx);
            if outgoing.is_broken() {
                return Poll::Ready(Waited::UploadBroken);
            }
            if let Poll::Ready(read) = poll_fill(stream, buffer, self.worker, cx) {
                return Poll::Ready(Waited::Read(read));
            }
            if self.client.borrow_mut().poll_aside(cx).is_ready() {
                return Poll::Ready(Waited::ClientGone);
            }
            match quiet.waits_until(ends_by, !outgoing.waits_for_client(), outgoing.sent()) {
                Some(end) => self.timer.poll_until(end, cx).map(|()| {
                    match ends_by.is_some_and(|by| by <= end) {
                        true => Waited::Overdue,
                        false => Waited::Silent,
                    }
                }),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Lets the rest of a long body go from socket to socket, where both are plain.
    async fn splice(
        &mut self,
        stream: &mut UpstreamStream,
        outgoing: &mut RequestWriter,
        left: &mut u64,
        quiet_max: Option<Duration>,
        finish: &mut RequestRecord,
    ) -> Result<(), End> {
        if stream.plain().is_none() || self.client.borrow().plain().is_none() {
            return Ok(());
        }
        let Some(mut pipe) = self.worker.pipes.take() else {
            return Ok(());
        };
        let activity = self.downstream.watch.activity();
        let ends_by = finish.ends_by();
        while *left > 0 {
            let mut quiet = Quiet {
                max: quiet_max,
                since: None,
                sent: 0,
            };
            let moved = poll_fn(|cx| {
                outgoing.poll(stream, cx);
                if outgoing.is_broken() {
                    return Poll::Ready(None);
                }
                let mut client = self.client.borrow_mut();
                let (Some(from), Some(to)) = (stream.plain(), client.plain()) else {
                    return Poll::Ready(None);
                };
                if let Poll::Ready(moved) = pipe.poll_move(from, to, *left, cx) {
                    return Poll::Ready(Some(Ok(moved)));
                }
                if !pipe.is_empty() {
                    activity.wrote(true);
                }
                if client.poll_aside(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // With something in the pipe it is the client that is waited for.
                match quiet.waits_until(
                    ends_by,
                    pipe.is_empty() && !outgoing.waits_for_client(),
                    outgoing.sent(),
                ) {
                    Some(end) => self.timer.poll_until(end, cx).map(|()| Some(Err(end))),
                    None => Poll::Pending,
                }
            });
            match moved.await {
                Some(Ok(Ok(Moved::Some(bytes)))) => {
                    activity.wrote(false);
                    *left = left.saturating_sub(bytes as u64);
                    finish.add_bytes(bytes);
                }
                Some(Ok(Ok(Moved::End))) => return Err(broken(finish, &"its connection ended")),
                Some(Ok(Err(SpliceError::Read(error)))) => return Err(broken(finish, &error)),
                Some(Ok(Err(SpliceError::Write(_)))) | None => return Err(End::Abrupt),
                Some(Err(end)) if ends_by.is_some_and(|by| by <= end) => {
                    return Err(overdue(finish));
                }
                Some(Err(_)) => return Err(broken(finish, &FELL_SILENT)),
            }
        }
        self.worker.pipes.give_back(pipe);
        Ok(())
    }

    /// Passes on a response frame by frame; its record ends with its body. `spelling` of one that
    /// came in HTTP/1.
    ///
    /// # Errors
    /// The end of the client's connection, which is the end of a body whose end a client of
    /// HTTP/1.0 could not know otherwise.
    pub async fn frames(
        &mut self,
        response: Response<ResponseBody>,
        spelling: Option<&Spelling>,
    ) -> Result<(), End> {
        let (parts, mut body) = response.into_parts();
        let bodiless = self.head_only || has_no_body(parts.status);
        let framed = match (bodiless, body.size_hint().exact()) {
            (true, _) => Framed::Bodiless,
            (false, Some(length)) => Framed::Length(length),
            (false, None) if self.version == Version::HTTP_11 => Framed::Chunked,
            (false, None) => Framed::UntilClose,
        };
        let fate = if framed == Framed::UntilClose {
            Fate::Closes
        } else {
            self.fate
        };
        let mut out = self.worker.scratch.buffers.for_head();
        self.worker.scratch.date.with(SystemTime::now(), |date| {
            write_head::put_made(
                &mut out,
                (parts.status, &parts.headers),
                framed,
                date,
                fate,
                spelling,
            );
        });
        if bodiless {
            self.write([&out, b"", b""], |_| {}).await?;
            body.leave_out();
            return Ok(());
        }
        let chunked = framed == Framed::Chunked;
        // What is there of the body at once goes with the head.
        let mut held = true;
        loop {
            let next = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending if std::mem::take(&mut held) && !out.is_empty() => Poll::Ready(None),
                Poll::Pending => match self.client.borrow_mut().poll_aside(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Some(Err(BodyError::ClientGone)))),
                    Poll::Pending => Poll::Pending,
                },
            });
            let Some(frame) = next.await else {
                self.write([&out, b"", b""], |_| {}).await?;
                out.clear();
                continue;
            };
            held = false;
            match frame {
                Some(Ok(frame)) => {
                    if self.frame(frame, chunked, &mut out).await? {
                        break;
                    }
                }
                Some(Err(_)) => return Err(End::Abrupt),
                None => {
                    if chunked {
                        out.extend_from_slice(b"0\r\n\r\n");
                    }
                    self.write([&out, b"", b""], |_| {}).await?;
                    break;
                }
            }
        }
        self.worker.scratch.buffers.give_back_head(out);
        if framed == Framed::UntilClose {
            Err(End::Orderly(b""))
        } else {
            Ok(())
        }
    }

    /// Writes one frame behind what is in `out`; whether it was the last.
    async fn frame(
        &self,
        frame: Frame<Bytes>,
        chunked: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, End> {
        let (data, over) = match frame.into_data() {
            Ok(data) if data.is_empty() => return Ok(false),
            Ok(data) => (data, false),
            Err(_) if !chunked => return Ok(false),
            Err(trailers) => {
                out.extend_from_slice(b"0\r\n");
                write_head::put_trailers(out, trailers.trailers_ref());
                (Bytes::new(), true)
            }
        };
        let in_chunk = chunked && !over;
        if in_chunk {
            put_size(out, data.len());
        }
        self.write([out, &data, if in_chunk { b"\r\n" } else { b"" }], |_| {})
            .await?;
        out.clear();
        Ok(over)
    }

    /// Sends a response made here.
    ///
    /// # Errors
    /// The end of the client's connection.
    pub async fn own(
        &self,
        mut response: Response<Bytes>,
        finish: &mut RequestRecord,
    ) -> Result<(), End> {
        let (client, rules) = (&self.downstream.client, &self.settings.header_rules);
        headers::secure_transport(response.headers_mut(), client, rules);
        finish.edit_own(&mut response, &self.settings.error_pages);
        let mut out = self.worker.scratch.buffers.for_head();
        let (status, body) = (response.status(), response.body());
        let bodiless = has_no_body(status);
        let framed = if bodiless {
            Framed::Bodiless
        } else {
            Framed::Length(body.len() as u64)
        };
        self.worker.scratch.date.with(SystemTime::now(), |date| {
            write_head::put_made(
                &mut out,
                (status, response.headers()),
                framed,
                date,
                self.fate,
                None,
            );
        });
        let body: &[u8] = if self.head_only || bodiless {
            b""
        } else {
            body
        };
        self.write([&out, body, b""], |_| {}).await?;
        self.worker.scratch.buffers.give_back_head(out);
        finish.add_bytes(body.len());
        finish.complete();
        Ok(())
    }

    /// Sends the head of a response that makes a tunnel of the connection.
    ///
    /// # Errors
    /// The end of the client's connection.
    pub async fn switch(&self, response: &Response<()>, spelling: &Spelling) -> Result<(), End> {
        let mut out = Vec::with_capacity(256);
        self.worker.scratch.date.with(SystemTime::now(), |date| {
            let head = (response.status(), response.headers());
            write_head::put_made(
                &mut out,
                head,
                Framed::Bodiless,
                date,
                Fate::Silent,
                Some(spelling),
            );
        });
        self.write([&out, b"", b""], |_| {}).await
    }
}

/// RFC 9110 section 6.4.1.
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The instance broke off inside the body, or what came is none: the client sees a broken response
/// too.
fn broken(finish: &mut RequestRecord, why: &dyn std::fmt::Display) -> End {
    finish.abort("upstream_body", why);
    End::Abrupt
}

fn overdue(finish: &mut RequestRecord) -> End {
    finish.abort(
        ProxyError::RequestTimeout.class(),
        &ProxyError::RequestTimeout,
    );
    End::Abrupt
}
