//! The routing table: immutable, shared by all workers, replaced whole.
//!
//! ```text
//! host ─ hosts ─┬ exact names: shards (hash)          path ─ paths ─ trie (longest prefix) ─ Route
//!               ├ globs: trie (literal end, reversed)                                         │
//!               └ any host                                         balancer picks ─ Target ─ TargetState
//! ```
//!
//! `build` makes the next table from the present one and shares all that did not change. Nothing
//! here knows where routes come from, and nothing here does I/O or reads a clock.

pub mod bad_responses;
pub mod balancer;
pub mod build;
pub mod clock;
mod command_services;
#[cfg(test)]
mod conditional;
#[cfg(test)]
mod differential;
mod draft;
pub mod explain;
#[cfg(test)]
mod fixture;
pub mod health;
mod hosts;
#[cfg(test)]
mod incremental;
mod interned;
pub mod limits;
mod listing;
pub mod loss;
mod mirrors;
mod named;
mod overlay;
mod paths;
mod prefixes;
pub mod publish;
mod ranks;
mod rotation;
pub mod route;
mod shards;
mod shares;
pub mod silence;
#[cfg(test)]
mod simulation;
mod states;
pub mod sticky;
pub mod target;
mod target_observers;
mod trie;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::catalog::matchers::Matchers;
use crate::catalog::tag::RouteKey;
use hosts::Hosts;

pub use balancer::{PickContext, PickState};
pub use build::TableBuilder;
pub use clock::Clock;
pub use command_services::CommandServices;
pub use draft::{Admission, CommandTarget, Contribution, NamedInstance};
pub use explain::Explanation;
pub use health::ErrorStatus;
pub use hosts::Scheme;
pub use mirrors::RouteMirror;
pub use named::{Fallback, FallbackState};
pub use paths::Matcher;
pub use publish::{SharedTable, TableReader};
pub use rotation::Rotation;
pub use route::{Excluded, Route, Targets};
pub use silence::Probe;
pub use target::{InFlight, Target, TargetState};

/// An immutable table. A clone is a few pointers; the next table shares all that did not change.
#[derive(Clone, Debug)]
pub struct RouteTable {
    hosts: Hosts,
    /// Few, and changed seldom: copied whole.
    tcp: Arc<HashMap<TcpKey, Arc<Route>, foldhash::fast::FixedState>>,
    len: usize,
}

/// Address (none: any) and port of a TCP route.
type TcpKey = (Option<IpAddr>, u16);

impl Default for RouteTable {
    fn default() -> Self {
        Self::new(Matcher::default())
    }
}

impl RouteTable {
    /// A table without routes.
    #[must_use]
    pub fn new(matcher: Matcher) -> Self {
        Self {
            hosts: Hosts::new(matcher, true),
            tcp: Arc::default(),
            len: 0,
        }
    }

    /// The same, in which a host like `*.example.com` is not a pattern but that very text.
    #[must_use]
    pub fn without_patterns(matcher: Matcher) -> Self {
        Self {
            hosts: Hosts::new(matcher, false),
            tcp: Arc::default(),
            len: 0,
        }
    }

    /// The route for a request: hosts by Fabio's precedence, then the longest path.
    ///
    /// `host` as received (any case, maybe with port), `path` normalised. `accept` can refuse a
    /// candidate (a redirect to itself), and the next host is tried. Routes of TCP are not
    /// candidates: a request written to a port that expects other bytes (TLS, mostly) would show
    /// its cookies on the wire. Nor are those with matchers, unless `hold` says so of theirs.
    pub fn lookup_request(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        hold: impl FnMut(&Matchers) -> bool,
        accept: impl FnMut(&Route) -> bool,
    ) -> Option<&Arc<Route>> {
        self.hosts.lookup(scheme, host, path, hold, accept)
    }

    /// The route for any request to that place: one without matchers.
    pub fn lookup(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        accept: impl FnMut(&Route) -> bool,
    ) -> Option<&Arc<Route>> {
        self.lookup_request(scheme, host, path, |_| false, accept)
    }

    /// The route of a TCP listener: `IP:PORT` before `:PORT`.
    #[must_use]
    pub fn lookup_tcp(&self, local: SocketAddr) -> Option<&Arc<Route>> {
        // A dual-stack socket reports IPv4 peers' local address as ::ffff:a.b.c.d.
        let ip = local.ip().to_canonical();
        self.tcp
            .get(&(Some(ip), local.port()))
            .or_else(|| self.tcp.get(&(None, local.port())))
    }

    /// The route of a TLS connection with this server name: path `/` of the first host of the table
    /// that the name can mean. That host decides alone, whatever stands under less specific ones;
    /// routes of any host never count: they would send TLS with any unknown server name to a web
    /// server.
    #[must_use]
    pub fn lookup_server_name(&self, name: &str) -> Option<&Arc<Route>> {
        let candidates = self.hosts.candidates(Scheme::Https, name);
        candidates
            .iter()
            .find(|candidate| !candidate.host.is_empty())?
            .find("/")
    }

    /// Whether TLS for the host of a request (as received, but without its port) is passed on
    /// unopened, so that a request for that host is not ours to serve.
    #[must_use]
    pub fn is_passed_through(&self, host: &str) -> bool {
        self.lookup_server_name(host)
            .is_some_and(|route| route.is_passed_through())
    }

    /// The TCP routes: address (none: any), port, route.
    pub fn tcp_routes(&self) -> impl Iterator<Item = (Option<IpAddr>, u16, &Arc<Route>)> {
        self.tcp
            .iter()
            .map(|((ip, port), route)| (*ip, *port, route))
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `route` at its place, or takes away what is there.
    #[cfg(test)]
    fn set(&mut self, matcher: Matcher, key: &RouteKey, route: Option<Arc<Route>>) {
        self.set_routes(key, matcher, route, 0);
    }

    /// The same for all routes of a place whose paths are compared by `matcher`: one, and those
    /// beside it. `beside_before`: how many there were beside the one that is replaced.
    fn set_routes(
        &mut self,
        key: &RouteKey,
        matcher: Matcher,
        route: Option<Arc<Route>>,
        beside_before: usize,
    ) {
        let beside = Route::beside_count(route.as_ref());
        let growth = if key.path.is_empty() {
            let Some(tcp_key) = tcp_key(&key.host) else {
                return;
            };
            let has = isize::from(route.is_some());
            let tcp = Arc::make_mut(&mut self.tcp);
            let old = match route {
                Some(route) => tcp.insert(tcp_key, route),
                None => tcp.remove(&tcp_key),
            };
            has - isize::from(old.is_some())
        } else {
            self.hosts.set(key, matcher, route)
        };
        self.len = (self.len + beside).saturating_add_signed(growth);
        self.len = self.len.saturating_sub(beside_before);
    }
}

fn tcp_key(host: &str) -> Option<TcpKey> {
    match host.strip_prefix(':') {
        Some(port) => Some((None, port.parse().ok()?)),
        None => host
            .parse()
            .ok()
            .map(|addr: SocketAddr| (Some(addr.ip().to_canonical()), addr.port())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::glob::Glob;

    fn route(host: &str, path: &str) -> Arc<Route> {
        Arc::new(Route::without_targets(RouteKey {
            host: host.into(),
            path: path.into(),
        }))
    }

    fn table(matcher: Matcher, places: &[(&str, &str)]) -> RouteTable {
        let mut table = RouteTable::new(matcher);
        for (host, path) in places {
            let route = route(host, path);
            table.set(matcher, &route.key, Some(Arc::clone(&route)));
        }
        table
    }

    fn place(route: Option<&Arc<Route>>) -> Option<(String, String)> {
        route.map(|route| (route.key.host.clone(), route.key.path.clone()))
    }

    #[test]
    fn hosts_by_precedence_then_the_longest_path() {
        let table = table(
            Matcher::Prefix,
            &[
                ("", "/"),
                ("", "/only"),
                ("a.test", "/"),
                ("a.test", "/foo/"),
                ("*.test", "/"),
                ("*.a.test", "/"),
                ("{b,c}.test", "/b"),
                ("b.test", "/"),
                ("d.test:80", "/"),
                ("f.org:80", "/"),
                ("d.test:8080", "/p"),
                ("*.e.org:443", "/"),
            ],
        );
        for (scheme, host, path, expected) in [
            (Scheme::Http, "a.test", "/foo/x", ("a.test", "/foo/")),
            (Scheme::Http, "A.Test:80", "/foo", ("a.test", "/")),
            (Scheme::Http, "a.test:81", "/foo", ("", "/")),
            (Scheme::Http, "x.a.test", "/", ("*.a.test", "/")),
            (Scheme::Http, "x.test", "/", ("*.test", "/")),
            (Scheme::Http, "b.test", "/b", ("{b,c}.test", "/b")),
            (Scheme::Http, "b.test", "/c", ("b.test", "/")),
            (Scheme::Http, "c.test", "/b", ("{b,c}.test", "/b")),
            (Scheme::Http, "c.test", "/c", ("*.test", "/")),
            (Scheme::Http, "nobody", "/only/1", ("", "/only")),
            (Scheme::Http, "d.test", "/", ("d.test:80", "/")),
            (Scheme::Http, "f.org", "/", ("f.org:80", "/")),
            (Scheme::Https, "d.test", "/", ("*.test", "/")),
            (Scheme::Https, "d.test:80", "/", ("d.test:80", "/")),
            (Scheme::Http, "d.test:8080", "/p", ("d.test:8080", "/p")),
            (Scheme::Https, "x.e.org", "/", ("*.e.org:443", "/")),
            (Scheme::Http, "x.e.org", "/", ("", "/")),
            (Scheme::Http, "x.e.org:443", "/", ("*.e.org:443", "/")),
            (Scheme::Http, "", "/", ("", "/")),
        ] {
            let expected = Some((expected.0.to_owned(), expected.1.to_owned()));
            assert_eq!(
                place(table.lookup(scheme, host, path, |_| true)),
                expected,
                "{host}{path}"
            );
        }
        assert!(
            table
                .lookup(Scheme::Http, "a.test", "*", |_| true)
                .is_none()
        );
    }

    #[test]
    fn hosts_may_be_text() {
        let mut table = RouteTable::without_patterns(Matcher::Prefix);
        for (host, path) in [("*.a.test", "/"), ("a.test", "/"), ("", "/any")] {
            let route = route(host, path);
            table.set(Matcher::Prefix, &route.key, Some(Arc::clone(&route)));
        }
        let found = |host: &str, path: &str| {
            place(table.lookup(Scheme::Http, host, path, |_| true)).map(|(host, _)| host)
        };
        assert_eq!(found("x.a.test", "/"), None);
        assert_eq!(found("x.a.test", "/any").as_deref(), Some(""));
        assert_eq!(found("*.a.test", "/").as_deref(), Some("*.a.test"));
        assert_eq!(found("A.test:80", "/").as_deref(), Some("a.test"));
    }

    #[test]
    fn a_refused_route_leads_to_the_next_host() {
        let table = table(
            Matcher::Prefix,
            &[("a.test", "/"), ("a.test", "/x"), ("*", "/x"), ("", "/")],
        );
        let refuse = |host: &'static str| move |route: &Route| route.key.host != host;
        let found = table.lookup(Scheme::Http, "a.test", "/x", refuse("a.test"));
        assert_eq!(place(found), Some(("*".into(), "/x".into())));
        assert!(
            table
                .lookup(Scheme::Http, "a.test", "/x", |_| false)
                .is_none()
        );
    }

    #[test]
    fn tcp_by_address_before_port() {
        let table = table(
            Matcher::Prefix,
            &[(":90", ""), ("127.0.0.1:90", ""), ("[::1]:91", "")],
        );
        for (local, expected) in [
            ("127.0.0.1:90", Some("127.0.0.1:90")),
            ("[::ffff:127.0.0.1]:90", Some("127.0.0.1:90")),
            ("127.0.0.2:90", Some(":90")),
            ("[::1]:91", Some("[::1]:91")),
            ("[::2]:91", None),
        ] {
            let found = table.lookup_tcp(local.parse().unwrap());
            assert_eq!(
                found.map(|route| route.key.host.as_str()),
                expected,
                "{local}"
            );
        }
        assert!(table.lookup(Scheme::Http, ":90", "/", |_| true).is_none());
    }

    #[test]
    fn server_names_go_by_the_most_specific_host() {
        let table = table(
            Matcher::Prefix,
            &[
                ("", "/"),
                ("a.test", "/"),
                ("*.test", "/"),
                ("b.test", "/api"),
                ("c.org:443", "/"),
                ("d.org:80", "/"),
                ("{e,f}.org", "/"),
                (":443", ""),
            ],
        );
        for (name, expected) in [
            ("a.test", Some("a.test")),
            ("A.TEST", Some("a.test")),
            ("x.test", Some("*.test")),
            ("x.y.test", Some("*.test")),
            ("b.test", None),
            ("c.org", Some("c.org:443")),
            ("d.org", None),
            ("f.org", Some("{e,f}.org")),
            ("test", None),
            ("stranger.net", None),
            ("", None),
        ] {
            let found = table.lookup_server_name(name);
            assert_eq!(
                found.map(|route| route.key.host.as_str()),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn routes_come_in_order_and_are_counted() {
        let mut table = table(
            Matcher::Prefix,
            &[
                ("b", "/"),
                ("a", "/x"),
                ("a", "/y"),
                ("*.b:443", "/"),
                (":1", ""),
                ("[", "/"),
            ],
        );
        let order: Vec<_> = table
            .routes()
            .iter()
            .map(|r| format!("{}{}", r.key.host, r.key.path))
            .collect();
        assert_eq!(order, ["*.b:443/", ":1", "a/y", "a/x", "b/"]);
        assert_eq!(
            table.len(),
            5,
            "a pattern that cannot be compiled is not a route"
        );
        for host in ["b", "b", "*.b:443"] {
            table.set(
                Matcher::Prefix,
                &RouteKey {
                    host: host.into(),
                    path: "/".into(),
                },
                None,
            );
        }
        assert_eq!((table.len(), table.routes().len()), (3, 3));
    }

    /// Fabio's rules (hosts and paths), as a scan over everything.
    fn scan<'a>(
        matcher: Matcher,
        places: &'a [(String, String)],
        scheme: Scheme,
        host: &str,
        path: &str,
    ) -> Option<&'a (String, String)> {
        let port = if scheme == Scheme::Http {
            ":80"
        } else {
            ":443"
        };
        let cut = |host: &str| host.strip_suffix(port).unwrap_or(host).to_owned();
        let wanted = cut(&host.to_lowercase());
        let mut hosts: Vec<&str> = places
            .iter()
            .map(|(host, _)| host.as_str())
            .filter(|host| !host.is_empty())
            .collect();
        hosts.retain(|pattern| Glob::new(&cut(pattern)).unwrap().matches(&wanted));
        // `b.test:80` counts as `tset.b:80`; behind a bracket no port is told from the rest.
        hosts.sort_by_key(|host| {
            let reversed = |text: &str| text.chars().rev().collect::<String>();
            let split = host
                .split_once(':')
                .filter(|(name, _)| !name.is_empty() && !name.contains(['[', ']']));
            std::cmp::Reverse(split.map_or_else(
                || reversed(host),
                |(name, port)| reversed(name) + ":" + port,
            ))
        });
        hosts.push("");
        hosts.into_iter().find_map(|host| {
            let mut own: Vec<&(String, String)> =
                places.iter().filter(|place| place.0 == host).collect();
            own.sort_by(|a, b| b.1.cmp(&a.1));
            own.into_iter().find(|place| match matcher {
                Matcher::Prefix => path.starts_with(&place.1),
                Matcher::IPrefix => path.to_lowercase().starts_with(&place.1.to_lowercase()),
                Matcher::Glob => Glob::new(&place.1).unwrap().matches(path),
            })
        })
    }

    fn hosts() -> impl Strategy_<Value = String> {
        prop_oneof![
            "[ab]{0,2}(\\.[ab]){0,2}(:80|:443|:81)?",
            "(\\*|\\?|a\\*|\\{a,b\\}|[!a])(\\.[ab]){0,2}(:80|:443)?",
        ]
    }

    use proptest::strategy::Strategy as Strategy_;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_index_agrees_with_a_scan(
            matcher in prop_oneof![Just(Matcher::Prefix), Just(Matcher::IPrefix), Just(Matcher::Glob)],
            places in prop::collection::vec((hosts(), "/[abA]{0,2}(/|\\*|\\?b)?[ab]{0,2}"), 0..24),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            requests in prop::collection::vec(("[abAB]{0,2}(\\.[abB]){0,2}(:80|:443|:81)?", "/[abA]{0,3}/?[ab]{0,2}", any::<bool>()), 1..12),
        ) {
            let mut places = places;
            places.retain(|(host, _)| !host.contains("[!a]") || host.starts_with("[!a]"));
            places.sort();
            places.dedup();
            let mut table = RouteTable::new(matcher);
            for (host, path) in &places {
                let route = route(host, path);
                table.set(matcher, &route.key, Some(Arc::clone(&route)));
            }
            let before = table.clone();
            let all = places.clone();
            for index in removed.iter().filter(|_| !all.is_empty()) {
                let (host, path) = index.get(&all).clone();
                table.set(matcher, &RouteKey { host: host.clone(), path: path.clone() }, None);
                places.retain(|place| *place != (host.clone(), path.clone()));
            }
            for (table, places) in [(&before, &all), (&table, &places)] {
                prop_assert_eq!(table.len(), places.len());
                prop_assert_eq!(table.routes().len(), places.len());
                for (host, path, tls) in &requests {
                    let scheme = if *tls { Scheme::Https } else { Scheme::Http };
                    let found = place(table.lookup(scheme, host, path, |_| true));
                    prop_assert_eq!(found.as_ref(), scan(matcher, places, scheme, host, path), "{} {}", host, path);
                }
            }
        }
    }
}
