//! Values as Go's flag package reads them.

use std::time::Duration;

use super::keys::Kind;

pub(crate) use crate::config::{list_items as list, parse_bool as boolean};

/// Whether a text is such a value.
///
/// # Errors
/// A few words about what is wrong with it, to follow the value in a sentence.
pub(crate) fn check(kind: Kind, text: &str) -> Result<(), &'static str> {
    match kind {
        Kind::Text | Kind::Secret | Kind::List => Ok(()),
        Kind::Bool => boolean(text).map(drop).ok_or("is neither true nor false"),
        Kind::Int => integer(text).map(drop).ok_or("is not a whole number"),
        Kind::Uint => integer(text)
            .filter(|number| *number >= 0)
            .map(drop)
            .ok_or("is not a whole number from 0"),
        Kind::Span => span(text)
            .map(drop)
            .ok_or("is not a duration like 10s, 1.5m or 250ms"),
        Kind::Numbers => numbers(text).map(drop).ok_or("is not a list of numbers"),
    }
}

/// As `strconv.ParseInt` with base 0: `0x`, `0o`, `0b` and a leading `0` choose the base, `_` may
/// part digits.
#[must_use]
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &*lower),
    };
    // A second sign would be taken for a digit's by the standard library.
    let sound = digits.starts_with(|c: char| c.is_ascii_alphanumeric()) && !digits.ends_with('_');
    if !sound || digits.contains("__") {
        return None;
    }
    let number = i64::from_str_radix(&digits.replace('_', ""), base).ok()?;
    Some(if negative { -number } else { number })
}

/// A `time.Duration` in nanoseconds: decimal numbers with units, and a sign.
#[must_use]
pub(crate) fn span(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    loop {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        total += in_nanos(number, unit)?;
        rest = tail;
        if rest.is_empty() {
            return i64::try_from(if negative { -total } else { total }).ok();
        }
    }
}

/// `1.5` of a unit. Digits behind the point that make no whole nanosecond are cut.
fn in_nanos(number: &str, unit: &str) -> Option<i128> {
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let count = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<i64>().ok().map(i128::from)
        }
    };
    // Twelve digits are finer than any unit needs.
    let fraction = &fraction[..fraction.len().min(12)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(count(whole)? * unit + count(fraction)? * unit / scale)
}

/// A duration that must not be negative.
#[must_use]
pub(crate) fn duration(text: &str) -> Option<Duration> {
    span(text)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
}

/// Numbers between commas.
#[must_use]
pub(crate) fn numbers(text: &str) -> Option<Vec<f64>> {
    list(text).map(|item| item.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        let second = 1_000_000_000;
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1s", Some(second)),
            ("+5s", Some(5 * second)),
            ("-1.5s", Some(-second * 3 / 2)),
            ("1h2m3s", Some(3723 * second)),
            ("3s1h", Some(3603 * second)),
            (".5s", Some(second / 2)),
            ("1.s", Some(second)),
            ("250ms", Some(second / 4)),
            ("10us", Some(10_000)),
            ("10\u{b5}s", Some(10_000)),
            ("1.0000000000000001s", Some(second)),
            ("2562047h47m16.854775807s", Some(i64::MAX)),
            ("2562048h", None),
            ("", None),
            ("-", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1 s", None),
            ("1s ", None),
            ("--1s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(span(text), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_gos() {
        let cases = [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("0x1F", Some(31)),
            ("010", Some(8)),
            ("0b11", Some(3)),
            ("1_000", Some(1000)),
            ("1__0", None),
            ("1_", None),
            ("", None),
            ("+-1", None),
            ("0x", None),
            ("1e3", None),
            (" 1", None),
            ("9223372036854775808", None),
        ];
        for (text, expected) in cases {
            assert_eq!(integer(text), expected, "{text:?}");
        }
        assert_eq!(check(Kind::Numbers, ".005, 1,,10"), Ok(()));
        assert!(check(Kind::Numbers, "1;2").is_err() && check(Kind::Uint, "-1").is_err());
        assert!(check(Kind::Bool, "yes").is_err() && boolean("T") == Some(true));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}") {
            let _ = (span(&text), integer(&text), check(Kind::Numbers, &text));
        }

        #[test]
        fn whole_numbers_come_back(number in any::<i32>()) {
            prop_assert_eq!(integer(&number.to_string()), Some(i64::from(number)));
            prop_assert_eq!(span(&format!("{number}ns")), Some(i64::from(number)));
        }
    }
}
