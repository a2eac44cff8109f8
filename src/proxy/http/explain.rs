//! What would become of a request, decided by the very functions that decide about real ones,
//! without sending it to an instance.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::client_address::Client;
use super::client_io::Activity;
use super::decide::{Incoming, find_route, hash_of, unclear_credentials, unfit_fields};
use super::h1::write_head::Outbound;
use super::head::{Content, Head};
use super::headers::{self, HeaderRules, TlsDetails};
use super::path;
use super::server::downstream::downstream;
use super::sticky;
use crate::proxy::auth::Admission;
use crate::proxy::error::ProxyError;
use crate::proxy::listener::Listener;
use crate::proxy::session::hash_of as hash_of_peer;
use crate::proxy::worker::Worker;
use crate::table::balancer::{PickContext, choice_by_hash};
use crate::table::explain::{Decision, ExplainedRequest, Fate, Refusal};
use crate::table::{Route, Target};

/// Decides about a request that came to `listener`. The worker is one without clients.
pub async fn decide(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    asked: &ExplainedRequest,
) -> Decision {
    let mut decision = Decision::default();
    if let Err(refusal) = look(worker, listener, asked, &mut decision).await {
        decision.refused = Some(refusal);
    }
    decision
}

/// Fills in the decision as far as it gets, or says why there is no route.
async fn look(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    asked: &ExplainedRequest,
    decision: &mut Decision,
) -> Result<(), Refusal> {
    let settings = worker.settings();
    let rules = &settings.header_rules;
    let activity = Rc::new(Activity::new(worker.clock));
    let tls = asked.tls.then_some(TlsDetails {
        version: "tls13",
        cipher: 0x1301,
    });
    let downstream = downstream(
        listener,
        Rc::default(),
        SocketAddr::new(asked.from, 0),
        tls,
        None,
        activity,
    );
    let refused = |error: ProxyError| Refusal {
        status: error.status(settings.no_route_status).as_u16(),
        why: error.to_string(),
    };
    let bad_request = |reason| refused(ProxyError::BadRequest(reason));
    let uri = asked
        .target
        .parse::<Uri>()
        .map_err(|_| bad_request("the target is not one that a request may have"))?;
    let host = headers::received_host(&uri, &asked.headers, Version::HTTP_11);
    let host = host.map_err(|_| bad_request("the host is not clear"))?;
    decision.host = host
        .as_ref()
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let target = uri
        .path_and_query()
        .map_or(uri.path(), http::uri::PathAndQuery::as_str);
    let content = Content::Whole(b"");
    let head = Head::of_map(
        &asked.method,
        Version::HTTP_11,
        target,
        Some(&host),
        &asked.headers,
        content,
    );
    let (client, client_note) = client_of(&head, asked.from, rules);
    decision.client = Some(client.address);
    decision.client_note = client_note;
    if let Some(error) = unfit_fields(&head, &settings) {
        return Err(refused(error));
    }
    if asked.method == Method::OPTIONS && uri.path() == "*" {
        return Err(Refusal {
            status: 200,
            why: "OPTIONS * asks the proxy itself".to_owned(),
        });
    }
    if asked.method == Method::CONNECT {
        return Err(refused(ProxyError::NoRoute));
    }
    let path = path::normalise(head.path(), settings.proxy.merge_slashes).map_err(|error| {
        let Refusal { status, why } = bad_request("the path cannot be decoded");
        Refusal {
            status,
            why: format!("{why}: {error}"),
        }
    })?;
    decision.path = path.decoded.clone().into_owned();
    let route = find_route(worker, &downstream, rules, &head, &path).map_err(refused)?;
    let hash = hash_of(&route.strategy, &downstream, rules, &head, &path.decoded);
    let kept = sticky::would_keep(&route, &head, worker.clock.now_ms());
    let kept = kept.and_then(|target| route.index_of(target));
    decision.kept = kept.is_some();
    decision.chosen = kept.or_else(|| chosen(worker, &route, hash));
    if route.targets.is_empty() {
        decision.refused = Some(refused(ProxyError::NoInstance));
    }
    let incoming = Incoming {
        worker,
        downstream: &downstream,
        settings: &settings,
        head: &head,
        path: Some(&path),
        id: None,
    };
    for target in &route.targets {
        decision.fates.push(fate_at(&incoming, target).await);
    }
    decision.route = Some(route);
    Ok(())
}

/// What becomes of a request at one target: its schemes are called one after another.
async fn fate_at(request: &Incoming<'_>, target: &Target) -> Fate {
    let policies = target.options.policies.as_ref();
    let preflight = policies.filter(|policies| request.is_preflight(policies));
    let refused = || {
        matches!(
            request.respond_here(target, &all_schemes(target)),
            Some(Err(_))
        )
    };
    if preflight.is_some() && !refused() {
        return Fate {
            status: Some(StatusCode::NO_CONTENT.as_u16()),
            why: Some("a preflight: cors of the policy says what may follow".to_owned()),
            ..Fate::default()
        };
    }
    let (mut admitted_by, mut notes) = (Vec::new(), Vec::new());
    for name in request.wanted_schemes(target) {
        match admission(request, name).await {
            Ok(note) => {
                admitted_by.push(name.to_owned());
                notes.extend(note);
            }
            Err(refusal) => return refusal,
        }
    }
    Fate {
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        ..fate(request, target, &admitted_by)
    }
}

fn all_schemes(target: &Target) -> Vec<String> {
    target.options.auth_schemes().map(str::to_owned).collect()
}

/// What the scheme of this name says of a request: under which condition it may pass, if there is
/// one, or what becomes of it.
async fn admission(request: &Incoming<'_>, name: &str) -> Result<Option<String>, Fate> {
    let (settings, head) = (request.settings, request.head);
    let status = |error: &ProxyError| error.status(settings.no_route_status);
    if let Some(error) = unclear_credentials(head) {
        let why = Some(error.to_string());
        return Err(Fate {
            status: Some(status(&error).as_u16()),
            why,
            ..Fate::default()
        });
    }
    let kind = settings.auth.kind(name);
    // The service is not called: it would see a request that no client made.
    if let Some(kind @ "external") = kind {
        return Ok(Some(format!(
            "if the service of [auth.{name}] ({kind}) lets it in, which is not asked here"
        )));
    }
    match settings
        .auth
        .admit(name, head.fields.map(), http::HeaderMap::new)
        .await
    {
        Admission::Granted(_) => Ok(Some(format!("its credentials are good for [auth.{name}]"))),
        Admission::Denied(denied) => Err(unauthorised(name, kind, denied.status, None)),
        refused => {
            let (error, challenge) = refused.refusal(settings.proxy.has_bare_errors());
            Err(unauthorised(name, kind, status(&error), challenge.as_ref()))
        }
    }
}

/// What the target's own options make of a request that they let pass, or not.
fn fate(request: &Incoming<'_>, target: &Target, admitted_by: &[String]) -> Fate {
    let (head, options) = (request.head, &*target.options);
    match request.respond_here(target, admitted_by) {
        Some(Ok(response)) => {
            let location = response
                .headers()
                .get(LOCATION)
                .map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
            let status = response.status().as_u16();
            Fate {
                status: Some(status),
                location,
                ..Fate::default()
            }
        }
        Some(Err(error)) => {
            let status = error.status(request.settings.no_route_status).as_u16();
            let policies = options.policies.iter();
            let of_policy = policies
                .flat_map(|policies| policies.access_texts())
                .map(|rule| format!("{rule} of its policy"));
            let rules: Vec<String> = options
                .raw
                .iter()
                .filter(|(name, _)| matches!(&**name, "allow" | "deny"))
                .map(|(name, value)| format!("{name}={value}"))
                .chain(of_policy)
                .collect();
            let (trusted, from) = (
                &request.settings.header_rules.trusted_proxies,
                request.downstream.client.ip(),
            );
            let client = head.client(from, trusted);
            let subject = if trusted.check_every_hop() && head.has_forwarding_fields() {
                format!("{from}, or an address in X-Forwarded-For or Forwarded,")
            } else if client.is_unknown {
                "a client whose address cannot be read".to_owned()
            } else {
                client.address.to_string()
            };
            let why = match error {
                ProxyError::AccessDenied => {
                    format!("{subject} may not pass by {}", rules.join(" "))
                }
                other => other.to_string(),
            };
            Fate {
                status: Some(status),
                why: Some(why),
                ..Fate::default()
            }
        }
        None => match upstream_request(request, target) {
            Some((uri, host)) => Fate {
                upstream: Some(format!(
                    "{}://{}{uri}",
                    options.proto.scheme(),
                    target.state.addr
                )),
                upstream_path: Some(uri),
                upstream_host: Some(host),
                ..Fate::default()
            },
            None => {
                let why = "what strip= and prepend= make of the path cannot be sent".to_owned();
                Fate {
                    status: Some(StatusCode::BAD_GATEWAY.as_u16()),
                    why: Some(why),
                    ..Fate::default()
                }
            }
        },
    }
}

/// The client of a request from `sender`, and what there is to say about that.
fn client_of(head: &Head<'_>, sender: IpAddr, rules: &HeaderRules) -> (Client, Option<String>) {
    let sender = sender.to_canonical();
    let client = head.client(sender, &rules.trusted_proxies);
    if !head.has_forwarding_fields() {
        return (client, None);
    }
    let note = if !rules.trusted_proxies.contain(sender) {
        format!("{sender} is not in proxy.trusted_proxies: its forwarding fields are not believed")
    } else if rules.trusted_proxies.check_every_hop() {
        "proxy.client_address is \"peer\": allow and deny look at every hop".to_owned()
    } else if client.is_unknown {
        format!(
            "the trusted proxy {} names an address that cannot be read",
            client.address
        )
    } else if client.address == sender {
        return (client, None);
    } else {
        format!("named by the trusted proxy {sender}")
    };
    (client, Some(note))
}

/// Path and query, and the host, that the target would get.
fn upstream_request(request: &Incoming<'_>, target: &Target) -> Option<(String, String)> {
    let outbound = Outbound {
        head: request.head,
        path: request.path?,
        id: None,
        granted: None,
    };
    let uri = outbound.target_for(target).ok()?.into_owned();
    let host = request.head.host_value();
    let rules = &request.settings.header_rules;
    let context = outbound.context(host.as_ref(), rules, &request.downstream.client, target);
    Some((
        uri,
        String::from_utf8_lossy(headers::upstream_host(&context).as_bytes()).into_owned(),
    ))
}

/// A request that a scheme does not let in.
fn unauthorised(
    name: &str,
    kind: Option<&str>,
    status: StatusCode,
    challenge: Option<&HeaderValue>,
) -> Fate {
    let why = match (kind, challenge) {
        (None, _) => format!(
            "{} for everybody: no [auth.{name}] is configured",
            status.as_u16()
        ),
        (Some(kind), Some(challenge)) => format!(
            "{} unless it has credentials that [auth.{name}] ({kind}) takes ({WWW_AUTHENTICATE}: {})",
            status.as_u16(),
            String::from_utf8_lossy(challenge.as_bytes())
        ),
        (Some(kind), None) => format!(
            "{} unless [auth.{name}] ({kind}) lets it in",
            status.as_u16()
        ),
    };
    Fate {
        status: Some(status.as_u16()),
        why: Some(why),
        ..Fate::default()
    }
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
    let mut decision = Decision {
        host: server_name.unwrap_or_default().to_owned(),
        ..Decision::default()
    };
    let Some(route) = route else { return decision };
    decision.chosen = chosen(worker, route, hash_of_peer(from));
    for target in &route.targets {
        let passes = target.options.permit_connection(from.ip());
        decision.fates.push(if passes {
            Fate {
                upstream: Some(format!("tcp://{}", target.state.addr)),
                ..Fate::default()
            }
        } else {
            let why = format!("{} may not pass by {}", from.ip(), target.options_text());
            Fate {
                closed: true,
                why: Some(why),
                ..Fate::default()
            }
        });
    }
    decision.route = Some(Arc::clone(route));
    decision
}

/// Which target a hash strategy picks now.
fn chosen(worker: &Worker, route: &Arc<Route>, hash: u64) -> Option<usize> {
    let slow_start_ms = worker.settings().health.slow_start_ms;
    let context = PickContext {
        now_ms: worker.clock.now_ms(),
        tried: &[],
        hash,
        slow_start_ms,
    };
    let target = choice_by_hash(route, &context)?;
    route
        .targets
        .iter()
        .position(|other| std::ptr::eq(other, target))
}
