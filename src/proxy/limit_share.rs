//! Which share of a rate this lb lets pass, where several serve the same routes.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::catalog::policies::Rate;

/// Most lb that a rate is divided by.
const MOST: u32 = 1000;

/// By how many a rate is divided. One writer; read by all workers.
#[derive(Debug)]
pub struct LimitShare(AtomicU32);

impl Default for LimitShare {
    fn default() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl LimitShare {
    /// So many lb share the limits; 1: this one has them for itself.
    pub fn set(&self, count: u32) {
        self.0.store(count.clamp(1, MOST), Relaxed);
    }

    /// How many share them.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// After how many nanoseconds a token comes back here, and how many may come at once.
    #[must_use]
    pub fn of(&self, rate: &Rate) -> (u64, u32) {
        let count = self.count();
        (
            rate.interval_ns.saturating_mul(u64::from(count)),
            (rate.burst / count).max(1),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::policies::RateKey;

    #[test]
    fn shares_add_up_to_the_rate_and_none_is_nothing() {
        let rate = |interval_ns, burst| Rate {
            interval_ns,
            burst,
            by: RateKey::Route,
        };
        for (count, interval_ns, burst, expected) in [
            (1, 1_000, 50, (1_000, 50)),
            (3, 1_000, 50, (3_000, 16)),
            (3, 1_000, 2, (3_000, 1)),
            (0, 1_000, 50, (1_000, 50)),
            (1_000_000, 1_000, 50, (1_000_000, 1)),
            (3, u64::MAX, 1, (u64::MAX, 1)),
        ] {
            let share = LimitShare::default();
            share.set(count);
            assert_eq!(share.of(&rate(interval_ns, burst)), expected, "{count}");
        }
    }
}
