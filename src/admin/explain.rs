//! `/api/explain`: what would become of a request, and why. The data path decides (see
//! [`DataPath`](super::DataPath)), the table explains the lookup; here the query is read, and the
//! decision put in words.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;

use super::query::Query;
use crate::control::RejectedPlace;
use crate::table::explain::{
    Asked, Decision, ExplainedExclusion, ExplainedRequest, ExplainedRoute, ExplainedTarget, Fate,
    HostStep,
};
use crate::table::{FallbackState, Route, RouteTable, Scheme};

/// Most edits between a host that has no route and one that was perhaps meant.
const EDITS_MAX: usize = 2;

/// Why nothing can be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("no URL is given: write /api/explain?url=http://HOST/PATH")]
    NoUrl,
    #[error(
        "`{0}` is not an absolute URL like http://shop.example/cart, https://shop.example/ or tcp://:5432"
    )]
    NotAUrl(String),
    #[error("`{0}` is not a header field: write `Name: value`")]
    BadHeader(String),
    #[error("`{0}` is not a method: write it like GET")]
    BadMethod(String),
    #[error("from `{0}` is not an IP address")]
    BadFrom(String),
}

/// What is to be explained.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Request(ExplainedRequest),
    /// About a TCP connection to this address; by this name where that is how TCP is routed; from
    /// here.
    Connection(SocketAddr, Option<String>, IpAddr),
}

/// What becomes of it, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Explanation {
    pub(super) url: String,
    pub(super) method: String,
    /// Address of the client.
    pub(super) from: String,
    /// Address of the client, as access rules and limits see it; none: `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// Why it is that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_note: Option<String>,
    /// Host that was looked up: of the URL, or of a Host header.
    pub(super) host: String,
    /// Path that was looked up, normalised; empty for TCP.
    pub(super) path: String,
    /// What happens, in words.
    pub(super) outcome: String,
    /// Status of the proxy's own response; none where an instance responds, or where it depends on
    /// which one is picked.
    pub(super) status: Option<u16>,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    /// `NODE/ID` of the instance if it is certain: a hash picks it, or the route has no other.
    pub(super) instance: Option<String>,
    /// Path and query as the instance gets them; none where instances differ.
    pub(super) upstream_path: Option<String>,
    /// Host as the instance gets it.
    pub(super) upstream_host: Option<String>,
    /// Hosts of the table that can be meant, in the order they are tried until one has a path that
    /// matches.
    pub(super) hosts: Vec<HostStep>,
    pub(super) route: Option<RouteRow>,
    /// Tags and route commands that make no route, and would match if they did.
    pub(super) rejected: Vec<RejectedRow>,
    /// Hosts that have a route, and were perhaps meant.
    pub(super) nearest: Vec<String>,
    /// Sources that cannot be read now.
    pub(super) warnings: Vec<String>,
    /// All of it for people.
    pub(super) text: String,
}

/// The route, with what would become of the request at each target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RouteRow {
    pub(super) host: String,
    pub(super) path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) matchers: String,
    pub(super) strategy: String,
    pub(super) targets: Vec<TargetRow>,
    pub(super) excluded: Vec<ExplainedExclusion>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TargetRow {
    #[serde(flatten)]
    pub(super) target: ExplainedTarget,
    /// A hash picks it.
    pub(super) picked: bool,
    #[serde(flatten)]
    pub(super) fate: Fate,
}

/// What makes no route, and would match if it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RejectedRow {
    pub(super) service: String,
    pub(super) tag: String,
    pub(super) reason: String,
    pub(super) place: String,
}

/// Reads the query: `url`, `method`, any number of `header`, `from`. `caller`: where it comes from.
pub(super) fn read(query: &Query, caller: IpAddr) -> Result<Question, ExplainError> {
    let url = query
        .first("url")
        .filter(|url| !url.is_empty())
        .ok_or(ExplainError::NoUrl)?;
    let not_a_url = || ExplainError::NotAUrl(url.to_owned());
    let from = match query.first("from").filter(|from| !from.is_empty()) {
        Some(text) => text
            .parse()
            .map_err(|_| ExplainError::BadFrom(text.to_owned()))?,
        None => caller,
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if scheme.eq_ignore_ascii_case("tcp") {
        let (host, port) = rest
            .trim_end_matches('/')
            .rsplit_once(':')
            .ok_or_else(not_a_url)?;
        let port = port.parse().map_err(|_| not_a_url())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // A name, or nothing, means any address of this machine.
        let name = host
            .parse::<IpAddr>()
            .is_err()
            .then(|| host.to_owned())
            .filter(|name| !name.is_empty());
        let ip = host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        return Ok(Question::Connection(SocketAddr::new(ip, port), name, from));
    }
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => false,
        "https" | "wss" => true,
        _ => return Err(not_a_url()),
    };
    let method = query
        .first("method")
        .filter(|method| !method.is_empty())
        .unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| ExplainError::BadMethod(method.to_owned()))?;
    // What stands behind `#` is the browser's own business.
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let parsed: http::uri::Authority = authority.parse().map_err(|_| not_a_url())?;
    let target = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut headers = HeaderMap::new();
    for header in query.all("header") {
        let bad = || ExplainError::BadHeader(header.to_owned());
        let (name, value) = header.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        headers.append(
            name,
            HeaderValue::from_str(value.trim()).map_err(|_| bad())?,
        );
    }
    if !headers.contains_key(HOST) {
        headers.insert(
            HOST,
            HeaderValue::from_str(authority).map_err(|_| not_a_url())?,
        );
    }
    Ok(Question::Request(ExplainedRequest {
        method,
        tls,
        port: parsed.port_u16(),
        target,
        headers,
        from,
    }))
}

/// What a rejected tag would have to match; none for a request that is refused before any look-up.
pub(super) fn asked(question: &Question, decision: &Decision) -> Option<Asked> {
    match question {
        Question::Connection(local, ..) => Some(Asked::Tcp(*local)),
        Question::Request(_) if decision.path.is_empty() => None,
        Question::Request(request) => {
            let (host, path) = (decision.host.clone(), decision.path.clone());
            Some(Asked::Http {
                scheme: scheme(request),
                host,
                path,
            })
        }
    }
}

fn scheme(request: &ExplainedRequest) -> Scheme {
    if request.tls {
        Scheme::Https
    } else {
        Scheme::Http
    }
}

/// What is known beside the decision.
#[derive(Debug, Default)]
pub(super) struct ExplainContext {
    pub(super) rejected: Vec<RejectedPlace>,
    pub(super) warnings: Vec<String>,
    /// Process clock, in milliseconds.
    pub(super) now_ms: u64,
}

/// Puts the decision in words. `reason`: why an instance of a service is out, as it is known now.
pub(super) fn explain(
    table: &RouteTable,
    url: &str,
    question: &Question,
    decision: &Decision,
    beside: ExplainContext,
    reason: impl Fn(&str, &str) -> Option<String>,
) -> Explanation {
    let ExplainContext {
        rejected,
        warnings,
        now_ms,
    } = beside;
    let (method, from, hosts) = match question {
        Question::Connection(_, _, from) => (String::new(), from, Vec::new()),
        Question::Request(request) => {
            let hosts = match &*decision.path {
                "" => Vec::new(),
                path => {
                    table
                        .explain(
                            scheme(request),
                            &decision.host,
                            path,
                            |matchers| matchers.hold(request),
                            now_ms,
                        )
                        .hosts
                }
            };
            (request.method.to_string(), &request.from, hosts)
        }
    };
    let http = matches!(question, Question::Request(_));
    let certain = certain(decision);
    let rejected: Vec<RejectedRow> = rejected
        .into_iter()
        .map(|place| RejectedRow {
            service: place.service.to_string(),
            tag: place.text,
            reason: place.reason,
            place: format!("{}{}", place.key.host, place.key.path),
        })
        .collect();
    let nearest = match (http, &decision.route) {
        (true, None) => nearest(table, &decision.host),
        _ => Vec::new(),
    };
    let of_refusal = decision.refused.as_ref().map(|refusal| refusal.status);
    let mut answer = Explanation {
        url: url.to_owned(),
        method,
        from: from.to_string(),
        client: decision
            .client_note
            .is_some()
            .then_some(decision.client)
            .flatten()
            .map(|client| client.to_string()),
        client_note: decision.client_note.clone(),
        host: decision.host.clone(),
        path: decision.path.clone(),
        outcome: outcome(decision, http, &rejected, now_ms),
        status: of_refusal.or(certain.and_then(|(_, fate)| fate.status)),
        location: certain.and_then(|(_, fate)| fate.location.clone()),
        instance: instance(decision),
        upstream_path: certain.and_then(|(_, fate)| fate.upstream_path.clone()),
        upstream_host: certain.and_then(|(_, fate)| fate.upstream_host.clone()),
        hosts,
        route: decision
            .route
            .as_ref()
            .map(|route| route_row(route, decision, now_ms, reason)),
        rejected,
        nearest,
        warnings,
        text: String::new(),
    };
    answer.text = text(&answer);
    answer
}

/// What happens for certain: at the target that a hash picks, or at every one that can be picked.
/// Addresses may differ.
fn certain(decision: &Decision) -> Option<(usize, &Fate)> {
    if let Some(chosen) = decision.chosen {
        return decision.fates.get(chosen).map(|fate| (chosen, fate));
    }
    let route = decision.route.as_ref()?;
    let candidates = || {
        decision
            .fates
            .iter()
            .enumerate()
            .filter(|(at, _)| route.targets[*at].share > 0.0)
    };
    let (at, first) = candidates().next()?;
    let same = |fate: &Fate| {
        (
            fate.status,
            fate.closed,
            &fate.why,
            &fate.location,
            &fate.upstream_path,
        ) == (
            first.status,
            first.closed,
            &first.why,
            &first.location,
            &first.upstream_path,
        )
    };
    candidates()
        .all(|(_, fate)| same(fate))
        .then_some((at, first))
}

/// The instance that gets the request, if it is certain.
fn instance(decision: &Decision) -> Option<String> {
    let route = decision.route.as_ref()?;
    let at = match decision.chosen {
        Some(chosen) => chosen,
        None => {
            let mut candidates =
                (0..route.targets.len()).filter(|at| route.targets[*at].share > 0.0);
            candidates.next().filter(|_| candidates.next().is_none())?
        }
    };
    let fate = decision.fates.get(at)?;
    fate.upstream
        .is_some()
        .then(|| route.targets[at].state.id.to_string())
}

fn route_row(
    route: &std::sync::Arc<Route>,
    decision: &Decision,
    now_ms: u64,
    reason: impl Fn(&str, &str) -> Option<String>,
) -> RouteRow {
    let ExplainedRoute {
        host,
        path,
        matchers,
        strategy,
        targets,
        mut excluded,
        notes,
    } = ExplainedRoute::new(route, now_ms);
    for out in &mut excluded {
        if let Some(known) = reason(&out.service, &out.instance) {
            out.reason = known;
        }
    }
    let targets =
        targets
            .into_iter()
            .zip(&decision.fates)
            .enumerate()
            .map(|(at, (target, fate))| TargetRow {
                target,
                picked: decision.chosen == Some(at),
                fate: fate.clone(),
            });
    RouteRow {
        host,
        path,
        matchers,
        strategy,
        targets: targets.collect(),
        excluded,
        notes,
    }
}

fn outcome(decision: &Decision, http: bool, rejected: &[RejectedRow], now_ms: u64) -> String {
    let Some(route) = &decision.route else {
        let answer = match &decision.refused {
            Some(refusal) if decision.path.is_empty() => {
                return format!("{}: {}", refusal.status, refusal.why);
            }
            Some(refusal) => format!("answered with {}", refusal.status),
            None => "closed at once".to_owned(),
        };
        let reject = rejected.first().map(|reject| {
            format!(
                "; a rejected tag of {} would have matched: `{}`: {}",
                reject.service, reject.tag, reject.reason
            )
        });
        return format!("no route matches: {answer}{}", reject.unwrap_or_default());
    };
    let out = route.excluded.len();
    if route.targets.is_empty() {
        let answer = match (&decision.refused, http) {
            (Some(refusal), true) => format!("{} with Retry-After", refusal.status),
            _ => "closed at once".to_owned(),
        };
        let which = match out {
            0 => "it has no instance".to_owned(),
            1 => "its only instance is out".to_owned(),
            _ => format!("all {out} of its instances are out"),
        };
        let fallback = match route.fallback.as_ref().map(|fallback| &fallback.state) {
            Some(FallbackState::Unusable(why)) => format!("; {why}"),
            _ => String::new(),
        };
        return format!("{answer}: the route exists, but {which}{fallback}");
    }
    let Some((at, fate)) = certain(decision) else {
        return "it depends on the instance that is picked: their tags differ".to_owned();
    };
    if let Some(answered) = answered(fate) {
        return answered;
    }
    let note = fate
        .note
        .as_ref()
        .map(|note| format!(", {note}"))
        .unwrap_or_default();
    let (ejected, total) = (route.ejected_count(now_ms), route.targets.len());
    let sent = if decision.kept {
        format!(
            "sent to {}, with which its cookie keeps it",
            route.targets[at].state.id
        )
    } else if decision.chosen.is_some() {
        format!(
            "sent to {} by {}",
            route.targets[at].state.id, route.strategy
        )
    } else if ejected == total {
        format!(
            "sent to one of {total}: all are ejected, which is ignored rather than serving nobody"
        )
    } else {
        match (total - ejected, ejected + out) {
            (1, 0) => "sent to the only instance".to_owned(),
            (able, 0) => format!("sent to one of {able} instances"),
            (able, out) => format!("sent to one of {able} able instances; {out} more out"),
        }
    };
    format!("{sent}{note}")
}

/// What the proxy itself does, in words; none where the instance responds.
fn answered(fate: &Fate) -> Option<String> {
    let why = fate.why.as_deref().unwrap_or("the proxy answers itself");
    if fate.closed {
        return Some(format!("closed at once: {why}"));
    }
    let status = fate.status?;
    Some(match &fate.location {
        Some(location) => format!("redirected with {status} to {location}"),
        None if why.starts_with(&status.to_string()) => why.to_owned(),
        None => format!("{status}: {why}"),
    })
}

/// Hosts of the table that are almost the one that has no route.
fn nearest(table: &RouteTable, host: &str) -> Vec<String> {
    let host = host.to_ascii_lowercase();
    let bare = |host: &str| {
        let name = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        name.map_or(host, |(name, _)| name)
            .trim_end_matches('.')
            .to_owned()
    };
    let wanted = bare(&host);
    let mut found: Vec<(usize, String)> = Vec::new();
    for route in table.routes() {
        let known = &route.key.host;
        if known.is_empty() || known.starts_with(':') || found.iter().any(|(_, seen)| seen == known)
        {
            continue;
        }
        let edits = strsim::levenshtein(&bare(known), &wanted);
        // Short names are all near each other.
        if edits <= EDITS_MAX && edits * 3 <= wanted.len() && *known != host {
            found.push((edits, known.clone()));
        }
    }
    found.sort();
    found.into_iter().take(3).map(|(_, host)| host).collect()
}

impl Explanation {
    /// Puts the explanation in words again, after it was changed.
    pub(super) fn reword(&mut self) {
        self.text = text(self);
    }
}

/// The explanation for a terminal; control characters of strangers are shown, not obeyed. (Writing
/// to a String cannot fail.)
fn text(answer: &Explanation) -> String {
    let mut text = String::new();
    if answer.path.is_empty() {
        let _ = writeln!(text, "{}", answer.url);
    } else {
        let _ = writeln!(text, "{} {}{}", answer.method, answer.host, answer.path);
    }
    let _ = writeln!(text, "{}", answer.outcome);
    for warning in &answer.warnings {
        let _ = writeln!(text, "warning   {warning}");
    }
    let route = answer.route.as_ref();
    for HostStep {
        host,
        path,
        passed_over,
    } in &answer.hosts
    {
        let is_it = path.is_some() && route.is_some_and(|route| route.host == *host);
        let host = if host.is_empty() { "(any host)" } else { host };
        for route in passed_over {
            let _ = writeln!(text, "tried     {host}: {route} does not hold, passed over");
        }
        let _ = match path {
            Some(path) if is_it => writeln!(text, "tried     {host}: {path} matches"),
            Some(path) => writeln!(
                text,
                "tried     {host}: {path} would redirect to itself, passed over"
            ),
            None => writeln!(text, "tried     {host}: no path matches"),
        };
        if is_it {
            break;
        }
    }
    for reject in &answer.rejected {
        let _ = writeln!(
            text,
            "rejected  {} {}: {}",
            reject.service, reject.tag, reject.reason
        );
    }
    for host in &answer.nearest {
        let _ = writeln!(
            text,
            "nearest   {host} has a route, {} has none",
            answer.host
        );
    }
    let Some(route) = route else {
        return super::tabular::printable(&text);
    };
    let _ = writeln!(
        text,
        "route     {}{}{}{} (strategy {})",
        route.host,
        route.path,
        if route.matchers.is_empty() { "" } else { " " },
        route.matchers,
        route.strategy
    );
    let _ = writeln!(text, "from      {}", answer.from);
    if let (Some(client), Some(note)) = (&answer.client, &answer.client_note) {
        let _ = writeln!(text, "client    {client} ({note})");
    }
    if let (Some(path), Some(host)) = (&answer.upstream_path, &answer.upstream_host) {
        let _ = writeln!(text, "asked     {path} of host {host}");
    }
    for note in &route.notes {
        let _ = writeln!(text, "policy    {note}");
    }
    let policies = |row: &TargetRow| row.target.policies.clone();
    let all: Vec<Vec<String>> = route.targets.iter().map(policies).collect();
    let alike = all.windows(2).all(|pair| pair[0] == pair[1]);
    let put_policies = |text: &mut String, policies: &[String]| {
        for policy in policies {
            let _ = writeln!(text, "policy    {policy}");
        }
    };
    if alike {
        put_policies(&mut text, all.first().map_or(&[], Vec::as_slice));
    }
    for (target, policies) in route.targets.iter().zip(&all) {
        push_target(&mut text, target);
        if !alike {
            put_policies(&mut text, policies);
        }
    }
    for out in &route.excluded {
        let _ = writeln!(
            text,
            "left out  {} {}: {}",
            out.service, out.instance, out.reason
        );
    }
    super::tabular::printable(&text)
}

fn push_target(text: &mut String, answer: &TargetRow) {
    let TargetRow {
        target,
        picked,
        fate,
    } = answer;
    let ExplainedTarget {
        service,
        instance,
        destination,
        options,
        share,
        state,
        in_flight,
        failures,
        ..
    } = target;
    let word = if *picked { "picked" } else { "target" };
    let _ = write!(
        text,
        "{word}    {service} {instance} {destination}: {:.1} %, {state}",
        share * 100.0
    );
    if let Some(left_ms) = target.ejected_for_ms {
        let _ = write!(text, " for {:.1} s more", left_ms as f64 / 1000.0);
    }
    let _ = write!(
        text,
        ", {in_flight} in flight, {failures} failures in a row"
    );
    if let Some(answered) = answered(fate) {
        let _ = write!(text, "; {answered}");
    } else if let Some(upstream) = &fate.upstream {
        let _ = write!(text, "; asked for {upstream}");
    }
    if !options.is_empty() {
        let _ = write!(text, "; options {options}");
    }
    text.push('\n');
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::admin::routes::tests::{all_out, table};
    use crate::table::explain::Refusal;

    /// As the data path decides, but that all options are left aside; what it makes of them is
    /// tested with requests.
    fn decide(table: &RouteTable, question: &Question) -> Decision {
        let found = match question {
            Question::Connection(local, name, _) => table.lookup_tcp(*local).or_else(|| {
                name.as_ref()
                    .and_then(|name| table.lookup_server_name(name))
            }),
            Question::Request(request) => {
                let (host, path) = (
                    request.headers[HOST].to_str().unwrap(),
                    request.target.split('?').next().unwrap(),
                );
                let route = table.lookup(scheme(request), host, path, |_| true);
                let status = if route.is_none() { 404 } else { 503 };
                let refusal = Refusal {
                    status,
                    why: "x".to_owned(),
                };
                return Decision {
                    host: host.to_owned(),
                    path: path.to_owned(),
                    refused: route
                        .is_none_or(|route| route.targets.is_empty())
                        .then_some(refusal),
                    ..decision(route)
                };
            }
        };
        decision(found)
    }

    fn decision(route: Option<&Arc<Route>>) -> Decision {
        let fate = |target: &crate::table::Target| match &target.options.redirect {
            Some(to) => Fate {
                status: Some(to.code),
                location: Some(to.url.to_string()),
                ..Fate::default()
            },
            None => Fate {
                upstream: Some(target.destination()),
                upstream_path: Some("/".into()),
                ..Fate::default()
            },
        };
        let fates = route
            .iter()
            .flat_map(|route| route.targets.iter().map(fate))
            .collect();
        Decision {
            route: route.cloned(),
            fates,
            ..Decision::default()
        }
    }

    pub(in crate::admin) fn ask(
        table: &RouteTable,
        query: &str,
    ) -> Result<Explanation, ExplainError> {
        let query = Query::parse(query);
        let question = read(&query, Ipv4Addr::LOCALHOST.into())?;
        let beside = ExplainContext {
            now_ms: 1_000,
            ..ExplainContext::default()
        };
        let url = query.first("url").unwrap();
        Ok(explain(
            table,
            url,
            &question,
            &decide(table, &question),
            beside,
            |_, _| None,
        ))
    }

    fn two() -> RouteTable {
        table(
            "route add web shop/a http://10.0.0.1:80/\nroute add web shop/a http://10.0.0.2:80/ opts \"strip=/a\"",
        )
    }

    fn eject(table: &RouteTable, count: usize, until_ms: u64) {
        let routes = table.routes();
        routes[0]
            .targets
            .iter()
            .take(count)
            .for_each(|target| target.state.ejected_until_ms.store(until_ms, Relaxed));
    }

    #[test]
    fn targets_shares_and_states_are_told() {
        let table = two();
        eject(&table, 1, 3_500);
        let told = ask(&table, "url=http://shop/a/b?x=1&method=POST").unwrap();
        assert_eq!(
            (told.host.as_str(), told.path.as_str(), told.method.as_str()),
            ("shop", "/a/b", "POST")
        );
        assert_eq!(told.outcome, "sent to one of 1 able instances; 1 more out");
        assert_eq!(
            told.hosts[0],
            HostStep {
                passed_over: Vec::new(),
                host: "shop".to_owned(),
                path: Some("/a".to_owned())
            }
        );
        assert!(
            !told.text.contains("any host"),
            "hosts behind the match are not tried: {}",
            told.text
        );
        for line in [
            "POST shop/a/b\n",
            "tried     shop: /a matches\n",
            "route     shop/a (strategy p2c)\n",
        ] {
            assert!(told.text.contains(line), "{line} in {}", told.text);
        }
        assert!(
            told.text
                .contains("50.0 %, ejected for 2.5 s more, 0 in flight"),
            "{}",
            told.text
        );
        assert!(told.text.contains("; options strip=/a\n"), "{}", told.text);
    }

    #[test]
    fn how_many_are_out_is_said_in_words() {
        for (count, words) in [
            (0, "it has no instance"),
            (1, "its only instance is out"),
            (3, "all 3 of its instances"),
        ] {
            let route = Arc::new(all_out("/", count));
            let refusal = Refusal {
                status: 503,
                why: String::new(),
            };
            let told = outcome(
                &Decision {
                    refused: Some(refusal),
                    ..decision(Some(&route))
                },
                true,
                &[],
                0,
            );
            assert!(
                told.starts_with("503 with Retry-After") && told.contains(words),
                "{told}"
            );
        }
    }

    #[test]
    fn outcomes() {
        let none = ask(&two(), "url=http://other/a").unwrap();
        assert!(none.outcome.starts_with("no route matches") && none.route.is_none());
        let moved = table("route add web shop/ https://x/ opts \"redirect=302,https://x/\"");
        assert_eq!(
            ask(&moved, "url=shop/").unwrap().outcome,
            "redirected with 302 to https://x/"
        );
        let ejected = two();
        eject(&ejected, 2, 9_000);
        assert!(
            ask(&ejected, "url=shop/a")
                .unwrap()
                .outcome
                .contains("all are ejected")
        );
        assert_eq!(
            ask(&two(), "url=shop/a").unwrap().outcome,
            "sent to one of 2 instances"
        );
    }

    #[test]
    fn tcp_routes_are_found_by_port() {
        let table = table("route add db :5432 tcp://10.0.0.9:5432");
        for url in ["tcp://:5432", "tcp://10.1.2.3:5432", "tcp://[::1]:5432/"] {
            assert_eq!(
                ask(&table, &format!("url={url}")).unwrap().outcome,
                "sent to the only instance",
                "{url}"
            );
        }
        assert!(
            ask(&table, "url=tcp://:1")
                .unwrap()
                .outcome
                .contains("closed at once")
        );
        assert!(matches!(
            ask(&table, "url=tcp://x").unwrap_err(),
            ExplainError::NotAUrl(_)
        ));
    }

    #[test]
    fn a_host_header_decides_over_the_url() {
        let told = ask(
            &two(),
            "url=http://127.0.0.1:9999/a&header=X:+1&header=host:+shop",
        )
        .unwrap();
        assert_eq!(told.host, "shop");
        assert!(told.route.is_some());
    }

    #[test]
    fn bad_questions_are_answered_with_what_would_be_right() {
        let table = two();
        assert_eq!(ask(&table, "").unwrap_err(), ExplainError::NoUrl);
        for url in ["ftp://x/", "http://", "http://a b/", "/only/path"] {
            let asked = format!("url={}", url.replace(' ', "%20"));
            assert_eq!(
                ask(&table, &asked).unwrap_err(),
                ExplainError::NotAUrl(url.to_owned()),
                "{url}"
            );
        }
        for (query, expected) in [
            (
                "url=x/&header=Host",
                ExplainError::BadHeader("Host".to_owned()),
            ),
            (
                "url=x/&header=A%20b:c",
                ExplainError::BadHeader("A b:c".to_owned()),
            ),
            (
                "url=x/&header=A:c%0Ad",
                ExplainError::BadHeader("A:c\nd".to_owned()),
            ),
            (
                "url=x/&method=G%20T",
                ExplainError::BadMethod("G T".to_owned()),
            ),
            (
                "url=x/&from=localhost",
                ExplainError::BadFrom("localhost".to_owned()),
            ),
        ] {
            assert_eq!(ask(&table, query).unwrap_err(), expected, "{query}");
        }
    }

    #[test]
    fn a_url_becomes_the_request_that_a_client_sends() {
        let request =
            |query: &str| match read(&Query::parse(query), Ipv4Addr::LOCALHOST.into()).unwrap() {
                Question::Request(request) => request,
                Question::Connection(..) => panic!("{query}"),
            };
        for (url, host, target) in [
            ("shop", "shop", "/"),
            ("http://shop?a=b", "shop", "/?a=b"),
            ("https://u:p@Shop.:8443/A%2Fb?c#d", "Shop.:8443", "/A%2Fb?c"),
            ("wss://[::1]:81/x", "[::1]:81", "/x"),
        ] {
            let asked = request(&format!(
                "url={}",
                url.replace('%', "%25").replace('#', "%23")
            ));
            assert_eq!(
                (asked.headers[HOST].to_str().unwrap(), asked.target.as_str()),
                (host, target),
                "{url}"
            );
        }
        let asked = request("url=https://a/&from=10.1.2.3&header=X:+1&header=Host:+b");
        assert_eq!(
            (
                asked.from.to_string().as_str(),
                asked.headers.len(),
                asked.tls
            ),
            ("10.1.2.3", 2, true)
        );
        assert_eq!(asked.headers[HOST], "b");
    }

    #[test]
    fn a_404_names_what_was_perhaps_meant() {
        let table = table(
            "route add web shop.example/ http://10.0.0.1:80/\nroute add db :5432 tcp://10.0.0.9:5432",
        );
        for (url, near) in [
            ("http://shop.example:9999/", true),
            ("http://sop.example/", true),
            ("http://shop.exmaple/", true),
            ("http://cart.example/", false),
            ("http://x/", false),
        ] {
            let told = ask(&table, &format!("url={url}")).unwrap();
            let expected: &[&str] = if near { &["shop.example"] } else { &[] };
            assert_eq!(told.nearest, expected, "{url}");
            assert_eq!(
                told.text.contains("nearest   shop.example has a route"),
                near,
                "{}",
                told.text
            );
        }
    }

    #[test]
    fn what_makes_no_route_is_told_where_it_would_have_matched() {
        let table = two();
        let query = Query::parse("url=http://x/rej");
        let question = read(&query, Ipv4Addr::LOCALHOST.into()).unwrap();
        let rejected = RejectedPlace {
            service: "rej".into(),
            text: "urlprefix-/rej redirect=abc\u{1b}".to_owned(),
            reason: "redirect=abc: no URL".to_owned(),
            key: crate::catalog::tag::RouteKey {
                host: String::new(),
                path: "/rej".to_owned(),
            },
        };
        let beside = ExplainContext {
            rejected: vec![rejected],
            warnings: vec!["consul: refused".to_owned()],
            now_ms: 0,
        };
        let told = explain(
            &table,
            "http://x/rej",
            &question,
            &decide(&table, &question),
            beside,
            |_, _| None,
        );
        assert!(told.outcome.starts_with(
            "no route matches: answered with 404; a rejected tag of rej would have matched"
        ));
        let line = "rejected  rej urlprefix-/rej redirect=abc\\u{1b}: redirect=abc: no URL\n";
        assert!(
            told.text.contains(line) && told.text.contains("warning   consul: refused\n"),
            "{}",
            told.text
        );
        assert_eq!(told.rejected[0].place, "/rej");
    }
}
