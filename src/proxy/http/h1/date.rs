//! The time as responses carry it, written once a second.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::StdFmtWrite;
use jiff::fmt::rfc2822::DateTimePrinter;

/// The last second that was written.
#[derive(Debug, Default)]
pub struct Date {
    second: Cell<u64>,
    text: RefCell<String>,
}

impl Date {
    /// Calls `with` with `now` in the form of RFC 9110 section 5.6.7.
    pub fn with<R>(&self, now: SystemTime, with: impl FnOnce(&str) -> R) -> R {
        let second = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if self.second.get() != second || self.text.borrow().is_empty() {
            let at = i64::try_from(second)
                .ok()
                .and_then(|second| Timestamp::from_second(second).ok())
                .unwrap_or_default();
            // The form covers the years 0 to 9999; a clock beyond them gets no date rather than a
            // wrong one.
            let mut text = String::with_capacity(32);
            if DateTimePrinter::new()
                .print_timestamp_rfc9110(&at, StdFmtWrite(&mut text))
                .is_err()
            {
                text.clear();
            }
            *self.text.borrow_mut() = text;
            self.second.set(second);
        }
        with(&self.text.borrow())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn follows_the_clock() {
        let date = Date::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(
            date.with(at(784_111_777), str::to_owned),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(
            date.with(at(784_111_778), str::to_owned),
            "Sun, 06 Nov 1994 08:49:38 GMT"
        );
        assert_eq!(
            date.with(at(784_111_777), str::to_owned),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }
}
