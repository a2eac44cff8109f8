//! What becomes of a request, by its head: a response made here, or an instance that gets it. One
//! function, whatever protocol the request came by.
//!
//! ```text
//! host, fields clear? ─► path ─► route ─► pick ─► access ─► credentials ─► redirect ─► forward
//!        │ 400, 431       │ 400   │ 404, 421  │ 503   │ 403      │ 401…        │ 301…
//!        ▼                ▼       ▼           ▼       ▼          ▼             ▼
//!                               respond (proxy::error)
//! ```

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::client_address::Client;
use super::forwarded::{self, Hop};
use super::h1::write_head::Outbound;
use super::head::{Content, Head};
use super::headers::{self, HeaderRules, RequestContext, Wanted};
use super::path::NormalPath;
use super::pick::pick;
use super::prometheus_listener;
use super::record::RequestRecord;
use super::redirect::{self, RedirectSource};
use super::server::downstream::Downstream;
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
    /// The authentication scheme that let it in.
    pub admitted_by: Option<String>,
    /// Fields that the service set which let it in.
    pub granted: Option<Box<Granted>>,
}

impl Forward {
    /// The target that gets it first.
    #[must_use]
    pub fn first(&self) -> &Target {
        &self.route.targets[self.first]
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
    let picked = pick(
        worker,
        &route,
        PickContext {
            now_ms,
            tried: &[],
            hash,
            slow_start_ms,
        },
        head.may_be_doubled(),
    );
    let Some(first) = picked else {
        if let Some(excluded) = route.excluded.first() {
            finish.set_service(&worker.metrics.service(&excluded.service));
        }
        return Err(ProxyError::NoInstance);
    };
    finish.set_service(&first.service);
    let first = index_of(&route, first);
    let mut forward = Forward {
        route,
        first,
        hash,
        admitted_by: None,
        granted: None,
    };
    if let Some(policies) = &forward.first().options.policies {
        finish.follows(policies);
        request.admit_by_rate(&forward, policies, now_ms)?;
    }
    if forward.first().options.auth.is_some()
        && let Some(own) = Box::pin(request.admit(&mut forward, finish)).await?
    {
        return Ok(Decision::Respond(own));
    }
    match request.respond_here(forward.first(), forward.admitted_by.as_deref()) {
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

/// The answer to an ACME server that looks whether a host is ours: before any route, redirect or
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

/// Which of the route's targets this is.
fn index_of(route: &Route, target: &Target) -> usize {
    // Of thousands, too, it is found at once.
    let offset = std::ptr::from_ref(target)
        .addr()
        .wrapping_sub(route.targets.as_ptr().addr());
    let at = offset / size_of::<Target>();
    if route
        .targets
        .get(at)
        .is_some_and(|found| std::ptr::eq(found, target))
    {
        at
    } else {
        0
    }
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

    /// Whether the rate of its route lets it pass. Clients that may not use the route at all cost
    /// the others no token.
    #[cold]
    fn admit_by_rate(
        &self,
        forward: &Forward,
        policies: &Policies,
        now_ms: u64,
    ) -> Result<(), ProxyError> {
        if !self.permits(forward.first()) {
            return Err(ProxyError::AccessDenied);
        }
        if let Some(why) = &policies.closed {
            return Err(ProxyError::PolicyUnusable(Arc::clone(why)));
        }
        let (Some(rate), Some(limits)) = (&policies.rate, &forward.route.limits) else {
            return Ok(());
        };
        let (now_ns, interval_ns) = (now_ms.saturating_mul(1_000_000), rate.interval_ns);
        let pass = match &rate.by {
            RateKey::Ip => limits.take_token(
                network_of(self.client().address),
                now_ns,
                interval_ns,
                rate.burst,
            ),
            RateKey::Header(name) => {
                let value = self.head.fields.get(name);
                limits.take_token(value, now_ns, interval_ns, rate.burst)
            }
            RateKey::Route => limits.take_token((), now_ns, interval_ns, rate.burst),
        };
        match pass {
            Pass::Yes => Ok(()),
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

    /// Calls the scheme that has to let the request in before the first target may have it. Some:
    /// what the client gets instead.
    async fn admit(
        &self,
        forward: &mut Forward,
        finish: &mut RequestRecord,
    ) -> Result<Option<Own>, ProxyError> {
        let Some(name) = self.wanted_scheme(forward.first()) else {
            return Ok(None);
        };
        if let Some(error) = unclear_credentials(self.head) {
            return Err(error);
        }
        let sent = || self.fields_for_auth(forward.first());
        match self
            .settings
            .auth
            .admit(name, self.head.fields.map(), sent)
            .await
        {
            Admission::Granted(granted) => {
                let name = name.to_owned();
                (forward.admitted_by, forward.granted) = (Some(name), granted);
                Ok(None)
            }
            Admission::Denied(denied) if !self.head.grpc => {
                finish.refused(&ProxyError::Unauthorized, denied.status.as_u16());
                Ok(Some(Own {
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
                Ok(Some(own))
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

    /// The authentication scheme that has to let the request in before `target` may have it; none
    /// for a request that the access rules refuse anyway.
    #[must_use]
    pub fn wanted_scheme<'t>(&self, target: &'t Target) -> Option<&'t str> {
        let name = target.options.auth.as_deref()?;
        self.permits(target).then_some(name)
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

    /// What the options of `target` decide without a request to it. `admitted_by`: the scheme that
    /// let the request in.
    #[must_use]
    pub fn respond_here(
        &self,
        target: &Target,
        admitted_by: Option<&str>,
    ) -> Option<Result<Response<Bytes>, ProxyError>> {
        let options = &*target.options;
        if !self.permits(target) {
            return Some(Err(ProxyError::AccessDenied));
        }
        let policies = options.policies.as_ref();
        if let Some(why) = policies.and_then(|policies| policies.closed.as_ref()) {
            return Some(Err(ProxyError::PolicyUnusable(Arc::clone(why))));
        }
        if options.auth.is_some() && options.auth.as_deref() != admitted_by {
            return Some(Err(ProxyError::Unauthorized));
        }
        let redirect = options.redirect.as_ref()?;
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
