//! Settings as written: which key, which value, where. Nothing is judged here but whether the key
//! exists.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Key, MOVED, SECTIONS, Section, Shape};
use super::mistake::{Mistake, Place, nearest};

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Text without a type, from a flag or the environment.
    Bare(String),
    /// A text in a file.
    Text(String),
    /// A whole number in a file.
    Integer(String),
    /// A truth value in a file.
    Bool(bool),
    /// A list in a file.
    List(Vec<Written>),
    /// What no key takes (a float, a date, a table), as text.
    Other(String),
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bare(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(text) | Self::Other(text) => f.write_str(text),
            Self::Bool(value) => write!(f, "{value}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The value.
    pub(crate) value: Written,
    /// Where it stands.
    pub(crate) place: Place,
    /// Later layers win: 0 file, 1 `CONSUL_*` and `VAULT_*`, 2 `LB_*`, 3 flag.
    pub(crate) layer: u8,
}

/// The settings of one section, or of one of its repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where it begins.
    pub(crate) place: Place,
    /// Settings by key name.
    pub(crate) entries: BTreeMap<&'static str, Entry>,
    /// Full old names of those that were written under one.
    pub(crate) old_names: BTreeMap<&'static str, String>,
}

impl Group {
    /// Without settings.
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            entries: BTreeMap::new(),
            old_names: BTreeMap::new(),
        }
    }

    /// Adds a setting unless a later layer has spoken already.
    pub(crate) fn put(&mut self, key: &'static Key, entry: Entry) {
        match self.entries.get(key.name) {
            Some(old) if old.layer > entry.layer => {}
            _ => {
                self.entries.insert(key.name, entry);
            }
        }
    }
}

/// Everything that was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Sections that stand once, by name.
    pub(crate) once: BTreeMap<&'static str, Group>,
    /// `[[listener]]` and `[[static.route]]`.
    pub(crate) lists: BTreeMap<&'static str, Vec<Group>>,
    /// `[certificates.NAME]` and `[auth.NAME]`.
    pub(crate) named: BTreeMap<&'static str, BTreeMap<String, Group>>,
    /// Sections that stand in the file, with or without keys.
    pub(crate) present: BTreeSet<&'static str>,
}

impl Settings {
    /// Whether this is written: `routes_file`, `consul.wait`, or any repetition of `static.route`.
    pub(crate) fn has(&self, path: &str) -> bool {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let group = self.once.get(section);
        self.lists.contains_key(path) || group.is_some_and(|it| it.entries.contains_key(key))
    }
}

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
    place: Place,
) -> Mistake {
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
    Mistake {
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
            unknown(section, name, path.to_owned(), Place::Absent).advice
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
