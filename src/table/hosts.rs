//! Which hosts of the table a request's host can mean, in Fabio's order of precedence.
//!
//! Exact names are hashed. Globs stand in a trie under their literal end, read backwards, so that a
//! request meets only the patterns whose end it has: `*.example.com` is found by `a.example.com`
//! and costs nothing to others. Candidates are tried by their name read backwards, the port behind
//! it, descending: more specific domains first, `*` after letters, and, as in Fabio, a text ending
//! in `}` before an exact name. The empty host comes last.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Route;
use super::paths::{Matcher, Paths};
use super::shards::ShardedMap;
use super::trie::Trie;
use crate::catalog::glob::Glob;
use crate::catalog::matchers::Matchers;
use crate::catalog::tag::RouteKey;

/// Which default port is cut from the host before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain listener: `:80` is cut.
    Http,
    /// TLS listener: `:443` is cut.
    Https,
}

/// All HTTP routes. A clone is a few pointers.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    matcher: Matcher,
    exact: ShardedMap<Paths>,
    globs: Trie<Vec<GlobHost>>,
    any: Paths,
    /// Whether hosts are patterns; else they are text, whatever stands in them.
    patterns: bool,
    /// How many exact hosts end in `:80` and in `:443`: while there are none, no lookup has to look
    /// for them.
    with_default_port: [usize; 2],
}

#[derive(Clone, Debug)]
struct GlobHost {
    /// As in the table.
    text: Arc<str>,
    /// Without the port that the scheme cuts.
    glob: Arc<Glob>,
    /// The only scheme this form is for, when the text ends in a default port.
    scheme: Option<Scheme>,
    paths: Paths,
}

/// One host of the table that a request's host can mean.
pub(super) struct Candidate<'a> {
    /// As in the table.
    pub(super) host: &'a str,
    paths: &'a Paths,
}

impl<'a> Candidate<'a> {
    /// Its route for the path.
    pub(super) fn find(&self, path: &str) -> Option<&'a Arc<Route>> {
        self.paths.find(path)
    }

    /// Its route for a request: none of TCP, and none whose matchers do not hold.
    pub(super) fn find_for_requests(
        &self,
        path: &str,
        hold: &mut impl FnMut(&Matchers) -> bool,
    ) -> Option<&'a Arc<Route>> {
        self.paths.find_for_requests(path, hold)
    }

    /// The routes before that one whose matchers do not hold.
    pub(super) fn passed_over(
        &self,
        path: &str,
        hold: &mut impl FnMut(&Matchers) -> bool,
    ) -> Vec<&'a Arc<Route>> {
        self.paths.passed_over(path, hold)
    }
}

impl Hosts {
    pub(super) fn new(matcher: Matcher, patterns: bool) -> Self {
        Self {
            matcher,
            patterns,
            exact: ShardedMap::default(),
            globs: Trie::default(),
            any: Paths::new(matcher),
            with_default_port: [0; 2],
        }
    }

    /// The first route of the candidates, in their order, whose matchers `hold` and that `accept`
    /// takes.
    pub(super) fn lookup(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        mut hold: impl FnMut(&Matchers) -> bool,
        mut accept: impl FnMut(&Route) -> bool,
    ) -> Option<&Arc<Route>> {
        if !self.globs.is_empty() || self.with_default_port[scheme as usize] > 0 {
            let candidates = self.candidates(scheme, host);
            return candidates
                .iter()
                .filter_map(|c| c.find_for_requests(path, &mut hold))
                .find(|route| accept(route));
        }
        // The usual table: one exact name, then the routes of any host.
        let mut buffer = SmallVec::new();
        let host = canonical(scheme, host, &mut buffer);
        let of_host = self
            .exact
            .get(host)
            .and_then(|paths| paths.find_for_requests(path, &mut hold));
        if let Some(route) = of_host.filter(|route| accept(route)) {
            return Some(route);
        }
        self.any
            .find_for_requests(path, &mut hold)
            .filter(|route| accept(route))
    }

    /// Everything the host can mean, in order.
    pub(super) fn candidates(&self, scheme: Scheme, host: &str) -> SmallVec<[Candidate<'_>; 8]> {
        let mut buffer = SmallVec::new();
        let host = canonical(scheme, host, &mut buffer);
        let mut found: SmallVec<[Candidate<'_>; 8]> = SmallVec::new();
        // A name that the table writes with the default port is meant without it, and not with it
        // twice.
        if !host.ends_with(default_port(scheme)) {
            found.extend(self.exact_candidate(host));
        }
        if self.with_default_port[scheme as usize] > 0 {
            let mut full: SmallVec<[u8; 128]> = SmallVec::from_slice(host.as_bytes());
            full.extend_from_slice(default_port(scheme).as_bytes());
            found.extend(
                std::str::from_utf8(&full)
                    .ok()
                    .and_then(|full| self.exact_candidate(full)),
            );
        }
        if !self.globs.is_empty() {
            let backwards: SmallVec<[u8; 128]> = host.bytes().rev().collect();
            self.globs.walk::<false>(&backwards, |globs| {
                let matching = globs
                    .iter()
                    .filter(|g| g.scheme.is_none_or(|s| s == scheme) && g.glob.matches(host));
                found.extend(matching.map(|g| Candidate {
                    host: &g.text,
                    paths: &g.paths,
                }));
            });
        }
        if found.len() > 1 {
            found.sort_by(|a, b| backwards(b.host).cmp(backwards(a.host)));
        }
        found.push(Candidate {
            host: "",
            paths: &self.any,
        });
        found
    }

    fn exact_candidate(&self, host: &str) -> Option<Candidate<'_>> {
        if host.is_empty() {
            return None;
        }
        let (host, paths) = self.exact.get_key_value(host)?;
        Some(Candidate { host, paths })
    }

    /// Puts `route` at its place, its path compared by `matcher`, or takes away what is there.
    /// Returns by how many places it grew: -1, 0 or 1.
    pub(super) fn set(
        &mut self,
        key: &RouteKey,
        matcher: Matcher,
        route: Option<Arc<Route>>,
    ) -> isize {
        if key.host.is_empty() {
            self.any.set(matcher, &key.path, route)
        } else if !self.patterns || Glob::is_literal(&key.host) {
            self.set_exact(key, matcher, route)
        } else {
            self.set_glob(key, matcher, route)
        }
    }

    fn set_exact(&mut self, key: &RouteKey, matcher: Matcher, route: Option<Arc<Route>>) -> isize {
        let mut growth = 0;
        let (mut before, mut after) = (false, false);
        self.exact.update(&key.host, |slot| {
            before = slot.is_some();
            let mut paths = slot.take().unwrap_or_else(|| Paths::new(self.matcher));
            growth = paths.set(matcher, &key.path, route);
            *slot = (!paths.is_empty()).then_some(paths);
            after = slot.is_some();
        });
        for scheme in [Scheme::Http, Scheme::Https] {
            if key.host.ends_with(default_port(scheme)) {
                let count = &mut self.with_default_port[scheme as usize];
                *count = *count + usize::from(after) - usize::from(before);
            }
        }
        growth
    }

    /// A pattern that ends in a default port stands twice: cut for the scheme that cuts it, whole
    /// for the other.
    fn set_glob(&mut self, key: &RouteKey, matcher: Matcher, route: Option<Arc<Route>>) -> isize {
        let forms: &[(Option<Scheme>, &str)] = if let Some(cut) = key.host.strip_suffix(":80") {
            &[(Some(Scheme::Http), cut), (Some(Scheme::Https), &key.host)]
        } else if let Some(cut) = key.host.strip_suffix(":443") {
            &[(Some(Scheme::Https), cut), (Some(Scheme::Http), &key.host)]
        } else {
            &[(None, &key.host)]
        };
        let mut growth = 0;
        for &(scheme, pattern) in forms {
            let Ok(glob) = Glob::new(pattern) else {
                return 0;
            };
            let backwards: Vec<u8> = glob.literal_suffix().bytes().rev().collect();
            self.globs.update(&backwards, |slot| {
                let mut globs = slot.take().unwrap_or_default();
                let is_same = |g: &GlobHost| *g.text == *key.host && g.scheme == scheme;
                let at = globs.iter().position(is_same).unwrap_or_else(|| {
                    let paths = Paths::new(self.matcher);
                    globs.push(GlobHost {
                        text: key.host.as_str().into(),
                        glob: Arc::new(glob),
                        scheme,
                        paths,
                    });
                    globs.len() - 1
                });
                growth = globs[at].paths.set(matcher, &key.path, route.clone());
                if globs[at].paths.is_empty() {
                    globs.remove(at);
                }
                *slot = (!globs.is_empty()).then_some(globs);
            });
        }
        growth
    }

    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<Route>)) {
        self.any.for_each(visit);
        self.exact.values().for_each(|paths| paths.for_each(visit));
        self.globs.for_each(&mut |globs| {
            let once = globs.iter().filter(|g| g.scheme != Some(Scheme::Https));
            once.for_each(|g| g.paths.for_each(visit));
        });
    }
}

/// The text by which hosts are ordered: `b.test:80` as `tset.b:80`. Brackets are those of a
/// pattern: behind them no port is told from the rest.
fn backwards(host: &str) -> impl Iterator<Item = char> {
    let is_split = |(name, port): &(&str, &str)| {
        !name.is_empty() && !port.is_empty() && !name.contains([':', '[', ']'])
    };
    let (name, port) = host.rsplit_once(':').filter(is_split).unwrap_or((host, ""));
    let colon = if port.is_empty() { "" } else { ":" };
    name.chars().rev().chain(colon.chars()).chain(port.chars())
}

/// The port that a listener of this kind cuts from a host.
fn default_port(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => ":80",
        Scheme::Https => ":443",
    }
}

/// The host as it is compared: default port and the dot of an absolute name cut, in lower case.
/// Copied into `buffer` only when it has upper-case letters or a dot before a port.
fn canonical<'a>(scheme: Scheme, host: &'a str, buffer: &'a mut SmallVec<[u8; 128]>) -> &'a str {
    let host = host.strip_suffix(default_port(scheme)).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    // Without early exit, so that the compiler can look at many bytes at once.
    let has_upper = host
        .bytes()
        .fold(false, |found, byte| found | byte.is_ascii_uppercase());
    let bytes = host.as_bytes();
    let colon = memchr::memchr_iter(b':', bytes).find(|&colon| bytes[..colon].ends_with(b"."));
    if !has_upper && colon.is_none() {
        return host;
    }
    let (name, port) = colon.map_or((host, ""), |colon| (&host[..colon - 1], &host[colon..]));
    buffer.extend(
        name.bytes()
            .chain(port.bytes())
            .map(|byte| byte.to_ascii_lowercase()),
    );
    // Only ASCII bytes were changed or left out, so the text is still UTF-8.
    std::str::from_utf8(buffer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_in_their_canonical_form() {
        for (scheme, host, expected) in [
            (Scheme::Http, "a.b", "a.b"),
            (Scheme::Http, "A.b:80", "a.b"),
            (Scheme::Https, "a.b:80", "a.b:80"),
            (Scheme::Https, "a.b:443", "a.b"),
            (Scheme::Http, "a.b.", "a.b"),
            (Scheme::Http, "a.B.:8080", "a.b:8080"),
            (Scheme::Http, "a.b.:80", "a.b"),
            (Scheme::Http, "[::1]:80", "[::1]"),
            (Scheme::Http, "", ""),
            (Scheme::Http, "É.B", "É.b"),
        ] {
            let mut buffer = SmallVec::new();
            assert_eq!(canonical(scheme, host, &mut buffer), expected, "{host}");
        }
    }
}
