//! One attempt, byte by byte: a request to one instance, up to the head of its answer or, where the request could be
//! asked again, to the first of its body.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use http::Method;
use tokio::time::Sleep;

use crate::proxy::connect::{ConnectError, UpstreamStream};
use crate::proxy::http::h1::buffer::{Buffer, READ_MIN};
use crate::proxy::http::h1::response_head::{self, AnswerHead, Framing, Parsed};
use crate::proxy::http::h1::scan::Field;
use crate::proxy::http::h1::write_head::{self, ClientLines, Received};
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::upstream::attempts::{Attempted, Attempts};
use crate::proxy::http::upstream::forward::{AttemptError, HEAD_HELD_MAX, is_idempotent};
use crate::proxy::http::upstream::h1_send::Outgoing;
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::worker::{Worker, ms};
use crate::table::{InFlight, Target};

/// Most bytes of interim answers that wait for the client.
const INTERIM_MAX: usize = 64 << 10;

/// The request lies in the client's buffer, so it can always be written again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Again;

/// What went wrong with an attempt.
pub type Failed = AttemptError<Again>;

/// A connection that a request may go on.
#[derive(Debug)]
pub struct Way {
    /// Whose it is.
    pub key: PoolKey,
    /// The connection.
    pub stream: UpstreamStream,
    /// It had served requests before.
    pub reused: bool,
    /// Since when it is there.
    pub since: Instant,
}

impl Way {
    /// A pooled connection to `target`, unless a fresh one is wanted, or a new one. `surely`: see
    /// [`UpstreamStream::is_quiet`].
    ///
    /// # Errors
    /// As [`connect`](crate::proxy::connect::connect).
    pub async fn to(
        target: &Target,
        worker: &Worker,
        settings: &Settings,
        fresh_only: bool,
        surely: bool,
    ) -> Result<Self, ConnectError> {
        let (key, now) = (PoolKey::of(target), Instant::now());
        let idle_max_ms = ms(settings.proxy.upstream_idle_timeout);
        let before = target.state.presence();
        let warm = |key| worker.pool.checkout_direct(key, worker.clock.at(now), idle_max_ms, surely);
        if let Some(stream) = if fresh_only { None } else { warm(&key) } {
            return Ok(Self { key, stream, reused: true, since: now });
        }
        if target.state.presence() != before {
            return Err(ConnectError::Gone);
        }
        // Counts while it connects, so that others go elsewhere.
        let _connecting = InFlight::new(std::sync::Arc::clone(&target.state));
        // Boxed: it is rare, and larger than all the rest, which is moved about.
        let stream = Box::pin(worker.pool.connect(target, settings, false)).await?;
        Ok(Self { key, stream, reused: false, since: Instant::now() })
    }
}

/// An upstream connection that has a request.
#[derive(Debug)]
pub struct Sent {
    worker: Rc<Worker>,
    key: PoolKey,
    stream: UpstreamStream,
    /// It had served requests before.
    reused: bool,
    outgoing: Outgoing,
    method: Method,
    /// The request has no body and may be asked again.
    repeatable: bool,
    buffer: Option<Buffer>,
    fields: Vec<Field>,
    interim: Vec<u8>,
    head: Option<AnswerHead>,
    /// Since when the head waits for the first of its body.
    held: Option<Pin<Box<Sleep>>>,
    since: Instant,
    in_flight: InFlight,
}

/// The head of an answer, and what comes with it.
#[derive(Debug)]
pub struct DirectAnswer {
    /// Whose it is.
    pub key: PoolKey,
    /// The connection it comes on.
    pub stream: UpstreamStream,
    /// What was read: the head, and behind it what came with it.
    pub buffer: Buffer,
    /// The head.
    pub head: AnswerHead,
    /// Its fields, in `buffer`.
    pub fields: Vec<Field>,
    /// Interim answers, as the client gets them.
    pub interim: Vec<u8>,
    /// What is left of the request: the connection is fit for another one when both are through.
    pub outgoing: Outgoing,
    /// The instance's load counter.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head of the answer.
    pub took: Duration,
    /// When that was.
    pub at: Instant,
}

impl Sent {
    /// Gives a connection to `target` a request.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        way: Way,
        outgoing: Outgoing,
        method: Method,
        repeatable: bool,
        target: &Target,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            key: way.key,
            stream: way.stream,
            reused: way.reused,
            outgoing,
            method,
            repeatable,
            buffer: None,
            fields: worker.direct.buffers.for_fields(),
            interim: Vec::new(),
            head: None,
            held: None,
            since: way.since,
            in_flight: InFlight::new(std::sync::Arc::clone(&target.state)),
        }
    }

    /// Sends on and reads on, as far as it goes. Ready when [`Self::into_answer`] has one.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.outgoing.poll(&mut self.stream, cx);
        loop {
            if let Some(head) = self.head {
                return self.poll_first_of_body(cx, head);
            }
            if let Err(error) = ready!(self.poll_read(cx)) {
                return Poll::Ready(Err(self.closed(error.into())));
            }
            if let Err(reason) = self.look_for_head() {
                return Poll::Ready(Err(AttemptError::Protocol(reason.into())));
            }
        }
    }

    /// Reads once; an end is an error.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = ready!(poll_fill(&mut self.stream, &mut self.buffer, &self.worker, cx))?;
        Poll::Ready(if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    /// Finds the head among what was read, and takes interim ones away before it.
    fn look_for_head(&mut self) -> Result<(), &'static str> {
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        loop {
            match response_head::parse(buffer.filled(), &self.method, &mut self.fields) {
                Parsed::Whole(head) if head.is_interim() => {
                    if self.interim.len() < INTERIM_MAX {
                        write_head::put_interim(&mut self.interim, buffer.filled(), &head, &self.fields);
                    }
                    buffer.consume(head.length);
                }
                Parsed::Whole(head) => {
                    self.head = Some(head);
                    return Ok(());
                }
                Parsed::Partial => {
                    buffer.make_room(READ_MIN);
                    return Ok(());
                }
                Parsed::Bad(reason) => return Err(reason),
            }
        }
    }

    /// As on hyper's way: a head whose body is known to come waits a moment for it, while the request can still be had
    /// elsewhere.
    fn poll_first_of_body(&mut self, cx: &mut Context<'_>, head: AnswerHead) -> Poll<Result<(), Failed>> {
        let there = self.buffer.as_ref().is_none_or(|buffer| buffer.filled().len() > head.length);
        if there || !self.repeatable || !matches!(head.framing, Framing::Length(_)) {
            return Poll::Ready(Ok(()));
        }
        if let Some(buffer) = &mut self.buffer {
            // Without room a read looks like the end.
            buffer.make_room(READ_MIN);
        }
        if let Poll::Ready(read) = self.poll_read(cx) {
            return Poll::Ready(read.map_err(|error| self.closed(error.into())));
        }
        let held = self.held.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_HELD_MAX)));
        held.as_mut().poll(cx).map(Ok)
    }

    fn closed(&self, source: crate::proxy::http::upstream::forward::BoxError) -> Failed {
        let unsent = self.outgoing.is_unsent(&self.stream).then_some(Again);
        AttemptError::Closed { source, reused: self.reused, unsent }
    }

    /// Interim answers that came, as the client gets them.
    #[must_use]
    pub fn take_interim(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.interim)
    }

    /// Whether some came.
    #[must_use]
    pub fn has_interim(&self) -> bool {
        !self.interim.is_empty()
    }

    /// What [`Self::poll`] found.
    #[must_use]
    pub fn into_answer(self) -> Option<DirectAnswer> {
        let (head, buffer) = (self.head?, self.buffer?);
        let at = Instant::now();
        Some(DirectAnswer {
            key: self.key,
            stream: self.stream,
            buffer,
            head,
            fields: self.fields,
            interim: self.interim,
            outgoing: self.outgoing,
            in_flight: self.in_flight,
            took: at.saturating_duration_since(self.since),
            at,
        })
    }

    /// Reads on until there is an answer.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub async fn answer(mut self) -> Attempted<DirectAnswer, Again> {
        poll_fn(|cx| self.poll(cx)).await?;
        self.into_answer().ok_or(AttemptError::Request("no head was found".to_owned()))
    }
}

/// Reads into `buffer`, once there is something to read: until then none is borrowed.
pub fn poll_fill(
    stream: &mut UpstreamStream,
    buffer: &mut Option<Buffer>,
    worker: &Worker,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let Some(present) = buffer else {
            ready!(stream.poll_readable(cx))?;
            *buffer = Some(worker.direct.buffers.for_answer());
            continue;
        };
        let polled = present.poll_read(stream, cx);
        if polled.is_pending()
            && present.filled().is_empty()
            && let Some(empty) = buffer.take()
        {
            worker.direct.buffers.give_back(empty);
        }
        return polled;
    }
}

/// What a request is sent from, to whichever instance.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// This worker.
    pub worker: &'a Rc<Worker>,
    /// The client's connection.
    pub downstream: &'a Rc<Downstream>,
    /// Its limits and rules.
    pub settings: &'a Settings,
    /// The request.
    pub received: Received<'a>,
    /// What its client's requests have in common.
    pub lines: &'a ClientLines,
    /// It has no body and is idempotent.
    pub repeatable: bool,
}

impl<'a> Sending<'a> {
    /// A pooled connection to `target` that gets the request at `now`, which is `now_ms` on the process clock; none if there
    /// is no connection.
    ///
    /// # Errors
    /// A request that cannot be written for this target.
    pub fn on_warm(&self, target: &'a Target, now: Instant, now_ms: u64) -> Result<Option<Sent>, Failed> {
        let key = PoolKey::of(target);
        let idle_max_ms = ms(self.settings.proxy.upstream_idle_timeout);
        let warm = self.worker.pool.checkout_direct(&key, now_ms, idle_max_ms, self.once_only());
        warm.map(|stream| self.sent(Way { key, stream, reused: true, since: now }, target)).transpose()
    }

    /// What may not be sent twice is not sent on a connection whose end lies in the kernel, unread.
    fn once_only(&self) -> bool {
        !is_idempotent(&self.received.head.method) || self.received.head.body > 0
    }

    fn sent(&self, way: Way, target: &Target) -> Result<Sent, Failed> {
        let buffers = &self.worker.direct.buffers;
        let mut request = buffers.for_head();
        let client = &self.downstream.client;
        write_head::put_request(&mut request, &self.received, self.settings, client, self.lines, target)
            .map_err(AttemptError::Request)?;
        let outgoing = Outgoing::new(request, self.received.body(), &way.stream);
        Ok(Sent::new(self.worker, way, outgoing, self.received.head.method.clone(), self.repeatable, target))
    }

    async fn ask(self, target: &'a Target, fresh_only: bool) -> Attempted<DirectAnswer, Again> {
        let way = Way::to(target, self.worker, self.settings, fresh_only, self.once_only()).await;
        let way = way.map_err(|source| AttemptError::Connect { source, body: Again })?;
        self.sent(way, target)?.answer().await
    }
}

impl<'a> Attempts<'a> for Sending<'a> {
    type Body = Again;
    type Answer = DirectAnswer;

    fn attempt(
        &self,
        target: &'a Target,
        _again: Again,
        fresh_only: bool,
    ) -> LocalBoxFuture<'a, Attempted<DirectAnswer, Again>> {
        Box::pin((*self).ask(target, fresh_only))
    }

    /// One with other options than the first gets no request from here: they might ask for more than is carried.
    fn may_have(&self, target: &Target) -> bool {
        crate::proxy::http::server::plan::carries(target, &self.downstream.client, self.received.head)
    }

    fn took(answer: &DirectAnswer) -> Duration {
        answer.took
    }

    fn failed(&self, answer: &DirectAnswer) -> bool {
        self.settings.health.error_status.counts(answer.head.status)
    }
}
