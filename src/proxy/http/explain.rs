//! What would become of a request, decided by the very functions that decide about real ones, without asking an
//! instance.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri, Version};

use super::client_io::Activity;
use super::connection::downstream;
use super::exchange::{Exchange, find_route, hash_of};
use super::forward::{Original, context, target_uri};
use super::headers::{self, TlsDetails};
use super::{path, singletons};
use crate::proxy::auth::Admission;
use crate::proxy::error::ProxyError;
use crate::proxy::listener::Listener;
use crate::proxy::session::hash_of as hash_of_peer;
use crate::proxy::worker::Worker;
use crate::table::balancer::{PickContext, choice_by_hash};
use crate::table::explain::{AskedRequest, Decision, Fate, Refusal};
use crate::table::{Route, Target};

/// Decides about a request that came to `listener`. The worker is one that serves nobody.
pub async fn decide(worker: &Rc<Worker>, listener: &Rc<Listener>, asked: &AskedRequest) -> Decision {
    let settings = worker.settings();
    let activity = Rc::new(Activity::new(worker.clock));
    let tls = asked.tls.then_some(TlsDetails { version: "tls13", cipher: 0x1301 });
    let downstream = downstream(listener, Rc::default(), SocketAddr::new(asked.from, 0), tls, None, activity);
    let refused = |error: &ProxyError| Refusal {
        status: error.status(settings.no_route_status).as_u16(),
        why: error.to_string(),
    };
    let mut decision = Decision::default();
    let Ok(uri) = asked.target.parse::<Uri>() else {
        decision.refused = Some(refused(&ProxyError::BadRequest("the target is not one that a request may have")));
        return decision;
    };
    let Ok(host) = headers::received_host(&uri, &asked.headers, Version::HTTP_11) else {
        decision.refused = Some(refused(&ProxyError::BadRequest("the host is not clear")));
        return decision;
    };
    decision.host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    if let Some(reason) = singletons::repeated_anywhere(&asked.headers) {
        decision.refused = Some(refused(&ProxyError::BadRequest(reason)));
        return decision;
    }
    if asked.headers.len() > settings.proxy.max_headers {
        decision.refused = Some(refused(&ProxyError::TooManyHeaders));
        return decision;
    }
    if asked.method == Method::OPTIONS && uri.path() == "*" {
        decision.refused = Some(Refusal { status: 200, why: "OPTIONS * asks the proxy itself".to_owned() });
        return decision;
    }
    if asked.method == Method::CONNECT {
        decision.refused = Some(refused(&ProxyError::NoRoute));
        return decision;
    }
    let original = Original {
        method: asked.method.clone(),
        uri: uri.clone(),
        version: Version::HTTP_11,
        upgrade: headers::upgrade_of(&asked.headers),
        headers: asked.headers.clone(),
        host,
        request_id: None,
        granted: OnceCell::new(),
    };
    let path = match path::normalise(uri.path()) {
        Ok(path) => path,
        Err(error) => {
            let why = format!("{}: {error}", ProxyError::BadRequest("the path cannot be decoded"));
            decision.refused = Some(Refusal { why, ..refused(&ProxyError::BadRequest("")) });
            return decision;
        }
    };
    decision.path = path.decoded.clone().into_owned();
    let (routed_host, route) = match find_route(worker, &downstream, &original, &path) {
        Ok(found) => found,
        Err(error) => {
            decision.refused = Some(refused(&error));
            return decision;
        }
    };
    let hash = hash_of(&route.strategy, &downstream, &original.headers, &path.decoded);
    decision.chosen = chosen(worker, &route, hash);
    if route.targets.is_empty() {
        decision.refused = Some(refused(&ProxyError::NoInstance));
    }
    let mut exchange = Exchange {
        worker,
        downstream: &downstream,
        settings: &settings,
        original: &original,
        path: &path,
        routed_host,
        admitted_by: None,
    };
    for target in &route.targets {
        exchange.admitted_by = None;
        let fate = match exchange.wanted_scheme(target) {
            Some(name) => match settings.auth.kind(name) {
                // Asked in earnest it would see a request that nobody made.
                Some(kind @ "external") => {
                    exchange.admitted_by = Some(name);
                    let mut fate = fate(&exchange, target);
                    fate.note =
                        Some(format!("if the service of [auth.{name}] ({kind}) lets it in, which is not asked here"));
                    fate
                }
                kind => match settings.auth.admit(name, &original.headers, http::HeaderMap::new).await {
                    Admission::Granted(_) => {
                        exchange.admitted_by = Some(name);
                        let mut fate = fate(&exchange, target);
                        fate.note = Some(format!("its credentials are good for [auth.{name}]"));
                        fate
                    }
                    refusal => unauthorised(&settings.no_route_status, name, kind, &refusal),
                },
            },
            None => fate(&exchange, target),
        };
        decision.fates.push(fate);
    }
    decision.route = Some(route);
    decision
}

/// What the target's own options make of a request that they let pass, or not.
fn fate(exchange: &Exchange<'_>, target: &Target) -> Fate {
    let (original, path, options) = (exchange.original, exchange.path, &*target.options);
    match exchange.answer_here(target) {
        Some(Ok(response)) => {
            let location =
                response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
            let status = response.status().as_u16();
            Fate { status: Some(status), location, ..Fate::default() }
        }
        Some(Err(error)) => {
            let status = error.status(exchange.settings.no_route_status).as_u16();
            let rules: Vec<String> = options
                .raw
                .iter()
                .filter(|(name, _)| matches!(&**name, "allow" | "deny"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let from = exchange.downstream.client.ip();
            let forwarded =
                original.headers.get("x-forwarded-for").map_or("", |_| ", or an address in X-Forwarded-For,");
            let why = match error {
                ProxyError::AccessDenied => format!("{from}{forwarded} may not pass by {}", rules.join(" ")),
                other => other.to_string(),
            };
            Fate { status: Some(status), why: Some(why), ..Fate::default() }
        }
        None => match target_uri(original, path, target) {
            Ok(uri) => {
                let context = context(original, exchange.downstream, &exchange.settings.header_rules, target);
                let host = headers::upstream_host(&context);
                Fate {
                    upstream: Some(format!("{}://{}{uri}", options.proto.scheme(), target.state.addr)),
                    upstream_path: Some(uri.as_str().to_owned()),
                    upstream_host: Some(String::from_utf8_lossy(host.as_bytes()).into_owned()),
                    ..Fate::default()
                }
            }
            Err(_) => {
                let why = "what strip= and prepend= make of the path cannot be sent".to_owned();
                Fate { status: Some(StatusCode::BAD_GATEWAY.as_u16()), why: Some(why), ..Fate::default() }
            }
        },
    }
}

/// A request that a scheme does not let in.
fn unauthorised(no_route: &StatusCode, name: &str, kind: Option<&str>, refusal: &Admission) -> Fate {
    let (status, challenge) = match refusal {
        Admission::Denied(denied) => (denied.status, None),
        Admission::Unavailable => (ProxyError::AuthUnavailable.status(*no_route), None),
        Admission::Busy => (ProxyError::AuthBusy.status(*no_route), None),
        Admission::Refused(challenge) => (ProxyError::Unauthorized.status(*no_route), Some(challenge)),
        Admission::Unknown => (ProxyError::AuthUnknown.status(*no_route), None),
        Admission::Granted(_) => (StatusCode::OK, None),
    };
    let why = match (kind, challenge) {
        (None, _) => format!("{} for everybody: no [auth.{name}] is configured", status.as_u16()),
        (Some(kind), Some(challenge)) => format!(
            "{} unless it has credentials that [auth.{name}] ({kind}) takes ({WWW_AUTHENTICATE}: {})",
            status.as_u16(),
            String::from_utf8_lossy(challenge.as_bytes())
        ),
        (Some(kind), None) => format!("{} unless [auth.{name}] ({kind}) lets it in", status.as_u16()),
    };
    Fate { status: Some(status.as_u16()), why: Some(why), ..Fate::default() }
}

/// Decides about a TCP connection to `local`, or, by its server name, to a host of the table.
pub fn decide_connection(
    worker: &Rc<Worker>,
    local: SocketAddr,
    server_name: Option<&str>,
    from: SocketAddr,
) -> Decision {
    let table = worker.table.borrow_mut().load().clone();
    let by_port = table.lookup_tcp(local);
    let route = by_port.or_else(|| server_name.and_then(|name| table.lookup_server_name(name)));
    let mut decision = Decision { host: server_name.unwrap_or_default().to_owned(), ..Decision::default() };
    let Some(route) = route else { return decision };
    decision.chosen = chosen(worker, route, hash_of_peer(from));
    for target in &route.targets {
        decision.fates.push(if target.options.access.permits(from.ip()) {
            Fate { upstream: Some(format!("tcp://{}", target.state.addr)), ..Fate::default() }
        } else {
            let why = format!("{} may not pass by {}", from.ip(), target.options_text());
            Fate { closed: true, why: Some(why), ..Fate::default() }
        });
    }
    decision.route = Some(Arc::clone(route));
    decision
}

/// Which target a hash strategy picks now.
fn chosen(worker: &Worker, route: &Arc<Route>, hash: u64) -> Option<usize> {
    let slow_start_ms = worker.settings().health.slow_start_ms;
    let context = PickContext { now_ms: worker.clock.now_ms(), tried: &[], hash, slow_start_ms };
    let target = choice_by_hash(route, &context)?;
    route.targets.iter().position(|other| std::ptr::eq(other, target))
}
