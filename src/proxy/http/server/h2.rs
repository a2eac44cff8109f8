//! A client's connection: its streams are requests, one task each.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::downstream::Downstream;
use super::prepared::prepared;
use super::replaced::replaced;
use super::request_note::note_of;
use super::watchdog::{Refusal, WatchdogAction, log_rejected, watchdog};
use crate::config::ListenerProtocol;
use crate::metrics::ClientFault;
use crate::proxy::drain::Phase;
use crate::proxy::error::ProxyError;
use crate::proxy::http::client_io::HangUp;
use crate::proxy::http::connection_auth;
use crate::proxy::http::decide::{self, Decision, Incoming, fresh_id};
use crate::proxy::http::h2::keep_alive::{self, ActivityIo, Liveness, Patience};
use crate::proxy::http::h2::pump::Pump;
use crate::proxy::http::h2::refusals::{Refusals, Refused, Watched};
use crate::proxy::http::h2::stream_body::StreamBody;
use crate::proxy::http::h2::{SEND_BUFFER_BYTES, promised_length, without_hop};
use crate::proxy::http::head::{Content, Head};
use crate::proxy::http::headers;
use crate::proxy::http::mirror::Original;
use crate::proxy::http::path;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::request_body::{IncomingBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http::response_body::ResponseBody;
use crate::proxy::http::singletons;
use crate::proxy::http::target;
use crate::proxy::http::upstream::exchange::{Exchange, Timing};
use crate::proxy::http::upstream::response::UpstreamResponse;
use crate::proxy::moving_deadline::MovingDeadline;
use crate::proxy::poll_when_woken::PollWhenWoken;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;

/// Bytes of one upload that may wait at the proxy.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Largest window there is (RFC 9113 section 6.9.1).
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// How often it is checked whether a client still sends requests while its listener drains, and how
/// many checks in a row without one end the connection.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(250);
const DRAIN_LOOKS: u32 = 8;
/// How often a request is decided about, as long as the table changes under it.
const DECISIONS_MAX: u32 = 3;
/// How long a client that was silent has to respond to a ping.
const PONG_MAX: Duration = Duration::from_secs(20);

/// Serves the connection to its end.
pub async fn drive<T>(worker: Rc<Worker>, settings: &Settings, downstream: Rc<Downstream>, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = downstream.listener.limits(&settings.proxy);
    let watchdog = watchdog(&worker, limits, &downstream.watch, || HangUp::No);
    tokio::pin!(watchdog);
    let (liveness, refusals) = (Rc::<Liveness>::default(), Rc::<Refusals>::default());
    let io = Watched::new(ActivityIo::new(io, &liveness), &refusals);
    // A drain waits for it: the first request may be on its way.
    let shaken = tokio::select! {
        biased;
        shaken = builder(settings).handshake::<_, Bytes>(io) => shaken,
        _ = &mut watchdog => return,
        () = worker.phase.reached(Phase::Cut) => return,
    };
    let mut connection = match shaken {
        Ok(connection) => connection,
        Err(error) => return ended_with(&worker, &downstream, &error),
    };
    let ping_pong = connection.ping_pong();
    let lost =
        keep_alive::keepalive_expired(ping_pong, Patience::Any, PONG_MAX, &liveness, || true);
    tokio::pin!(lost);
    let mut draining = pin!(downstream.phase.reached(Phase::Draining));
    let mut cut = pin!(worker.phase.reached(Phase::Cut));
    let mut drained = pin!(drained(&downstream));
    let (mut watched, mut serving) = (true, true);
    let mut signals = pin!(PollWhenWoken::new(poll_fn(|cx| {
        if watched && let Poll::Ready(verdict) = watchdog.as_mut().poll(cx) {
            watched = false;
            return Poll::Ready(if verdict == WatchdogAction::Stalled {
                Signal::End
            } else {
                Signal::Leave
            });
        }
        if lost.as_mut().poll(cx).is_ready() {
            tracing::debug!("client does not respond to pings");
            return Poll::Ready(Signal::End);
        }
        if drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Signal::End);
        }
        if serving && draining.as_mut().poll(cx).is_ready() {
            serving = false;
            return Poll::Ready(Signal::Leave);
        }
        cut.as_mut().poll(cx).map(|()| Signal::End)
    })));
    loop {
        let next = poll_fn(|cx| {
            let ended = poll_streams(&mut connection, &worker, &downstream, &refusals, cx);
            for refusal in refusals.take() {
                note_refusal(&worker, &downstream, refusal);
            }
            if let Poll::Ready(ended) = ended {
                return Poll::Ready(Err(ended));
            }
            signals.as_mut().poll(false, cx).map(Ok)
        });
        match next.await {
            Err(ended) => {
                if let Err(error) = ended {
                    ended_with(&worker, &downstream, &error);
                }
                return;
            }
            Ok(Signal::End) => return,
            Ok(Signal::Leave) => connection.graceful_shutdown(),
        }
    }
}

/// Completes when a drain has begun and the client has sent no request for a while: what is left is
/// the closing of the connection, to which a client that does not read would never respond.
async fn drained(downstream: &Downstream) {
    downstream.phase.reached(Phase::Draining).await;
    let mut quiet = 0;
    while quiet < DRAIN_LOOKS {
        sleep(DRAIN_LOOK_EVERY).await;
        quiet = if downstream.watch.is_idle() {
            quiet + 1
        } else {
            0
        };
    }
}

/// A connection whose client broke the protocol is one that is refused; a connection that was lost
/// is not.
fn ended_with(worker: &Worker, downstream: &Downstream, error: &h2::Error) {
    tracing::trace!(%error, "client connection ended");
    if error.is_library() {
        log_rejected(
            worker,
            downstream,
            Refusal {
                version: Version::HTTP_2,
                ..Refusal::MALFORMED
            },
            error,
        );
    }
}

/// Counts and logs a request that the library has refused.
fn note_refusal(worker: &Worker, downstream: &Downstream, found: Refused) {
    let (fault, status, reason) = match found {
        Refused::Malformed => (
            ClientFault::Malformed,
            400,
            "a malformed request: its stream was reset",
        ),
        Refused::TooLarge => (
            ClientFault::Malformed,
            431,
            "a header larger than proxy.max_header_bytes",
        ),
        Refused::TooMany => (
            ClientFault::TooManyStreams,
            503,
            "more streams than proxy.max_streams",
        ),
    };
    log_rejected(
        worker,
        downstream,
        Refusal {
            fault,
            status,
            version: Version::HTTP_2,
        },
        &reason,
    );
}

/// What happens to a connection beside its streams.
enum Signal {
    /// At once.
    End,
    /// When its streams have ended.
    Leave,
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = h2::server::Builder::new();
    // Room for the uploads of all streams: those that an instance does not take must not hold up
    // the others.
    let window = settings
        .proxy
        .max_streams
        .saturating_mul(STREAM_WINDOW_BYTES)
        .min(WINDOW_BYTES_MAX);
    builder
        .max_concurrent_streams(settings.proxy.max_streams)
        .max_header_list_size(u32::try_from(settings.proxy.max_header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window)
        // What is read ahead for a client that takes nothing is this times its streams.
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// Reads and writes, and starts the streams that open. Ready at the end of the connection.
fn poll_streams<T>(
    connection: &mut Connection<T, Bytes>,
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    refusals: &Refusals,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match std::task::ready!(connection.poll_accept(cx)) {
            Some(Ok((request, respond))) => {
                refusals.accepted(respond.stream_id().as_u32());
                // Boxed: a task is moved several times while it is made.
                tokio::task::spawn_local(Box::pin(serve(
                    Rc::clone(worker),
                    Rc::clone(downstream),
                    request,
                    respond,
                )));
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Ok(())),
        }
    }
}

/// Serves one request.
async fn serve(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let head_only = *request.method() == Method::HEAD;
    let mut answering = Box::pin(exchange(&worker, &downstream, request));
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answered) = answering.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        // A client that takes the request back ends what was done for it.
        respond.poll_reset(cx).map(|_| None)
    });
    let Some((response, upload)) = answered.await else {
        return;
    };
    drop(answering);
    let limit = downstream.listener.limits(&worker.settings().proxy).body;
    // Either side of a call may be silent for as long as it likes.
    let calls = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| singletons::is_grpc(kind.as_bytes()));
    let stall = StallClock {
        limit,
        upload: (!calls).then_some(upload),
        timer: None,
        before: None,
    };
    if let Err(error) = send_response(&worker, response, head_only, &mut respond, stall).await {
        tracing::debug!(%error, "a response did not get through");
    }
}

/// From the head of a request to the head of its response. Dropping the future (the client took the
/// request back) ends whatever it holds.
async fn exchange(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    request: Request<RecvStream>,
) -> (Response<ResponseBody>, Rc<UploadProgress>) {
    let progress = Rc::new(UploadProgress::default());
    let response = find(worker, downstream, request, &progress).await;
    (response, progress)
}

async fn find(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    request: Request<RecvStream>,
    progress: &Rc<UploadProgress>,
) -> Response<ResponseBody> {
    let settings = worker.settings();
    let started = Instant::now();
    let now_ms = worker.clock.at(started.into_std());
    let (parts, stream) = request.into_parts();
    let bodiless = stream.is_end_stream();
    let length = promised_length(&parts.headers);
    let known_scheme = parts
        .uri
        .scheme()
        .is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let host = headers::received_host(&parts.uri, &parts.headers, parts.version)
        .ok()
        .filter(|_| known_scheme);
    let sent = parts
        .uri
        .path_and_query()
        .map_or(parts.uri.path(), http::uri::PathAndQuery::as_str);
    let legal = target::legal(sent.as_bytes()).ok();
    let target = legal.as_deref().unwrap_or(sent);
    let content = if bodiless {
        Content::Whole(b"")
    } else {
        Content::Streamed(length)
    };
    let head = Head::of_map(
        &parts.method,
        parts.version,
        target,
        host.as_ref(),
        &parts.headers,
        content,
    );
    let id = fresh_id(&settings);
    let scrape = downstream.listener.config.protocol == ListenerProtocol::Prometheus;
    let note = (worker.access.is_on() && !scrape)
        .then(|| note_of(worker, downstream, &settings, &head, id.as_ref()));
    let mut finish = RequestRecord::new(
        started.into_std(),
        worker,
        downstream,
        parts.method.clone(),
        parts.version,
        note,
    );
    if head.grpc {
        finish.is_call();
    } else if let Some(limit) = downstream.listener.limits(&settings.proxy).request {
        // Calls of gRPC bring their own.
        finish.limit(limit);
    }
    let path = legal
        .as_ref()
        .and_then(|_| path::normalise(head.path(), settings.proxy.merge_slashes).ok());
    let incoming = Incoming {
        worker,
        downstream,
        settings: &settings,
        head: &head,
        path: path.as_ref(),
        id: id.as_ref(),
    };
    let mut body = if bodiless {
        progress.done.set(true);
        RequestBody::AtHand
    } else {
        finish.uploads(progress);
        let body = IncomingBody::Stream(StreamBody::new(stream, &parts.headers, None));
        RequestBody::Streamed(Upload::new(body, length, progress, worker.clock))
    };
    let lines = worker
        .scratch
        .lines
        .of(&settings, &downstream.client, parts.version);
    let mut timer = MovingDeadline::default();
    let mut left = DECISIONS_MAX;
    loop {
        left -= 1;
        let table = worker.table_number();
        let forward = match decide::decide(&incoming, &mut finish, now_ms).await {
            Decision::Forward(forward) => forward,
            Decision::Respond(own) => {
                return respond_own(own.response, finish, downstream, &settings);
            }
        };
        let Some(path) = &path else {
            let own = incoming.refuse(
                &ProxyError::BadRequest("the path cannot be decoded"),
                &mut finish,
            );
            return respond_own(own.response, finish, downstream, &settings);
        };
        let kept = match &body {
            RequestBody::AtHand => None,
            RequestBody::Streamed(upload) => upload.rewound(),
        };
        let exchange = Exchange {
            incoming: &incoming,
            path,
            forward: &forward,
            lines: &lines,
            bound: RefCell::new(None),
        };
        let timing = Timing {
            now: started,
            now_ms,
            timer: &mut timer,
        };
        let mut response = None;
        let original = Original::of(&exchange, &body);
        let found = exchange
            .find(body, progress, timing, &mut finish, &mut response, |_| {
                Poll::Pending
            })
            .await;
        let error = match found {
            Ok(Ok(_))
                if response
                    .as_ref()
                    .is_some_and(|response| response.status() == 101) =>
            {
                ProxyError::Upstream(
                    "it switches protocols although the request has no upgrade".to_owned(),
                )
            }
            Ok(Ok(target)) => {
                if let (Some(original), true) = (original, response.is_some()) {
                    original.copy(&exchange, target);
                }
                let binds = |found: &UpstreamResponse| connection_auth::binds(&head, found);
                let binds = response.as_ref().is_some_and(binds);
                if let (true, Some(UpstreamResponse::H1(found))) = (binds, &mut response) {
                    // Its streams are many clients' to the instance: none may have what one was
                    // let in for.
                    found.head.keep = false;
                }
                incoming.follow(target, &mut finish);
                if !binds && let Some(own) = replaced(&incoming, &mut response, target, &mut finish)
                {
                    return respond_own(own, finish, downstream, &settings);
                }
                match response {
                    Some(response) => {
                        let streamed = response.into_streamed(worker, &target.state);
                        let cookie = forward.set_cookie(&incoming, target);
                        return prepared(&incoming, streamed, (target, cookie), Box::new(finish));
                    }
                    None => ProxyError::Upstream("no head was found".to_owned()),
                }
            }
            Ok(Err(error)) => error,
            Err(_client_gone) => ProxyError::ClientClosed,
        };
        // None: too much was taken of it since.
        let kept = kept.and_then(|upload| upload.rewound());
        if left > 0
            && worker.table_number() != table
            && head.may_go_elsewhere(&error, kept.is_some())
        {
            body = kept.map_or(RequestBody::AtHand, RequestBody::Streamed);
            continue;
        }
        tracing::debug!(%error, service = %forward.first().service.name(), "request failed");
        let own = incoming.refuse(&error, &mut finish);
        return respond_own(own.response, finish, downstream, &settings);
    }
}

/// A response made here. Its record ends with its body, or at once if it has none.
fn respond_own(
    mut response: Response<Bytes>,
    mut finish: RequestRecord,
    downstream: &Downstream,
    settings: &Settings,
) -> Response<ResponseBody> {
    headers::secure_transport(
        response.headers_mut(),
        &downstream.client,
        &settings.header_rules,
    );
    finish.edit_own(&mut response, &settings.error_pages);
    response.headers_mut().remove(CONNECTION);
    response.map(|data| {
        if data.is_empty() {
            finish.complete();
            ResponseBody::Own { data, finish: None }
        } else {
            ResponseBody::Own {
                data,
                finish: Some(Box::new(finish)),
            }
        }
    })
}

/// Finds out whether a client has stopped in the middle of a stream: it makes no room for a
/// response, or sends nothing more of an upload while nothing comes of the response either. In
/// HTTP/1 the connection's watchdog sees to that; here other streams may be well.
struct StallClock {
    /// How long it may do so, at least; twice that at most.
    limit: Duration,
    /// None: it may be silent.
    upload: Option<Rc<UploadProgress>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What had moved when it was looked at last, where the client was waited for then: bytes of
    /// the response and of the upload.
    before: Option<(u64, u64)>,
}

impl StallClock {
    /// Ready when it has. `sent` bytes of the response are with the stream; `waits_for_room`: see
    /// [`Pump::waits_for_room`].
    fn poll(&mut self, sent: u64, waits_for_room: bool, cx: &mut Context<'_>) -> Poll<()> {
        let upload = self.upload.as_deref();
        let waits = waits_for_room
            || upload.is_some_and(|upload| !upload.done.get() && upload.waits_for_client.get());
        if !waits && self.timer.is_none() {
            // Most streams never need one.
            return Poll::Pending;
        }
        let moved = waits.then(|| (sent, upload.map_or(0, |upload| upload.bytes.get())));
        loop {
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep(self.limit)));
            ready!(timer.as_mut().poll(cx));
            if moved.is_some() && moved == self.before {
                return Poll::Ready(());
            }
            self.before = moved;
            timer.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

async fn send_response(
    worker: &Worker,
    response: Response<ResponseBody>,
    head_only: bool,
    respond: &mut SendResponse<Bytes>,
    mut stall: StallClock,
) -> Result<(), Box<dyn std::error::Error>> {
    let (mut parts, body) = response.into_parts();
    without_hop(&mut parts.headers);
    if !parts.headers.contains_key(DATE) {
        let now = worker
            .scratch
            .date
            .with(SystemTime::now(), HeaderValue::from_str);
        parts.headers.extend(now.ok().map(|now| (DATE, now)));
    }
    // RFC 9110 section 6.4.1.
    let contentless = matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let bodiless = head_only || contentless;
    let over = body.is_end_stream();
    if !over
        && !contentless
        && let Some(length) = body.size_hint().exact()
    {
        parts
            .headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    let sent = respond.send_response(Response::from_parts(parts, ()), over || bodiless);
    let stream = sent.inspect_err(|_| respond.send_reset(Reason::INTERNAL_ERROR))?;
    if bodiless {
        // What we make ourselves has a body all the same.
        body.leave_out();
    } else if !over {
        let mut pump = Pump::of_response(body, stream);
        let sent = poll_fn(|cx| match pump.poll(cx) {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending => stall
                .poll(pump.sent(), pump.waits_for_room(), cx)
                .map(|()| None),
        });
        match sent.await {
            Some(sent) => sent?,
            None => pump.cancel().stalled(),
        }
    }
    Ok(())
}
