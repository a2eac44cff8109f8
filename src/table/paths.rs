//! The routes of one host, by path.
//!
//! Fabio walks a host's routes in descending string order and takes the first that matches. For
//! text prefixes that is the longest stored prefix, which a radix trie finds without a walk. Where
//! case is ignored, and for globs, the descending order is kept, among those whose (literal)
//! beginning the path has: `/foo` comes before `/FOO/bar`.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Route;
use super::prefixes::Prefixes;
use super::trie::Trie;
use crate::catalog::glob::Glob;
use crate::catalog::matchers::{Matchers, PathMode};

/// How request paths are compared with route paths (`proxy.matcher`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matcher {
    /// The path starts with the route's path, as text.
    #[default]
    Prefix,
    /// The same, ignoring case.
    IPrefix,
    /// The whole path against a glob.
    Glob,
}

impl Matcher {
    /// How the path of a route is compared that may say so itself. (An exact path is among those
    /// that begin with it; the rest is compared when it is found.)
    #[must_use]
    pub fn of_route(self, path: Option<PathMode>) -> Self {
        match path {
            None => self,
            Some(PathMode::Exact | PathMode::Prefix) => Self::Prefix,
            Some(PathMode::IPrefix) => Self::IPrefix,
            Some(PathMode::Glob) => Self::Glob,
        }
    }
}

/// What stands under one trie key: more than one route only where folding or cutting made keys
/// equal.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    glob: Arc<Glob>,
    route: Arc<Route>,
}

/// Routes of one host. A clone is one pointer.
#[derive(Clone, Debug)]
pub(super) enum Paths {
    /// By text prefix.
    Prefix(Prefixes<Arc<Route>>),
    /// By text prefix in lower case; routes that differ in case only stand in descending order.
    Folded(Trie<Vec<Arc<Route>>>),
    /// Patterns under their literal beginning.
    Glob(Trie<Vec<Pattern>>),
    /// Some routes are compared in a way of their own (`path=`).
    Mixed(Arc<Mixed>),
}

/// Routes by the way in which they are compared.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    /// Which of the parts holds those that do not say theirs.
    home: usize,
    /// By [`Matcher`]; none of them is mixed itself.
    parts: [Paths; 3],
}

impl Paths {
    /// No routes, for this way of matching.
    pub(super) fn new(matcher: Matcher) -> Self {
        match matcher {
            Matcher::Prefix => Self::Prefix(Prefixes::default()),
            Matcher::IPrefix => Self::Folded(Trie::default()),
            Matcher::Glob => Self::Glob(Trie::default()),
        }
    }

    /// Whether no route is left.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Prefix(prefixes) => prefixes.is_empty(),
            Self::Folded(trie) => trie.is_empty(),
            Self::Glob(trie) => trie.is_empty(),
            Self::Mixed(mixed) => mixed.parts.iter().all(Self::is_empty),
        }
    }

    /// The first route for a path, whatever else it wants.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Prefix(prefixes) => prefixes.longest(path),
            Self::Folded(trie) => first_folded(trie, path),
            Self::Glob(trie) => first_match(trie, path),
            Self::Mixed(_) => self.all_for(path).into_iter().next(),
        }
    }

    /// The route for a request's path: routes of TCP are passed over, and those whose matchers do
    /// not hold.
    pub(super) fn find_for_requests(
        &self,
        path: &str,
        hold: &mut impl FnMut(&Matchers) -> bool,
    ) -> Option<&Arc<Route>> {
        if !matches!(self, Self::Mixed(_)) {
            let route = self.find(path)?;
            if !route.conditional {
                return Some(route);
            }
        }
        self.look_closer(path, hold)
    }

    #[cold]
    fn look_closer(
        &self,
        path: &str,
        hold: &mut impl FnMut(&Matchers) -> bool,
    ) -> Option<&Arc<Route>> {
        self.all_for(path)
            .into_iter()
            .find(|route| !route.tcp && takes(route, path, hold))
    }

    /// The routes before that one whose matchers do not hold.
    pub(super) fn passed_over(
        &self,
        path: &str,
        hold: &mut impl FnMut(&Matchers) -> bool,
    ) -> Vec<&Arc<Route>> {
        let refused = |route: &&Arc<Route>| route.tcp || !takes(route, path, hold);
        let mut routes: Vec<_> = self.all_for(path).into_iter().take_while(refused).collect();
        routes.retain(|route| !route.tcp);
        routes
    }

    /// Every route whose path matches, in the order in which they are tried.
    fn all_for(&self, path: &str) -> SmallVec<[&Arc<Route>; 8]> {
        let mut routes = SmallVec::new();
        self.collect(path, &mut routes);
        routes.sort_by(|a, b| {
            let by_matchers = || Matchers::rank(a.matchers.as_deref(), b.matchers.as_deref());
            b.key.path.cmp(&a.key.path).then_with(by_matchers)
        });
        routes
    }

    fn collect<'a>(&'a self, path: &str, routes: &mut SmallVec<[&'a Arc<Route>; 8]>) {
        match self {
            Self::Prefix(prefixes) => {
                let mut longest = prefixes.longest(path);
                while let Some(route) = longest {
                    routes.extend(route.with_beside());
                    let shorter = route.key.path.char_indices().next_back();
                    longest = shorter.and_then(|(end, _)| prefixes.longest(&route.key.path[..end]));
                }
            }
            Self::Folded(trie) => {
                let path = path.to_lowercase();
                trie.walk::<false>(path.as_bytes(), |found| {
                    routes.extend(found.iter().flat_map(|route| route.with_beside()));
                });
            }
            Self::Glob(trie) => trie.walk::<false>(path.as_bytes(), |patterns| {
                let matching = patterns.iter().filter(|pattern| pattern.glob.matches(path));
                routes.extend(matching.flat_map(|pattern| pattern.route.with_beside()));
            }),
            Self::Mixed(mixed) => mixed
                .parts
                .iter()
                .for_each(|part| part.collect(path, routes)),
        }
    }

    /// Puts `route` at `path`, or takes away what is there, compared by `matcher`. Returns by how
    /// many places it grew: -1, 0 or 1. A path that is not a valid pattern is not stored: it could
    /// match nothing.
    pub(super) fn set(&mut self, matcher: Matcher, path: &str, route: Option<Arc<Route>>) -> isize {
        let mut growth = 0;
        match self {
            Self::Mixed(mixed) => {
                let mixed = Arc::make_mut(mixed);
                growth = mixed.parts[matcher as usize].set(matcher, path, route);
                let others = (0..)
                    .zip(&mixed.parts)
                    .filter(|(part, _)| *part != mixed.home);
                if others.into_iter().all(|(_, part)| part.is_empty()) {
                    *self = mixed.parts[mixed.home].clone();
                }
            }
            _ if matcher as usize != self.home() => {
                if route.is_some() {
                    let mut mixed = Mixed {
                        home: self.home(),
                        parts: [Matcher::Prefix, Matcher::IPrefix, Matcher::Glob].map(Self::new),
                    };
                    mixed.parts[mixed.home] = self.clone();
                    *self = Self::Mixed(Arc::new(mixed));
                    return self.set(matcher, path, route);
                }
            }
            Self::Prefix(prefixes) => growth = prefixes.set(path, route, |route| &route.key.path),
            Self::Folded(trie) => trie.update(path.to_lowercase().as_bytes(), |slot| {
                growth = set_in(slot, path, route, |route| &route.key.path);
            }),
            Self::Glob(trie) => {
                let Ok(glob) = Glob::new(path) else { return 0 };
                let beginning = glob.literal_prefix().to_owned();
                let pattern = route.map(|route| Pattern {
                    glob: Arc::new(glob),
                    route,
                });
                trie.update(beginning.as_bytes(), |slot| {
                    growth = set_in(slot, path, pattern, |pattern| &pattern.route.key.path);
                });
            }
        }
        growth
    }

    /// The way of matching of all routes, or of those that do not say theirs.
    fn home(&self) -> usize {
        match self {
            Self::Prefix(_) => Matcher::Prefix as usize,
            Self::Folded(_) => Matcher::IPrefix as usize,
            Self::Glob(_) => Matcher::Glob as usize,
            Self::Mixed(mixed) => mixed.home,
        }
    }

    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<Route>)) {
        let mut all = |route: &'a Arc<Route>| route.with_beside().for_each(&mut *visit);
        match self {
            Self::Prefix(prefixes) => prefixes.for_each(&mut all),
            Self::Folded(trie) => trie.for_each(&mut |routes| routes.iter().for_each(&mut all)),
            Self::Glob(trie) => {
                trie.for_each(&mut |patterns| patterns.iter().for_each(|p| all(&p.route)))
            }
            Self::Mixed(mixed) => mixed.parts.iter().for_each(|part| part.for_each(visit)),
        }
    }
}

/// Whether the matchers of a route hold for a request whose path was found to match.
fn takes(route: &Route, path: &str, hold: &mut impl FnMut(&Matchers) -> bool) -> bool {
    route.matchers.as_deref().is_none_or(|matchers| {
        let is_path = matchers.path() != Some(PathMode::Exact) || route.key.path == path;
        is_path && hold(matchers)
    })
}

/// Replaces the item with this path in a list kept in descending order of paths. Returns by how
/// many it grew.
fn set_in<T>(
    slot: &mut Option<Vec<T>>,
    path: &str,
    item: Option<T>,
    path_of: impl Fn(&T) -> &str,
) -> isize {
    let mut items = slot.take().unwrap_or_default();
    let mut growth = 0;
    if let Some(at) = items.iter().position(|old| path_of(old) == path) {
        items.remove(at);
        growth -= 1;
    }
    if let Some(item) = item {
        let at = items.partition_point(|other| path_of(other) > path);
        items.insert(at, item);
        growth += 1;
    }
    *slot = (!items.is_empty()).then_some(items);
    growth
}

/// The first in descending order of all whose path the request's begins with, whatever their case.
/// The first of each slot is the first in its own order.
fn first_folded<'a>(trie: &'a Trie<Vec<Arc<Route>>>, path: &str) -> Option<&'a Arc<Route>> {
    let mut best: Option<&Arc<Route>> = None;
    let visit = |routes: &'a Vec<Arc<Route>>| {
        let first = routes.first();
        best = best
            .into_iter()
            .chain(first)
            .max_by(|a, b| a.key.path.cmp(&b.key.path));
    };
    if path.is_ascii() {
        trie.walk::<true>(path.as_bytes(), visit);
    } else {
        trie.walk::<false>(path.to_lowercase().as_bytes(), visit);
    }
    best
}

fn first_match<'a>(trie: &'a Trie<Vec<Pattern>>, path: &str) -> Option<&'a Arc<Route>> {
    let mut candidates: SmallVec<[&Pattern; 16]> = SmallVec::new();
    trie.walk::<false>(path.as_bytes(), |patterns| candidates.extend(patterns));
    candidates.sort_unstable_by(|a, b| b.route.key.path.cmp(&a.route.key.path));
    candidates
        .into_iter()
        .find(|pattern| pattern.glob.matches(path))
        .map(|pattern| &pattern.route)
}
