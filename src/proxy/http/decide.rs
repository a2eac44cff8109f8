//! What becomes of a request, by its head: a response made here, or an instance that gets it. One
//! function, whatever protocol the request came by.
//!
//! ```text
//! host, fields clear? ─► path ─► route ─► pick ─► access ─► preflight ─► rate ─► credentials ─► redirect ─► forward
//!        │ 400, 431       │ 400   │ 404, 421  │ 503   │ 403     │ 204         │ 429    │ 401…        │ 301…
//!        ▼                ▼       ▼           ▼       ▼         ▼             ▼        ▼             ▼
//!                               respond (proxy::error)
//! ```

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, ORIGIN,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::client_address::Client;
use super::forwarded::{self, Hop};
use super::h1::write_head::Outbound;
use super::head::{Content, Head};
use super::headers::{self, HeaderRules, RequestContext, Wanted};
use super::path::{self, NormalPath};
use super::pick::pick;
use super::prometheus_listener;
use super::record::RequestRecord;
use super::redirect::{self, RedirectSource};
use super::server::downstream::Downstream;
use super::sticky;
use crate::catalog::options::{Access, HashKey, RouteOptions, Strategy};
use crate::catalog::policies::{Policies, RateKey};
use crate::config::ListenerProtocol;
use crate::proxy::auth::{Admission, Denied, Granted};
use crate::proxy::challenges;
use crate::proxy::error::{ErrorResponses, ProxyError};
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::balancer::PickContext;
use crate::table::limits::{Pass, RouteSlot};
use crate::table::sticky::StickyToken;
use crate::table::{Route, Target};

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// A balancer in front would cause the line with each request.
static TOLD_OF_UNTRUSTED: AtomicBool = AtomicBool::new(false);
static DSTHOST: HeaderName = HeaderName::from_static("dsthost");

/// A request as it came in, and where.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// This worker.
    pub worker: &'a Rc<Worker>,
    /// The client's connection.
    pub downstream: &'a Rc<Downstream>,
    /// The settings that were in force when its head was there.
    pub settings: &'a Arc<Settings>,
    /// Its head.
    pub head: &'a Head<'a>,
    /// Its path. An error: it cannot be decoded.
    pub path: Option<&'a NormalPath<'a>>,
    /// Its id, if one is configured.
    pub id: Option<&'a HeaderValue>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// This response, made here.
    Respond(Own),
    /// It goes to an instance.
    Forward(Forward),
}

/// A response made here.
#[derive(Debug)]
pub struct Own {
    /// The response.
    pub response: Response<Bytes>,
    /// The client of such a request is not trusted about where the next one begins.
    pub close: bool,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Forward {
    /// The route of its host and path.
    pub route: Arc<Route>,
    /// Which of the route's targets gets it first.
    pub first: usize,
    /// For routes that go by a hash.
    pub hash: u64,
    /// Where its client belongs, if its cookie says so (`sticky=`).
    pub kept: Option<StickyToken>,
    /// The authentication schemes that let it in.
    pub admitted_by: Vec<String>,
    /// Fields that the services set which let it in.
    pub granted: Option<Box<Granted>>,
}

impl Forward {
    /// The target that gets it first.
    #[must_use]
    pub fn first(&self) -> &Target {
        &self.route.targets[self.first]
    }

    /// The field that keeps its client with `target`, which has responded (`sticky=`).
    #[must_use]
    pub fn set_cookie(&self, request: &Incoming<'_>, target: &Target) -> Option<HeaderValue> {
        self.route.sticky.as_ref()?;
        sticky::set_cookie(&self.route, self.kept, target, || {
            let (client, rules) = (&request.downstream.client, &request.settings.header_rules);
            sticky::is_secure(request.head, client, rules)
        })
    }
}

/// Decides about a request, and notes in `finish` what is decided. `now_ms` is the present time on
/// the process clock. Cancel safe.
pub async fn decide(request: &Incoming<'_>, finish: &mut RequestRecord, now_ms: u64) -> Decision {
    match try_decide(request, finish, now_ms).await {
        Ok(decision) => decision,
        Err(error) => Decision::Respond(request.refuse(&error, finish)),
    }
}

async fn try_decide(
    request: &Incoming<'_>,
    finish: &mut RequestRecord,
    now_ms: u64,
) -> Result<Decision, ProxyError> {
    let Incoming {
        worker,
        downstream,
        settings,
        head,
        ..
    } = *request;
    if downstream.listener.config.protocol == ListenerProtocol::Prometheus {
        let response = prometheus_listener::response(worker, head).await;
        finish.responded_here(response.status().as_u16());
        return Ok(Decision::Respond(Own {
            response,
            close: false,
        }));
    }
    if head.has_forwarding_fields() {
        request.note_client(finish);
    }
    if let Some(error) = unfit_fields(head, settings) {
        return Err(error);
    }
    // RFC 9110 section 9.3.7: `OPTIONS *` is for the proxy itself.
    if *head.method == Method::OPTIONS && head.target == "*" {
        finish.responded_here(200);
        return Ok(Decision::Respond(Own {
            response: Response::new(Bytes::new()),
            close: false,
        }));
    }
    if *head.method == Method::CONNECT {
        downstream.listener.no_route_of_request();
        return Err(ProxyError::NoRoute);
    }
    let Some(path) = request.path else {
        return Err(ProxyError::BadRequest("the path cannot be decoded"));
    };
    if !settings.challenges.is_empty()
        && let Some(response) = validation(settings, head, path).await
    {
        finish.responded_here(200);
        return Ok(Decision::Respond(Own {
            response,
            close: false,
        }));
    }
    let rules = &settings.header_rules;
    let route = find_route(worker, downstream, rules, head, path).inspect_err(|error| {
        if matches!(error, ProxyError::NoRoute | ProxyError::Misdirected) {
            downstream.listener.no_route_of_request();
        }
    })?;
    if let Some(note) = finish.note() {
        note.route = Some(Arc::clone(&route));
    }
    let hash = hash_of(&route.strategy, downstream, rules, head, &path.decoded);
    let slow_start_ms = settings.health.slow_start_ms;
    let kept = sticky::kept(&route, head, now_ms);
    let picked = kept.map(|(target, _)| target).or_else(|| {
        let context = PickContext {
            now_ms,
            tried: &[],
            hash,
            slow_start_ms,
        };
        pick(worker, &route, context, head.may_be_doubled())
    });
    let kept = kept.map(|(_, token)| token);
    let Some(first) = picked else {
        if let Some(excluded) = route.excluded.first() {
            finish.set_service(&worker.metrics.service(&excluded.service));
        }
        finish.follows(route.policies_of_excluded.as_ref(), || request.origin());
        return Err(ProxyError::NoInstance);
    };
    finish.set_service(&first.service);
    let first = route.index_of(first).unwrap_or(0);
    let mut forward = Forward {
        route,
        first,
        hash,
        kept,
        admitted_by: Vec::new(),
        granted: None,
    };
    request.follow(forward.first(), finish);
    if let Some(policies) = &forward.first().options.policies {
        request.admit_client(&forward, policies)?;
        if request.is_preflight(policies) {
            return Ok(Decision::Respond(preflight_response(finish)));
        }
        request.admit_by_rate(&forward, policies, finish, now_ms)?;
    }
    if forward.first().options.auth.is_some()
        && let Some(own) = Box::pin(request.admit(&mut forward, finish)).await?
    {
        return Ok(Decision::Respond(own));
    }
    match request.respond_here(forward.first(), &forward.admitted_by) {
        None => {
            if let Some(policies) = &forward.first().options.policies {
                // One that is decided about again, because the table changed, has one already.
                finish.takes_slot(None);
                finish.takes_slot(request.admit_by_size(&forward, policies)?);
            }
            Ok(Decision::Forward(forward))
        }
        Some(Ok(response)) => {
            finish.redirected(response.status().as_u16());
            Ok(Decision::Respond(Own {
                response,
                close: false,
            }))
        }
        Some(Err(error)) => Err(error),
    }
}

/// The response to an ACME server that looks whether a host is ours: before any route, redirect or
/// rule of access, none of which an ACME server could pass.
async fn validation(
    settings: &Settings,
    head: &Head<'_>,
    path: &NormalPath<'_>,
) -> Option<Response<Bytes>> {
    let token = path.decoded.strip_prefix(challenges::PATH)?;
    if *head.method != Method::GET && *head.method != Method::HEAD {
        return None;
    }
    let host = headers::without_port(head.host?);
    let host = std::str::from_utf8(host).ok()?;
    let body = Box::pin(settings.challenges.request(host, token)).await?;
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Some(response)
}

impl Incoming<'_> {
    /// Notes for the log which client a trusted proxy names; says once that others are not believed.
    #[cold]
    fn note_client(&self, finish: &mut RequestRecord) {
        let (rules, client) = (&self.settings.header_rules, &self.downstream.client);
        if !rules.believe(client) {
            if !TOLD_OF_UNTRUSTED.swap(true, Relaxed) {
                tracing::warn!(
                    sender = %client.ip(), listener = %self.downstream.listener.config.address,
                    "forwarding fields (X-Forwarded-*, Forwarded, X-Real-Ip) of a sender that is not trusted are \
                     replaced; if it is a proxy of yours, add its address to proxy.trusted_proxies"
                );
            }
        } else if let Some(note) = finish.note() {
            note.client = Some(self.client().address);
        }
    }

    /// The client of the request.
    fn client(&self) -> Client {
        let trusted = &self.settings.header_rules.trusted_proxies;
        self.head.client(self.downstream.client.ip(), trusted)
    }

    /// Whether its client may pass. With `proxy.client_address = "peer"`, the sender and every hop
    /// that it names must: a client cannot hide behind a header, and a proxy in front cannot hide a
    /// client. An address that cannot be read does not pass: it may be one that the rule shuts out.
    fn passes(&self, access: &Access) -> bool {
        if *access == Access::Open {
            return true;
        }
        let (head, peer) = (self.head, self.downstream.client.ip());
        let trusted = &self.settings.header_rules.trusted_proxies;
        if !trusted.check_every_hop() {
            let client = self.client();
            return !client.is_unknown && access.permits(client.address);
        }
        let names_hops = head.has_forwarding_fields() && trusted.contain(peer);
        access.permits(peer)
            && (!names_hops
                || forwarded::hops(head.fields.map()).all(|hop| match hop {
                    Hop::Address(address) => address == peer || access.permits(address),
                    Hop::Unknown => false,
                }))
    }

    /// The response to a request that is refused.
    pub fn refuse(&self, error: &ProxyError, finish: &mut RequestRecord) -> Own {
        let response = if self.head.grpc {
            error.grpc_response()
        } else {
            error.response(&error_responses(self.settings))
        };
        finish.refused(error, response.status().as_u16());
        finish.metadata(response.headers());
        Own {
            response,
            close: matches!(error, ProxyError::BadRequest(_)),
        }
    }

    /// Notes what the route of `target` does to the response.
    pub fn follow(&self, target: &Target, finish: &mut RequestRecord) {
        finish.follows(target.options.policies.as_ref(), || self.origin());
    }

    /// The origin that it names. More than one is none that may be let in.
    fn origin(&self) -> Option<HeaderValue> {
        let fields = &self.head.fields;
        let value = fields.get(&ORIGIN)?;
        match fields.is_repeated(&ORIGIN) {
            true => Some(HeaderValue::from_static("")),
            false => HeaderValue::from_bytes(value).ok(),
        }
    }

    /// Whether a browser wants to know if it may send another request, and the route says so.
    pub fn is_preflight(&self, policies: &Policies) -> bool {
        policies.cors.is_some()
            && *self.head.method == Method::OPTIONS
            && self.head.fields.get(&ORIGIN).is_some()
            && self
                .head
                .fields
                .get(&ACCESS_CONTROL_REQUEST_METHOD)
                .is_some()
    }

    /// Whether its client may use the route at all. Those that may not cost the others no token.
    #[cold]
    fn admit_client(&self, forward: &Forward, policies: &Policies) -> Result<(), ProxyError> {
        if !self.permits(forward.first()) {
            return Err(ProxyError::AccessDenied);
        }
        match &policies.closed {
            Some(why) => Err(ProxyError::PolicyUnusable(Arc::clone(why))),
            None => Ok(()),
        }
    }

    /// Whether the rate of its route lets it pass.
    #[cold]
    fn admit_by_rate(
        &self,
        forward: &Forward,
        policies: &Policies,
        finish: &mut RequestRecord,
        now_ms: u64,
    ) -> Result<(), ProxyError> {
        let (Some(rate), Some(limits)) = (&policies.rate, &forward.route.limits) else {
            return Ok(());
        };
        if finish.has_paid(limits) {
            return Ok(());
        }
        let now_ns = now_ms.saturating_mul(1_000_000);
        let (interval_ns, burst) = self.settings.limit_share.of(rate);
        let pass = match &rate.by {
            RateKey::Ip => limits.take_token(
                network_of(self.client().address),
                now_ns,
                interval_ns,
                burst,
            ),
            RateKey::Header(name) => {
                let value = self.head.fields.get(name);
                limits.take_token(value, now_ns, interval_ns, burst)
            }
            RateKey::Route => limits.take_token((), now_ns, interval_ns, burst),
        };
        match pass {
            Pass::Yes => {
                finish.pays(limits);
                Ok(())
            }
            Pass::In(ns) => Err(ProxyError::RateLimited {
                retry_after_s: ns.div_ceil(1_000_000_000).max(1),
            }),
        }
    }

    /// Whether its body is short enough, as far as its length is known, and its route has room for
    /// one more request, which it then takes.
    #[cold]
    fn admit_by_size(
        &self,
        forward: &Forward,
        policies: &Policies,
    ) -> Result<Option<RouteSlot>, ProxyError> {
        let length = match self.head.content {
            Content::Whole(content) => Some(content.len() as u64),
            Content::Streamed(length) => length,
        };
        if let (Some(most), Some(length)) = (policies.body_max, length)
            && length > most
        {
            return Err(ProxyError::BodyTooLarge);
        }
        let (Some(most), Some(limits)) = (policies.in_flight_max, &forward.route.limits) else {
            return Ok(None);
        };
        match RouteSlot::enter(limits, most) {
            Some(slot) => Ok(Some(slot)),
            None => Err(ProxyError::RouteBusy),
        }
    }

    /// Calls the schemes that have to let the request in before the first target may have it, one
    /// after another. Some: what the client gets instead.
    async fn admit(
        &self,
        forward: &mut Forward,
        finish: &mut RequestRecord,
    ) -> Result<Option<Own>, ProxyError> {
        let route = Arc::clone(&forward.route);
        let target = &route.targets[forward.first];
        for name in self.wanted_schemes(target) {
            // One that is decided about again is not held up again: a service may take credentials
            // only once.
            let known = finish.granted_by(&route, name);
            let granted = match known {
                Some(granted) => granted.cloned().map(Box::new),
                None => match self.admit_by(name, target, finish).await? {
                    Ok(granted) => {
                        finish.admitted(&route, name, granted.clone());
                        granted
                    }
                    Err(own) => return Ok(Some(own)),
                },
            };
            forward.admitted_by.push(name.to_owned());
            // What an earlier one sets, a later one does not change.
            forward.granted = Granted::one_after_another(granted, forward.granted.take());
        }
        Ok(None)
    }

    /// Calls one of them: what it changes in the request, or what the client gets instead.
    async fn admit_by(
        &self,
        name: &str,
        target: &Target,
        finish: &mut RequestRecord,
    ) -> Result<Result<Option<Box<Granted>>, Own>, ProxyError> {
        if let Some(error) = unclear_credentials(self.head) {
            return Err(error);
        }
        let sent = || self.fields_for_auth(target);
        match self
            .settings
            .auth
            .admit(name, self.head.fields.map(), sent)
            .await
        {
            Admission::Granted(granted) => Ok(Ok(granted)),
            Admission::Denied(denied) if !self.head.grpc => {
                finish.refused(&ProxyError::Unauthorized, denied.status.as_u16());
                Ok(Err(Own {
                    response: self.response_of_auth(*denied),
                    close: false,
                }))
            }
            refused => {
                let (error, challenge) = refused.refusal(self.settings.proxy.has_bare_errors());
                let mut own = self.refuse(&error, finish);
                challenge.map(|challenge| {
                    own.response
                        .headers_mut()
                        .insert(WWW_AUTHENTICATE, challenge)
                });
                Ok(Err(own))
            }
        }
    }

    /// Whether the access rules of `target` and of its policy let the client pass.
    fn permits(&self, target: &Target) -> bool {
        let allows = |access| self.passes(access);
        let policies = target.options.policies.as_deref();
        allows(&target.options.access)
            && policies
                .is_none_or(|policies| allows(&policies.access.0) && allows(&policies.access.1))
    }

    /// The authentication schemes that have to let the request in before `target` may have it; none
    /// for a request that the access rules refuse anyway.
    pub fn wanted_schemes<'t>(&self, target: &'t Target) -> impl Iterator<Item = &'t str> {
        let permits = target.options.auth.is_some() && self.permits(target);
        target.options.auth_schemes().filter(move |_| permits)
    }

    /// What a service is told that decides about the request. The path is the one that was routed:
    /// the client's own may have led elsewhere (`/public/../admin`) before it was cleaned.
    fn fields_for_auth(&self, target: &Target) -> HeaderMap {
        let (head, rules) = (self.head, &self.settings.header_rules);
        let Some(path) = self.path else {
            return HeaderMap::new();
        };
        let outbound = Outbound {
            head,
            path,
            id: self.id,
            granted: None,
        };
        let host = head.host_value();
        let context = RequestContext {
            // What a tag sets is not the client's word.
            edits: None,
            ..outbound.context(host.as_ref(), rules, &self.downstream.client, target)
        };
        let mut fields = outbound.fields(&context);
        let mut uri = path.wire.to_string();
        if let Some(query) = head.query() {
            uri.push('?');
            uri.push_str(query);
        }
        let routed = routed_host(self.downstream, head).ok().flatten();
        let routed = routed.and_then(|host| HeaderValue::from_bytes(host).ok());
        let wanted = Wanted {
            method: head.method,
            host: routed.as_ref(),
            uri: &uri,
        };
        headers::tell_decider(&mut fields, &context, &wanted);
        fields
    }

    /// The response of the service, as the client gets it.
    fn response_of_auth(&self, denied: Denied) -> Response<Bytes> {
        let mut response = Response::new(denied.body);
        *response.status_mut() = denied.status;
        *response.headers_mut() = denied.headers;
        let rules = &self.settings.header_rules;
        headers::prepare_response(
            response.headers_mut(),
            &self.downstream.client,
            rules,
            false,
        );
        // The body is framed anew.
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    }

    /// What the options of `target` decide without a request to it. `admitted_by`: the schemes that
    /// let the request in.
    #[must_use]
    pub fn respond_here(
        &self,
        target: &Target,
        admitted_by: &[String],
    ) -> Option<Result<Response<Bytes>, ProxyError>> {
        let options = &*target.options;
        if !self.permits(target) {
            return Some(Err(ProxyError::AccessDenied));
        }
        let policies = options.policies.as_ref();
        if let Some(why) = policies.and_then(|policies| policies.closed.as_ref()) {
            return Some(Err(ProxyError::PolicyUnusable(Arc::clone(why))));
        }
        if let Some(name) = options
            .client_certificate
            .as_ref()
            .filter(|_| options.proto.is_tls())
            && let Some(why) = self.settings.client_certificates.problem(name)
        {
            return Some(Err(ProxyError::PolicyUnusable(why.into())));
        }
        let is_admitted = |name: &str| admitted_by.iter().any(|by| by == name);
        if options.auth.is_some() && !options.auth_schemes().all(is_admitted) {
            return Some(Err(ProxyError::Unauthorized));
        }
        let Some(redirect) = &options.redirect else {
            let rewrite = policies.and_then(|policies| policies.rewrite.as_ref())?;
            let made = rewrite.apply(&self.path?.wire)?;
            let escapes = path::made(&made).is_err();
            return escapes.then_some(Err(ProxyError::BadRequest(
                "the path that it is rewritten to leads elsewhere",
            )));
        };
        let location = self.path.and_then(|path| {
            redirect::location(&redirect.url, &redirect_source(self.head, path, options))
        });
        // Never passed on instead: what is redirected is not the instance's to see.
        let Some(location) = location else {
            return Some(Err(ProxyError::BadRequest(
                "the redirect that it gets cannot be written as a field",
            )));
        };
        let code = StatusCode::from_u16(redirect.code).unwrap_or(StatusCode::FOUND);
        Some(Ok(redirect::response(code, location, self.head.method)))
    }
}

/// The response to a preflight; what it says is put in with what the route does to all responses.
fn preflight_response(finish: &mut RequestRecord) -> Own {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    finish.to_preflight(response.headers_mut());
    finish.responded_here(StatusCode::NO_CONTENT.as_u16());
    Own {
        response,
        close: false,
    }
}

/// What is wrong with the fields of a request, whatever its route is.
pub(crate) fn unfit_fields(head: &Head<'_>, settings: &Settings) -> Option<ProxyError> {
    if head.unclear_host {
        return Some(ProxyError::BadRequest("the host is not clear"));
    }
    if head.version == Version::HTTP_2 && head.fields.is_repeated(&CONTENT_LENGTH) {
        return Some(ProxyError::BadRequest("more than one Content-Length field"));
    }
    if head.fields.have_blanks_around() {
        return Some(ProxyError::BadRequest("blanks around the value of a field"));
    }
    if head.unclear_type {
        return Some(ProxyError::BadRequest("more than one Content-Type field"));
    }
    // In HTTP/1 the parser counts; what HTTP/2 sends, the library has bounded by size alone.
    let several =
        head.version == Version::HTTP_2 && head.fields.count_joined() > settings.proxy.max_headers;
    several.then_some(ProxyError::TooManyHeaders)
}

/// What is wrong with them where credentials are needed.
pub(crate) fn unclear_credentials(head: &Head<'_>) -> Option<ProxyError> {
    let repeated = head.fields.is_repeated(&AUTHORIZATION);
    repeated.then_some(ProxyError::BadRequest("more than one Authorization field"))
}

/// The host by which the route is looked for.
fn routed_host<'h>(
    downstream: &Downstream,
    head: &'h Head<'_>,
) -> Result<Option<&'h [u8]>, ProxyError> {
    // A gRPC client says in its metadata which host it means, as for Fabio, if its `:authority`
    // names something else.
    if downstream.listener.config.protocol.is_grpc() {
        if head.fields.is_repeated(&DSTHOST) {
            return Err(ProxyError::BadRequest("more than one dsthost field"));
        }
        if let Some(host) = head.fields.get(&DSTHOST) {
            return Ok(Some(host));
        }
    }
    Ok(head.host)
}

/// The route of a request.
pub(crate) fn find_route(
    worker: &Worker,
    downstream: &Downstream,
    rules: &HeaderRules,
    head: &Head<'_>,
    path: &NormalPath<'_>,
) -> Result<Arc<Route>, ProxyError> {
    let host = routed_host(downstream, head)?
        .and_then(|host| std::str::from_utf8(host).ok())
        .unwrap_or("");
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
        let redirecting = route
            .targets
            .first()
            .and_then(|target| target.options.redirect.as_ref().map(|to| (target, to)));
        let Some((target, redirect)) = redirecting else {
            return true;
        };
        unclear |= rules.believe(&downstream.client) && head.fields.is_repeated(&X_FORWARDED_PROTO);
        let websocket = head
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| upgrade.websocket);
        let fields = head.fields.map();
        let scheme = headers::scheme(fields, &downstream.client, rules, websocket);
        !redirect::is_self_redirect(
            &redirect.url,
            scheme,
            &redirect_source(head, path, &target.options),
        )
    };
    let route = table
        .lookup_request(
            downstream.scheme,
            host,
            &path.decoded,
            |matchers| matchers.hold(head),
            accept,
        )
        .cloned();
    if unclear {
        return Err(ProxyError::BadRequest(
            "more than one X-Forwarded-Proto field",
        ));
    }
    route.ok_or(ProxyError::NoRoute)
}

fn redirect_source<'a>(
    head: &'a Head<'_>,
    path: &'a NormalPath<'a>,
    options: &'a RouteOptions,
) -> RedirectSource<'a> {
    RedirectSource {
        path,
        query: head.query(),
        host: head.host_text(),
        strip: options.strip.as_deref(),
        prepend: options.prepend.as_deref(),
    }
}

/// What counts as one client: an address, of IPv6 the network that one customer has.
fn network_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// The number by which routes with a hash strategy choose; 0 for others.
pub(crate) fn hash_of(
    strategy: &Strategy,
    downstream: &Downstream,
    rules: &HeaderRules,
    head: &Head<'_>,
    path: &str,
) -> u64 {
    use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
    let Strategy::Hash(key) = strategy else {
        return 0;
    };
    let client = || {
        head.client(downstream.client.ip(), &rules.trusted_proxies)
            .address
    };
    // A fixed seed: all workers, and all instances of the balancer, agree.
    let mut hasher = foldhash::quality::FixedState::with_seed(0x6c62).build_hasher();
    match key {
        HashKey::Ip => client().hash(&mut hasher),
        HashKey::Path => path.hash(&mut hasher),
        HashKey::Header(name) => {
            match HeaderName::from_bytes(name.as_bytes())
                .ok()
                .as_ref()
                .and_then(|name| head.fields.get(name))
            {
                Some(value) => hasher.write(value),
                None => client().hash(&mut hasher),
            }
        }
        HashKey::Cookie(name) => match cookie(head, name) {
            Some(value) => hasher.write(value.as_bytes()),
            None => client().hash(&mut hasher),
        },
    }
    hasher.finish()
}

fn cookie<'h>(head: &'h Head<'_>, name: &str) -> Option<&'h str> {
    head.fields
        .all(&http::header::COOKIE)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// An id for a request, where one is configured.
pub(crate) fn fresh_id(settings: &Settings) -> Option<HeaderValue> {
    settings.header_rules.request_id_header.as_ref()?;
    HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).ok()
}

pub(crate) fn error_responses(settings: &Settings) -> ErrorResponses {
    ErrorResponses {
        no_route: settings.no_route_status,
        no_route_page: settings.no_route_page.present(),
        retry_after_s: settings.proxy.retry_after.as_secs().max(1),
        bare: settings.proxy.has_bare_errors(),
    }
}
