//! Bounds that all sources keep.

use std::time::Duration;

/// First bound of the pause after a reading that failed, and the last.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Shortest time from one reading to the next, so that no server is polled in a tight loop.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Most entries of one source.
pub(super) const ENTRIES_MAX: usize = 1000;
/// Entries that are read at a time.
pub(super) const AT_A_TIME: usize = 4;
/// Largest text in bytes, as for files.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;
