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
        }
    }

    /// The route for a path.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Prefix(prefixes) => prefixes.longest(path),
            Self::Folded(trie) => first_folded(trie, path),
            Self::Glob(trie) => first_match(trie, path),
        }
    }

    /// The route for a request's path: routes of TCP are passed over.
    pub(super) fn find_for_requests(&self, path: &str) -> Option<&Arc<Route>> {
        let route = self.find(path)?;
        if route.tcp {
            self.shorter_for_requests(route)
        } else {
            Some(route)
        }
    }

    /// The next shorter one. Where paths are not text prefixes there is none: they say nothing of
    /// each other.
    #[cold]
    fn shorter_for_requests<'a>(&'a self, mut route: &'a Arc<Route>) -> Option<&'a Arc<Route>> {
        let Self::Prefix(prefixes) = self else {
            return None;
        };
        while route.tcp {
            let (last, _) = route.key.path.char_indices().next_back()?;
            route = prefixes.longest(&route.key.path[..last])?;
        }
        Some(route)
    }

    /// Puts `route` at `path`, or takes away what is there. Returns by how many routes it grew: -1,
    /// 0 or 1. A path that is not a valid pattern is not stored: it could match nothing.
    pub(super) fn set(&mut self, path: &str, route: Option<Arc<Route>>) -> isize {
        let mut growth = 0;
        match self {
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

    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<Route>)) {
        match self {
            Self::Prefix(prefixes) => prefixes.for_each(visit),
            Self::Folded(trie) => trie.for_each(&mut |routes| routes.iter().for_each(&mut *visit)),
            Self::Glob(trie) => {
                trie.for_each(&mut |patterns| patterns.iter().for_each(|p| visit(&p.route)))
            }
        }
    }
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
