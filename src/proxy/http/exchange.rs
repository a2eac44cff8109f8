//! The path of a request, from its head to the head of its answer.
//!
//! ```text
//! understand (host, path) ─► table lookup ─► pick ─► may it? ─► attempt ──► answer ─► client
//!        │ 400                  │ 404         │ 503     │ 403/301   │ fails, or shows nothing for a while
//!        ▼                      ▼             ▼         ▼           └─► another instance (rules below)
//!       own answers (proxy::error)
//! ```
//! When another instance is asked:
//! - the connection could not be made: always, nothing was sent;
//! - it ended before any byte of an answer: if the request was provably not sent, or is idempotent and has no body; of
//!   the latter also when it ended between the head of an answer and its body, if the head told that body's length;
//! - no first byte within `proxy.try_timeout`: idempotent requests without body are asked elsewhere *too*, and the
//!   first answer wins; a slow instance that answers after all loses nothing, and a hung one costs nobody a request.
//!
//! All but the first kind draw on the retry budget, and are refused when it is spent (but for the one retry that follows
//! a pooled connection found closed); none happens after anything of an answer was passed on.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{CONNECTION, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Frame, Incoming};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody, UploadProgress};
use super::connection::Downstream;
use super::forward::{Answer, AttemptError, Original, attempt, is_idempotent};
use super::headers;
use super::path::{self, NormalPath};
use super::record::{Finish, RequestNote};
use super::redirect::{self, RedirectSource};
use super::{scrape, upgrade};
use crate::catalog::options::{Access, HashKey, RouteOptions, Strategy};
use crate::config::ListenerProtocol;
use crate::metrics::service::RetryReason;
use crate::proxy::auth::Admission;
use crate::proxy::connect::ConnectError;
use crate::proxy::error::{ErrorAnswers, ProxyError};
use crate::proxy::settings::Settings;
use crate::proxy::worker::{Worker, ms};
use crate::table::balancer::PickContext;
use crate::table::{Route, Target};

/// Turns of the event loop that a final answer waits for interim ones to be written.
const INTERIM_TURNS_MAX: usize = 16;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Handles one request of a client connection. Dropping the future (the client went away) ends whatever it holds.
///
/// # Errors
/// Never: what goes wrong becomes an answer.
pub async fn exchange(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if downstream.listener.config.protocol == ListenerProtocol::Prometheus {
        return Ok(scrape::answer(&worker, &downstream, &request).await);
    }
    let settings = worker.settings();
    let (parts, body) = request.into_parts();
    let host = headers::received_host(&parts.uri, &parts.headers, parts.version);
    let note = worker
        .access
        .is_on()
        .then(|| RequestNote::new(host.as_ref().ok().and_then(Option::as_ref), &parts.uri, &parts.headers));
    let mut finish = Finish::open(&worker, &downstream, parts.method.clone(), parts.version, note);
    let grpc = is_grpc(&parts.headers);

    let Ok(host) = host else {
        return Ok(refuse(&settings, finish, &ProxyError::BadRequest("the host is not clear"), grpc));
    };
    // In HTTP/1 the guard counts; what HTTP/2 sends, the library has bounded by size alone.
    if parts.headers.len() > settings.proxy.max_headers {
        return Ok(refuse(&settings, finish, &ProxyError::TooManyHeaders, grpc));
    }
    // RFC 9110 section 9.3.7: `OPTIONS *` asks the proxy itself.
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        finish.answered_here(200);
        return Ok(own(Response::new(Bytes::new()), finish));
    }
    if parts.method == Method::CONNECT {
        downstream.listener.no_route_of_request();
        return Ok(refuse(&settings, finish, &ProxyError::NoRoute, grpc));
    }
    let upgrade = if parts.version == Version::HTTP_11 { headers::upgrade_of(&parts.headers) } else { None };
    let mut original = Original {
        method: parts.method,
        uri: parts.uri,
        version: parts.version,
        headers: parts.headers,
        host,
        upgrade,
        request_id: None,
    };
    if settings.header_rules.request_id_header.is_some() {
        original.request_id = HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).ok();
        if let (Some(note), Some(id)) = (finish.note(), &original.request_id) {
            note.request_id = Some(id.clone());
        }
    }
    let Ok(path) = path::normalise(original.uri.path()) else {
        return Ok(refuse(&settings, finish, &ProxyError::BadRequest("the path cannot be decoded"), grpc));
    };

    let Some(route) = find_route(&worker, &downstream, &original, &path) else {
        downstream.listener.no_route_of_request();
        return Ok(refuse(&settings, finish, &ProxyError::NoRoute, grpc));
    };
    if let Some(note) = finish.note() {
        note.route = Some(Arc::clone(&route));
    }
    let mut exchange = Exchange {
        worker: &worker,
        downstream: &downstream,
        settings: &settings,
        original: &original,
        path: &path,
        route: &route,
        hash: hash_of(&route.strategy, &downstream, &original, &path),
        admitted_by: None,
    };
    let Some(first) = exchange.pick(&[]) else {
        if let Some(excluded) = route.excluded.first() {
            finish.belongs_to(&worker.metrics.service(&excluded.service));
        }
        return Ok(refuse(&settings, finish, &ProxyError::NoInstance, grpc));
    };
    finish.belongs_to(&first.service);
    if let Some(name) = exchange.wanted_scheme(first) {
        match settings.auth.admit(name, &original.headers).await {
            Admission::Granted => exchange.admitted_by = Some(name),
            Admission::Refused(challenge) => {
                let mut response = refuse(&settings, finish, &ProxyError::Unauthorized, grpc);
                response.headers_mut().extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
                return Ok(response);
            }
            Admission::Busy => return Ok(refuse(&settings, finish, &ProxyError::AuthBusy, grpc)),
        }
    }
    if let Some(response) = exchange.answer_here(first) {
        return Ok(match response {
            Ok(response) => {
                finish.redirected(response.status().as_u16());
                own(response, finish)
            }
            Err(error) => refuse(&settings, finish, &error, grpc),
        });
    }
    let wants_upgrade = original.upgrade.is_some();
    Ok(match exchange.ask(first, body, &mut finish).await {
        Ok((target, answer)) => {
            let switching = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switching && !wants_upgrade {
                let error = ProxyError::Upstream("it switches protocols although nobody asked".to_owned());
                return Ok(refuse(&settings, finish, &error, grpc));
            }
            let upstream = answer.response.status().as_u16();
            finish.answered(target, upstream, answer.in_flight, answer.lease, answer.took);
            let mut response = answer.response;
            finish.metadata(response.headers());
            headers::prepare_response(response.headers_mut(), &downstream.client, &settings.header_rules, switching);
            if switching {
                upgrade::switch(&downstream, target, response, finish)
            } else {
                pass_on(response, answer.first, finish)
            }
        }
        Err(error) => {
            tracing::debug!(%error, service = %first.service.name(), "request failed");
            refuse(&settings, finish, &error, grpc)
        }
    })
}

/// One request and what it meets, while it looks for an answer.
struct Exchange<'a> {
    worker: &'a Rc<Worker>,
    downstream: &'a Rc<Downstream>,
    settings: &'a Settings,
    original: &'a Original,
    path: &'a NormalPath<'a>,
    route: &'a Arc<Route>,
    hash: u64,
    /// The authentication scheme that let the request in.
    admitted_by: Option<&'a str>,
}

/// Keys of targets that need not be asked again.
type Tried = SmallVec<[u64; 4]>;

impl<'a> Exchange<'a> {
    fn pick(&self, tried: &[u64]) -> Option<&'a Target> {
        let context = PickContext {
            now_ms: self.worker.clock.now_ms(),
            tried,
            hash: self.hash,
            slow_start_ms: self.settings.health.slow_start_ms,
        };
        self.worker.picker.borrow_mut().pick(self.route, context)
    }

    /// A target to try after `first`: one whose own options let the request pass, as those of `first` did.
    fn pick_another(&self, first: &Target, tried: &mut Tried) -> Option<&'a Target> {
        loop {
            let target = self.pick(tried)?;
            if Arc::ptr_eq(&target.options, &first.options) || self.answer_here(target).is_none() {
                return Some(target);
            }
            tried.push(target.state.key);
        }
    }

    /// The authentication scheme that has to let the request in before `target` may have it; none for a request that
    /// the access rules refuse anyway.
    fn wanted_scheme(&self, target: &'a Target) -> Option<&'a str> {
        let name = target.options.auth.as_deref()?;
        permits(&target.options.access, self.downstream, &self.original.headers).then_some(name)
    }

    /// What the chosen target's options decide without asking it.
    fn answer_here(&self, target: &Target) -> Option<Result<Response<Bytes>, ProxyError>> {
        let options = &*target.options;
        if !permits(&options.access, self.downstream, &self.original.headers) {
            return Some(Err(ProxyError::AccessDenied));
        }
        if options.auth.as_deref().is_some_and(|name| self.admitted_by != Some(name)) {
            return Some(Err(ProxyError::Unauthorized));
        }
        let redirect = options.redirect.as_ref()?;
        let location = redirect::location(&redirect.url, &redirect_source(self.original, self.path, options))?;
        let code = StatusCode::from_u16(redirect.code).unwrap_or(StatusCode::FOUND);
        Some(Ok(redirect::answer(code, location, &self.original.method)))
    }

    /// Asks `first`, and others as the rules above allow, until there is the head of an answer.
    async fn ask(
        &self,
        first: &'a Target,
        body: Incoming,
        finish: &mut Finish,
    ) -> Result<(&'a Target, Answer), ProxyError> {
        let upload = Rc::new(UploadProgress::default());
        let bodiless = body.is_end_stream();
        let mut body = if bodiless {
            upload.done.set(true);
            Some(RequestBody::Empty)
        } else {
            finish.uploads(&upload);
            Some(RequestBody::Incoming { body, progress: Rc::clone(&upload), clock: self.worker.clock })
        };
        let repeatable = bodiless && is_idempotent(&self.original.method);
        let hedge = repeatable && self.original.upgrade.is_none();
        let body_timeout = self.downstream.listener.limits(&self.settings.proxy).body;
        let mut deadlines = Deadlines::new(self.settings, body_timeout, hedge, is_grpc(&self.original.headers));
        self.worker.budget.borrow_mut().record_request(self.worker.clock.now_ms());

        let mut tried = Tried::new();
        let mut fresh_only = false;
        let mut running: SmallVec<[Running<'a>; 2]> = SmallVec::new();
        let mut left = self.settings.proxy.retry_attempts.max(1);
        let mut next = Some(first);
        let mut last_error = None;
        let sleep = tokio::time::sleep_until(deadlines.next());
        tokio::pin!(sleep);
        loop {
            if running.is_empty() {
                let (Some(target), Some(body)) = (next.take(), body.take()) else {
                    return Err(last_error.unwrap_or(ProxyError::NoInstance));
                };
                left -= 1;
                running.push(self.start(target, body, fresh_only, finish));
            }
            tokio::select! {
                biased;
                (at, outcome) = first_done(&mut running) => {
                    let ended = running.swap_remove(at);
                    let error = match outcome {
                        Ok(answer) => {
                            self.judge(&ended, &running, &answer);
                            self.interim_first().await;
                            return Ok((ended.target, answer));
                        }
                        Err(_) if upload.broken.get() => return Err(ProxyError::ClientClosed),
                        Err(error) => error,
                    };
                    self.blame(ended.target, error.blames_instance());
                    if error.blames_instance() {
                        tried.push(ended.target.state.key);
                    }
                    // At most once, because the next connection is a fresh one: no flood that the budget would have
                    // to stop, but what a server does that closes idle connections just then.
                    let stale = !fresh_only && matches!(error, AttemptError::Closed { reused: true, .. });
                    fresh_only |= stale;
                    let reason = error.retry_reason();
                    let (proxy_error, again) = settle(error, repeatable);
                    last_error = Some(proxy_error.clone());
                    if !running.is_empty() {
                        // Another attempt is still out; its answer is as good.
                        continue;
                    }
                    let Some(again) = again else { return Err(proxy_error) };
                    if left == 0 || !(self.may_retry(reason) || stale) {
                        return Err(proxy_error);
                    }
                    body = Some(again);
                    next = self.pick_another(first, &mut tried);
                    let Some(target) = next else { return Err(proxy_error) };
                    target.service.record_retry(reason);
                }
                () = self.downstream.interim.arrived() => {
                    self.downstream.watch.send_interim(&self.downstream.interim.take());
                }
                () = sleep.as_mut() => {
                    let now = Instant::now();
                    if deadlines.try_passed(now) {
                        let mut asked = tried.clone();
                        asked.extend(running.iter().map(|attempt| attempt.target.state.key));
                        if left > 0
                            && let Some(target) = self.pick_another(first, &mut asked)
                            && self.may_retry(RetryReason::Timeout)
                        {
                            left -= 1;
                            target.service.record_retry(RetryReason::Timeout);
                            running.push(self.start(target, RequestBody::Empty, false, finish));
                        }
                    }
                    // In HTTP/1 the connection's watchdog sees to that; here other streams may be well.
                    if self.original.version == Version::HTTP_2
                        && deadlines.client_stalled(now, &upload, self.worker.clock.now_ms())
                    {
                        return Err(ProxyError::ClientStalled);
                    }
                    if deadlines.response_passed(now, &upload, self.worker.clock.now_ms()) {
                        for attempt in &running {
                            self.blame(attempt.target, true);
                        }
                        return Err(ProxyError::ResponseTimeout);
                    }
                    sleep.as_mut().reset(deadlines.next());
                }
            }
        }
    }

    /// Interim answers have to be written before the final one is handed over; each turn gives the connection the
    /// chance to. A client that does not take them in time gets them cut short to none, or whole, never mixed.
    async fn interim_first(&self) {
        let mut written = self.downstream.watch.send_interim(&self.downstream.interim.take());
        for _ in 0..INTERIM_TURNS_MAX {
            if written {
                return;
            }
            tokio::task::yield_now().await;
            written = self.downstream.watch.send_interim(&[]);
        }
    }

    fn start(&self, target: &'a Target, body: RequestBody, fresh_only: bool, finish: &mut Finish) -> Running<'a> {
        finish.tries(target);
        let (worker, downstream) = (Rc::clone(self.worker), Rc::clone(self.downstream));
        let future = attempt(worker, downstream, self.settings, self.original, self.path, target, body, fresh_only);
        Running { target, started: Instant::now(), future: Box::pin(future) }
    }

    fn may_retry(&self, reason: RetryReason) -> bool {
        reason == RetryReason::Connect || self.worker.budget.borrow_mut().try_retry(self.worker.clock.now_ms())
    }

    /// Notes who answered, and who had a head start and did not.
    fn judge(&self, winner: &Running<'a>, losers: &[Running<'a>], answer: &Answer) {
        let latency_us = u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX);
        winner.target.state.record_success(self.worker.clock.now_ms(), latency_us);
        for loser in losers.iter().filter(|loser| loser.started < winner.started) {
            self.blame(loser.target, true);
        }
    }

    fn blame(&self, target: &Target, guilty: bool) {
        if guilty {
            self.worker.note_failure(self.route, target);
        }
    }
}

/// An attempt that is out.
struct Running<'a> {
    target: &'a Target,
    started: Instant,
    future: LocalBoxFuture<'a, Result<Answer, AttemptError>>,
}

/// Waits for the first attempt that ends, whichever. Cancel safe.
async fn first_done(running: &mut [Running<'_>]) -> (usize, Result<Answer, AttemptError>) {
    std::future::poll_fn(|cx| {
        for (at, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = Pin::new(&mut attempt.future).poll(cx) {
                return Poll::Ready((at, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

/// Longer than a process lives.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// When something has to happen although nothing does.
struct Deadlines {
    started: Instant,
    try_every: Option<Duration>,
    next_try: Option<Instant>,
    response: Instant,
    response_timeout_ms: u64,
    body_timeout: Duration,
}

impl Deadlines {
    /// gRPC has no limit here: calls bring their own (`grpc-timeout`) and end their stream when it passes, and a server
    /// that streams may have nothing to say, not even a head, for hours. A dead one is found by HTTP/2's pings.
    fn new(settings: &Settings, body_timeout: Duration, hedge: bool, grpc: bool) -> Self {
        let now = Instant::now();
        let limit = settings.proxy.try_timeout;
        let try_every = (hedge && !limit.is_zero()).then_some(limit);
        let response_timeout = if grpc { NEVER } else { settings.proxy.response_timeout };
        Self {
            started: now,
            try_every,
            next_try: try_every.map(|limit| now + limit),
            response: now + response_timeout,
            response_timeout_ms: ms(response_timeout),
            body_timeout,
        }
    }

    fn next(&self) -> Instant {
        self.next_try.map_or(self.response, |at| at.min(self.response))
    }

    fn try_passed(&mut self, now: Instant) -> bool {
        let passed = self.next_try.is_some_and(|at| at <= now);
        if passed {
            self.next_try = self.try_every.map(|limit| now + limit);
        }
        passed
    }

    /// Whether the client has paused in the middle of its upload for longer than it may.
    fn client_stalled(&self, now: Instant, upload: &UploadProgress, now_ms: u64) -> bool {
        let quiet = match upload.last_ms.get() {
            0 => now.saturating_duration_since(self.started),
            last_ms => Duration::from_millis(now_ms.saturating_sub(last_ms)),
        };
        !upload.done.get() && upload.waits_for_client.get() && quiet >= self.body_timeout
    }

    /// The time for an answer counts from the last byte of the upload that the upstream took: whoever still sends is
    /// not waiting yet (a client that stalls is ended by `proxy.body_timeout`, on its own connection).
    fn response_passed(&mut self, now: Instant, upload: &UploadProgress, now_ms: u64) -> bool {
        if self.response > now {
            return false;
        }
        if !upload.done.get() && upload.waits_for_client.get() {
            self.response = now + self.body_timeout.min(Duration::from_millis(self.response_timeout_ms));
            return false;
        }
        let waited_ms = now_ms.saturating_sub(upload.last_ms.get());
        if upload.last_ms.get() > 0 && waited_ms < self.response_timeout_ms {
            self.response = now + Duration::from_millis(self.response_timeout_ms - waited_ms);
            return false;
        }
        true
    }
}

/// What a failed attempt means for the request: the error if nothing better comes, and the body to try again with.
fn settle(error: AttemptError, repeatable: bool) -> (ProxyError, Option<RequestBody>) {
    match error {
        AttemptError::Connect { source: ConnectError::Timeout(_), body } => (ProxyError::ConnectTimeout, Some(body)),
        AttemptError::Connect { source, body } if source.is_refusal_of_ours() => {
            (ProxyError::Unusable(source.to_string()), Some(body))
        }
        AttemptError::Connect { source, body } => (ProxyError::Connect(source.to_string()), Some(body)),
        AttemptError::Closed { source, unsent, .. } => {
            let again = unsent.or_else(|| repeatable.then_some(RequestBody::Empty));
            (ProxyError::Upstream(source.to_string()), again)
        }
        AttemptError::Protocol(source) => {
            (ProxyError::Unusable(source.to_string()), repeatable.then_some(RequestBody::Empty))
        }
        AttemptError::Request(reason) => (ProxyError::Upstream(reason), None),
    }
}

fn find_route(
    worker: &Worker,
    downstream: &Downstream,
    original: &Original,
    path: &NormalPath<'_>,
) -> Option<Arc<Route>> {
    let host = dsthost(downstream, &original.headers).or(original.host.as_ref());
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
    let websocket = original.upgrade.as_ref().is_some_and(|upgrade| upgrade.websocket);
    let mut table = worker.table.borrow_mut();
    let accept = |route: &Route| {
        let redirecting =
            route.targets.first().and_then(|target| target.options.redirect.as_ref().map(|to| (target, to)));
        let Some((target, redirect)) = redirecting else { return true };
        let scheme = headers::scheme(&original.headers, downstream.client.is_tls(), websocket);
        !redirect::is_self_redirect(&redirect.url, scheme, &redirect_source(original, path, &target.options))
    };
    table.load().lookup(downstream.scheme, host, &path.decoded, accept).cloned()
}

/// A gRPC client says in its metadata which host it means, as for Fabio, if its `:authority` names something else.
fn dsthost<'h>(downstream: &Downstream, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
    if !downstream.listener.config.protocol.is_grpc() {
        return None;
    }
    let mut values = headers.get_all("dsthost").iter();
    values.next().filter(|_| values.next().is_none())
}

fn redirect_source<'a>(
    original: &'a Original,
    path: &'a NormalPath<'a>,
    options: &'a RouteOptions,
) -> RedirectSource<'a> {
    RedirectSource {
        path,
        query: original.uri.query(),
        host: original.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(""),
        strip: options.strip.as_deref(),
        prepend: options.prepend.as_deref(),
    }
}

/// The peer and every address in X-Forwarded-For must pass: a client cannot hide behind a header, and a proxy in
/// front cannot hide a client.
fn permits(access: &Access, downstream: &Downstream, headers: &HeaderMap) -> bool {
    if *access == Access::Open {
        return true;
    }
    let peer = downstream.client.ip();
    access.permits(peer)
        && headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|element| element.trim().parse().ok())
            .all(|address| address == peer || access.permits(address))
}

fn hash_of(strategy: &Strategy, downstream: &Downstream, original: &Original, path: &NormalPath<'_>) -> u64 {
    use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
    let Strategy::Hash(key) = strategy else { return 0 };
    // A fixed seed: all workers, and all instances of the balancer, agree.
    let mut hasher = foldhash::quality::FixedState::with_seed(0x6c62).build_hasher();
    match key {
        HashKey::Ip => downstream.client.ip().hash(&mut hasher),
        HashKey::Path => path.decoded.hash(&mut hasher),
        HashKey::Header(name) => match original.headers.get(&**name) {
            Some(value) => hasher.write(value.as_bytes()),
            None => downstream.client.ip().hash(&mut hasher),
        },
        HashKey::Cookie(name) => match cookie(&original.headers, name) {
            Some(value) => hasher.write(value.as_bytes()),
            None => downstream.client.ip().hash(&mut hasher),
        },
    }
    hasher.finish()
}

fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn refuse(settings: &Settings, mut finish: Box<Finish>, error: &ProxyError, grpc: bool) -> Response<ResponseBody> {
    let mut response = if grpc {
        error.grpc_response()
    } else {
        error.response(&ErrorAnswers {
            no_route: settings.no_route_status,
            no_route_page: settings.no_route_page.clone(),
            retry_after_s: settings.proxy.retry_after.as_secs().max(1),
            bare: settings.proxy.bare_errors,
        })
    };
    // Whoever sent one such request is not believed about where the next one begins.
    if matches!(error, ProxyError::BadRequest(_)) && finish.version() < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    finish.refused(error, response.status().as_u16());
    finish.metadata(response.headers());
    own(response, finish)
}

/// An answer made here. Counted at once when there is no body to send: hyper never polls an empty one.
pub(super) fn own(response: Response<Bytes>, mut finish: Box<Finish>) -> Response<ResponseBody> {
    response.map(|data| {
        if data.is_empty() {
            finish.complete();
            ResponseBody::Own { data, finish: None }
        } else {
            ResponseBody::Own { data, finish: Some(finish) }
        }
    })
}

fn pass_on(
    response: Response<Incoming>,
    first: Option<Frame<Bytes>>,
    mut finish: Box<Finish>,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    // The version is the client connection's business, not the upstream's.
    parts.version = Version::HTTP_11;
    if first.is_none() && body.is_end_stream() {
        finish.complete();
    }
    Response::from_parts(parts, ResponseBody::Upstream { first, body, finish })
}
