//! The path of a request, from its head to the head of its answer.
//!
//! ```text
//! understand (host, path) ─► table lookup ─► pick ─► may it? ─► attempt ──► answer ─► client
//!        │ 400                  │ 404         │ 503     │ 403/301   │ fails, or shows nothing for a while
//!        ▼                      ▼             ▼         ▼           └─► another instance (ask)
//!       own answers (proxy::error)
//! ```
//! Who is asked, and who next, is [`ask`](super::ask)'s business.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};

use super::ask::{Asking, Attempted, Attempts, Deadlines, First};
use super::body::{RequestBody, ResponseBody, UploadProgress};
use super::compression::Compressing;
use super::connection::Downstream;
use super::forward::{self, Answer, Original, ask_directly, attempt, is_idempotent, may_ask_directly, may_be_doubled};
use super::forwarded::{self, Hop};
use super::headers::{self, Wanted};
use super::path::{self, NormalPath};
use super::record::{Finish, RequestNote};
use super::redirect::{self, RedirectSource};
use super::source::Source;
use super::told::Told;
use super::{scrape, singletons, upgrade};
use crate::catalog::options::{Access, HashKey, RouteOptions, Strategy};
use crate::config::ListenerProtocol;
use crate::proxy::auth::{Admission, Denied};
use crate::proxy::error::{ErrorAnswers, ProxyError};
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::{ErrorStatus, Route, Target};

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static DSTHOST: HeaderName = HeaderName::from_static("dsthost");

/// Handles one request of a client connection. Dropping the future (the client went away) ends whatever it holds.
///
/// # Errors
/// Never: what goes wrong becomes an answer.
pub async fn exchange(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<Source>,
) -> Result<Response<ResponseBody>, Infallible> {
    if downstream.listener.config.protocol == ListenerProtocol::Prometheus {
        return Ok(scrape::answer(&worker, &downstream, &request).await);
    }
    let settings = worker.settings();
    let (parts, body) = request.into_parts();
    let host = headers::received_host(&parts.uri, &parts.headers, parts.version);
    let mut note = worker
        .access
        .is_on()
        .then(|| RequestNote::of(host.as_ref().ok().and_then(Option::as_ref), &parts.uri, &parts.headers));
    let custom = worker.access.custom();
    if let (Some(format), Some(note)) = (custom, &mut note) {
        note.told = Some(Told::new(format, &parts.headers, downstream.client.is_tls()));
    }
    let mut finish = Finish::open(&worker, &downstream, parts.method.clone(), parts.version, note);
    let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(singletons::is_grpc);
    if grpc {
        finish.is_call();
    }
    // Calls of gRPC bring their own.
    if let Some(limit) = downstream.listener.limits(&settings.proxy).request.filter(|_| !grpc) {
        finish.limit(limit);
    }

    let Ok(host) = host else {
        return Ok(refuse(&settings, finish, &ProxyError::BadRequest("the host is not clear"), grpc));
    };
    if let Some(error) = unfit_fields(&parts.headers, &settings) {
        return Ok(refuse(&settings, finish, &error, grpc));
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
        granted: OnceCell::new(),
    };
    if settings.header_rules.request_id_header.is_some() {
        original.request_id = fresh_id(&settings);
        if let (Some(note), Some(id)) = (finish.note(), &original.request_id) {
            note.request_id = Some(id.clone());
            if let (Some(told), Some(format), Some(name)) =
                (&mut note.told, custom, &settings.header_rules.request_id_header)
            {
                told.header(format, name, id);
            }
        }
    }
    let Ok(path) = path::normalise(original.uri.path(), settings.proxy.merge_slashes) else {
        return Ok(refuse(&settings, finish, &ProxyError::BadRequest("the path cannot be decoded"), grpc));
    };

    let (routed_host, route) = match find_route(&worker, &downstream, &original, &path) {
        Ok(found) => found,
        Err(error) => {
            if matches!(error, ProxyError::NoRoute | ProxyError::Misdirected) {
                downstream.listener.no_route_of_request();
            }
            return Ok(refuse(&settings, finish, &error, grpc));
        }
    };
    if let Some(note) = finish.note() {
        note.route = Some(Arc::clone(&route));
    }
    let bodiless = body.is_end_stream();
    let repeatable = bodiless && is_idempotent(&original.method);
    let asking = Asking {
        worker: &worker,
        downstream: &downstream,
        settings: &settings,
        route: &route,
        hash: hash_of(&route.strategy, &downstream, &original.headers, &path.decoded),
        version: original.version,
        repeatable,
        doublable: repeatable && original.upgrade.is_none() && may_be_doubled(&original.method),
    };
    let mut exchange = Exchange {
        worker: &worker,
        downstream: &downstream,
        settings: &settings,
        original: &original,
        path: &path,
        routed_host,
        admitted_by: None,
    };
    let Some(first) = asking.pick(&[]) else {
        if let Some(excluded) = route.excluded.first() {
            finish.belongs_to(&worker.metrics.service(&excluded.service));
        }
        return Ok(refuse(&settings, finish, &ProxyError::NoInstance, grpc));
    };
    finish.belongs_to(&first.service);
    if let Some(name) = exchange.wanted_scheme(first) {
        if let Some(error) = unclear_credentials(&original.headers) {
            return Ok(refuse(&settings, finish, &error, grpc));
        }
        // Boxed: it is rare, and larger than all the rest.
        let admitting = Box::pin(settings.auth.admit(name, &original.headers, || exchange.fields_for_auth(first)));
        match admitting.await {
            Admission::Granted(granted) => {
                exchange.admitted_by = Some(name);
                // It is asked once, so the cell is empty.
                granted.map(|granted| original.granted.set(granted));
            }
            Admission::Denied(denied) if !grpc => {
                finish.refused(&ProxyError::Unauthorized, denied.status.as_u16());
                return Ok(own(exchange.answer_of_auth(*denied), finish));
            }
            refused => {
                let (error, challenge) = refused.refusal(settings.proxy.bare_errors);
                let mut response = refuse(&settings, finish, &error, grpc);
                challenge.map(|challenge| response.headers_mut().insert(WWW_AUTHENTICATE, challenge));
                return Ok(response);
            }
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
    let upload = Rc::new(UploadProgress::default());
    let body = if bodiless {
        upload.done.set(true);
        RequestBody::Empty
    } else {
        finish.uploads(&upload);
        RequestBody::Incoming { body, progress: Rc::clone(&upload), clock: worker.clock }
    };
    let body_timeout = downstream.listener.limits(&settings.proxy).body;
    let deadlines = Deadlines::new(&settings, body_timeout, asking.doublable, grpc).with_end(finish.ends_by());
    worker.budget.borrow_mut().record_request(worker.clock.now_ms());
    Ok(match asking.ask(&exchange, First::New(first, body), deadlines, &upload, &mut finish).await {
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
                finish.unlimit();
                upgrade::switch(&downstream, target, response, finish)
            } else {
                // What upstreams of gRPC send is theirs to compress, message by message.
                let compressing = settings.compression.as_ref().filter(|_| !grpc).and_then(|rules| {
                    let status = response.status();
                    rules.prepare(&original.headers, status, response.headers_mut(), &worker.compressing)
                });
                pass_on(response, answer.first, compressing, finish)
            }
        }
        Err(error) => {
            tracing::debug!(%error, service = %first.service.name(), "request failed");
            let mut response = refuse(&settings, finish, &error, grpc);
            headers::secure_transport(response.headers_mut(), &downstream.client, &settings.header_rules);
            response
        }
    })
}

/// One request, and what decides whether an instance may have it.
pub(super) struct Exchange<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) downstream: &'a Rc<Downstream>,
    pub(super) settings: &'a Arc<Settings>,
    pub(super) original: &'a Original,
    pub(super) path: &'a NormalPath<'a>,
    /// The host by which the route was found.
    pub(super) routed_host: Option<&'a HeaderValue>,
    /// The authentication scheme that let the request in.
    pub(super) admitted_by: Option<&'a str>,
}

impl<'a> Attempts<'a> for Exchange<'a> {
    type Body = RequestBody;
    type Answer = Answer;

    fn attempt(
        &self,
        target: &'a Target,
        body: RequestBody,
        fresh_only: bool,
    ) -> LocalBoxFuture<'a, Attempted<Answer, RequestBody>> {
        if may_ask_directly(self.settings, self.original, target, &body) {
            let Self { worker, downstream, settings, original, path, .. } = *self;
            return Box::pin(ask_directly(worker, downstream, settings, original, path, target, fresh_only));
        }
        let (worker, downstream) = (Rc::clone(self.worker), Rc::clone(self.downstream));
        Box::pin(attempt(worker, downstream, self.settings, self.original, self.path, target, body, fresh_only))
    }

    fn may_have(&self, target: &Target) -> bool {
        self.answer_here(target).is_none()
    }

    fn took(answer: &Answer) -> Duration {
        answer.took
    }

    fn failed(&self, answer: &Answer) -> bool {
        let (rule, response) = (self.settings.health.error_status, &answer.response);
        // A call that failed before it said anything has its status in the head (the gRPC protocol: Trailers-Only).
        let unavailable = || response.headers().get("grpc-status").is_some_and(|status| status == "14");
        rule.counts(response.status().as_u16()) || (rule != ErrorStatus::Off && unavailable())
    }

    fn tell(&self, target: &Target, finish: &mut Finish) {
        if let Some(format) = self.worker.access.custom()
            && let Some(told) = finish.note().and_then(|note| note.told.as_mut())
        {
            let rules = &self.settings.header_rules;
            told.goes_to(format, rules, self.original, self.path, self.downstream, target);
        }
    }
}

impl<'a> Exchange<'a> {
    /// The authentication scheme that has to let the request in before `target` may have it; none for a request that
    /// the access rules refuse anyway.
    pub(super) fn wanted_scheme(&self, target: &'a Target) -> Option<&'a str> {
        let name = target.options.auth.as_deref()?;
        permits(&target.options.access, self.downstream, &self.original.headers).then_some(name)
    }

    /// What a service is told that decides about the request. The path is the one that was routed: the client's own may
    /// have led elsewhere (`/public/../admin`) before it was cleaned.
    fn fields_for_auth(&self, target: &Target) -> HeaderMap {
        let rules = &self.settings.header_rules;
        let context = forward::context(self.original, self.downstream, rules, target);
        let mut fields = forward::fields(self.original, &context);
        let mut uri = self.path.wire.to_string();
        if let Some(query) = self.original.uri.query() {
            uri.push('?');
            uri.push_str(query);
        }
        let wanted = Wanted { method: &self.original.method, host: self.routed_host, uri: &uri };
        headers::tell_decider(&mut fields, &context, &wanted);
        fields
    }

    /// What it answers, as the client gets it.
    fn answer_of_auth(&self, denied: Denied) -> Response<Bytes> {
        let mut response = Response::new(denied.body);
        *response.status_mut() = denied.status;
        *response.headers_mut() = denied.headers;
        let rules = &self.settings.header_rules;
        headers::prepare_response(response.headers_mut(), &self.downstream.client, rules, false);
        // The body is framed anew.
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    }

    /// What the chosen target's options decide without asking it.
    pub(super) fn answer_here(&self, target: &Target) -> Option<Result<Response<Bytes>, ProxyError>> {
        let options = &*target.options;
        if !permits(&options.access, self.downstream, &self.original.headers) {
            return Some(Err(ProxyError::AccessDenied));
        }
        if options.auth.as_deref().is_some_and(|name| self.admitted_by != Some(name)) {
            return Some(Err(ProxyError::Unauthorized));
        }
        let redirect = options.redirect.as_ref()?;
        let location = redirect::location(&redirect.url, &redirect_source(self.original, self.path, options));
        // Never passed on instead: what is redirected is not the instance's to see.
        let Some(location) = location else {
            return Some(Err(ProxyError::BadRequest("the redirect that it gets cannot be written as a field")));
        };
        let code = StatusCode::from_u16(redirect.code).unwrap_or(StatusCode::FOUND);
        Some(Ok(redirect::answer(code, location, &self.original.method)))
    }
}

/// What is wrong with the fields of a request, whatever its route is.
pub(super) fn unfit_fields(fields: &HeaderMap, settings: &Settings) -> Option<ProxyError> {
    if let Some(reason) = singletons::repeated_anywhere(fields) {
        return Some(ProxyError::BadRequest(reason));
    }
    // In HTTP/1 the guard counts; what HTTP/2 sends, the library has bounded by size alone.
    (fields.len() > settings.proxy.max_headers).then_some(ProxyError::TooManyHeaders)
}

/// What is wrong with them where credentials are needed.
pub(super) fn unclear_credentials(fields: &HeaderMap) -> Option<ProxyError> {
    let repeated = singletons::is_repeated(fields, &AUTHORIZATION);
    repeated.then_some(ProxyError::BadRequest("more than one Authorization field"))
}

/// The route of a request, and the host by which it was found.
pub(super) fn find_route<'a>(
    worker: &Worker,
    downstream: &Downstream,
    original: &'a Original,
    path: &NormalPath<'_>,
) -> Result<(Option<&'a HeaderValue>, Arc<Route>), ProxyError> {
    let value = dsthost(downstream, &original.headers)?.or(original.host.as_ref());
    let host = value.and_then(|host| host.to_str().ok()).unwrap_or("");
    let websocket = original.upgrade.as_ref().is_some_and(|upgrade| upgrade.websocket);
    let mut table = worker.table.borrow_mut();
    let table = table.load();
    if downstream.is_elsewhere(host.as_bytes()) {
        let name = std::str::from_utf8(headers::without_port(host.as_bytes())).unwrap_or("");
        if table.is_passed_through(name) {
            return Err(ProxyError::Misdirected);
        }
    }
    let mut unclear = false;
    let accept = |route: &Route| {
        let redirecting =
            route.targets.first().and_then(|target| target.options.redirect.as_ref().map(|to| (target, to)));
        let Some((target, redirect)) = redirecting else { return true };
        unclear |= singletons::is_repeated(&original.headers, &X_FORWARDED_PROTO);
        let scheme = headers::scheme(&original.headers, downstream.client.is_tls(), websocket);
        !redirect::is_self_redirect(&redirect.url, scheme, &redirect_source(original, path, &target.options))
    };
    let route = table.lookup(downstream.scheme, host, &path.decoded, accept).cloned();
    if unclear {
        return Err(ProxyError::BadRequest("more than one X-Forwarded-Proto field"));
    }
    route.map(|route| (value, route)).ok_or(ProxyError::NoRoute)
}

/// A gRPC client says in its metadata which host it means, as for Fabio, if its `:authority` names something else.
fn dsthost<'h>(downstream: &Downstream, headers: &'h HeaderMap) -> Result<Option<&'h HeaderValue>, ProxyError> {
    if !downstream.listener.config.protocol.is_grpc() {
        return Ok(None);
    }
    if singletons::is_repeated(headers, &DSTHOST) {
        return Err(ProxyError::BadRequest("more than one dsthost field"));
    }
    Ok(headers.get(&DSTHOST))
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

/// The peer and every hop that the request claims to have come through must pass: a client cannot hide behind a header,
/// and a proxy in front cannot hide a client. A hop that cannot be read does not pass: it may be an
/// address that the rule shuts out.
fn permits(access: &Access, downstream: &Downstream, headers: &HeaderMap) -> bool {
    if *access == Access::Open {
        return true;
    }
    let peer = downstream.client.ip();
    access.permits(peer)
        && forwarded::hops(headers).all(|hop| match hop {
            Hop::Address(address) => address == peer || access.permits(address),
            Hop::Unknown => false,
        })
}

/// The number by which routes with a hash strategy choose; 0 for others.
pub(super) fn hash_of(strategy: &Strategy, downstream: &Downstream, headers: &HeaderMap, path: &str) -> u64 {
    use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
    let Strategy::Hash(key) = strategy else { return 0 };
    // A fixed seed: all workers, and all instances of the balancer, agree.
    let mut hasher = foldhash::quality::FixedState::with_seed(0x6c62).build_hasher();
    match key {
        HashKey::Ip => downstream.client.ip().hash(&mut hasher),
        HashKey::Path => path.hash(&mut hasher),
        HashKey::Header(name) => match headers.get(&**name) {
            Some(value) => hasher.write(value.as_bytes()),
            None => downstream.client.ip().hash(&mut hasher),
        },
        HashKey::Cookie(name) => match cookie(headers, name) {
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

/// An id for a request, where one is configured.
pub(super) fn fresh_id(settings: &Settings) -> Option<HeaderValue> {
    settings.header_rules.request_id_header.as_ref()?;
    HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).ok()
}

/// How errors are told.
pub(super) fn error_answers(settings: &Settings) -> ErrorAnswers {
    ErrorAnswers {
        no_route: settings.no_route_status,
        no_route_page: settings.no_route_page.present(),
        retry_after_s: settings.proxy.retry_after.as_secs().max(1),
        bare: settings.proxy.bare_errors,
    }
}

fn refuse(settings: &Settings, mut finish: Box<Finish>, error: &ProxyError, grpc: bool) -> Response<ResponseBody> {
    let mut response = if grpc { error.grpc_response() } else { error.response(&error_answers(settings)) };
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
    response: Response<Source>,
    first: Option<Frame<Bytes>>,
    compressing: Option<Compressing>,
    mut finish: Box<Finish>,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    // The version is the client connection's business, not the upstream's.
    parts.version = Version::HTTP_11;
    // To HEAD, with a head of what is compressed: nothing is.
    if first.is_none() && body.is_end_stream() {
        finish.complete();
        return Response::from_parts(parts, ResponseBody::Upstream { first, body, finish });
    }
    let body = match compressing {
        Some(compressing) => ResponseBody::Compressed { body: compressing.body(first, body), finish },
        None => ResponseBody::Upstream { first, body, finish },
    };
    Response::from_parts(parts, body)
}
