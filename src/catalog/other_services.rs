//! `fallback=` and `mirror=`: services that a route uses beside those whose tags make it. A name in
//! the catalog is enough; what is named needs no tag.

use std::fmt;

use super::ServiceName;
use super::matchers::decode;

/// Parts of a whole in which a fraction is counted.
pub const WHOLE: u64 = 1_000_000;
/// Longest name of a service: that of a DNS name, which Consul warns about above.
const NAME_MAX: usize = 255;

/// A service that gets copies of requests (`mirror=SERVICE`, `mirror=SERVICE:0.1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Which one.
    pub service: ServiceName,
    /// Of how many requests in [`WHOLE`].
    pub parts: u64,
}

impl Mirror {
    /// Reads the value of `mirror=`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(value: &str) -> Result<Self, &'static str> {
        let (name, fraction) = value
            .split_once(':')
            .map_or((value, None), |(name, fraction)| (name, Some(fraction)));
        let parts = match fraction {
            None => WHOLE,
            Some(text) => {
                let fraction = text.parse::<f64>().ok();
                let fraction = fraction.filter(|fraction| *fraction > 0.0 && *fraction <= 1.0);
                let fraction = fraction
                    .ok_or("the fraction behind `:` is above 0 and up to 1: mirror=SERVICE:0.1")?;
                ((fraction * WHOLE as f64).round() as u64).max(1)
            }
        };
        Ok(Self {
            service: service_name(name)?,
            parts,
        })
    }

    /// Whether the request that is number `turn`, from 0, is copied: of each so many, exactly the
    /// share that is wanted, spread out.
    #[must_use]
    pub fn takes(&self, turn: u64) -> bool {
        let turn = turn % WHOLE;
        (turn + 1) * self.parts / WHOLE > turn * self.parts / WHOLE
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        match self.parts {
            WHOLE => Ok(()),
            parts => write!(f, ":{}", parts as f64 / WHOLE as f64),
        }
    }
}

/// Reads the name of a service.
///
/// # Errors
/// What is wrong with it.
pub(super) fn service_name(value: &str) -> Result<ServiceName, &'static str> {
    let name = decode(value)?;
    if name.is_empty() {
        return Err("write the name of a service, as the catalog has it");
    }
    if name.len() > NAME_MAX {
        return Err("the name of the service is longer than 255 bytes");
    }
    if name.chars().any(char::is_control) {
        return Err("the name of a service has no control characters");
    }
    Ok(name.into())
}

/// Services that the route tags among `tags` name as fallback or mirror. Cheap: a list of all
/// services is looked through with it each time it changes.
pub fn named_in<'t>(
    tags: impl Iterator<Item = &'t str>,
    tag_prefix: &str,
) -> impl Iterator<Item = ServiceName> {
    tags.filter(move |tag| tag.trim_start().starts_with(tag_prefix))
        .flat_map(str::split_whitespace)
        .filter_map(|word| match word.split_once('=')? {
            ("fallback", name) => service_name(name).ok(),
            ("mirror", value) => Mirror::read(value).ok().map(|mirror| mirror.service),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_and_written() {
        for (value, service, parts, written) in [
            ("shadow", "shadow", WHOLE, "shadow"),
            ("shadow:1", "shadow", WHOLE, "shadow"),
            ("shadow:0.1", "shadow", 100_000, "shadow:0.1"),
            ("a%3Ab:0.5", "a:b", 500_000, "a:b:0.5"),
            ("s:0.0000001", "s", 1, "s:0.000001"),
        ] {
            let mirror = Mirror::read(value).unwrap();
            assert_eq!(
                (&*mirror.service, mirror.parts, &*mirror.to_string()),
                (service, parts, written),
                "{value}"
            );
        }
        for value in [
            "", ":0.1", "s:", "s:0", "s:-1", "s:1.1", "s:NaN", "s:inf", "s:x", "s:0.1:2", "%zz",
            "a%0a",
        ] {
            assert!(Mirror::read(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_fraction_is_exact_and_spread_out() {
        for fraction in [1.0, 0.5, 0.1, 0.25, 0.3, 0.001] {
            let mirror = Mirror::read(&format!("s:{fraction}")).unwrap();
            let mut copied = 0_u64;
            for turn in 0..2000 {
                copied += u64::from(mirror.takes(turn));
                let wanted = (turn + 1) as f64 * fraction;
                assert!((copied as f64 - wanted).abs() < 1.0, "{fraction} at {turn}");
            }
        }
        let mirror = Mirror::read("s:0.3").unwrap();
        let over: u64 = (0..2 * WHOLE)
            .map(|turn| u64::from(mirror.takes(turn)))
            .sum();
        assert_eq!(over, 600_000, "however often the count starts over");
    }

    #[test]
    fn names_are_found_in_route_tags_alone() {
        let tags = [
            "urlprefix-a.example.com/ fallback=maint strip=/x",
            " urlprefix-/b mirror=shadow:0.1 fallback=maint",
            "fallback=no",
            "other-a/ mirror=no",
            "urlprefix-/c fallback= mirror=x:7 xfallback=no",
        ];
        let names: Vec<ServiceName> = named_in(tags.into_iter(), "urlprefix-").collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["maint", "shadow", "maint"]);
    }
}
