//! A persistent hash map from text to small values, for tables that change one entry at a time.
//!
//! Three levels of fixed width: a change copies the root, one branch and one twig (32 pointers
//! each) and one shard (the entries whose hash falls there: about 3 of 100,000), and shares the
//! rest. Reading is three pointer steps, the first two of which stay in the cache, and a look at
//! the place where the hash should stand, whatever the size; short keys are kept beside their hash.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

const WIDTH: usize = 32;
/// Bits of a hash that each level takes, from the highest on.
const BITS: u32 = WIDTH.trailing_zeros();
const LEVELS: u32 = 3;
/// Keys come from sources, not from clients, so a fixed seed does not invite crafted
/// collisions.
const HASHER: FixedState = FixedState::with_seed(0x6c62_2d68_6f73_7473);

/// Maps text to values; a clone is one pointer.
#[derive(Debug)]
pub(super) struct ShardedMap<V> {
    root: Arc<[Branch<V>]>,
}

type Branch<V> = Arc<[Twig<V>]>;
type Twig<V> = Arc<[Shard<V>]>;
/// Sorted by hash; equal hashes are told apart by the key.
type Shard<V> = Arc<[Entry<V>]>;

#[derive(Clone, Debug)]
struct Entry<V> {
    hash: u64,
    key: SmallVec<[u8; 32]>,
    value: V,
}

impl<V> Clone for ShardedMap<V> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
        }
    }
}

impl<V> Default for ShardedMap<V> {
    fn default() -> Self {
        let shard: Shard<V> = Arc::from(Vec::new());
        let twig: Twig<V> = Arc::from(vec![shard; WIDTH]);
        let branch: Branch<V> = Arc::from(vec![twig; WIDTH]);
        Self {
            root: Arc::from(vec![branch; WIDTH]),
        }
    }
}

impl<V> ShardedMap<V> {
    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The same, with the stored key.
    pub(super) fn get_key_value(&self, key: &str) -> Option<(&str, &V)> {
        self.entry(key).map(|entry| {
            (
                std::str::from_utf8(&entry.key).unwrap_or_default(),
                &entry.value,
            )
        })
    }

    fn entry(&self, key: &str) -> Option<&Entry<V>> {
        let hash = HASHER.hash_one(key);
        let shard = &self.root[place(hash, 0)][place(hash, 1)][place(hash, 2)];
        find(shard, hash, key).ok().map(|at| &shard[at])
    }

    /// All values, in no particular order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        let twigs = self.root.iter().flat_map(|branch| branch.iter());
        let shards = twigs.flat_map(|twig| twig.iter());
        shards
            .flat_map(|shard| shard.iter())
            .map(|entry| &entry.value)
    }
}

impl<V: Clone> ShardedMap<V> {
    /// Lets `change` make, replace or take away the value of `key`.
    pub(super) fn update(&mut self, key: &str, change: impl FnOnce(&mut Option<V>)) {
        let hash = HASHER.hash_one(key);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[place(hash, 0)]);
        let twig = Arc::make_mut(&mut branch[place(hash, 1)]);
        let shard = &mut twig[place(hash, 2)];
        let found = find(shard, hash, key);
        let mut value = found.ok().map(|at| shard[at].value.clone());
        change(&mut value);
        let entry = value.map(|value| Entry {
            hash,
            key: key.as_bytes().into(),
            value,
        });
        let (Ok(at) | Err(at)) = found;
        let (before, after) = (&shard[..at], &shard[at + usize::from(found.is_ok())..]);
        // Copied once: the length is known, so that the entries go straight to where they stay.
        *shard = before
            .iter()
            .cloned()
            .chain(entry)
            .chain(after.iter().cloned())
            .collect();
    }
}

/// Where the key is, or where it would have to be put. Hashes are spread evenly, so the search
/// starts where this one should stand, and mostly ends within a step or two.
fn find<V>(shard: &[Entry<V>], hash: u64, key: &str) -> Result<usize, usize> {
    let within = u128::from(hash << (LEVELS * BITS));
    let guess = ((within * shard.len() as u128) >> 64) as usize;
    let mut at = guess;
    while at > 0 && shard[at - 1].hash >= hash {
        at -= 1;
    }
    while at < shard.len() && shard[at].hash < hash {
        at += 1;
    }
    while at < shard.len() && shard[at].hash == hash {
        if *shard[at].key == *key.as_bytes() {
            return Ok(at);
        }
        at += 1;
    }
    Err(at)
}

/// Where to go on at a level.
fn place(hash: u64, level: u32) -> usize {
    (hash >> (u64::BITS - (level + 1) * BITS)) as usize % WIDTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_and_shares_with_clones() {
        let mut map = ShardedMap::default();
        for n in 0..5000 {
            map.update(&format!("host-{n}"), |value| *value = Some(n));
        }
        let before = map.clone();
        for n in (0..5000).step_by(2) {
            map.update(&format!("host-{n}"), |value| *value = None);
        }
        map.update("absent", |value| assert!(value.is_none()));
        for n in 0..5000 {
            let key = format!("host-{n}");
            assert_eq!(before.get(&key), Some(&n));
            assert_eq!(map.get(&key), (n % 2 == 1).then_some(&n), "{key}");
        }
        assert_eq!(
            (before.values().count(), map.values().count()),
            (5000, 2500)
        );
    }
}
