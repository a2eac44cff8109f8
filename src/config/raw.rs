//! Settings as written: which key, which value, where. Nothing is judged here but whether the key
//! exists.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Location;
use super::key::Key;

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawValue {
    /// Text without a type, from a flag or the environment.
    Bare(String),
    /// A text in a file.
    Text(String),
    /// A whole number in a file.
    Integer(String),
    /// A truth value in a file.
    Bool(bool),
    /// A list in a file.
    List(Vec<Placed>),
    /// A table in a file that is not a section.
    Table(BTreeMap<String, Placed>),
    /// What no key takes (a float, a date), as text.
    Other(String),
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The value.
    pub value: RawValue,
    /// Where it stands.
    pub place: Location,
}

/// Most items of a list that messages show.
const SHOWN_MAX: usize = 12;

impl std::fmt::Display for RawValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bare(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(text) | Self::Other(text) => f.write_str(text),
            Self::Bool(value) => write!(f, "{value}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().take(SHOWN_MAX).enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{}", item.value)?;
                }
                f.write_str(if items.len() > SHOWN_MAX {
                    ", …]"
                } else {
                    "]"
                })
            }
            Self::Table(_) => f.write_str("{ … }"),
        }
    }
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: RawValue,
    pub(crate) place: Location,
    /// Later layers win: 0 file, 1 `CONSUL_*`, `VAULT_*` and `NOMAD_*`, 2 `LB_*`, 3 flag.
    pub(crate) layer: u8,
}

impl Entry {
    /// What a file says.
    pub(crate) fn in_file(Placed { value, place }: Placed) -> Self {
        let layer = 0;
        Self {
            value,
            place,
            layer,
        }
    }

    /// The value and where it stands.
    pub(crate) fn placed(&self) -> Placed {
        Placed {
            value: self.value.clone(),
            place: self.place.clone(),
        }
    }
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
    /// What is written at a key of a section that stands once.
    pub(crate) fn entry(&self, path: &str) -> Option<&Entry> {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        self.once.get(section)?.entries.get(key)
    }

    /// Writes a value in the place of what was there.
    pub(crate) fn replace(&mut self, path: &'static str, value: RawValue, place: Location) {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let group = self.once.entry(section);
        let group = group.or_insert_with(|| Group::new(Location::Absent));
        let entry = Entry::in_file(Placed { value, place });
        group.entries.insert(key, entry);
    }

    /// Takes for not written what stands at a key of a section that stands once.
    pub(crate) fn remove(&mut self, path: &str) {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        if let Some(group) = self.once.get_mut(section) {
            group.entries.remove(key);
        }
    }

    /// Whether this is written: `routes_file`, `consul.wait`, or any repetition of `static.route`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.lists.contains_key(path) || self.entry(path).is_some()
    }
}
