//! What the limits of a route count: requests at once, and tokens by key. Shared by all workers,
//! without a lock, and kept from table to table.
//!
//! A token bucket is one number, the time at which it will be full again (the generic cell rate
//! algorithm, ITU-T I.371 annex A): a request moves it on by the time that one token takes, and is
//! refused where that would be further ahead than the burst allows.
//!
//! ```text
//! key ─hash─► level 0: 128 sets of 8 ─► level 1: 512 sets ─► … level 6: 262,144 sets     (16 bytes an entry)
//! ```
//! A key has its place in one set of each level; a level is made when the sets before it are full.
//! An entry whose bucket is full again says nothing any more, so its place is free for another key:
//! idle keys are forgotten, and lose nothing by it. Where all places of a key are taken, which needs
//! some two million keys that are not idle, the one closest to being idle makes room, unless it is
//! over its limit; if all are, the new key shares a bucket with all others that find no room.

use std::hash::{BuildHasher as _, Hash};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

/// Entries that one key may take, in each level: two cache lines.
const SET: usize = 8;
/// Sets of each level: 3.4 million entries, 56 MB, when all are there.
const SETS: [usize; 7] = [1 << 7, 1 << 9, 1 << 11, 1 << 13, 1 << 15, 1 << 17, 1 << 18];

/// What the limits of one route count.
#[derive(Debug, Default)]
pub struct RouteLimits {
    /// Seeded anew for each route, so that no client can choose keys that meet in one set.
    hasher: foldhash::quality::RandomState,
    buckets: Buckets,
    in_flight: AtomicU32,
}

/// Whether a request may pass a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Yes,
    /// It may again in so many nanoseconds.
    In(u64),
}

impl RouteLimits {
    /// Takes a token of the bucket of `key`. `now_ns`: the process clock in nanoseconds;
    /// `interval_ns`: after how long a token comes back.
    pub fn take_token(&self, key: impl Hash, now_ns: u64, interval_ns: u64, burst: u32) -> Pass {
        let allowance = Allowance {
            now_ns,
            interval_ns,
            ahead_max_ns: interval_ns.saturating_mul(u64::from(burst)),
        };
        // 0 marks a free entry.
        self.buckets
            .take(self.hasher.hash_one(key).max(1), allowance)
    }

    /// Whether one more may be in flight; then it counts until [`Self::leave`].
    fn enter(&self, most: u32) -> bool {
        let entered = self.in_flight.fetch_add(1, Relaxed) < most;
        if !entered {
            self.leave();
        }
        entered
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A request, or a connection, that counts among those of its route until this is dropped.
#[derive(Debug)]
pub struct RouteSlot(Arc<RouteLimits>);

impl RouteSlot {
    /// Counts one more, unless there are `most`.
    #[must_use]
    pub fn enter(limits: &Arc<RouteLimits>, most: u32) -> Option<Self> {
        limits.enter(most).then(|| Self(Arc::clone(limits)))
    }
}

impl Drop for RouteSlot {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    now_ns: u64,
    interval_ns: u64,
    ahead_max_ns: u64,
}

#[derive(Debug, Default)]
struct Buckets {
    levels: [OnceLock<Box<[Entry]>>; SETS.len()],
    /// For keys that find no room.
    shared: Entry,
}

#[derive(Debug, Default)]
struct Entry {
    /// Hash of its key; 0: free.
    key: AtomicU64,
    /// When its bucket is full again, on the process clock in nanoseconds.
    full_at_ns: AtomicU64,
}

impl Buckets {
    fn take(&self, key: u64, allowance: Allowance) -> Pass {
        loop {
            if let Some(entry) = self.find(key) {
                return entry.take(allowance);
            }
            match self.claim(key, allowance) {
                Claim::Entry(entry) => return entry.take(allowance),
                // Another worker was quicker, maybe for the same key.
                Claim::Lost => {}
                Claim::Full => return self.shared.take(allowance),
            }
        }
    }

    fn find(&self, key: u64) -> Option<&Entry> {
        (self.levels.iter())
            .map_while(OnceLock::get)
            .zip(0..)
            .flat_map(|(entries, level)| set_of(entries, level, key))
            .find(|entry| entry.key.load(Acquire) == key)
    }

    /// The first place that is free, or whose bucket is full. All workers look in the same order, so
    /// that two with one key meet at the same place and one of them wins it.
    fn claim(&self, key: u64, allowance: Allowance) -> Claim<'_> {
        let mut idlest: Option<(&Entry, u64, u64)> = None;
        for ((entries, sets), level) in self.levels.iter().zip(SETS).zip(0..) {
            let entries =
                entries.get_or_init(|| (0..sets * SET).map(|_| Entry::default()).collect());
            for entry in set_of(entries, level, key) {
                let owner = entry.key.load(Acquire);
                let full_at_ns = entry.full_at_ns.load(Relaxed);
                if owner == 0 || full_at_ns <= allowance.now_ns {
                    return Claim::of(entry, owner, key);
                }
                if idlest.is_none_or(|(_, _, least)| full_at_ns < least) {
                    idlest = Some((entry, owner, full_at_ns));
                }
            }
        }
        match idlest {
            Some((entry, owner, full_at_ns)) if allowance.leaves_a_token(full_at_ns) => {
                Claim::of(entry, owner, key)
            }
            _ => Claim::Full,
        }
    }
}

fn set_of(entries: &[Entry], level: u32, key: u64) -> &[Entry] {
    // Other bits of the hash in each level: keys that share a set in one are spread over all sets of
    // the next, so that a level is full everywhere before the last is anywhere.
    let sets = entries.len() / SET;
    let bits = key.rotate_right(level * 18) & u64::from(u32::MAX);
    let at = (usize::try_from(bits).unwrap_or_default() & (sets - 1)) * SET;
    &entries[at..at + SET]
}

enum Claim<'a> {
    Entry(&'a Entry),
    Lost,
    Full,
}

impl<'a> Claim<'a> {
    fn of(entry: &'a Entry, owner: u64, key: u64) -> Self {
        match entry.key.compare_exchange(owner, key, Release, Relaxed) {
            Ok(_) => Self::Entry(entry),
            Err(_) => Self::Lost,
        }
    }
}

impl Allowance {
    /// Whether a bucket that is full at that time has a token now.
    fn leaves_a_token(&self, full_at_ns: u64) -> bool {
        let next = full_at_ns.max(self.now_ns) + self.interval_ns;
        next - self.now_ns <= self.ahead_max_ns
    }
}

impl Entry {
    fn take(&self, allowance: Allowance) -> Pass {
        let Allowance {
            now_ns,
            interval_ns,
            ahead_max_ns,
        } = allowance;
        let take = |full_at_ns: u64| {
            let next = full_at_ns.max(now_ns).saturating_add(interval_ns);
            allowance.leaves_a_token(full_at_ns).then_some(next)
        };
        match self.full_at_ns.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Pass::Yes,
            Err(full_at_ns) => {
                let next = full_at_ns.max(now_ns).saturating_add(interval_ns);
                Pass::In((next - now_ns).saturating_sub(ahead_max_ns))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Requests that pass of those sent every `every_ns` for `seconds`.
    fn passed(
        limits: &RouteLimits,
        key: u64,
        rate: u64,
        burst: u32,
        every_ns: u64,
        seconds: u64,
    ) -> u64 {
        (0..seconds * SECOND / every_ns)
            .filter(|n| {
                limits.take_token(key, SECOND + n * every_ns, SECOND / rate, burst) == Pass::Yes
            })
            .count() as u64
    }

    #[test]
    fn a_rate_is_kept_over_time_and_a_burst_comes_on_top() {
        for (rate, burst, every_ns) in [
            (100, 1, SECOND / 1000),
            (100, 100, SECOND / 1000),
            (1000, 50, SECOND / 3000),
            (1, 1, SECOND / 10),
        ] {
            let limits = RouteLimits::default();
            let passed = passed(&limits, 7, rate, burst, every_ns, 30);
            let expected = 30 * rate + u64::from(burst);
            let off = passed.abs_diff(expected);
            assert!(
                off * 100 <= expected * 2 || off <= 1,
                "{rate}/s, burst {burst}: {passed} of {expected}"
            );
        }
    }

    #[test]
    fn who_waits_as_long_as_told_may_pass() {
        let limits = RouteLimits::default();
        let mut now = SECOND;
        let take = |now| limits.take_token(7, now, SECOND / 4, 2);
        assert_eq!([take(now), take(now)], [Pass::Yes; 2]);
        for _ in 0..10 {
            let Pass::In(wait) = take(now) else {
                panic!("a token too many");
            };
            assert_eq!(wait, SECOND / 4);
            assert_ne!(take(now + wait - 1), Pass::Yes);
            now += wait;
            assert_eq!(take(now), Pass::Yes);
        }
    }

    #[test]
    fn keys_do_not_share_and_a_million_fit() {
        let limits = RouteLimits::default();
        let keys: Vec<u64> = {
            let mut rng = fastrand::Rng::with_seed(3);
            (0..1_000_000).map(|_| rng.u64(1..)).collect()
        };
        // Each has two tokens in this time, and none is over its limit by the first.
        let take = |key: u64, now: u64| limits.take_token(key, now, 100 * SECOND, 2);
        let first = keys
            .iter()
            .filter(|key| take(**key, SECOND) == Pass::Yes)
            .count();
        let second = keys
            .iter()
            .filter(|key| take(**key, SECOND) == Pass::Yes)
            .count();
        let third = keys
            .iter()
            .filter(|key| take(**key, SECOND) == Pass::Yes)
            .count();
        assert_eq!((first, second), (1_000_000, 1_000_000));
        assert!(
            third < 100,
            "{third} of those over their limit were forgotten"
        );
        let entries: usize = (limits.buckets.levels.iter())
            .filter_map(OnceLock::get)
            .map(|level| level.len())
            .sum();
        assert!(entries * size_of::<Entry>() <= 64 << 20);
    }

    #[test]
    fn idle_keys_make_room_for_others() {
        let limits = RouteLimits::default();
        let mut rng = fastrand::Rng::with_seed(4);
        let mut now = SECOND;
        // A new client each millisecond, idle again after 10 ms: as many at once as one level has
        // room for.
        for _ in 0..100_000 {
            now += SECOND / 1000;
            assert_eq!(
                limits.take_token(rng.u64(1..), now, SECOND / 100, 5),
                Pass::Yes
            );
        }
        let levels = limits
            .buckets
            .levels
            .iter()
            .filter(|level| level.get().is_some());
        assert_eq!(levels.count(), 1);
    }

    #[test]
    fn workers_share_one_bucket() {
        let limits = RouteLimits::default();
        let passed: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| passed(&limits, 7, 100, 100, SECOND / 1000, 10)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        // Each counts from its own beginning, so none goes back in time by more than they differ.
        assert!((1_000..=1_120).contains(&passed), "{passed}");
    }

    #[test]
    fn requests_at_once() {
        let limits = RouteLimits::default();
        assert!(limits.enter(2) && limits.enter(2) && !limits.enter(2));
        limits.leave();
        assert!(limits.enter(2) && !limits.enter(1));
    }
}
