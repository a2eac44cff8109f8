//! One request and the instances it may go to: what each of them is sent, by the driver of the
//! protocol that it speaks.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri, Version};
use hyper::body::Frame;
use tokio::time::{Instant, timeout};

use super::attempts::{AttemptLoop, Attempted, Deadlines, InFlightAttempt, Start, Transport};
use super::error::{AttemptError, HEAD_HELD_MAX};
use super::h1::{H1Connection, PendingResponse};
use super::h1_send::RequestWriter;
use super::h2::{H2Connection, SendError};
use super::response::{H2Response, UpstreamResponse};
use crate::proxy::connect::{ConnectError, UpstreamStream};
use crate::proxy::error::ProxyError;
use crate::proxy::http::decide::{Forward, Incoming};
use crate::proxy::http::grpc;
use crate::proxy::http::h1::write_head::{ClientLines, Outbound, put_request};
use crate::proxy::http::h2::stream_body::{StreamBody, StreamBodyError};
use crate::proxy::http::head::{Content, Head, is_idempotent};
use crate::proxy::http::headers;
use crate::proxy::http::path::NormalPath;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::request_body::{RequestBody, UploadProgress};
use crate::proxy::moving_deadline::MovingDeadline;
use crate::proxy::pool::{PoolKey, StreamGuard};
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::clock::ms;
use crate::table::{ErrorStatus, InFlight, Target};

/// The longest deadline of a call of gRPC that counts in place of ours, where nothing but the call
/// itself says that it is one.
const OWN_DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// One request on its way to an instance.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The request.
    pub incoming: &'a Incoming<'a>,
    /// Its path, decoded.
    pub path: &'a NormalPath<'a>,
    /// Its route and its first target.
    pub forward: &'a Forward,
    /// What its client's requests have in common.
    pub lines: &'a ClientLines,
    /// A connection to the first target that belongs to the client.
    pub bound: RefCell<Option<UpstreamStream>>,
}

/// The client left while it waited.
#[derive(Clone, Copy, Debug)]
pub struct ClientGone;

/// What a request came to, while its client waited for it: whose the response is.
pub type Found<'a> = Result<Result<&'a Target, ProxyError>, ClientGone>;

/// When a request began, and what keeps its time.
#[derive(Debug)]
pub struct Timing<'t> {
    /// When it began.
    pub now: Instant,
    /// The same on the process clock.
    pub now_ms: u64,
    /// The client's timer.
    pub timer: &'t mut MovingDeadline,
}

enum Waited {
    Over(Result<(), AttemptError>),
    ClientGone,
    Late,
}

impl<'a> Exchange<'a> {
    fn worker(&self) -> &'a Rc<Worker> {
        self.incoming.worker
    }

    fn head(&self) -> &'a Head<'a> {
        self.incoming.head
    }

    fn settings(&self) -> &'a Settings {
        self.incoming.settings
    }

    fn outbound(&self) -> Outbound<'_> {
        let (head, path, id) = (self.head(), self.path, self.incoming.id);
        Outbound {
            head,
            path,
            id,
            granted: self.forward.granted.as_deref(),
        }
    }

    /// Finds a response, and puts it into `found`: it is large. `aside` is polled whenever the task
    /// is woken: ready when the client is gone for sure.
    ///
    /// # Errors
    /// See [`ClientGone`].
    pub async fn find(
        &'a self,
        body: RequestBody,
        upload: &UploadProgress,
        timing: Timing<'_>,
        finish: &mut RequestRecord,
        found: &mut Option<UpstreamResponse>,
        mut aside: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Found<'a> {
        let (worker, settings, head) = (self.worker(), self.settings(), self.head());
        let timeless = self.limit_call(finish);
        let doublable = head.may_be_doubled();
        let policies = self.forward.first().options.policies.as_deref();
        if let Some(policies) = policies {
            upload.bytes_max.set(policies.body_max);
        }
        if let Some(granted) = &self.forward.granted {
            upload.withheld.replace(granted.names().cloned().collect());
        }
        let retries = policies.and_then(|policies| policies.retries);
        let attempt_loop = AttemptLoop {
            attempts_max: retries.map_or(settings.proxy.retry.attempts, |retries| retries + 1),
            worker,
            settings,
            route: &self.forward.route,
            hash: self.forward.hash,
            version: head.version,
            repeatable: head.is_repeatable(),
            doublable,
        };
        let Timing { now, now_ms, timer } = timing;
        let body_timeout = self
            .incoming
            .downstream
            .listener
            .limits(&settings.proxy)
            .body;
        let deadlines = Deadlines::from(now, settings, body_timeout, doublable, timeless)
            .with_response(policies.and_then(|policies| policies.timeout))
            .with_end(finish.ends_by());
        worker.budget.borrow_mut().record_request(now_ms);
        let first = self.forward.first();
        // Most requests find a connection that is open, and a response on it: no box is made, and
        // no future is moved.
        let begin = match self.on_warm(first, body, now, now_ms) {
            Err(body) => Start::New(first, body),
            Ok(Err(error)) => {
                self.begun(first, finish);
                Start::Failed(first, error)
            }
            Ok(Ok(mut pending)) => {
                self.begun(first, finish);
                let waiting = poll_fn(|cx| {
                    if let Poll::Ready(over) = pending.poll(cx) {
                        return Poll::Ready(Waited::Over(over));
                    }
                    if aside(cx).is_ready() {
                        return Poll::Ready(Waited::ClientGone);
                    }
                    timer
                        .poll_until(deadlines.next(), cx)
                        .map(|()| Waited::Late)
                });
                match waiting.await {
                    Waited::ClientGone => return Err(ClientGone),
                    Waited::Over(Err(error)) => Start::Failed(first, error),
                    Waited::Over(Ok(())) => match pending.into_response() {
                        Some(response) => {
                            let at = response.at;
                            let response = found.insert(UpstreamResponse::H1(response));
                            attempt_loop.note_response(
                                first,
                                response.took(),
                                worker.clock.at(at),
                                self.failed(response),
                            );
                            return Ok(Ok(first));
                        }
                        None => Start::Failed(
                            first,
                            AttemptError::Request("no head was found".to_owned()),
                        ),
                    },
                    Waited::Late => {
                        let future: LocalBoxFuture<'a, _> =
                            Box::pin(async { pending.response().await.map(UpstreamResponse::H1) });
                        Start::Asked(InFlightAttempt {
                            target: first,
                            started: now,
                            future,
                        })
                    }
                }
            }
        };
        // Boxed: rare, and as large as everything else together.
        let mut asked = Box::pin(attempt_loop.run(self, begin, deadlines, upload, finish));
        poll_fn(|cx| {
            if let Poll::Ready(answered) = asked.as_mut().poll(cx) {
                return Poll::Ready(Ok(answered.map(|(target, response)| {
                    *found = Some(response);
                    target
                })));
            }
            aside(cx).map(|()| Err(ClientGone))
        })
        .await
    }

    /// Whether the limit for the head of a response does not hold, because it is a call of gRPC:
    /// those bring their own. What says so is the route, the listener or a deadline of the call's
    /// own, which then holds; a Content-Type alone is any client's word.
    fn limit_call(&self, finish: &mut RequestRecord) -> bool {
        static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
        let (head, listener) = (self.head(), &self.incoming.downstream.listener);
        if !head.grpc {
            return false;
        }
        if self.forward.first().options.proto.is_grpc() || listener.is_grpc() {
            return true;
        }
        let own = head.fields.get(&GRPC_TIMEOUT).and_then(grpc::timeout);
        let ours = listener.limits(&self.settings().proxy).request;
        if let Some(limit) = own.into_iter().chain(ours).min() {
            finish.limit(limit);
        }
        own.is_some_and(|own| own <= OWN_DEADLINE_MAX)
    }

    fn begun(&self, target: &Target, finish: &mut RequestRecord) {
        finish.attempt_started(target);
        self.note_attempt(target, finish);
    }

    /// A pooled connection of HTTP/1 to `target` that gets the request. Errors: there is none (the
    /// body comes back), or the request cannot be written for this target.
    fn on_warm(
        &self,
        target: &Target,
        body: RequestBody,
        now: Instant,
        now_ms: u64,
    ) -> Result<Result<PendingResponse, AttemptError>, RequestBody> {
        if target.options.proto.is_h2() {
            return Err(body);
        }
        let key = PoolKey::of(target, &self.settings().client_certificates);
        let idle_max_ms = ms(self.settings().proxy.upstream_idle_timeout);
        let bound = self
            .bound
            .take()
            .and_then(|mut stream| stream.is_quiet(true).then_some(stream));
        let warm = bound.or_else(|| {
            self.worker()
                .pool
                .checkout_h1(&key, now_ms, idle_max_ms, self.once_only())
        });
        let Some(stream) = warm else { return Err(body) };
        let connection = H1Connection {
            key,
            stream,
            reused: true,
            since: now.into_std(),
        };
        Ok(self.send_h1(connection, body, target))
    }

    /// What may not be sent twice is not sent on a connection whose end lies in the kernel, unread.
    fn once_only(&self) -> bool {
        !self.head().is_bodiless() || !is_idempotent(self.head().method)
    }

    fn send_h1(
        &self,
        connection: H1Connection,
        body: RequestBody,
        target: &Target,
    ) -> Result<PendingResponse, AttemptError> {
        let (worker, head, client) = (self.worker(), self.head(), &self.incoming.downstream.client);
        let mut request = worker.scratch.buffers.for_head();
        put_request(
            &mut request,
            &self.outbound(),
            self.settings(),
            client,
            self.lines,
            target,
        )
        .map_err(|error| AttemptError::Request(error.to_string()))?;
        let content = if let Content::Whole(content) = head.content {
            content
        } else {
            b""
        };
        let outgoing = RequestWriter::new(request, content, body, &connection.stream);
        let interim_to = (head.version == Version::HTTP_11).then_some(self.incoming.downstream);
        let (method, repeatable) = (head.method.clone(), head.is_repeatable());
        Ok(PendingResponse::new(
            worker, connection, outgoing, method, repeatable, target, interim_to,
        ))
    }

    /// The head as an instance that speaks HTTP/1 gets it, in a buffer of its own.
    ///
    /// # Errors
    /// It cannot be expressed towards that instance.
    pub fn h1_head(&self, target: &Target) -> Result<Vec<u8>, String> {
        let (client, mut head) = (&self.incoming.downstream.client, Vec::with_capacity(1024));
        let (outbound, settings) = (self.outbound(), self.settings());
        put_request(&mut head, &outbound, settings, client, self.lines, target)
            .map_err(|error| error.to_string())?;
        Ok(head)
    }

    async fn attempt_h1(
        &self,
        target: &Target,
        body: RequestBody,
        fresh_only: bool,
    ) -> Attempted<UpstreamResponse, RequestBody> {
        let to = H1Connection::to(
            target,
            self.worker(),
            self.settings(),
            fresh_only,
            self.once_only(),
        )
        .await;
        let connection = match to {
            Ok(connection) => connection,
            Err(source) => return Err(AttemptError::Connect { source, body }),
        };
        let response = self.send_h1(connection, body, target)?.response().await?;
        Ok(UpstreamResponse::H1(response))
    }

    async fn attempt_h2(
        &self,
        target: &Target,
        body: RequestBody,
        fresh_only: bool,
    ) -> Attempted<UpstreamResponse, RequestBody> {
        let key = PoolKey::of(target, &self.settings().client_certificates);
        let worker = self.worker();
        let in_flight = InFlight::new(Arc::clone(&target.state));
        let now_ms = worker.clock.now_ms();
        let before = target.state.presence();
        let warm = if fresh_only {
            None
        } else {
            worker.pool.checkout_h2(&key, now_ms)
        };
        let mut warm = warm;
        if warm.is_some() && self.once_only() {
            // The end of a connection may lie in the kernel, unread: one turn of the event loop,
            // and it is known before rather than after something was sent that may not be sent
            // twice.
            tokio::task::yield_now().await;
            while warm.as_ref().is_some_and(|(shared, _)| shared.is_closed()) {
                warm = worker.pool.checkout_h2(&key, now_ms);
            }
        }
        let reused = warm.is_some();
        let (shared, stream) = match warm {
            Some(connection) => connection,
            None if target.state.presence() != before => {
                return Err(AttemptError::Connect {
                    source: ConnectError::Gone,
                    body,
                });
            }
            // Boxed: it is rare, and larger than all the rest, which is moved about.
            None => {
                match Box::pin(worker.pool.open_h2(&key, target, self.settings(), now_ms)).await {
                    Ok(connection) => connection,
                    Err(source) => return Err(AttemptError::Connect { source, body }),
                }
            }
        };
        self.send_h2(shared, stream, body, target, in_flight, reused)
            .await
    }

    async fn send_h2(
        &self,
        shared: H2Connection,
        stream: StreamGuard,
        body: RequestBody,
        target: &Target,
        in_flight: InFlight,
        reused: bool,
    ) -> Attempted<UpstreamResponse, RequestBody> {
        let request = self.h2_request(target)?;
        let content = match self.head().content {
            Content::Whole(content) if !content.is_empty() => Bytes::copy_from_slice(content),
            _ => Bytes::new(),
        };
        let sent = Instant::now();
        let mut response = match shared.send(request, content, body).await {
            Ok(response) => response,
            // The instance has not looked at it: the stream was behind the last one of a connection
            // that ends in order, which does not speak against the instance, or was refused by an
            // instance that is there and does not do its work.
            Err(SendError::Refused {
                source,
                body,
                reset,
            }) => {
                return Err(AttemptError::Closed {
                    source,
                    reused: !reset,
                    unsent: Some(body),
                });
            }
            Err(SendError::Unsent { source, body }) => {
                return Err(AttemptError::Closed {
                    source,
                    reused,
                    unsent: Some(body),
                });
            }
            // The connection is well: it was not closed just then because it idled.
            Err(SendError::Lost(source)) if source.is_reset() => {
                return Err(AttemptError::Closed {
                    source: source.into(),
                    reused: false,
                    unsent: None,
                });
            }
            Err(SendError::Lost(source)) => {
                return Err(AttemptError::Closed {
                    source: source.into(),
                    reused,
                    unsent: None,
                });
            }
            Err(SendError::Impossible(error)) => {
                return Err(AttemptError::Request(error.to_string()));
            }
        };
        let took = sent.elapsed();
        let first = if self.head().is_repeatable() {
            first_of_body(&mut response).await
        } else {
            Ok(None)
        };
        // Nothing of it was passed on yet, so it can still be had elsewhere.
        let first = first.map_err(|source| {
            let reused = reused && source.reason().is_none();
            AttemptError::Closed {
                source: source.into(),
                reused,
                unsent: None,
            }
        })?;
        Ok(UpstreamResponse::H2(Box::new(H2Response {
            response,
            first,
            stream,
            in_flight,
            took,
        })))
    }

    /// The head as an instance that speaks HTTP/2 gets it: scheme and authority are pseudo header
    /// fields, which come from an absolute URI.
    ///
    /// # Errors
    /// It cannot be expressed towards that instance.
    pub fn h2_request(&self, target: &Target) -> Result<Request<()>, AttemptError> {
        let wrong = |error: &dyn std::fmt::Display| AttemptError::Request(error.to_string());
        let outbound = self.outbound();
        let path = outbound.target_for(target).map_err(|error| wrong(&error))?;
        let path = PathAndQuery::try_from(&*path).map_err(|error| wrong(&error))?;
        let host = self.head().host_value();
        let client = &self.incoming.downstream.client;
        let context =
            outbound.context(host.as_ref(), &self.settings().header_rules, client, target);
        let authority = headers::upstream_host(&context);
        let mut request = Request::new(());
        *request.method_mut() = self.head().method.clone();
        *request.uri_mut() = absolute(path, &authority, target.options.proto.is_tls())?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = outbound.fields(&context);
        Ok(request)
    }
}

fn absolute(path: PathAndQuery, host: &HeaderValue, tls: bool) -> Result<Uri, AttemptError> {
    let authority = Authority::try_from(host.as_bytes()).map_err(|error| {
        AttemptError::Request(format!(
            "host {host:?} is not a host with an optional port: {error}"
        ))
    })?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls {
        UriScheme::HTTPS
    } else {
        UriScheme::HTTP
    });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| AttemptError::Request(error.to_string()))
}

/// The beginning of a body that is known to come, as [`PendingResponse`] waits for it.
async fn first_of_body(
    response: &mut Response<StreamBody>,
) -> Result<Option<Frame<Bytes>>, StreamBodyError> {
    let body = response.body_mut();
    if body.is_over() || body.left().is_none() {
        return Ok(None);
    }
    // Polling loses nothing when it is given up.
    match timeout(HEAD_HELD_MAX, poll_fn(|cx| body.poll_next(cx))).await {
        Ok(first) => first.transpose(),
        Err(_) => Ok(None),
    }
}

impl<'a> Transport<'a> for Exchange<'a> {
    type Body = RequestBody;
    type Response = UpstreamResponse;

    fn attempt(
        &'a self,
        target: &'a Target,
        body: RequestBody,
        fresh_only: bool,
    ) -> LocalBoxFuture<'a, Attempted<UpstreamResponse, RequestBody>> {
        if target.options.proto.is_h2() {
            Box::pin(self.attempt_h2(target, body, fresh_only))
        } else {
            Box::pin(self.attempt_h1(target, body, fresh_only))
        }
    }

    fn is_eligible(&self, target: &Target) -> bool {
        self.incoming
            .respond_here(target, &self.forward.admitted_by)
            .is_none()
    }

    fn latency(response: &UpstreamResponse) -> Duration {
        response.took()
    }

    fn failed(&self, response: &UpstreamResponse) -> bool {
        let rule = self.settings().health.error_status;
        // A call that failed before it said anything has its status in the head (the gRPC protocol:
        // Trailers-Only).
        let unavailable = || self.head().grpc && response.field("grpc-status") == Some(b"14");
        rule.counts(response.status()) || (rule != ErrorStatus::Off && unavailable())
    }

    fn note_attempt(&self, target: &Target, finish: &mut RequestRecord) {
        if let Some(format) = self.worker().access.custom()
            && let Some(fields) = finish.note().and_then(|note| note.custom.as_mut())
        {
            let rules = &self.settings().header_rules;
            fields.goes_to(
                format,
                rules,
                &self.outbound(),
                &self.incoming.downstream.client,
                target,
            );
        }
    }
}
