//! Time stamps of the access log, in UTC, formatted once a second and reused within it.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Formats of the last second that was formatted.
#[derive(Clone, Debug, Default)]
pub(super) struct TimeCache {
    second: Option<u64>,
    /// `2026-11-22T20:03:36`
    rfc3339: Vec<u8>,
    /// `22/Nov/2026:20:03:36 +0000`
    common: Vec<u8>,
}

impl TimeCache {
    /// Appends RFC 3339 with milliseconds: `2026-11-22T20:03:36.042Z`.
    pub(super) fn push_rfc3339(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        let millisecond = self.renew(time);
        line.extend_from_slice(&self.rfc3339);
        line.push(b'.');
        push_three(line, u64::from(millisecond));
        line.push(b'Z');
    }

    /// Appends RFC 3339 with this many decimals, at most 9; those that do not fit are cut off.
    pub(super) fn push_rfc3339_with(
        &mut self,
        line: &mut Vec<u8>,
        time: SystemTime,
        decimals: usize,
    ) {
        self.renew(time);
        line.extend_from_slice(&self.rfc3339);
        let nanoseconds = time
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .subsec_nanos();
        if decimals > 0 {
            // Writing to a Vec cannot fail.
            let _ = write!(line, ".{}", &format!("{nanoseconds:09}")[..decimals.min(9)]);
        }
        line.push(b'Z');
    }

    /// Appends the form of Apache's common format: `22/Nov/2026:20:03:36 +0000`.
    pub(super) fn push_common(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        self.renew(time);
        line.extend_from_slice(&self.common);
    }

    /// Makes the cache that of `time`'s second; the milliseconds within it.
    fn renew(&mut self, time: SystemTime) -> u32 {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            self.rfc3339 = formatted("%Y-%m-%dT%H:%M:%S", second);
            self.common = formatted("%d/%b/%Y:%H:%M:%S +0000", second);
        }
        since_epoch.subsec_millis()
    }
}

fn formatted(format: &str, second: u64) -> Vec<u8> {
    // A clock beyond year 9999 shows as the end of that range.
    let timestamp = i64::try_from(second)
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok());
    let mut text = Vec::with_capacity(32);
    // Both formats need only what a time stamp has, and writing to a Vec cannot fail.
    let _ = write!(
        text,
        "{}",
        timestamp.unwrap_or(Timestamp::MAX).strftime(format)
    );
    text
}

/// The last three digits, zeros in front.
pub(super) fn push_three(line: &mut Vec<u8>, number: u64) {
    line.extend([100, 10, 1].map(|place| b'0' + u8::try_from(number / place % 10).unwrap_or(0)));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn both(cache: &mut TimeCache, since_epoch: Duration) -> (String, String) {
        let (mut rfc3339, mut common) = (Vec::new(), Vec::new());
        cache.push_rfc3339(&mut rfc3339, UNIX_EPOCH + since_epoch);
        cache.push_common(&mut common, UNIX_EPOCH + since_epoch);
        (
            String::from_utf8(rfc3339).unwrap(),
            String::from_utf8(common).unwrap(),
        )
    }

    #[test]
    fn times_are_written_in_both_forms_and_the_cache_follows() {
        let cache = &mut TimeCache::default();
        let cases = [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (
                1_795_377_816_042,
                "2026-11-22T20:03:36.042Z",
                "22/Nov/2026:20:03:36 +0000",
            ),
            (
                1_795_377_816_999,
                "2026-11-22T20:03:36.999Z",
                "22/Nov/2026:20:03:36 +0000",
            ),
            (
                1_795_377_817_000,
                "2026-11-22T20:03:37.000Z",
                "22/Nov/2026:20:03:37 +0000",
            ),
            (
                951_782_400_000,
                "2000-02-29T00:00:00.000Z",
                "29/Feb/2000:00:00:00 +0000",
            ),
        ];
        for (millisecond, rfc3339, common) in cases {
            let found = both(cache, Duration::from_millis(millisecond));
            assert_eq!(found, (rfc3339.to_owned(), common.to_owned()));
        }
    }

    #[test]
    fn absurd_clocks_do_not_panic() {
        let mut cache = TimeCache::default();
        let mut line = Vec::new();
        cache.push_common(&mut line, UNIX_EPOCH - Duration::from_secs(5));
        assert!(line.starts_with(b"01/Jan/1970"));
        assert!(!formatted("%Y", u64::MAX).is_empty());
    }
}
