//! The process clock: milliseconds since the start, small enough for an atomic.
//!
//! Whoever decides something takes the time as an argument; only the edges ask the clock.

use std::time::{Duration, Instant};

/// Counts from its making. Copies count from the same moment: the process makes one and hands it on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the start. At least 1, because 0 says "never" in the states of targets.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.ms_at(Instant::now())
    }

    /// Milliseconds from the start to `instant`, for those who have one already.
    #[must_use]
    pub fn ms_at(&self, instant: Instant) -> u64 {
        millis(instant.saturating_duration_since(self.start)).max(1)
    }
}

/// Whole milliseconds of a duration.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_start() {
        let clock = Clock::start();
        assert_eq!(clock.ms_at(clock.start), 1, "never 0");
        assert_eq!(clock.ms_at(clock.start + Duration::from_millis(2500)), 2500);
        if let Some(before) = clock.start.checked_sub(Duration::from_secs(1)) {
            assert_eq!(clock.ms_at(before), 1);
        }
        assert!(clock.now_ms() < 60_000);
    }
}
