//! Durations as people write them: `250ms`, `10s`, `1m30s`.
//!
//! A parser of our own, because the whole grammar fits in a screen and the message should name the
//! units we take.

use std::time::Duration;

/// Units, longest first, with their length in nanoseconds.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration: whole numbers with units `h m s ms us ns`, put together from large to small;
/// or a lone `0`.
///
/// # Errors
/// A short sentence about what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err("is empty");
    }
    let mut total: u128 = 0;
    let mut last_unit = u128::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err("is not a duration");
        }
        if unit.is_empty() {
            return Err("has no unit");
        }
        let Some(&(_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err("has an unknown unit");
        };
        if length >= last_unit {
            return Err("has its units out of order");
        }
        last_unit = length;
        let number: u64 = number.parse().map_err(|_| "is too long")?;
        total += u128::from(number) * length;
        rest = tail;
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| "is too long")?;
    let nanos = u32::try_from(total % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, nanos))
}

/// Writes a duration so that [`parse_duration`] reads it back.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in UNITS {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(unit);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        let cases = [
            ("250ms", 250),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("0", 0),
            ("0s", 0),
            ("1s500ms", 1_500),
            (" 5s ", 5_000),
        ];
        for (text, ms) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_the_rest() {
        let cases = [
            ("", "is empty"),
            ("10", "has no unit"),
            ("ten", "is not a duration"),
            ("-1s", "is not a duration"),
            ("1.5s", "has no unit"),
            ("5 parsecs", "has no unit"),
            ("5parsecs", "has an unknown unit"),
            ("30s1m", "has its units out of order"),
            ("1s1s", "has its units out of order"),
            ("99999999999999999999s", "is too long"),
        ];
        for (text, problem) in cases {
            assert_eq!(parse_duration(text), Err(problem), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn what_is_written_is_read_back(seconds in 0u64..10_000_000, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
