//! Settings as written: which key, which value, where. Nothing is judged here but whether the key
//! exists.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Location;
use super::key::Key;

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawValue {
    /// Text without a type, from a flag or the environment.
    Bare(String),
    /// A text in a file.
    Text(String),
    /// A whole number in a file.
    Integer(String),
    /// A truth value in a file.
    Bool(bool),
    /// A list in a file.
    List(Vec<RawValue>),
    /// What no key takes (a float, a date, a table), as text.
    Other(String),
}

impl std::fmt::Display for RawValue {
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
    pub(crate) value: RawValue,
    pub(crate) place: Location,
    /// Later layers win: 0 file, 1 `CONSUL_*` and `VAULT_*`, 2 `LB_*`, 3 flag.
    pub(crate) layer: u8,
}

/// The settings of one section, or of one of its repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where it begins.
    pub(crate) place: Location,
    /// Settings by key name.
    pub(crate) entries: BTreeMap<&'static str, Entry>,
    /// Full old names of those that were written under one.
    pub(crate) old_names: BTreeMap<&'static str, String>,
}

impl Group {
    /// Without settings.
    pub(crate) fn new(place: Location) -> Self {
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
