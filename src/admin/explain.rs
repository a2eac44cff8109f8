//! `/api/explain`: which route a request would take, which targets it has and why, and which instances are left out.

use std::fmt::Write as _;

use http::Uri;
use serde::Serialize;

use super::query::Query;
use super::{TableView, routes};
use crate::catalog::options::{Access, HashKey, Strategy};
use crate::table::{Route, Scheme, Target};

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("which URL? ask for /api/explain?url=http://HOST/PATH")]
    NoUrl,
    #[error("`{0}` is not an absolute http or https URL like http://shop.example/cart")]
    NotAUrl(String),
    #[error("path `{path}`: {reason}; a request with it is refused with 400")]
    BadPath { path: String, reason: String },
    #[error("header `{0}` has no colon: write `Name: value`")]
    BadHeader(String),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Explanation {
    pub(super) url: String,
    pub(super) method: String,
    /// Host that was looked up: of the URL, or of a Host header.
    pub(super) host: String,
    /// Path that was looked up, normalised.
    pub(super) path: String,
    /// What happens, in words.
    pub(super) outcome: String,
    /// The route's place; none without route.
    pub(super) route: Option<String>,
    pub(super) strategy: Option<String>,
    pub(super) targets: Vec<TargetRow>,
    pub(super) excluded: Vec<ExcludedRow>,
    /// The same for people.
    pub(super) text: String,
}

/// A target that may get the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TargetRow {
    pub(super) service: String,
    pub(super) instance: String,
    pub(super) url: String,
    pub(super) share: f64,
    /// `healthy` or `ejected`.
    pub(super) state: &'static str,
    pub(super) in_flight: u32,
    pub(super) failures: u32,
    /// What keeps it from getting requests, or decides who may send some.
    pub(super) note: Option<String>,
}

/// An instance that gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ExcludedRow {
    pub(super) service: String,
    pub(super) instance: String,
    pub(super) reason: String,
}

/// Explains the request that `query` describes: `url`, `method`, any number of `header`.
pub(super) fn explain(
    table: &dyn TableView,
    normalise: fn(&str) -> Result<String, String>,
    query: &Query,
) -> Result<Explanation, ExplainError> {
    let url = query.first("url").filter(|url| !url.is_empty()).ok_or(ExplainError::NoUrl)?;
    let uri: Uri = with_scheme(url).parse().map_err(|_| ExplainError::NotAUrl(url.to_owned()))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(ExplainError::NotAUrl(url.to_owned())),
    };
    let authority = uri.authority().ok_or_else(|| ExplainError::NotAUrl(url.to_owned()))?;
    let host = match host_header(query)? {
        Some(host) => host.to_owned(),
        None => authority.as_str().rsplit('@').next().unwrap_or_default().to_owned(),
    };
    let path = normalise(uri.path()).map_err(|reason| ExplainError::BadPath { path: uri.path().to_owned(), reason })?;
    let route = table.find(scheme, &host, &path);
    let mut explanation = Explanation {
        url: url.to_owned(),
        method: query.first("method").filter(|method| !method.is_empty()).unwrap_or("GET").to_owned(),
        host,
        path,
        outcome: outcome(route.as_deref(), table.now_ms()),
        route: route.as_ref().map(|route| format!("{}{}", route.key.host, route.key.path)),
        strategy: route.as_ref().map(|route| strategy_name(&route.strategy)),
        targets: route.iter().flat_map(|route| &route.targets).map(|target| row(target, table.now_ms())).collect(),
        excluded: route.iter().flat_map(|route| excluded(route)).collect(),
        text: String::new(),
    };
    explanation.text = text(&explanation);
    Ok(explanation)
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

fn outcome(route: Option<&Route>, now_ms: u64) -> String {
    let Some(route) = route else {
        return "no route matches: answered with proxy.no_route_status (404 unless set)".to_owned();
    };
    let out = route.excluded.len();
    let Some(first) = route.targets.first() else {
        return format!("503 with Retry-After: the route exists, but all {out} of its instances are out");
    };
    if let Some(redirect) = &first.options.redirect {
        return format!("redirected with {} to {}", redirect.code, redirect.url);
    }
    let ejected = route.targets.iter().filter(|target| target.state.is_ejected(now_ms)).count();
    let total = route.targets.len();
    if ejected == total {
        return format!("sent to one of {total}: all are ejected, which is ignored rather than serving nobody");
    }
    match (total - ejected, ejected + out) {
        (1, 0) => "sent to the only instance".to_owned(),
        (able, 0) => format!("sent to one of {able} instances"),
        (able, out) => format!("sent to one of {able} able instances; {out} more out"),
    }
}

fn row(target: &Target, now_ms: u64) -> TargetRow {
    use std::sync::atomic::Ordering::Relaxed;
    let state = &target.state;
    let left_ms = state.ejected_until_ms.load(Relaxed).saturating_sub(now_ms);
    let mut notes = Vec::new();
    if left_ms > 0 {
        notes.push(format!("ejected for {:.1} s more", left_ms as f64 / 1000.0));
    }
    match &target.options.access {
        Access::Open => {}
        Access::Closed => notes.push("nobody may use it: its access rule cannot be read (403)".to_owned()),
        Access::Allow(nets) => notes.push(format!("only for {}", joined(nets))),
        Access::Deny(nets) => notes.push(format!("not for {}", joined(nets))),
    }
    if target.share <= 0.0 {
        notes.push("its share is 0".to_owned());
    }
    TargetRow {
        service: target.service.name().to_string(),
        instance: state.id.to_string(),
        url: routes::destination(target),
        share: target.share,
        state: if left_ms > 0 { "ejected" } else { "healthy" },
        in_flight: state.in_flight.load(Relaxed),
        failures: state.failures.load(Relaxed),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

fn joined(nets: &[ipnet::IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn excluded(route: &Route) -> impl Iterator<Item = ExcludedRow> {
    route.excluded.iter().map(|excluded| ExcludedRow {
        service: excluded.service.to_string(),
        instance: excluded.id.to_string(),
        reason: excluded.reason.to_string(),
    })
}

/// The strategy as it is written in the configuration.
fn strategy_name(strategy: &Strategy) -> String {
    match strategy {
        Strategy::P2c => "p2c".to_owned(),
        Strategy::RoundRobin => "rr".to_owned(),
        Strategy::Random => "rnd".to_owned(),
        Strategy::Least => "least".to_owned(),
        Strategy::Ewma => "ewma".to_owned(),
        Strategy::Hash(HashKey::Ip) => "hash:ip".to_owned(),
        Strategy::Hash(HashKey::Path) => "hash:path".to_owned(),
        Strategy::Hash(HashKey::Header(name)) => format!("hash:header:{name}"),
        Strategy::Hash(HashKey::Cookie(name)) => format!("hash:cookie:{name}"),
    }
}

/// The explanation for a terminal; control characters of strangers are shown, not obeyed.
fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} {}{}", explanation.method, explanation.host, explanation.path);
    let _ = writeln!(text, "{}", explanation.outcome);
    if let (Some(route), Some(strategy)) = (&explanation.route, &explanation.strategy) {
        let _ = writeln!(text, "route     {route} (strategy {strategy})");
    }
    for target in &explanation.targets {
        let TargetRow { service, instance, url, share, state, in_flight, failures, note } = target;
        let _ = write!(text, "target    {service} {instance} {url}: {:.1} %, {state}", share * 100.0);
        let _ = write!(text, ", {in_flight} in flight, {failures} failures in a row");
        let _ = writeln!(text, "{}", note.as_ref().map_or_else(String::new, |note| format!("; {note}")));
    }
    for ExcludedRow { service, instance, reason } in &explanation.excluded {
        let _ = writeln!(text, "left out  {service} {instance}: {reason}");
    }
    super::tabular::printable(&text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::admin::routes::tests::{route, target};
    use crate::catalog::InstanceId;
    use crate::catalog::options::{Redirect, RouteOptions};
    use crate::table::Excluded;

    /// Finds its one route for one host and anything below its path.
    struct One(Arc<Route>);

    impl TableView for One {
        fn routes(&self) -> Vec<Arc<Route>> {
            vec![Arc::clone(&self.0)]
        }
        fn find(&self, _: Scheme, host: &str, path: &str) -> Option<Arc<Route>> {
            (host == self.0.key.host && path.starts_with(&self.0.key.path)).then(|| Arc::clone(&self.0))
        }
        fn now_ms(&self) -> u64 {
            1_000
        }
    }

    fn ask(table: &One, query: &str) -> Result<Explanation, ExplainError> {
        explain(table, |path| Ok(path.to_owned()), &Query::parse(query))
    }

    fn out(reason: &str) -> Excluded {
        let id = InstanceId { node: Arc::from("n1"), id: Arc::from("web-9") };
        Excluded { service: Arc::from("web"), id, reason: Arc::from(reason) }
    }

    fn two(excluded: Vec<Excluded>) -> One {
        let options = RouteOptions::default;
        let targets = vec![target("web", 1, options(), 0.5), target("web", 2, options(), 0.5)];
        One(route("shop", "/a", targets, excluded))
    }

    #[test]
    fn targets_shares_and_left_out_instances_are_told() {
        let table = two(vec![out("check `web` is critical")]);
        table.0.targets[1].state.ejected_until_ms.store(3_500, Relaxed);
        let told = ask(&table, "url=http://shop/a/b?x=1&method=POST").unwrap();
        assert_eq!((told.host.as_str(), told.path.as_str(), told.method.as_str()), ("shop", "/a/b", "POST"));
        assert_eq!((told.route.as_deref(), told.strategy.as_deref()), (Some("shop/a"), Some("p2c")));
        assert_eq!(told.outcome, "sent to one of 1 able instances; 2 more out");
        assert_eq!((told.targets[0].state, told.targets[1].state), ("healthy", "ejected"));
        assert_eq!(told.targets[1].note.as_deref(), Some("ejected for 2.5 s more"));
        assert!(told.text.contains("left out  web n1/web-9: check `web` is critical\n"), "{}", told.text);
    }

    #[test]
    fn outcomes() {
        let none = ask(&two(vec![]), "url=http://other/a").unwrap();
        assert!(none.outcome.starts_with("no route matches") && none.targets.is_empty());
        let sick = One(route("shop", "/", vec![], vec![out("maintenance")]));
        assert!(ask(&sick, "url=shop/").unwrap().outcome.starts_with("503"));
        let moved = RouteOptions {
            redirect: Some(Redirect { code: 302, url: Arc::from("https://x/") }),
            ..RouteOptions::default()
        };
        let moved = One(route("shop", "/", vec![target("web", 1, moved, 1.0)], vec![]));
        assert_eq!(ask(&moved, "url=shop/").unwrap().outcome, "redirected with 302 to https://x/");
        let ejected = two(vec![]);
        ejected.0.targets.iter().for_each(|target| target.state.ejected_until_ms.store(9_000, Relaxed));
        assert!(ask(&ejected, "url=shop/a").unwrap().outcome.contains("all are ejected"));
    }

    #[test]
    fn a_host_header_decides_over_the_url() {
        let told = ask(&two(vec![]), "url=http://127.0.0.1:9999/a&header=X:+1&header=host:+shop").unwrap();
        assert_eq!(told.host, "shop");
        assert!(told.route.is_some());
    }

    #[test]
    fn bad_questions_are_answered_with_what_would_be_right() {
        let table = two(vec![]);
        assert_eq!(ask(&table, "").unwrap_err(), ExplainError::NoUrl);
        for url in ["ftp://x/", "http://", "http://a b/", "/only/path"] {
            let asked = format!("url={}", url.replace(' ', "%20"));
            assert_eq!(ask(&table, &asked).unwrap_err(), ExplainError::NotAUrl(url.to_owned()), "{url}");
        }
        assert!(matches!(ask(&table, "url=x/&header=Host").unwrap_err(), ExplainError::BadHeader(_)));
        let refused = explain(&table, |_| Err("not UTF-8".to_owned()), &Query::parse("url=x/"));
        assert!(matches!(refused, Err(ExplainError::BadPath { .. })));
    }
}
