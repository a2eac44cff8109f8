//! The routes of one host, by path.
//!
//! Fabio walks a host's routes in descending string order and takes the first that matches. For text prefixes
//! that is the longest stored prefix, which a radix trie finds without a walk. Globs keep the descending order,
//! among those whose literal beginning the path has.

use std::sync::Arc;

use smallvec::SmallVec;

use super::trie::Trie;
use super::{Matcher, Route};
use crate::catalog::glob::Glob;

/// What stands under one trie key: more than one route only where folding or cutting made keys equal.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    glob: Arc<Glob>,
    route: Arc<Route>,
}

/// Routes of one host. A clone is one pointer.
#[derive(Clone, Debug)]
pub(super) enum Paths {
    /// By text prefix.
    Prefix(Trie<Arc<Route>>),
    /// By text prefix in lower case; routes that differ in case only stand in descending order.
    Folded(Trie<Vec<Arc<Route>>>),
    /// Patterns under their literal beginning.
    Glob(Trie<Vec<Pattern>>),
}

impl Paths {
    /// No routes, for this way of matching.
    pub(super) fn new(matcher: Matcher) -> Self {
        match matcher {
            Matcher::Prefix => Self::Prefix(Trie::default()),
            Matcher::IPrefix => Self::Folded(Trie::default()),
            Matcher::Glob => Self::Glob(Trie::default()),
        }
    }

    /// Whether no route is left.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Prefix(trie) => trie.is_empty(),
            Self::Folded(trie) => trie.is_empty(),
            Self::Glob(trie) => trie.is_empty(),
        }
    }

    /// The route for a path.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Prefix(trie) => trie.longest::<false>(path.as_bytes()),
            Self::Folded(trie) => trie.longest::<true>(path.as_bytes())?.first(),
            Self::Glob(trie) => first_match(trie, path),
        }
    }

    /// Puts `route` at `path`, or takes away what is there. True when a route was there before.
    pub(super) fn set(&mut self, path: &str, route: Option<Arc<Route>>) -> bool {
        let mut had = false;
        match self {
            Self::Prefix(trie) => trie.update(path.as_bytes(), |slot| {
                had = slot.is_some();
                *slot = route;
            }),
            Self::Folded(trie) => trie.update(path.to_ascii_lowercase().as_bytes(), |slot| {
                had = set_in(slot, path, route, |route| &route.key.path);
            }),
            Self::Glob(trie) => {
                let pattern = route.and_then(|route| Some(Pattern { glob: Arc::new(Glob::new(path).ok()?), route }));
                trie.update(literal_beginning(path).as_bytes(), |slot| {
                    had = set_in(slot, path, pattern, |pattern| &pattern.route.key.path);
                });
            }
        }
        had
    }

    /// Visits every route.
    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Arc<Route>)) {
        match self {
            Self::Prefix(trie) => trie.for_each(visit),
            Self::Folded(trie) => trie.for_each(&mut |routes| routes.iter().for_each(&mut *visit)),
            Self::Glob(trie) => trie.for_each(&mut |patterns| patterns.iter().for_each(|p| visit(&p.route))),
        }
    }
}

/// Replaces the item with this path in a list kept in descending order of paths. True when one was there.
fn set_in<T>(slot: &mut Option<Vec<T>>, path: &str, item: Option<T>, path_of: impl Fn(&T) -> &str) -> bool {
    let mut items = slot.take().unwrap_or_default();
    let had = items.len();
    items.retain(|old| path_of(old) != path);
    let had = items.len() < had;
    if let Some(item) = item {
        let at = items.partition_point(|other| path_of(other) > path);
        items.insert(at, item);
    }
    *slot = (!items.is_empty()).then_some(items);
    had
}

fn first_match<'a>(trie: &'a Trie<Vec<Pattern>>, path: &str) -> Option<&'a Arc<Route>> {
    let mut candidates: SmallVec<[&Pattern; 16]> = SmallVec::new();
    trie.walk::<false>(path.as_bytes(), |patterns| candidates.extend(patterns));
    candidates.sort_unstable_by(|a, b| b.route.key.path.cmp(&a.route.key.path));
    candidates.into_iter().find(|pattern| pattern.glob.matches(path)).map(|pattern| &pattern.route)
}

/// What every text that matches the glob begins with.
pub(super) fn literal_beginning(pattern: &str) -> &str {
    &pattern[..pattern.find(is_meta).unwrap_or(pattern.len())]
}

/// What every text that matches the glob ends with.
pub(super) fn literal_end(pattern: &str) -> &str {
    let Some(at) = pattern.rfind(is_meta) else { return pattern };
    let mut rest = pattern[at..].chars();
    // The character after a backslash is literal, but leaving it out only makes the end shorter.
    if rest.next() == Some('\\') {
        rest.next();
    }
    rest.as_str()
}

/// Characters that do not stand for themselves in a glob.
pub(super) fn is_meta(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_parts_of_globs() {
        for (pattern, beginning, end) in [
            ("a.b", "a.b", "a.b"),
            ("*.a.b", "", ".a.b"),
            ("x.{a,b}.c", "x.", ".c"),
            ("a[bc]", "a", ""),
            ("a\\*b", "a", "b"),
            ("a\\", "a", ""),
            ("*", "", ""),
        ] {
            assert_eq!((literal_beginning(pattern), literal_end(pattern)), (beginning, end), "{pattern}");
        }
    }
}
