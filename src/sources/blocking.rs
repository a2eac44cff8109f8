//! The rules of blocking queries, as pure functions: no socket, no clock, no randomness of its own.
//!
//! A blocking query names the index of the last response and is held by the server until something
//! newer exists or `wait` has passed (Consul's "Blocking Queries" page). What that page requires of
//! a client, and what experience adds:
//!
//! ```text
//! response's index previous     next read
//! higher           any          blocks on the new index
//! the same, late   same         blocks again (time-out without change)
//! the same, early  same         once without index: a snapshot restore wakes every query with its OLD index
//! lower            higher       without index: the servers' history was replaced
//! missing or 0     any          blocks on 1, after a delay, so that a broken server is not polled in a loop
//! any failure      any          without index: it may be another agent, or one that has forgotten everything
//! ```
//!
//! Only a 200 has an index worth keeping (a 500 of Consul 1.8 says 1).

use std::time::{Duration, Instant};

/// Added to the longest time Consul may hold a query before a client gives up.
const DEADLINE_MARGIN: Duration = Duration::from_secs(5);
/// Pause after a response without usable index.
const NO_INDEX_DELAY: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is obeyed: an agent cannot put a watch to sleep for an hour.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// In turns (fewer connections than watches) every watch is read about this often.
const TURN_CYCLE: Duration = Duration::from_secs(5);
/// Shortest wait in turns.
const TURN_WAIT_MIN: Duration = Duration::from_millis(50);
/// Connections or streams kept free for confirming reads when watches take turns.
const SPARE: usize = 2;

/// Where a watch stands: the index to block on, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    index: Option<u64>,
}

/// What follows from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read again.
    Now,
    /// Read again, but the index had not moved, or moved back: an agent that responds like this
    /// every time must not be polled in a loop.
    Stuck,
    /// Read again after this long.
    After(Duration),
}

impl Position {
    /// The index of the next read; none reads what there is, at once.
    #[must_use]
    pub(crate) fn index(self) -> Option<u64> {
        self.index
    }

    /// Makes the next read unconditional: after a failure, a reload, or at a resync.
    pub(crate) fn forget(&mut self) {
        self.index = None;
    }

    /// Takes the index of a 200. `early`: see [`came_early`].
    pub(crate) fn advance(&mut self, responded: Option<u64>, early: bool) -> Next {
        let previous = self.index;
        match (previous, responded) {
            (_, None | Some(0)) => {
                self.index = Some(1);
                return Next::After(NO_INDEX_DELAY);
            }
            (Some(old), Some(new)) if new < old || new == old && early => {
                self.index = None;
                return Next::Stuck;
            }
            (_, Some(new)) => self.index = Some(new),
        }
        Next::Now
    }
}

/// When to give up on a query that Consul may hold for `wait` (it adds up to a sixteenth of its
/// own).
#[must_use]
pub(crate) fn client_deadline(wait: Duration) -> Duration {
    wait + wait / 16 + DEADLINE_MARGIN
}

/// Whether the response to a blocking query came before its `wait` was over. Consul only ever adds
/// to the wait, so this holds up to its very end, less a twentieth for clocks that differ.
#[must_use]
pub(crate) fn came_early(elapsed: Duration, wait: Duration) -> bool {
    elapsed < wait - wait / 20
}

/// `wait` less up to an eighth, so that watches that started together do not time out together.
/// `random` is in `0.0..1.0`.
#[must_use]
pub(crate) fn jittered_wait(wait: Duration, random: f64) -> Duration {
    wait - (wait / 8).mul_f64(random)
}

/// Time from one full resync to the next: three quarters to five quarters of `resync`. `random` is
/// in `0.0..1.0`.
#[must_use]
pub(crate) fn resync_after(resync: Duration, random: f64) -> Duration {
    resync * 3 / 4 + (resync / 2).mul_f64(random)
}

/// How long a query may be held when `watches` share room for `slots` at once.
///
/// With room for all (and `SPARE` for confirming reads) each keeps its full `wait`. Otherwise they
/// take turns, first come first served, and each turn is so short that all have had theirs within
/// about five seconds: that bounds how old any of them can be, at the price of `watches / 5`
/// requests a second.
#[must_use]
pub(crate) fn turn_wait(wait: Duration, watches: usize, slots: usize) -> Duration {
    if watches + SPARE <= slots {
        return wait;
    }
    let share = slots as f64 / watches.max(1) as f64;
    TURN_CYCLE
        .mul_f64(share.min(1.0))
        .max(TURN_WAIT_MIN)
        .min(wait)
}

/// Whether a stale response is too old to be taken without a read from the leader, by
/// `X-Consul-LastContact` and `X-Consul-KnownLeader`.
#[must_use]
pub(crate) fn too_stale(
    last_contact: Option<Duration>,
    known_leader: Option<bool>,
    max_stale: Duration,
) -> bool {
    known_leader == Some(false) || last_contact.is_some_and(|age| age > max_stale)
}

/// `Retry-After` in its form of seconds (RFC 9110 section 10.2.3), bounded. The date form is not
/// used by Consul.
#[must_use]
pub(crate) fn retry_after(value: &str) -> Option<Duration> {
    let seconds: u64 = value.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Lets a burst through at once and a steady rate after it. A fixed pause between reads would delay
/// good changes too.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket. `per_second` must be above 0.
    #[must_use]
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        Self {
            burst: f64::from(burst),
            per_second,
            tokens: f64::from(burst),
            filled_at: now,
        }
    }

    /// Takes one token; returns how long to wait before using it (zero while the bucket has some).
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst) - 1.0;
        self.filled_at = now;
        // A debt is paid by waiting: the next taker waits longer, so that the rate holds for any
        // number of takers.
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.tokens / self.per_second)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn index_rules() {
        let odd = Next::After(NO_INDEX_DELAY);
        // (previous, responded, early) -> (next index, when)
        let cases = [
            (None, Some(7), true, Some(7), Next::Now),
            (Some(7), Some(9), true, Some(9), Next::Now),
            (Some(7), Some(7), false, Some(7), Next::Now),
            (Some(7), Some(7), true, None, Next::Stuck),
            (Some(7), Some(6), true, None, Next::Stuck),
            (Some(7), Some(6), false, None, Next::Stuck),
            (Some(7), Some(0), true, Some(1), odd),
            (Some(7), None, false, Some(1), odd),
            (None, None, true, Some(1), odd),
            (None, Some(0), true, Some(1), odd),
        ];
        for (previous, responded, early, index, next) in cases {
            let mut position = Position { index: previous };
            assert_eq!(
                position.advance(responded, early),
                next,
                "{previous:?} {responded:?} {early}"
            );
            assert_eq!(
                position.index(),
                index,
                "{previous:?} {responded:?} {early}"
            );
        }
    }

    #[test]
    fn a_failure_forgets_the_index() {
        let mut position = Position { index: Some(5) };
        position.forget();
        assert_eq!(position.index(), None);
    }

    #[test]
    fn deadline_is_above_what_consul_may_take() {
        assert_eq!(client_deadline(SECOND * 48), SECOND * (48 + 3 + 5));
        assert!(client_deadline(Duration::ZERO) >= SECOND * 5);
    }

    #[test]
    fn a_response_is_early_up_to_the_end_of_its_wait() {
        let wait = SECOND * 40;
        for (elapsed, early) in [
            (0, true),
            (21, true),
            (37, true),
            (38, false),
            (40, false),
            (43, false),
        ] {
            assert_eq!(came_early(SECOND * elapsed, wait), early, "{elapsed} s");
        }
        assert!(!came_early(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn jitter_stays_in_its_range() {
        assert_eq!(jittered_wait(SECOND * 40, 0.0), SECOND * 40);
        assert_eq!(jittered_wait(SECOND * 40, 1.0), SECOND * 35);
        assert_eq!(resync_after(SECOND * 100, 0.0), SECOND * 75);
        assert_eq!(resync_after(SECOND * 100, 1.0), SECOND * 125);
    }

    #[test]
    fn turns_are_short_only_when_room_is_short() {
        let wait = SECOND * 50;
        assert_eq!(turn_wait(wait, 8, 10), wait);
        assert_eq!(turn_wait(wait, 1001, 1200), wait);
        assert_eq!(turn_wait(wait, 9, 10), SECOND * 5);
        assert_eq!(turn_wait(wait, 100, 10), SECOND / 2);
        assert_eq!(turn_wait(wait, 100_000, 1), TURN_WAIT_MIN);
        assert_eq!(turn_wait(SECOND, 9, 10), SECOND);
        assert_eq!(turn_wait(wait, 0, 1), SECOND * 5);
    }

    #[test]
    fn stale_responses_are_bounded_by_contact_and_leader() {
        let max = SECOND * 5;
        let cases = [
            (None, None, false),
            (Some(SECOND), Some(true), false),
            (Some(max), Some(true), false),
            (Some(max + SECOND), Some(true), true),
            (Some(max + SECOND), None, true),
            (Some(Duration::ZERO), Some(false), true),
        ];
        for (contact, leader, expected) in cases {
            assert_eq!(
                too_stale(contact, leader, max),
                expected,
                "{contact:?} {leader:?}"
            );
        }
    }

    #[test]
    fn retry_after_is_read_and_bounded() {
        assert_eq!(retry_after("2"), Some(SECOND * 2));
        assert_eq!(retry_after(" 0 "), Some(Duration::ZERO));
        assert_eq!(retry_after("86400"), Some(RETRY_AFTER_MAX));
        for bad in [
            "",
            "-1",
            "soon",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "99999999999999999999999",
        ] {
            assert_eq!(retry_after(bad), None, "{bad}");
        }
    }

    #[test]
    fn bucket_grants_the_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, 2.0, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Duration::ZERO);
        }
        assert_eq!(bucket.take(start), SECOND / 2);
        assert_eq!(bucket.take(start), SECOND);
        // Two tokens of debt are paid after one second, a third token is there half a second later.
        assert_eq!(bucket.take(start + SECOND * 3 / 2), Duration::ZERO);
        // However long it rests, no more than the burst is saved up.
        let later = start + SECOND * 3600;
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Duration::ZERO);
        }
        assert!(bucket.take(later) > Duration::ZERO);
    }

    #[test]
    fn a_clock_that_stands_still_or_falls_back_grants_nothing() {
        let start = Instant::now() + SECOND;
        let mut bucket = TokenBucket::new(1, 1.0, start);
        assert_eq!(bucket.take(start), Duration::ZERO);
        assert_eq!(bucket.take(start - SECOND), SECOND);
    }
}
