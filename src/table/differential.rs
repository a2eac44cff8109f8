//! The index against a plain scan: random tables and requests, and the rules of Fabio as a loop
//! over everything.
//!
//! The scan is written from the rules alone (which hosts can be meant, in which order, which path
//! of a host wins), and shares nothing with the index but the glob matcher, which has a plain
//! matcher of its own to agree with.
//!
//! `LB_FUZZ_CASES=1000000 cargo test --lib differential` tries a million requests; `LB_FUZZ_SEED`
//! sets another beginning.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::build::TableBuilder;
use super::draft::{Admission, Contribution};
use super::shares::{Demand, ring, shares};
use super::{Matcher, RouteTable, Scheme};
use crate::catalog::InstanceId;
use crate::catalog::glob::Glob;
use crate::catalog::options::Strategy;
use crate::catalog::tag::RouteKey;
use crate::metrics::Metrics;

/// Requests in an ordinary run.
const CASES: usize = 40_000;
/// Requests to one table.
const REQUESTS: usize = 40;

type HostAndPath = (String, String);

#[test]
fn the_index_agrees_with_the_rules() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let cases = number("LB_FUZZ_CASES").map_or(CASES, |cases| {
        usize::try_from(cases).expect("a number of cases")
    });
    // One half that every run has in common, and one that is new each time.
    let seeds = [number("LB_FUZZ_SEED").unwrap_or(1), fastrand::u64(..)];
    let (mut asked, mut met) = (0, 0);
    while asked < cases {
        let rng = &mut fastrand::Rng::with_seed(
            seeds[asked / REQUESTS % 2].wrapping_add((asked / REQUESTS / 2) as u64),
        );
        let seed = rng.get_seed();
        let matcher = *rng
            .choice(&[Matcher::Prefix, Matcher::IPrefix, Matcher::Glob])
            .expect("one of three");
        let places: BTreeSet<HostAndPath> = (0..rng.usize(1..30))
            .map(|_| (host(rng), path(rng, matcher)))
            .collect();
        let rules = Rules::new(matcher, &places);
        let table = table(matcher, &places);
        for _ in 0..REQUESTS {
            let scheme = if rng.bool() {
                Scheme::Http
            } else {
                Scheme::Https
            };
            let (host, path) = (requested_host(rng, &places), requested_path(rng, &places));
            // Now and then a route that is refused, as a redirect to itself is.
            let refused: Option<&HostAndPath> = if rng.u8(..4) == 0 {
                rng.choice(&places)
            } else {
                None
            };
            let accept = |place: (&str, &str)| {
                refused.is_none_or(|refused| place != (&refused.0, &refused.1))
            };
            let found = table.lookup(scheme, &host, &path, |route| {
                accept((&route.key.host, &route.key.path))
            });
            let found = found.map(|route| (route.key.host.as_str(), route.key.path.as_str()));
            let wanted = rules.find(scheme, &host, &path, accept);
            assert_eq!(
                found, wanted,
                "seed {seed}, {matcher:?}, {scheme:?}, {host:?} {path:?}\n{places:#?}"
            );
            met += usize::from(found.is_some());
            asked += 1;
        }
    }
    // Else the requests would have nothing to do with the tables.
    assert!(met * 4 > asked, "{met} of {asked} requests met a route");
    eprintln!("{asked} requests, {met} of them met a route, seeds {seeds:?}");
}

#[test]
fn shares_agree_with_the_rules() {
    let mut rng = fastrand::Rng::new();
    for _ in 0..300 {
        let seed = rng.get_seed();
        let fixed: Vec<Option<f64>> = (0..rng.usize(1..10))
            .map(|_| {
                (rng.u8(..3) > 0).then(|| rng.f64() * if rng.bool() { 0.3 } else { 2.0 } - 0.05)
            })
            .collect();
        let demands: Vec<Demand> = fixed
            .iter()
            .map(|&fixed| Demand { fixed, weight: 1 })
            .collect();
        let (own, wanted) = (shares(&demands), rules_of_shares(&fixed));
        let turns = slots(&ring(&own), fixed.len());
        for at in 0..fixed.len() {
            assert!(
                (own[at] - wanted[at]).abs() < 1e-9,
                "seed {seed}: {fixed:?}: {own:?}, not {wanted:?}"
            );
            // A slot is a ten-thousandth; a target that would get less than one gets one.
            let error = (turns[at] - wanted[at]).abs();
            assert!(
                error < 0.0015,
                "seed {seed}: {fixed:?}: {turns:?}, not {wanted:?}"
            );
        }
    }
}

/// The table, made as the control loop makes it: one service, an instance for each place.
fn table(matcher: Matcher, places: &BTreeSet<HostAndPath>) -> RouteTable {
    let mut builder = TableBuilder::new(matcher, Strategy::Random, Metrics::default());
    let contributions = places
        .iter()
        .zip(1..)
        .map(|((host, path), port)| Contribution {
            key: RouteKey {
                host: host.clone(),
                path: path.clone(),
            },
            instance: InstanceId {
                node: "n".into(),
                id: format!("i{port}").into(),
            },
            addr: ([127, 0, 0, 1], port).into(),
            options: Arc::default(),
            tags: Arc::default(),
            admission: Admission::Eligible { weight: 1 },
        });
    builder.apply_service("fuzz", &"s".into(), contributions.collect(), 0);
    builder.build()
}

/// The places of a table, and nothing else.
struct Rules {
    matcher: Matcher,
    /// Paths of each host, in descending order: the first that matches wins.
    hosts: BTreeMap<String, Vec<(String, Option<Glob>)>>,
}

impl Rules {
    fn new(matcher: Matcher, places: &BTreeSet<HostAndPath>) -> Self {
        let mut hosts: BTreeMap<String, Vec<(String, Option<Glob>)>> = BTreeMap::new();
        for (host, path) in places.iter().rev() {
            let glob = (matcher == Matcher::Glob).then(|| Glob::new(path).expect("a pattern"));
            hosts
                .entry(host.clone())
                .or_default()
                .push((path.clone(), glob));
        }
        Self { matcher, hosts }
    }

    fn find(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        accept: impl Fn((&str, &str)) -> bool,
    ) -> Option<(&str, &str)> {
        let host = normal(scheme, host);
        let is_meant = |pattern: &str| {
            Glob::new(&normal(scheme, pattern))
                .expect("a pattern")
                .matches(&host)
        };
        let mut candidates: Vec<&str> = self
            .hosts
            .keys()
            .map(String::as_str)
            .filter(|pattern| !pattern.is_empty() && is_meant(pattern))
            .collect();
        candidates.sort_by_key(|pattern| Reverse(backwards(pattern)));
        candidates.push("");
        candidates.into_iter().find_map(|candidate| {
            let (host, paths) = self.hosts.get_key_value(candidate)?;
            let (first, _) = paths
                .iter()
                .find(|(own, glob)| self.fits(path, own, glob.as_ref()))?;
            accept((host, first)).then_some((host.as_str(), first.as_str()))
        })
    }

    fn fits(&self, path: &str, own: &str, glob: Option<&Glob>) -> bool {
        match self.matcher {
            Matcher::Prefix => path.starts_with(own),
            Matcher::IPrefix => path.to_lowercase().starts_with(&own.to_lowercase()),
            Matcher::Glob => glob.is_some_and(|glob| glob.matches(path)),
        }
    }
}

/// The default port cut, in lower case. The dot of an absolute name goes too, which is ours.
fn normal(scheme: Scheme, host: &str) -> String {
    let port = if scheme == Scheme::Http {
        ":80"
    } else {
        ":443"
    };
    let host = host.strip_suffix(port).unwrap_or(host).to_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    host.replace(".:", ":")
}

/// The host read backwards, its port behind it.
fn backwards(host: &str) -> String {
    let reversed = |text: &str| text.chars().rev().collect::<String>();
    match host.split_once(':') {
        Some((name, port)) if !name.is_empty() && !name.contains(['[', ']']) => {
            format!("{}:{port}", reversed(name))
        }
        _ => reversed(host),
    }
}

/// Section 5: fixed weights, and what is left for the others.
fn rules_of_shares(weights: &[Option<f64>]) -> Vec<f64> {
    let fixed = |weight: &Option<f64>| weight.filter(|weight| *weight > 0.0);
    let sum: f64 = weights.iter().filter_map(fixed).sum();
    let others = weights
        .iter()
        .filter(|weight| fixed(weight).is_none())
        .count();
    let of_others = if sum < 1.0 {
        (1.0 - sum) / others as f64
    } else {
        0.0
    };
    let scale = if others == 0 || sum > 1.0 {
        1.0 / sum
    } else {
        1.0
    };
    weights
        .iter()
        .map(|weight| fixed(weight).map_or(of_others, |weight| weight * scale))
        .collect()
}

/// What part of a ring is whose.
fn slots(ring: &[u32], targets: usize) -> Vec<f64> {
    let count = |target: usize| ring.iter().filter(|&&slot| slot as usize == target).count();
    (0..targets)
        .map(|target| count(target) as f64 / ring.len() as f64)
        .collect()
}

/// A host of a table: exact, with a port, or a pattern; few letters, so that they meet.
fn host(rng: &mut fastrand::Rng) -> String {
    const LABELS: [&str; 6] = ["a", "b", "ab", "A", "x-1", "*"];
    const PATTERNS: [&str; 8] = ["*", "?", "a*", "*b", "[ab]", "[!a]", "{a,b}", "{ab,x-*}"];
    const PORTS: [&str; 8] = ["", "", "", "", ":80", ":443", ":81", ":*"];
    if rng.u8(..6) == 0 {
        return String::new();
    }
    let mut labels: Vec<&str> = (0..rng.usize(0..3))
        .map(|_| LABELS[rng.usize(..3)])
        .collect();
    labels.insert(
        0,
        if rng.bool() {
            PATTERNS[rng.usize(..8)]
        } else {
            LABELS[rng.usize(..6)]
        },
    );
    if rng.u8(..8) == 0 {
        labels.push(PATTERNS[rng.usize(..8)]);
    }
    // As the tag parser leaves it.
    format!("{}{}", labels.join("."), PORTS[rng.usize(..8)]).to_ascii_lowercase()
}

fn path(rng: &mut fastrand::Rng, matcher: Matcher) -> String {
    const PLAIN: [&str; 10] = ["a", "b", "A", "B", "ab", "/", "/", "ä", "Ä", "%2F"];
    const PATTERNS: [&str; 7] = ["*", "**", "?", "[a-b]", "[!a]", "{a,b/}", "{,A}"];
    let mut path = "/".to_owned();
    for _ in 0..rng.usize(..5) {
        let special = matcher == Matcher::Glob && rng.u8(..3) == 0;
        path.push_str(if special {
            PATTERNS[rng.usize(..7)]
        } else {
            PLAIN[rng.usize(..10)]
        });
    }
    path
}

/// The host of a request: made anew, or one of the table's, somewhat changed.
fn requested_host(rng: &mut fastrand::Rng, places: &BTreeSet<HostAndPath>) -> String {
    const LABELS: [&str; 6] = ["a", "b", "ab", "aB", "x-1", ""];
    const PORTS: [&str; 7] = ["", "", "", ":80", ":443", ":81", "."];
    let mut host = match rng.choice(places) {
        Some((host, _)) if rng.bool() => host.replace(['*', '?'], LABELS[rng.usize(..6)]),
        _ => (0..rng.usize(1..4))
            .map(|_| LABELS[rng.usize(..6)])
            .collect::<Vec<_>>()
            .join("."),
    };
    if rng.bool() {
        host.push_str(PORTS[rng.usize(..7)]);
    }
    if rng.u8(..4) == 0 {
        host.to_ascii_uppercase()
    } else {
        host
    }
}

fn requested_path(rng: &mut fastrand::Rng, places: &BTreeSet<HostAndPath>) -> String {
    let mut path = match rng.choice(places) {
        Some((_, path)) if rng.u8(..3) > 0 => path.clone(),
        _ => path(rng, Matcher::Prefix),
    };
    if rng.bool() {
        path.push_str(["/", "a", "b/a", "Äb"][rng.usize(..4)]);
    }
    match rng.u8(..8) {
        0 => path.to_uppercase(),
        1 => path.to_lowercase(),
        2 => path.chars().take(rng.usize(1..4)).collect(),
        _ => path,
    }
}
