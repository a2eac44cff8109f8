//! The longest stored prefix of a path, found in about the same time among ten paths and among a
//! hundred thousand.
//!
//! A radix trie alone gets deeper as it grows, and each level is a cache miss. Most requests carry
//! a stored first segment whole (`/orders/17` where `/orders` or `/orders/` is stored), so a large
//! set has a hash map of first segments in front:
//!
//! ```text
//! /orders/17 ─► heads["orders"] ─► trie of the few paths whose first segment is `orders`   found: the longest there is
//!                     └ nothing ─► trie of all paths with one segment: `/ord`, `/`
//! ```
//! That is the whole truth, because a stored prefix of the request at least as long as `/orders`
//! begins with exactly that segment, and every shorter one has no second slash.

use smallvec::SmallVec;

use super::shards::ShardedMap;
use super::trie::Trie;

/// Up to here a trie alone is at least as quick, and much smaller (a table of many hosts has many
/// small sets).
const SMALL_MAX: usize = 64;

/// A persistent set of prefixes with their values; a clone is a few pointers.
#[derive(Clone, Debug)]
pub(super) enum Prefixes<V> {
    /// One, as in a table of many hosts: it lies right here, and no node has to be fetched for it.
    One { path: SmallVec<[u8; 16]>, value: V },
    /// None, or more.
    Many(Many<V>),
}

#[derive(Clone, Debug)]
pub(super) enum Many<V> {
    /// Few: one trie.
    Small { all: Trie<V>, len: usize },
    /// Many: by first segment.
    Large {
        /// Paths by their first segment.
        heads: ShardedMap<Trie<V>>,
        /// Paths without a second slash.
        short: Trie<V>,
        /// How many paths there are.
        len: usize,
    },
}

impl<V> Default for Prefixes<V> {
    fn default() -> Self {
        Self::Many(Many::default())
    }
}

impl<V> Prefixes<V> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Many(many) if many.len() == 0)
    }

    /// The value of the longest stored path that `path` begins with.
    pub(super) fn longest(&self, path: &str) -> Option<&V> {
        match self {
            Self::One {
                path: stored,
                value,
            } => path.as_bytes().starts_with(stored).then_some(value),
            Self::Many(many) => many.longest(path),
        }
    }

    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a V)) {
        match self {
            Self::One { value, .. } => visit(value),
            Self::Many(many) => many.for_each(visit),
        }
    }
}

impl<V: Clone> Prefixes<V> {
    /// Puts `value` at `path`, or takes away what is there. Returns by how many paths the set grew:
    /// -1, 0 or 1. `path_of` tells the path of a stored value.
    pub(super) fn set(&mut self, path: &str, value: Option<V>, path_of: fn(&V) -> &str) -> isize {
        let mut many = match self {
            Self::One {
                path: stored,
                value,
            } => Many::of_one(stored, value.clone()),
            Self::Many(many) => std::mem::take(many),
        };
        let growth = many.set(path, value, path_of);
        *self = match many.only() {
            Some(value) => Self::One {
                path: path_of(value).as_bytes().into(),
                value: value.clone(),
            },
            None => Self::Many(many),
        };
        growth
    }
}

impl<V> Default for Many<V> {
    fn default() -> Self {
        Self::Small {
            all: Trie::default(),
            len: 0,
        }
    }
}

impl<V> Many<V> {
    fn len(&self) -> usize {
        let (Self::Small { len, .. } | Self::Large { len, .. }) = self;
        *len
    }

    /// The value, if there is one alone in a small set.
    fn only(&self) -> Option<&V> {
        let mut only = None;
        if let Self::Small { all, len: 1 } = self {
            all.for_each(&mut |value| only = Some(value));
        }
        only
    }

    fn longest(&self, path: &str) -> Option<&V> {
        match self {
            Self::Small { all, .. } => all.longest::<false>(path.as_bytes()),
            Self::Large { heads, short, .. } => heads
                .get(first_segment(path))
                .and_then(|trie| trie.longest::<false>(path.as_bytes()))
                .or_else(|| short.longest::<false>(path.as_bytes())),
        }
    }

    fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a V)) {
        match self {
            Self::Small { all, .. } => all.for_each(visit),
            Self::Large { heads, .. } => heads.values().for_each(|trie| trie.for_each(visit)),
        }
    }
}

impl<V: Clone> Many<V> {
    fn of_one(path: &[u8], value: V) -> Self {
        let mut all = Trie::default();
        all.update(path, |slot| *slot = Some(value));
        Self::Small { all, len: 1 }
    }

    fn set(&mut self, path: &str, value: Option<V>, path_of: fn(&V) -> &str) -> isize {
        let mut growth = 0;
        let change = |slot: &mut Option<V>| {
            growth = isize::from(value.is_some()) - isize::from(slot.is_some());
            *slot = value.clone();
        };
        match self {
            Self::Small { all, .. } => all.update(path.as_bytes(), change),
            Self::Large { heads, short, .. } => {
                if is_short(path) {
                    short.update(path.as_bytes(), |slot| slot.clone_from(&value));
                }
                heads.update(first_segment(path), |slot| {
                    let mut trie = slot.take().unwrap_or_default();
                    trie.update(path.as_bytes(), change);
                    *slot = (!trie.is_empty()).then_some(trie);
                });
            }
        }
        let (Self::Small { len, .. } | Self::Large { len, .. }) = self;
        *len = len.saturating_add_signed(growth);
        if let Self::Small { all, len } = self
            && *len > SMALL_MAX
        {
            *self = Self::large(all, path_of);
        }
        growth
    }

    fn large(all: &Trie<V>, path_of: fn(&V) -> &str) -> Self {
        let mut large = Self::Large {
            heads: ShardedMap::default(),
            short: Trie::default(),
            len: 0,
        };
        all.for_each(&mut |value| {
            large.set(path_of(value), Some(value.clone()), path_of);
        });
        large
    }
}

/// What stands between the first slash and the second.
fn first_segment(path: &str) -> &str {
    let rest = path.strip_prefix('/').unwrap_or(path);
    memchr::memchr(b'/', rest.as_bytes()).map_or(rest, |end| &rest[..end])
}

fn is_short(path: &str) -> bool {
    !path.strip_prefix('/').unwrap_or(path).contains('/')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(stored: &'a [String], path: &str) -> Option<&'a String> {
        stored
            .iter()
            .filter(|prefix| path.starts_with(prefix.as_str()))
            .max_by_key(|prefix| prefix.len())
    }

    fn paths(count: usize) -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("(/[ab]{0,3}){1,3}", 0..count)
    }

    proptest! {
        #[test]
        fn agrees_with_a_scan_while_it_grows_and_shrinks(
            stored in paths(200), removed in prop::collection::vec(any::<prop::sample::Index>(), 0..150), asked in paths(60),
        ) {
            let mut prefixes: Prefixes<Arc<String>> = Prefixes::default();
            let mut model: Vec<String> = Vec::new();
            for path in &stored {
                let new = !model.contains(path);
                prop_assert_eq!(prefixes.set(path, Some(Arc::new(path.clone())), |v| v), isize::from(new));
                if new {
                    model.push(path.clone());
                }
            }
            for index in removed {
                if model.is_empty() {
                    break;
                }
                let path = model.swap_remove(index.index(model.len()));
                prop_assert_eq!(prefixes.set(&path, None, |v| v), -1);
                prop_assert_eq!(prefixes.set(&path, None, |v| v), 0);
            }
            prop_assert_eq!(prefixes.is_empty(), model.is_empty());
            for path in asked.iter().chain(&stored) {
                prop_assert_eq!(prefixes.longest(path).map(|found| &**found), scan(&model, path), "for {}", path);
            }
            let mut seen = Vec::new();
            prefixes.for_each(&mut |value| seen.push((**value).clone()));
            seen.sort();
            model.sort();
            prop_assert_eq!(seen, model);
        }
    }

    #[test]
    fn a_change_leaves_clones_alone() {
        let mut prefixes: Prefixes<Arc<String>> = Prefixes::default();
        for n in 0..200 {
            let path = format!("/service-{n}");
            prefixes.set(&path.clone(), Some(Arc::new(path)), |v| v);
        }
        let before = prefixes.clone();
        prefixes.set("/service-7", None, |v| v);
        prefixes.set("/", Some(Arc::new("/".to_owned())), |v| v);
        assert_eq!(
            before.longest("/service-7/x").map(|v| v.as_str()),
            Some("/service-7")
        );
        assert_eq!(
            prefixes.longest("/service-7/x").map(|v| v.as_str()),
            Some("/")
        );
        assert_eq!(before.longest("/other"), None);
    }
}
