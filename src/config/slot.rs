//! Dotted paths of keys: `consul.wait`, `listener.0.address`; and what is said about unknown ones.

use super::error::{ConfigError, Location, nearest};
use super::keys::{self, Key, MOVED, SECTIONS, Section, Shape};

/// What a dotted path means.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// A key of a section that stands once.
    Scalar(&'static Section, &'static Key),
    /// The short form of a whole repeated section.
    Short(&'static Section),
    /// A key of the n-th repetition.
    Item(&'static Section, usize, &'static Key),
    /// A key of a repetition by name.
    Named(&'static Section, String, &'static Key),
}

/// Most repetitions of a section: far above need, and a bound on what an index can allocate.
pub(crate) const ITEMS_MAX: usize = 100_000;

/// Finds out what a dotted path means: `consul.wait`, `listener`, `listener.0.address`,
/// `certificates.main.path`.
pub(crate) fn resolve(path: &str) -> Option<Slot> {
    for section in SECTIONS {
        match section.shape {
            Shape::Top => {
                if let Some(key) = section.key(path) {
                    return Some(Slot::Scalar(section, key));
                }
            }
            Shape::Once => {
                let key = path
                    .strip_prefix(section.name)
                    .and_then(|rest| rest.strip_prefix('.'));
                if let Some(key) = key.and_then(|name| section.key(name)) {
                    return Some(Slot::Scalar(section, key));
                }
            }
            Shape::List | Shape::Named => {
                let Some(rest) = path.strip_prefix(section.name) else {
                    continue;
                };
                if rest.is_empty() {
                    return Some(Slot::Short(section));
                }
                let Some((which, key)) = rest
                    .strip_prefix('.')
                    .and_then(|rest| rest.rsplit_once('.'))
                else {
                    continue;
                };
                let Some(key) = section.key(key) else {
                    continue;
                };
                if section.shape == Shape::Named && is_name(which) {
                    return Some(Slot::Named(section, which.to_owned(), key));
                }
                if let (Shape::List, Ok(at)) = (section.shape, which.parse()) {
                    return Some(Slot::Item(section, at, key));
                }
            }
        }
    }
    None
}

/// Whether a text can name a repetition.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The mistake of an unknown key, with the nearest known one. `section` is where it was written.
pub(crate) fn unknown(
    section: Option<&Section>,
    name: &str,
    path: String,
    place: Location,
) -> ConfigError {
    let here = section.and_then(|section| {
        let taken = section.keys.iter().chain(section.moved());
        let key = nearest(name, taken.map(|key| key.name))?;
        present_path(section, key)
    });
    let elsewhere = || {
        SECTIONS
            .iter()
            .find_map(|section| present_path(section, name))
            .or_else(|| {
                let all: Vec<String> = SECTIONS
                    .iter()
                    .flat_map(|s| s.keys.iter().map(|key| s.path(key)))
                    .collect();
                nearest(&path, all.iter().map(String::as_str)).map(str::to_owned)
            })
    };
    let advice = match here.or_else(elsewhere) {
        Some(known) => format!("did you mean {known}?"),
        None => "config/lb.toml lists every key".to_owned(),
    };
    ConfigError {
        key: path,
        value: None,
        place,
        problem: "is not a known key".to_owned(),
        advice,
    }
}

/// The full name of a key that this section takes, in the section that it is in now.
fn present_path(section: &Section, name: &str) -> Option<String> {
    let is_here = |section: &&Section| section.keys.iter().any(|key| key.name == name);
    let moved = MOVED.iter().filter(|moved| moved.from == section.name);
    let section = std::iter::once(section)
        .chain(moved.filter_map(|moved| keys::section(moved.to)))
        .find(is_here)?;
    section.key(name).map(|key| section.path(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_slot() {
        assert!(
            matches!(resolve("consul.wait"), Some(Slot::Scalar(s, k)) if s.name == "consul" && k.name == "wait")
        );
        assert!(matches!(resolve("routes_file"), Some(Slot::Scalar(..))));
        assert!(matches!(resolve("listener"), Some(Slot::Short(_))));
        assert!(
            matches!(resolve("static.route.2.source"), Some(Slot::Item(s, 2, _)) if s.name == "static.route")
        );
        assert!(
            matches!(resolve("certificates.a-b.path"), Some(Slot::Named(_, name, _)) if name == "a-b")
        );
        for path in [
            "",
            "consul",
            "consul.",
            "consul.x",
            "listener.x.address",
            "certificates..path",
            "certificates.path",
        ] {
            assert!(resolve(path).is_none(), "{path}");
        }
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let consul = super::super::keys::section("consul");
        let advice = |section, name: &str, path: &str| {
            unknown(section, name, path.to_owned(), Location::Absent).advice
        };
        assert_eq!(
            advice(consul, "adress", "consul.adress"),
            "did you mean consul.address?"
        );
        assert_eq!(
            advice(consul, "workers", "consul.workers"),
            "did you mean proxy.workers?"
        );
        assert_eq!(
            advice(consul, "tag_prefx", "consul.tag_prefx"),
            "did you mean routing.tag_prefix?"
        );
        assert_eq!(
            advice(None, "qqqq", "qqqq"),
            "config/lb.toml lists every key"
        );
    }
}
