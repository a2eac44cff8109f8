//! A persistent hash map from text to small values, for tables that change one entry at a time.
//!
//! Two levels of fixed width: a change copies the root (64 pointers), one branch (64 pointers) and one shard
//! (the entries whose hash falls there: about 25 of 100,000), and shares the rest. Reading is two pointer steps
//! and a search among a few hashes, whatever the size.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

const WIDTH: usize = 64;
/// Keys come from the registry, not from clients, so a fixed seed does not invite crafted collisions.
const HASHER: FixedState = FixedState::with_seed(0x6c62_2d68_6f73_7473);

/// Maps text to values; a clone is one pointer.
#[derive(Debug)]
pub(super) struct ShardedMap<V> {
    root: Arc<Vec<Branch<V>>>,
}

type Branch<V> = Arc<Vec<Shard<V>>>;
/// Sorted by hash; equal hashes are told apart by the key.
type Shard<V> = Arc<Vec<Entry<V>>>;

#[derive(Clone, Debug)]
struct Entry<V> {
    hash: u64,
    key: Arc<str>,
    value: V,
}

impl<V> Clone for ShardedMap<V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root) }
    }
}

impl<V> Default for ShardedMap<V> {
    fn default() -> Self {
        let shard = Arc::new(Vec::new());
        let branch = Arc::new(vec![shard; WIDTH]);
        Self { root: Arc::new(vec![branch; WIDTH]) }
    }
}

impl<V> ShardedMap<V> {
    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The same, with the stored key.
    pub(super) fn get_key_value(&self, key: &str) -> Option<(&str, &V)> {
        let hash = HASHER.hash_one(key);
        let shard = &self.root[outer(hash)][inner(hash)];
        let start = shard.partition_point(|entry| entry.hash < hash);
        shard[start..]
            .iter()
            .take_while(|entry| entry.hash == hash)
            .find(|entry| &*entry.key == key)
            .map(|e| (&*e.key, &e.value))
    }

    /// All entries, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        let shards = self.root.iter().flat_map(|branch| branch.iter());
        shards.flat_map(|shard| shard.iter()).map(|entry| (&entry.key, &entry.value))
    }
}

impl<V: Clone> ShardedMap<V> {
    /// Lets `change` make, replace or take away the value of `key`.
    pub(super) fn update(&mut self, key: &str, change: impl FnOnce(&mut Option<V>)) {
        let hash = HASHER.hash_one(key);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[outer(hash)]);
        let shard = Arc::make_mut(&mut branch[inner(hash)]);
        let start = shard.partition_point(|entry| entry.hash < hash);
        let same = shard[start..].iter().take_while(|entry| entry.hash == hash);
        let at = same.enumerate().find(|(_, entry)| &*entry.key == key).map(|(at, _)| start + at);
        let (key, mut value) = match at {
            Some(at) => {
                let entry = shard.remove(at);
                (entry.key, Some(entry.value))
            }
            None => (Arc::from(key), None),
        };
        change(&mut value);
        if let Some(value) = value {
            shard.insert(at.unwrap_or(start), Entry { hash, key, value });
        }
    }
}

fn outer(hash: u64) -> usize {
    (hash >> 58) as usize
}

fn inner(hash: u64) -> usize {
    (hash >> 52) as usize % WIDTH
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
        assert_eq!((before.iter().count(), map.iter().count()), (5000, 2500));
    }
}
