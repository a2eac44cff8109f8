//! Tests: routes with matchers, as the builder makes them and the index finds them, against a scan
//! over all of them.

use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::*;
use proptest::sample::select;

use super::{Admission, Contribution, Matcher, Route, RouteTable, Scheme, TableBuilder};
use crate::catalog::InstanceId;
use crate::catalog::glob::Glob;
use crate::catalog::matchers::{Matchers, PathMode, RequestParts};
use crate::catalog::options::Strategy as Balancing;
use crate::catalog::tag::{RouteSpec, parse_tag};
use crate::metrics::Metrics;

struct Request {
    method: Method,
    canary: Option<&'static str>,
    query: Option<&'static str>,
}

impl RequestParts for Request {
    fn method(&self) -> &Method {
        &self.method
    }

    fn any_field(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        name == "x-canary" && self.canary.is_some_and(|value| test(value.as_bytes()))
    }

    fn query(&self) -> Option<&str> {
        self.query
    }
}

fn spec(tag: &str) -> RouteSpec {
    parse_tag(
        "urlprefix-",
        &format!("urlprefix-{tag}"),
        &Default::default(),
    )
    .unwrap()
    .unwrap()
    .spec
}

fn contribution(tag: &str, number: u16) -> Contribution {
    let RouteSpec { key, options } = spec(tag);
    Contribution {
        key,
        instance: InstanceId {
            node: "n".into(),
            id: format!("i{number}").into(),
        },
        addr: ([127, 0, 0, 1], number).into(),
        options: Arc::new(options),
        tags: Arc::default(),
        admission: Admission::Eligible { weight: 1 },
    }
}

fn builder(matcher: Matcher) -> TableBuilder {
    TableBuilder::new(matcher, Balancing::P2c, Metrics::default())
}

fn found<'a>(table: &'a RouteTable, request: &Request, path: &str) -> Option<&'a Arc<Route>> {
    let hold = |matchers: &Matchers| matchers.hold(request);
    table.lookup_request(Scheme::Http, "a", path, hold, |_| true)
}

/// The routes of tags, each with its place: what the first that holds would be.
fn scan(matcher: Matcher, tags: &[String], request: &Request, path: &str) -> Option<String> {
    let mut specs: Vec<RouteSpec> = tags.iter().map(|tag| spec(tag)).collect();
    specs.sort_by(|a, b| {
        let ranks = [a, b].map(|spec| spec.options.matchers.as_deref());
        (b.key.host.cmp(&a.key.host))
            .then_with(|| b.key.path.cmp(&a.key.path))
            .then_with(|| Matchers::rank(ranks[0], ranks[1]))
    });
    let holds = |spec: &&RouteSpec| {
        let matchers = spec.options.matchers.as_deref();
        let (own, lower) = (&spec.key.path, spec.key.path.to_lowercase());
        let mode = matchers.and_then(Matchers::path).unwrap_or(match matcher {
            Matcher::Prefix => PathMode::Prefix,
            Matcher::IPrefix => PathMode::IPrefix,
            Matcher::Glob => PathMode::Glob,
        });
        let is_path = match mode {
            PathMode::Exact => path == own,
            PathMode::Prefix => path.starts_with(own),
            PathMode::IPrefix => path.to_lowercase().starts_with(&lower),
            PathMode::Glob => Glob::new(own).unwrap().matches(path),
        };
        is_path && matchers.is_none_or(|matchers| matchers.hold(request))
    };
    specs.iter().find(holds).map(shown_spec)
}

fn shown_spec(spec: &RouteSpec) -> String {
    shown(&spec.key.path, spec.options.matchers.as_ref())
}

fn shown_route(route: &Arc<Route>) -> String {
    shown(&route.key.path, route.matchers.as_ref())
}

fn shown(path: &str, matchers: Option<&Arc<Matchers>>) -> String {
    format!(
        "{path} {}",
        matchers.map(ToString::to_string).unwrap_or_default()
    )
}

fn tags() -> impl Strategy<Value = Vec<String>> {
    let options = select(vec![
        "",
        "method=GET",
        "method=POST,PUT",
        "header=X-Canary:1",
        "header=X-Canary",
        "header=X-Canary:* method=GET",
        "query=v:2",
        "priority=1",
        "priority=-1 query=v",
        "path=exact",
        "path=exact header=X-Canary:1",
        "path=prefix",
        "path=iprefix",
        "path=glob method=GET",
    ]);
    let place = select(vec!["a", ""]);
    let tag = (place, "/[abA]{0,2}(\\*|/)?", options);
    let tag = tag.prop_map(|(host, path, options)| format!("{host}{path} {options}"));
    prop::collection::vec(tag, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_index_agrees_with_a_scan(
        matcher in select(vec![Matcher::Prefix, Matcher::IPrefix, Matcher::Glob]),
        tags in tags(),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        method in select(vec![Method::GET, Method::POST]),
        canary in select(vec![None, Some("1"), Some("2")]),
        query in select(vec![None, Some("v=2"), Some("v=1&w")]),
        paths in prop::collection::vec("/[abA]{0,3}/?", 1..6),
    ) {
        let request = Request { method, canary, query };
        let mut builder = builder(matcher);
        let mut tags = tags;
        // One service each, so that each can leave by itself.
        let apply = |builder: &mut TableBuilder, tags: &[String], number: usize, there: bool| {
            let service = format!("s{number}").into();
            let port = u16::try_from(number).unwrap() + 1;
            let new = there.then(|| contribution(&tags[number], port));
            builder.apply_service("consul", &service, new.into_iter().collect(), 0);
        };
        for number in 0..tags.len() {
            apply(&mut builder, &tags, number, true);
        }
        let all = builder.build();
        let mut left: Vec<bool> = vec![true; tags.len()];
        for index in gone.iter().take(tags.len()) {
            let number = index.index(tags.len());
            left[number] = false;
            apply(&mut builder, &tags, number, false);
        }
        let after = builder.build();
        let staying: Vec<String> = tags.iter().zip(&left).filter(|(_, left)| **left).map(|(tag, _)| tag.clone()).collect();
        for (table, tags) in [(&all, &mut tags), (&after, &mut { staying })] {
            let mut routes: Vec<String> = tags.iter().map(|tag| {
                let spec = spec(tag);
                format!("{}{}", spec.key.host, shown_spec(&spec))
            }).collect();
            routes.sort();
            routes.dedup();
            prop_assert_eq!(table.len(), routes.len());
            let mut listed: Vec<String> = table.routes().iter().map(|route| format!("{}{}", route.key.host, shown_route(route))).collect();
            listed.sort();
            prop_assert_eq!(listed, routes);
            for path in &paths {
                prop_assert_eq!(found(table, &request, path).map(shown_route), scan(matcher, tags, &request, path), "{}", path);
            }
        }
    }
}

#[test]
fn instances_share_a_route_by_their_matchers_and_each_keeps_its_turns() {
    let mut builder = builder(Matcher::Prefix);
    let canary = |value| Request {
        method: Method::GET,
        canary: value,
        query: None,
    };
    let all = [
        contribution("a/", 1),
        contribution("a/", 2),
        contribution("a/ header=X-Canary:1", 3),
        contribution("a/ header=x-canary:1", 4),
        // One instance in both.
        contribution("a/ header=x-canary:1", 1),
    ];
    builder.apply_service("consul", &"s".into(), all.to_vec(), 0);
    let table = builder.build();
    let ports = |route: &Arc<Route>| {
        let mut ports: Vec<u16> = (route.targets.iter())
            .map(|target| target.state.addr.port())
            .collect();
        ports.sort_unstable();
        ports
    };
    let (plain, special) = (
        found(&table, &canary(None), "/").unwrap(),
        found(&table, &canary(Some("1")), "/x").unwrap(),
    );
    assert_eq!((ports(plain), ports(special)), (vec![1, 2], vec![1, 3, 4]));
    assert_ne!(plain.id, special.id);
    assert_eq!((table.len(), table.routes().len()), (2, 2));
    let _ = special.rotation.next(10);

    builder.apply_service("consul", &"s".into(), all[1..3].to_vec(), 0);
    let later = builder.build();
    let now = found(&later, &canary(Some("1")), "/").unwrap();
    assert_eq!((ports(now), now.id), (vec![3], special.id));
    assert_eq!(now.rotation.next(10), 1, "turns go on");
    // Without the canary everything goes to the plain one again.
    builder.apply_service("consul", &"s".into(), all[1..2].to_vec(), 0);
    let last = builder.build();
    let now = found(&last, &canary(Some("1")), "/").unwrap();
    assert_eq!((ports(now), now.id, last.len()), (vec![2], plain.id, 1));
    builder.apply_service("consul", &"s".into(), Vec::new(), 0);
    assert!(builder.build().is_empty());
}

#[test]
fn an_unmarked_request_never_meets_a_canary() {
    let mut builder = builder(Matcher::Prefix);
    // Only the canary is there: a request without the field has no route.
    let all = vec![contribution("a/ header=X-Canary:1", 1)];
    builder.apply_service("consul", &"s".into(), all, 0);
    let table = builder.build();
    let unmarked = Request {
        method: Method::GET,
        canary: None,
        query: None,
    };
    assert!(found(&table, &unmarked, "/").is_none());
    assert!(table.lookup(Scheme::Http, "a", "/", |_| true).is_none());
    assert!(
        table
            .lookup_server_name("a")
            .is_some_and(|route| !route.is_passed_through())
    );
}
