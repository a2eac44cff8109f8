//! How often the same line may stand in the log.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Pause between two lines about the same lack: often enough to be seen, and no flood.
const EVERY: Duration = Duration::from_secs(10);

/// Lets a line through at most every 10 s.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Cell<Option<Instant>>,
}

impl Throttle {
    /// Whether a line may be written at `now`; if so, it counts as written.
    pub fn is_due(&self, now: Instant) -> bool {
        let due = self
            .last
            .get()
            .is_none_or(|last| now.duration_since(last) >= EVERY);
        if due {
            self.last.set(Some(now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_once_and_then_every_ten_seconds() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let lines = [0, 1, 9_999, 10_000, 19_999, 20_001]
            .map(|ms| throttle.is_due(start + Duration::from_millis(ms)));
        assert_eq!(lines, [true, false, false, true, false, true]);
    }
}
