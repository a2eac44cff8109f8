//! `/api/explain`: what would become of a request, and why. The table explains the lookup; here the question is
//! read, and the answer put in words.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;
use serde::Serialize;

use super::query::Query;
use crate::table::explain::{ExplainedRoute, ExplainedTarget, HostStep};
use crate::table::{Route, RouteTable, Scheme};

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("which URL? ask for /api/explain?url=http://HOST/PATH")]
    NoUrl,
    #[error("`{0}` is not an absolute URL like http://shop.example/cart, https://shop.example/ or tcp://:5432")]
    NotAUrl(String),
    #[error("path `{path}`: {reason}; a request with it is refused with 400")]
    BadPath { path: String, reason: String },
    #[error("header `{0}` has no colon: write `Name: value`")]
    BadHeader(String),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) method: String,
    /// Host that was looked up: of the URL, or of a Host header.
    pub(super) host: String,
    /// Path that was looked up, normalised; empty for TCP.
    pub(super) path: String,
    /// What happens, in words.
    pub(super) outcome: String,
    /// Hosts of the table that can be meant, in the order they are tried until one has a path that matches.
    pub(super) hosts: Vec<HostStep>,
    pub(super) route: Option<ExplainedRoute>,
    /// All of it for people.
    pub(super) text: String,
}

/// What to look up.
struct Question<'a> {
    url: &'a str,
    method: &'a str,
    /// None: a TCP connection.
    scheme: Option<Scheme>,
    host: String,
    port: Option<u16>,
    path: String,
}

/// Explains the request that `query` describes: `url`, `method`, any number of `header`. `now_ms`: process clock.
pub(super) fn explain(
    table: &RouteTable,
    normalise: fn(&str) -> Result<String, String>,
    now_ms: u64,
    query: &Query,
) -> Result<Answer, ExplainError> {
    let question = read(query, normalise)?;
    let (hosts, route, found) = match question.scheme {
        Some(scheme) => {
            let explanation = table.explain(scheme, &question.host, &question.path, now_ms);
            let found = table.lookup(scheme, &question.host, &question.path, |_| true);
            (explanation.hosts, explanation.route, found)
        }
        None => {
            let found = local_address(&question).and_then(|local| table.lookup_tcp(local));
            (Vec::new(), found.map(|route| ExplainedRoute::new(route, now_ms)), found)
        }
    };
    let mut answer = Answer {
        url: question.url.to_owned(),
        method: question.method.to_owned(),
        host: question.host,
        path: question.path,
        outcome: outcome(found.map(AsRef::as_ref), question.scheme.is_some(), now_ms),
        hosts,
        route,
        text: String::new(),
    };
    answer.text = text(&answer);
    Ok(answer)
}

fn read<'a>(query: &'a Query, normalise: fn(&str) -> Result<String, String>) -> Result<Question<'a>, ExplainError> {
    let url = query.first("url").filter(|url| !url.is_empty()).ok_or(ExplainError::NoUrl)?;
    let not_a_url = || ExplainError::NotAUrl(url.to_owned());
    let method = query.first("method").filter(|method| !method.is_empty()).unwrap_or("GET");
    if let Some(place) = url.strip_prefix("tcp://") {
        let (host, port) = place.trim_end_matches('/').rsplit_once(':').ok_or_else(not_a_url)?;
        let port = Some(port.parse().map_err(|_| not_a_url())?);
        return Ok(Question { url, method, scheme: None, host: host.to_owned(), port, path: String::new() });
    }
    let uri: Uri = with_scheme(url).parse().map_err(|_| not_a_url())?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(not_a_url()),
    };
    let authority = uri.authority().ok_or_else(not_a_url)?.as_str();
    let in_url = authority.rsplit('@').next().unwrap_or(authority);
    let host = host_header(query)?.unwrap_or(in_url).to_owned();
    let path = normalise(uri.path()).map_err(|reason| ExplainError::BadPath { path: uri.path().to_owned(), reason })?;
    Ok(Question { url, method, scheme: Some(scheme), host, port: None, path })
}

/// A bare `host/path` means http, as in a browser.
fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

fn host_header(query: &Query) -> Result<Option<&str>, ExplainError> {
    let mut host = None;
    for header in query.all("header") {
        let (name, value) = header.split_once(':').ok_or_else(|| ExplainError::BadHeader(header.to_owned()))?;
        if name.trim().eq_ignore_ascii_case("host") {
            host = Some(value.trim());
        }
    }
    Ok(host)
}

/// Where a TCP connection arrives; a name or nothing means any address.
fn local_address(question: &Question<'_>) -> Option<SocketAddr> {
    let host = question.host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    question.port.map(|port| SocketAddr::new(ip, port))
}

fn outcome(route: Option<&Route>, http: bool, now_ms: u64) -> String {
    let Some(route) = route else {
        let answer = if http { "answered with proxy.no_route_status (404 unless set)" } else { "closed at once" };
        return format!("no route matches: {answer}");
    };
    let out = route.excluded.len();
    let Some(first) = route.targets.first() else {
        let answer = if http { "503 with Retry-After" } else { "closed at once" };
        let which = match out {
            0 => "it has no instance".to_owned(),
            1 => "its only instance is out".to_owned(),
            _ => format!("all {out} of its instances are out"),
        };
        return format!("{answer}: the route exists, but {which}");
    };
    if let Some(redirect) = &first.options.redirect {
        return format!("redirected with {} to {}", redirect.code, redirect.url);
    }
    let (ejected, total) = (route.ejected_count(now_ms), route.targets.len());
    if ejected == total {
        return format!("sent to one of {total}: all are ejected, which is ignored rather than serving nobody");
    }
    match (total - ejected, ejected + out) {
        (1, 0) => "sent to the only instance".to_owned(),
        (able, 0) => format!("sent to one of {able} instances"),
        (able, out) => format!("sent to one of {able} able instances; {out} more out"),
    }
}

impl Answer {
    /// Puts the answer in words again, after it was changed.
    pub(super) fn reword(&mut self) {
        self.text = text(self);
    }
}

/// The answer for a terminal; control characters of strangers are shown, not obeyed. (Writing to a String cannot
/// fail.)
fn text(answer: &Answer) -> String {
    let mut text = String::new();
    if answer.path.is_empty() {
        let _ = writeln!(text, "{}", answer.url);
    } else {
        let _ = writeln!(text, "{} {}{}", answer.method, answer.host, answer.path);
    }
    let _ = writeln!(text, "{}", answer.outcome);
    for HostStep { host, path } in &answer.hosts {
        let host = if host.is_empty() { "(any host)" } else { host };
        let _ = match path {
            Some(path) => writeln!(text, "tried     {host}: {path} matches"),
            None => writeln!(text, "tried     {host}: no path matches"),
        };
        if path.is_some() {
            break;
        }
    }
    let Some(route) = &answer.route else { return super::tabular::printable(&text) };
    let _ = writeln!(text, "route     {}{} (strategy {})", route.host, route.path, route.strategy);
    for target in &route.targets {
        push_target(&mut text, target);
    }
    for out in &route.excluded {
        let _ = writeln!(text, "left out  {} {}: {}", out.service, out.instance, out.reason);
    }
    super::tabular::printable(&text)
}

fn push_target(text: &mut String, target: &ExplainedTarget) {
    let ExplainedTarget { service, instance, destination, options, share, state, in_flight, failures, .. } = target;
    let _ = write!(text, "target    {service} {instance} {destination}: {:.1} %, {state}", share * 100.0);
    if let Some(left_ms) = target.ejected_for_ms {
        let _ = write!(text, " for {:.1} s more", left_ms as f64 / 1000.0);
    }
    let _ = write!(text, ", {in_flight} in flight, {failures} failures in a row");
    if !options.is_empty() {
        let _ = write!(text, "; options {options}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::admin::routes::tests::{all_out, table};

    fn ask(table: &RouteTable, query: &str) -> Result<Answer, ExplainError> {
        explain(table, |path| Ok(path.to_owned()), 1_000, &Query::parse(query))
    }

    fn two() -> RouteTable {
        table("route add web shop/a http://10.0.0.1:80/\nroute add web shop/a http://10.0.0.2:80/ opts \"strip=/a\"")
    }

    fn eject(table: &RouteTable, count: usize, until_ms: u64) {
        let routes = table.routes();
        routes[0].targets.iter().take(count).for_each(|target| target.state.ejected_until_ms.store(until_ms, Relaxed));
    }

    #[test]
    fn targets_shares_and_states_are_told() {
        let table = two();
        eject(&table, 1, 3_500);
        let told = ask(&table, "url=http://shop/a/b?x=1&method=POST").unwrap();
        assert_eq!((told.host.as_str(), told.path.as_str(), told.method.as_str()), ("shop", "/a/b", "POST"));
        assert_eq!(told.outcome, "sent to one of 1 able instances; 1 more out");
        assert_eq!(told.hosts[0], HostStep { host: "shop".to_owned(), path: Some("/a".to_owned()) });
        assert!(!told.text.contains("any host"), "hosts behind the match are not tried: {}", told.text);
        for line in ["POST shop/a/b\n", "tried     shop: /a matches\n", "route     shop/a (strategy p2c)\n"] {
            assert!(told.text.contains(line), "{line} in {}", told.text);
        }
        assert!(told.text.contains("50.0 %, ejected for 2.5 s more, 0 in flight"), "{}", told.text);
        assert!(told.text.contains("; options strip=/a\n"), "{}", told.text);
    }

    #[test]
    fn how_many_are_out_is_said_in_words() {
        for (count, words) in
            [(0, "it has no instance"), (1, "its only instance is out"), (3, "all 3 of its instances")]
        {
            let told = outcome(Some(&all_out("/", count)), true, 0);
            assert!(told.starts_with("503 with Retry-After") && told.contains(words), "{told}");
        }
    }

    #[test]
    fn outcomes() {
        let none = ask(&two(), "url=http://other/a").unwrap();
        assert!(none.outcome.starts_with("no route matches") && none.route.is_none());
        let moved = table("route add web shop/ https://x/ opts \"redirect=302,https://x/\"");
        assert_eq!(ask(&moved, "url=shop/").unwrap().outcome, "redirected with 302 to https://x/");
        let ejected = two();
        eject(&ejected, 2, 9_000);
        assert!(ask(&ejected, "url=shop/a").unwrap().outcome.contains("all are ejected"));
        assert_eq!(ask(&two(), "url=shop/a").unwrap().outcome, "sent to one of 2 instances");
    }

    #[test]
    fn tcp_routes_are_found_by_port() {
        let table = table("route add db :5432 tcp://10.0.0.9:5432");
        for url in ["tcp://:5432", "tcp://10.1.2.3:5432", "tcp://[::1]:5432/"] {
            assert_eq!(ask(&table, &format!("url={url}")).unwrap().outcome, "sent to the only instance", "{url}");
        }
        assert!(ask(&table, "url=tcp://:1").unwrap().outcome.contains("closed at once"));
        assert!(matches!(ask(&table, "url=tcp://x").unwrap_err(), ExplainError::NotAUrl(_)));
    }

    #[test]
    fn a_host_header_decides_over_the_url() {
        let told = ask(&two(), "url=http://127.0.0.1:9999/a&header=X:+1&header=host:+shop").unwrap();
        assert_eq!(told.host, "shop");
        assert!(told.route.is_some());
    }

    #[test]
    fn bad_questions_are_answered_with_what_would_be_right() {
        let table = two();
        assert_eq!(ask(&table, "").unwrap_err(), ExplainError::NoUrl);
        for url in ["ftp://x/", "http://", "http://a b/", "/only/path"] {
            let asked = format!("url={}", url.replace(' ', "%20"));
            assert_eq!(ask(&table, &asked).unwrap_err(), ExplainError::NotAUrl(url.to_owned()), "{url}");
        }
        assert!(matches!(ask(&table, "url=x/&header=Host").unwrap_err(), ExplainError::BadHeader(_)));
        let refused = explain(&table, |_| Err("not UTF-8".to_owned()), 0, &Query::parse("url=x/"));
        assert!(matches!(refused, Err(ExplainError::BadPath { .. })));
    }
}
