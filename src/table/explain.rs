//! Why a request goes where it goes: what `/api/explain` and `lb explain` show.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::{
    Excluded, Fallback, FallbackState, Matcher, Route, RouteMirror, RouteTable, Scheme, Target,
};
use crate::catalog::glob::Glob;
use crate::catalog::matchers::{Matchers, RequestParts};
use crate::catalog::tag::RouteKey;

/// A request to be explained, as it would arrive.
#[derive(Clone, Debug)]
pub struct ExplainedRequest {
    /// Its method.
    pub method: http::Method,
    /// It comes over TLS.
    pub tls: bool,
    /// Port of its URL, if it names one: that of the listener.
    pub port: Option<u16>,
    /// Path and query, as sent.
    pub target: String,
    /// Its fields, Host included.
    pub headers: http::HeaderMap,
    /// Address of the client.
    pub from: IpAddr,
}

impl RequestParts for ExplainedRequest {
    fn method(&self) -> &http::Method {
        &self.method
    }

    fn any_field(&self, name: &http::HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut values = self.headers.get_all(name).iter();
        values.any(|value| test(value.as_bytes()))
    }

    fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

/// What becomes of it.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Host that was looked up, as received.
    pub host: String,
    /// Path that was looked up, normalised.
    pub path: String,
    /// Address of the client, as access rules and limits see it.
    pub client: Option<IpAddr>,
    /// Why it is that one, where the request's fields name others.
    pub client_note: Option<String>,
    /// The response that needs no target: there is none, no route, or the request cannot be taken.
    pub refused: Option<Refusal>,
    /// The route.
    pub route: Option<Arc<Route>>,
    /// One for each of its targets, in their order: what would become of the request if that one
    /// were picked.
    pub fates: Vec<Fate>,
    /// The target that a hash strategy picks, or a cookie.
    pub chosen: Option<usize>,
    /// The chosen one is that with which a cookie of the request keeps its client.
    pub kept: bool,
}

/// A response of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status of the response.
    pub status: u16,
    /// Why there is this response, in words for the operator.
    pub why: String,
}

/// What becomes of a request at one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// Status of the proxy's own response; none: the target responds.
    pub status: Option<u16>,
    /// A connection that is closed at once.
    pub closed: bool,
    /// Why the proxy responds itself.
    pub why: Option<String>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The URL of the request to the instance.
    pub upstream: Option<String>,
    /// Path and query as the instance gets them.
    pub upstream_path: Option<String>,
    /// Host as the instance gets it.
    pub upstream_host: Option<String>,
    /// Under which condition.
    pub note: Option<String>,
}

/// What is compared with a place: whether a route there would match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request.
    Http {
        /// Scheme of the listener it comes to.
        scheme: Scheme,
        /// As received.
        host: String,
        /// Normalised.
        path: String,
    },
    /// A connection to this address.
    Tcp(SocketAddr),
}

/// Whether a route at `key` would match, in a table that compares paths and hosts in this way.
#[must_use]
pub fn would_match(matcher: Matcher, host_patterns: bool, key: &RouteKey, asked: &Asked) -> bool {
    let is_glob = |text: &String| Glob::new(text).is_ok();
    let sound_host = !host_patterns || Glob::is_literal(&key.host) || is_glob(&key.host);
    if !sound_host || (matcher == Matcher::Glob && !is_glob(&key.path)) {
        return false;
    }
    let mut table = if host_patterns {
        RouteTable::new(matcher)
    } else {
        RouteTable::without_patterns(matcher)
    };
    let route = Arc::new(Route::without_targets(key.clone()));
    table.set_routes(key, matcher, Some(route), 0);
    match asked {
        Asked::Http { scheme, host, path } => table.lookup(*scheme, host, path, |_| true).is_some(),
        Asked::Tcp(local) => table.lookup_tcp(*local).is_some(),
    }
}

/// The steps of one lookup.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Hosts of the table the request's host can mean, in the order they are tried; the empty text
    /// is any host.
    pub hosts: Vec<HostStep>,
    /// The route that serves it.
    pub route: Option<ExplainedRoute>,
}

/// One host of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostStep {
    /// As in the table.
    pub host: String,
    /// Path of its route for the request; none: no route, or one of TCP, so the next host is tried.
    pub path: Option<String>,
    /// Routes with a matching path that come before it, and whose matchers do not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

/// A route, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedRoute {
    /// Host of the table.
    pub host: String,
    /// Path of the table.
    pub path: String,
    /// What it wants of a request beside its place, as in a tag; empty for most.
    pub matchers: String,
    /// How one of the targets is picked.
    pub strategy: String,
    /// Targets that may get the request.
    pub targets: Vec<ExplainedTarget>,
    /// Instances that are registered and get nothing.
    pub excluded: Vec<ExplainedExclusion>,
    /// What it does beside sending requests to its instances, and how that stands.
    pub notes: Vec<String>,
}

/// A target, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedTarget {
    /// Its service.
    pub service: String,
    /// The instance, `NODE/ID`.
    pub instance: String,
    /// Where it is sent, as a URL.
    pub destination: String,
    /// Options of the tag.
    pub options: String,
    /// Every policy that requests to it meet, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Share of the route's traffic, 0 to 1.
    pub share: f64,
    /// `healthy`, `probation` or `ejected`.
    pub state: &'static str,
    /// Milliseconds until an ejection ends.
    pub ejected_for_ms: Option<u64>,
    /// Requests in flight.
    pub in_flight: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Time to the first byte in microseconds, as `ewma` sees it; 0: not known.
    pub latency_us: u64,
}

/// An instance that is out, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedExclusion {
    /// Its service.
    pub service: String,
    /// The instance, `NODE/ID`.
    pub instance: String,
    /// Why it gets nothing, in words for the operator.
    pub reason: String,
}

impl RouteTable {
    /// What [`lookup_request`](Self::lookup_request) would do (with nothing refused), step by step.
    /// `now_ms`: process clock.
    #[must_use]
    pub fn explain(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        mut hold: impl FnMut(&Matchers) -> bool,
        now_ms: u64,
    ) -> Explanation {
        let candidates = self.hosts.candidates(scheme, host);
        let (mut hosts, mut found) = (Vec::new(), None);
        for candidate in &candidates {
            let route = candidate.find_for_requests(path, &mut hold);
            hosts.push(HostStep {
                host: candidate.host.to_owned(),
                path: route.map(|route| route.key.path.clone()),
                passed_over: candidate
                    .passed_over(path, &mut hold)
                    .into_iter()
                    .map(|route| format!("{} {}", route.key.path, matchers_text(route)))
                    .collect(),
            });
            found = found.or(route);
        }
        Explanation {
            hosts,
            route: found.map(|route| ExplainedRoute::new(route, now_ms)),
        }
    }
}

fn matchers_text(route: &Route) -> String {
    let matchers = route.matchers.as_ref();
    matchers.map(ToString::to_string).unwrap_or_default()
}

impl ExplainedRoute {
    /// The route as it is at `now_ms` of the process clock.
    #[must_use]
    pub fn new(route: &Arc<Route>, now_ms: u64) -> Self {
        Self {
            host: route.key.host.clone(),
            path: route.key.path.clone(),
            matchers: matchers_text(route),
            strategy: route.strategy.to_string(),
            targets: route
                .targets
                .iter()
                .map(|target| ExplainedTarget::new(target, now_ms))
                .collect(),
            excluded: route.excluded.iter().map(ExplainedExclusion::new).collect(),
            notes: notes(route),
        }
    }
}

fn notes(route: &Route) -> Vec<String> {
    let sticky = route.sticky.as_ref().map(|sticky| {
        format!(
            "sticky: the cookie {} keeps a client with its instance",
            sticky.name()
        )
    });
    let fallback = route.fallback.as_ref().map(|fallback| {
        let Fallback { service, state } = fallback;
        match state {
            FallbackState::Idle => {
                format!("fallback={service}: not needed, instances of the route may serve")
            }
            FallbackState::Serves(by) if by == service => {
                format!("fallback={service}: serves, because no instance of the route may")
            }
            FallbackState::Serves(by) => format!(
                "fallback={service}: {by} serves, because no instance of the route or of {service} may"
            ),
            FallbackState::Unusable(why) => why.to_string(),
        }
    });
    let mirrors = route.mirrors.iter().map(RouteMirror::note);
    sticky.into_iter().chain(fallback).chain(mirrors).collect()
}

impl ExplainedTarget {
    fn new(target: &Target, now_ms: u64) -> Self {
        let state = &target.state;
        let until = state.ejected_until_ms.load(Relaxed);
        Self {
            service: target.service.name().to_string(),
            instance: state.id.to_string(),
            destination: target.destination(),
            options: target.options_text(),
            policies: target.options.policy_texts(),
            share: target.share,
            state: state.word(now_ms),
            ejected_for_ms: (until > now_ms).then(|| until - now_ms),
            in_flight: state.in_flight.load(Relaxed),
            failures: state.failures.load(Relaxed),
            latency_us: state.latency_us.load(Relaxed),
        }
    }
}

impl ExplainedExclusion {
    fn new(excluded: &Excluded) -> Self {
        Self {
            service: excluded.service.to_string(),
            instance: excluded.id.to_string(),
            reason: excluded.reason.to_string(),
        }
    }
}
