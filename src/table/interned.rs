//! Options of targets, kept once however many targets have the same.
//!
//! Nearly all routes of a table have no options, or those of many others. Requests that go around a
//! large table would otherwise meet each route's own copy in memory that no cache holds any more.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Weak};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::catalog::options::RouteOptions;

/// From so many on, options that are not in use any more are looked for.
const SWEEP_MIN: usize = 64;
/// They come from sources, as hosts do: see [`shards`](super::shards).
const HASHER: FixedState = FixedState::with_seed(0x6f70_7469_6f6e);

/// The options that are in use.
#[derive(Debug, Default)]
pub(super) struct InternedOptions {
    by_hash: HashMap<u64, SmallVec<[Weak<RouteOptions>; 1]>, FixedState>,
    sweep_at: usize,
}

impl InternedOptions {
    /// Equal options that are in use already, or these.
    pub(super) fn intern(&mut self, options: Arc<RouteOptions>) -> Arc<RouteOptions> {
        // What is not among these says the same as `raw`, but for rare exceptions, which differ
        // when compared.
        let hash = HASHER.hash_one((
            options.proto,
            options.weight.map(f64::to_bits),
            &options.raw,
            options.auth.as_deref(),
        ));
        let alike = self.by_hash.entry(hash).or_default();
        if let Some(known) = alike
            .iter()
            .filter_map(Weak::upgrade)
            .find(|known| **known == *options)
        {
            return known;
        }
        alike.retain(|known| known.strong_count() > 0);
        alike.push(Arc::downgrade(&options));
        if self.by_hash.len() > self.sweep_at {
            self.by_hash
                .retain(|_, alike| alike.iter().any(|known| known.strong_count() > 0));
            self.sweep_at = SWEEP_MIN.max(2 * self.by_hash.len());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str, raw: &str) -> Arc<RouteOptions> {
        Arc::new(RouteOptions {
            strip: Some(name.into()),
            raw: vec![("strip".into(), raw.into())],
            ..Default::default()
        })
    }

    #[test]
    fn equal_options_are_one() {
        let mut interned = InternedOptions::default();
        let first = interned.intern(options("/a", "/a"));
        assert!(Arc::ptr_eq(&first, &interned.intern(options("/a", "/a"))));
        for other in [options("/b", "/b"), options("/b", "/a")] {
            let shared = interned.intern(Arc::clone(&other));
            assert!(Arc::ptr_eq(&other, &shared) && !Arc::ptr_eq(&first, &shared));
            assert!(Arc::ptr_eq(
                &shared,
                &interned.intern(Arc::new((*other).clone()))
            ));
        }
    }

    #[test]
    fn what_is_not_in_use_is_forgotten() {
        let mut interned = InternedOptions::default();
        let kept = interned.intern(options("/kept", "/kept"));
        for n in 0..10_000 {
            drop(interned.intern(options("/gone", &n.to_string())));
        }
        assert!(
            interned.by_hash.len() <= SWEEP_MIN + 1,
            "{}",
            interned.by_hash.len()
        );
        assert!(Arc::ptr_eq(
            &kept,
            &interned.intern(options("/kept", "/kept"))
        ));
    }
}
