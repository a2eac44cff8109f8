//! What the process has to know of itself: signals, that something is short, that a part has
//! failed.

pub mod lack;
pub mod signals;
pub mod throttle;
pub mod vital;

use std::time::SystemTime;

/// The time that validity periods are held against (unix time, s); 0 before 1970.
#[must_use]
pub fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
