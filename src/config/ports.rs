//! Ranges of ports, as in `ports = "10000-10999"`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Ports; empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A port that is in both.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<u16> {
        // If two ranges meet, the later start of them is in both.
        let starts = self.0.iter().chain(&other.0).map(|range| *range.start());
        starts
            .filter(|port| self.contains(*port) && other.contains(*port))
            .min()
    }
}

/// Separated by commas: `5432`, `10000-10999`. The error says what is wrong, without the value.
impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let text = text.trim();
            // `parse` alone would take a sign.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>()
                .ok()
                .filter(|port| *port > 0 && digits)
                .ok_or("holds something that is not a port")
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                Err("holds a range that ends before it begins")
            } else {
                Ok(first..=last)
            }
        };
        let ranges: Result<Vec<_>, &str> = text.split(',').map(range).collect();
        Ok(Self(ranges?))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for (text, written) in [
            ("5432", "5432"),
            ("1-2, 7", "1-2,7"),
            ("1-65535", "1-65535"),
            ("9 - 9", "9"),
        ] {
            let ports: Ports = text.parse().unwrap();
            assert_eq!(ports.to_string(), written);
            assert_eq!(written.parse(), Ok(ports));
        }
        for text in [
            "", "0", "1-", "-1", "2-1", "65536", "+1", "a", "1,,2", "1-2-3",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_they_hold_and_share() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        assert!(
            ports("1-3,9").contains(3) && ports("1-3,9").contains(9) && !ports("1-3,9").contains(4)
        );
        assert!(!Ports::default().contains(0) && Ports::default().is_empty());
        for (a, b, shared) in [
            ("1-5", "5-9", Some(5)),
            ("1-9", "3", Some(3)),
            ("1-2", "3-4", None),
            ("7", "1-9", Some(7)),
        ] {
            assert_eq!(ports(a).shared_with(&ports(b)), shared);
            assert_eq!(ports(b).shared_with(&ports(a)), shared);
        }
    }
}
