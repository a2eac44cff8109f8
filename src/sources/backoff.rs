//! How long to wait before trying again: exponential with full jitter.
//!
//! Pure: randomness is an argument and sleeping is the caller's. Full jitter (any time between
//! nothing and the present bound) spreads a thousand watches that failed in the same instant better
//! than a bound with a little noise.

use std::time::Duration;

/// Upper bound that no delay exceeds, whatever bound the caller gives.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// A growing bound for delays after failures in a row.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays below `base` at first, doubling with every failure up to `cap` (itself at most
    /// [`CAP`]).
    #[must_use]
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap: cap.min(CAP),
            failures: 0,
        }
    }

    /// Notes one more failure and returns how long to wait now.
    pub(crate) fn failed(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rng.f64())
    }

    /// Forgets all failures.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    #[must_use]
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The longest that the next delay may be.
    fn bound(&self) -> Duration {
        // 2^31 times any base is beyond every cap, so the shift needs no more bits.
        self.base
            .saturating_mul(1 << self.failures.min(31))
            .min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_doubles_up_to_the_cap_and_starts_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut rng = fastrand::Rng::with_seed(1);
        let mut bounds = Vec::new();
        for _ in 0..7 {
            bounds.push(backoff.bound().as_millis());
            backoff.failed(&mut rng);
        }
        assert_eq!(bounds, [100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.succeeded();
        assert_eq!(backoff.bound(), Duration::from_millis(100));
        assert_eq!(backoff.failures(), 0);
    }

    #[test]
    fn delays_fill_the_whole_range_and_never_leave_it() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut low, mut high) = (0, 0);
        for _ in 0..1000 {
            let mut backoff = Backoff::new(Duration::from_secs(1), CAP);
            let delay = backoff.failed(&mut rng);
            assert!(delay <= Duration::from_secs(1));
            if delay < Duration::from_millis(100) {
                low += 1;
            } else if delay > Duration::from_millis(900) {
                high += 1;
            }
        }
        assert!(
            low > 50 && high > 50,
            "not full jitter: {low} low, {high} high"
        );
    }

    #[test]
    fn many_failures_do_not_overflow_and_no_cap_exceeds_the_general_one() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3600));
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            assert!(backoff.failed(&mut rng) <= CAP);
        }
        assert_eq!(backoff.bound(), CAP);
    }
}
