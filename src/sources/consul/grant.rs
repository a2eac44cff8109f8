//! How many HTTP/1.1 connections an agent grants: learned from those that it closes before the
//! first response on them, and tried again later.
//!
//! An agent grants a number of connections to an address (`limits.http_max_conns_per_client`, 200),
//! which on a Nomad client all programs of the host share. What was granted to us is used less a
//! few, so that others find room. Pure.

use std::time::{Duration, Instant};

/// Connections that are left to other programs of the host once the bound is known.
const LEFT_TO_OTHERS: usize = 2;
/// As many are kept all the same.
const LEAST: usize = 4;
/// Pause before more are tried: the first one, doubled each time that more were refused, and the
/// longest.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// Pause between two steps upward.
const STEP: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Grant {
    most: usize,
    limit: usize,
    grow_at: Option<Instant>,
    pause: Duration,
    /// The last change was upward.
    grew: bool,
    /// The bound as it was reported last.
    reported: Option<usize>,
}

impl Grant {
    /// `most`: connections that the configuration allows.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            limit: most,
            grow_at: None,
            pause: TRY_AGAIN.0,
            grew: false,
            reported: None,
        }
    }

    /// Connections that may be open at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A new connection was closed while `open` others were open. Returns whether that is worth
    /// telling.
    pub(super) fn refused(&mut self, open: usize, now: Instant) -> bool {
        if std::mem::take(&mut self.grew) {
            self.pause = (self.pause * 2).min(TRY_AGAIN.1);
        }
        self.limit = self
            .limit
            .min(open.saturating_sub(LEFT_TO_OTHERS).max(open.min(LEAST)))
            .max(1);
        self.grow_at = Some(now + self.pause);
        let news = self
            .reported
            .is_none_or(|reported| self.limit < reported / 2);
        if news {
            self.reported = Some(self.limit);
        }
        news
    }

    /// Allows more when it is time to. Returns how many.
    pub(super) fn grow(&mut self, now: Instant) -> usize {
        if self.limit >= self.most || self.grow_at.is_none_or(|at| now < at) {
            return 0;
        }
        let more = (self.limit / 2).clamp(1, self.most - self.limit);
        self.limit += more;
        self.grew = true;
        self.grow_at = Some(now + STEP);
        if self.limit == self.most {
            *self = Self::new(self.most);
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_refused_bounds_what_is_used() {
        // open beside the one refused -> limit
        for (open, limit) in [
            (99, 97),
            (10, 8),
            (6, 4),
            (5, 4),
            (4, 4),
            (3, 3),
            (1, 1),
            (0, 1),
        ] {
            let mut grant = Grant::new(100);
            grant.refused(open, Instant::now());
            assert_eq!(grant.limit(), limit, "{open}");
        }
    }

    #[test]
    fn many_refusals_in_a_row_are_reported_once() {
        let now = Instant::now();
        let mut grant = Grant::new(100);
        let reported: Vec<_> = (8..40)
            .rev()
            .filter(|&open| grant.refused(open, now))
            .collect();
        assert_eq!(
            (reported, grant.limit()),
            (vec![39, 19, 9], 6),
            "the first, and what is less than half of the last"
        );
    }

    #[test]
    fn more_is_tried_later_and_later() {
        let mut now = Instant::now();
        let mut grant = Grant::new(100);
        grant.refused(12, now);
        let mut tries = 0;
        let end = now + SECOND * 600;
        while now < end {
            now += SECOND;
            if grant.grow(now) > 0 {
                tries += 1;
                grant.refused(12, now);
            }
        }
        assert_eq!(grant.limit(), 10);
        assert!((5..=8).contains(&tries), "{tries} tries in ten minutes");
    }

    #[test]
    fn what_is_granted_again_is_used_within_seconds() {
        let start = Instant::now();
        let mut grant = Grant::new(100);
        grant.refused(12, start);
        assert_eq!(grant.grow(start + SECOND * 9), 0);
        let mut seconds = 10;
        while grant.limit() < 100 {
            grant.grow(start + SECOND * seconds);
            seconds += 1;
        }
        assert!(seconds < 20, "{seconds} s");
        assert!(grant.refused(50, start), "a new bound is reported again");
    }
}
