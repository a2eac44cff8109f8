//! The process clock: milliseconds since start, as the states of targets keep them.

use std::time::{Duration, Instant};

/// Counts from its creation. Made once, at start; copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// How far ahead the clock starts: 0 means "never" in several fields, so no event may happen at
    /// 0.
    const OFFSET_MS: u64 = 1;

    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Milliseconds at `now`; at least 1.
    #[must_use]
    pub fn at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed)
            .unwrap_or(u64::MAX - Self::OFFSET_MS)
            .saturating_add(Self::OFFSET_MS)
    }

    /// Milliseconds now; at least 1.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.at(Instant::now())
    }
}

/// Whole milliseconds of a configured duration.
#[must_use]
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
