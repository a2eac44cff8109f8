//! How soon a watch reads again: a change is never put off for long, and an agent is never polled
//! in a tight loop.
//!
//! ```text
//! the last read                                  the next one, counted from its response
//! brought something for us                       after 5 ms, more for a large response (up to 100 ms)
//! woke us for something that is not ours         after 20 ms, more for a large response (up to 200 ms)
//! woke us although the index had not moved       as above, and it costs a token: 10 at once, then 2 a second
//! ```
//! The first two pauses collect what changes in the same moment; they grow with the size of the
//! response because its size is what a read costs the agent. Tokens are for an agent that responds
//! to every blocking query at once: it would be polled without end. Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::sources::blocking::TokenBucket;

/// Pause after a read that brought something: what changes together is read together.
const USEFUL_MIN: Duration = Duration::from_millis(5);
/// Longest such pause.
const USEFUL_MAX: Duration = Duration::from_millis(100);
/// Pause after a wake-up for something that is not ours.
const USELESS_MIN: Duration = Duration::from_millis(20);
/// Longest such pause.
const USELESS_MAX: Duration = Duration::from_millis(200);
/// Added for each byte of the response after a read that brought something (ns): 20 MB/s.
const USEFUL_PER_BYTE_NS: u64 = 50;
/// Added for each byte of the response otherwise (ns): 4 MB/s.
const USELESS_PER_BYTE_NS: u64 = 250;
/// Reads whose index did not move: a burst, and a rate (1/s).
const STUCK: (u32, f64) = (10, 2.0);

/// What the last read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Something changed that concerns us.
    Useful,
    /// Something changed that does not.
    Useless,
    /// Nothing changed: the index is the one in the query, which did not wait for its time.
    Stuck,
}

/// Paces the reads of one watch.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    tokens: TokenBucket,
    /// When the last response was complete, its size in bytes and what it brought.
    last: Option<(Instant, usize, Outcome)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: TokenBucket::new(STUCK.0, STUCK.1, now),
            last: None,
        }
    }

    /// A response of this many bytes is complete; what it brought is said later by [`Pace::judged`]
    /// and is nothing until then.
    pub(super) fn received(&mut self, now: Instant, bytes: usize) {
        self.last = Some((now, bytes, Outcome::Useless));
    }

    /// What the last response brought.
    pub(super) fn judged(&mut self, outcome: Outcome) {
        if let Some((_, _, last)) = &mut self.last {
            *last = outcome;
        }
    }

    /// What the last response brought; none before the first one, and after [`Pace::forget`].
    pub(super) fn last(&self) -> Option<Outcome> {
        self.last.map(|(_, _, outcome)| outcome)
    }

    /// The next read follows at once.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// How long to wait before the next read. Takes a token where the last read costs one: call it
    /// once for each read.
    pub(super) fn next(&mut self, now: Instant) -> Duration {
        let Some((at, bytes, outcome)) = self.last else {
            return Duration::ZERO;
        };
        let rest = gap(outcome, bytes).saturating_sub(now.saturating_duration_since(at));
        if outcome == Outcome::Stuck {
            rest.max(self.tokens.take(now))
        } else {
            rest
        }
    }
}

/// Time from a response of this size to the next read.
fn gap(outcome: Outcome, bytes: usize) -> Duration {
    let (least, most, per_byte) = match outcome {
        Outcome::Useful => (USEFUL_MIN, USEFUL_MAX, USEFUL_PER_BYTE_NS),
        Outcome::Useless | Outcome::Stuck => (USELESS_MIN, USELESS_MAX, USELESS_PER_BYTE_NS),
    };
    (least + Duration::from_nanos(per_byte.saturating_mul(bytes as u64))).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_with_the_response_and_have_bounds() {
        // outcome, bytes of the response, ms until the next read
        let cases = [
            (Outcome::Useful, 0, 5),
            (Outcome::Useful, 60_000, 8),
            (Outcome::Useful, 1_000_000, 55),
            (Outcome::Useful, 1 << 40, 100),
            (Outcome::Useless, 2, 20),
            (Outcome::Useless, 60_000, 35),
            (Outcome::Useless, 600_000, 170),
            (Outcome::Useless, usize::MAX, 200),
        ];
        for (outcome, bytes, ms) in cases {
            let now = Instant::now();
            let mut pace = Pace::new(now);
            pace.received(now, bytes);
            pace.judged(outcome);
            assert_eq!(pace.next(now).as_millis(), ms, "{outcome:?} {bytes}");
            assert_eq!(
                pace.next(now + 500 * MS),
                Duration::ZERO,
                "time that has passed already counts"
            );
        }
    }

    #[test]
    fn a_flood_of_changes_elsewhere_never_puts_a_read_off_for_long() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..10_000 {
            pace.received(now, 5_000);
            pace.judged(Outcome::Useless);
            let pause = pace.next(now);
            assert!(pause <= 30 * MS, "{pause:?}");
            now += pause;
        }
    }

    #[test]
    fn an_agent_that_responds_at_once_with_the_same_index_is_read_twice_a_second() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(now);
        for _ in 0..50 {
            pace.received(now, 0);
            pace.judged(Outcome::Stuck);
            now += pace.next(now);
        }
        let took = now - start;
        assert!(
            (Duration::from_secs(19)..Duration::from_secs(21)).contains(&took),
            "{took:?}"
        );
    }

    #[test]
    fn the_first_read_and_those_after_a_reload_wait_for_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!((pace.next(now), pace.last()), (Duration::ZERO, None));
        pace.received(now, 1 << 30);
        assert_eq!(pace.last(), Some(Outcome::Useless), "until it was judged");
        pace.forget();
        assert_eq!(pace.next(now), Duration::ZERO);
    }
}
