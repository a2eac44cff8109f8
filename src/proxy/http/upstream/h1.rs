//! The driver for instances that speak HTTP/1: one attempt, up to the head of the response or,
//! where the request could be sent again, to the first of its body.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::Method;
use tokio::time::Sleep;

use super::attempts::Attempted;
use super::error::{AttemptError, BoxError, HEAD_HELD_MAX};
use super::h1_send::RequestWriter;
use crate::proxy::connect::{ConnectError, UpstreamStream};
use crate::proxy::http::h1::buffer::{Buffer, READ_MIN};
use crate::proxy::http::h1::response_head::{self, Framing, Parsed, ResponseHead};
use crate::proxy::http::h1::scan::Field;
use crate::proxy::http::h1::write_head;
use crate::proxy::http::request_body::RequestBody;
use crate::proxy::http::server::downstream::Downstream;
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::clock::ms;
use crate::table::{InFlight, Target};

/// Most bytes of interim responses that wait for the client.
const INTERIM_MAX: usize = 64 << 10;

/// A connection that a request may go on.
#[derive(Debug)]
pub struct H1Connection {
    /// Its key in the pool.
    pub key: PoolKey,
    /// The connection.
    pub stream: UpstreamStream,
    /// It had served requests before.
    pub reused: bool,
    /// Since when it is there.
    pub since: Instant,
}

impl H1Connection {
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
        let key = PoolKey::of(target, &settings.client_certificates);
        let now = Instant::now();
        let idle_max_ms = ms(settings.proxy.upstream_idle_timeout);
        let before = target.state.presence();
        let warm = |key| {
            worker
                .pool
                .checkout_h1(key, worker.clock.at(now), idle_max_ms, surely)
        };
        if let Some(stream) = if fresh_only { None } else { warm(&key) } {
            return Ok(Self {
                key,
                stream,
                reused: true,
                since: now,
            });
        }
        if target.state.presence() != before {
            return Err(ConnectError::Gone);
        }
        // Counts while it connects, so that others go elsewhere.
        let _connecting = InFlight::new(std::sync::Arc::clone(&target.state));
        // Boxed: it is rare, and larger than all the rest, which is moved about.
        let stream = Box::pin(worker.pool.connect(target, settings, false)).await?;
        Ok(Self {
            key,
            stream,
            reused: false,
            since: Instant::now(),
        })
    }
}

/// An upstream connection that has a request.
#[derive(Debug)]
pub struct PendingResponse {
    worker: Rc<Worker>,
    key: PoolKey,
    stream: UpstreamStream,
    /// It had served requests before.
    reused: bool,
    outgoing: RequestWriter,
    method: Method,
    /// The request has no body and may be sent again.
    repeatable: bool,
    buffer: Option<Buffer>,
    fields: Vec<Field>,
    /// What interim responses go to; none: the client does not know them.
    interim_to: Option<Rc<Downstream>>,
    head: Option<ResponseHead>,
    /// Since when the head waits for the first of its body.
    held: Option<Pin<Box<Sleep>>>,
    since: Instant,
    in_flight: InFlight,
}

/// The head of a response, and what comes with it.
#[derive(Debug)]
pub struct H1Response {
    /// The key of its connection in the pool.
    pub key: PoolKey,
    /// The connection it comes on.
    pub stream: UpstreamStream,
    /// What was read: the head, and behind it what came with it.
    pub buffer: Buffer,
    /// The head.
    pub head: ResponseHead,
    /// Its fields, in `buffer`.
    pub fields: Vec<Field>,
    /// What is left of the request: the connection is fit for another one when both are through.
    pub outgoing: RequestWriter,
    /// The instance's load counter.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head of the response.
    pub took: Duration,
    /// When that was.
    pub at: Instant,
}

impl PendingResponse {
    /// Gives a connection to `target` a request.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        connection: H1Connection,
        outgoing: RequestWriter,
        method: Method,
        repeatable: bool,
        target: &Target,
        interim_to: Option<&Rc<Downstream>>,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            key: connection.key,
            stream: connection.stream,
            reused: connection.reused,
            outgoing,
            method,
            repeatable,
            buffer: None,
            fields: worker.scratch.buffers.for_fields(),
            interim_to: interim_to.cloned(),
            head: None,
            held: None,
            since: connection.since,
            in_flight: InFlight::new(std::sync::Arc::clone(&target.state)),
        }
    }

    /// Sends on and reads on, as far as it goes. Ready when [`Self::into_response`] has one.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        self.outgoing.poll(&mut self.stream, cx);
        if self.outgoing.is_broken() {
            return Poll::Ready(Err(self.closed("the client broke off its request".into())));
        }
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
        let read = ready!(poll_fill(
            &mut self.stream,
            &mut self.buffer,
            &self.worker,
            cx
        ))?;
        Poll::Ready(if read == 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        })
    }

    /// Finds the head among what was read, and takes interim ones away before it.
    fn look_for_head(&mut self) -> Result<(), &'static str> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(());
        };
        loop {
            match response_head::parse(buffer.filled(), &self.method, &mut self.fields) {
                Parsed::Whole(head) if head.is_interim() => {
                    if let Some(client) = &self.interim_to
                        && client.interim.borrow().len() < INTERIM_MAX
                    {
                        let mut interim = client.interim.borrow_mut();
                        write_head::put_interim(&mut interim, buffer.filled(), &head, &self.fields);
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

    /// A head whose body is known to come waits a moment for it, while the request can still be had
    /// elsewhere: many servers write the two apart, and one that is stopped at once is stopped,
    /// more often than not, in a call between the two. A body of unknown length is not waited for,
    /// because of a stream of events the head is news by itself.
    fn poll_first_of_body(
        &mut self,
        cx: &mut Context<'_>,
        head: ResponseHead,
    ) -> Poll<Result<(), AttemptError>> {
        let there = self
            .buffer
            .as_ref()
            .is_none_or(|buffer| buffer.filled().len() > head.length);
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
        let held = self
            .held
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_HELD_MAX)));
        held.as_mut().poll(cx).map(Ok)
    }

    fn closed(&self, source: BoxError) -> AttemptError {
        AttemptError::Closed {
            source,
            reused: self.reused,
            unsent: self.outgoing.unsent(&self.stream),
        }
    }

    /// What [`Self::poll`] found.
    #[must_use]
    pub fn into_response(self) -> Option<H1Response> {
        let (head, buffer) = (self.head?, self.buffer?);
        let at = Instant::now();
        Some(H1Response {
            key: self.key,
            stream: self.stream,
            buffer,
            head,
            fields: self.fields,
            outgoing: self.outgoing,
            in_flight: self.in_flight,
            took: at.saturating_duration_since(self.since),
            at,
        })
    }

    /// Reads on until there is a response.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub async fn response(mut self) -> Attempted<H1Response, RequestBody> {
        poll_fn(|cx| self.poll(cx)).await?;
        self.into_response()
            .ok_or(AttemptError::Request("no head was found".to_owned()))
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
            *buffer = Some(worker.scratch.buffers.for_response());
            continue;
        };
        let polled = present.poll_read(stream, cx);
        if polled.is_pending()
            && present.filled().is_empty()
            && let Some(empty) = buffer.take()
        {
            worker.scratch.buffers.give_back(empty);
        }
        return polled;
    }
}
