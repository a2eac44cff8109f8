//! The one table of Fabio's keys: names, types, defaults, and what becomes of each here.
//!
//! From it come the flags, the names in the environment, the check of values, the warnings at start, the comments of
//! `--print-config` and the tables of the migration guide. What [`Fate::Becomes`] names is written by
//! [`super::translate`].

mod proxy;
mod registry;
mod surroundings;

/// What a value has to look like. The names are Fabio's flags', the grammar is Go's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is shown nowhere but in the translated configuration.
    Secret,
    /// `true`, `false`, `1`, `0`, `t`, `f` and their capitals.
    Bool,
    /// A whole number, also `0x…`.
    Int,
    /// A whole number that is not negative.
    Uint,
    /// A duration like `1.5s`, `1h30m` or `0`.
    Span,
    /// Texts separated by commas.
    List,
    /// Numbers separated by commas.
    Numbers,
}

impl Kind {
    /// What stands for the value in usage texts; empty for a flag that needs none.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Text | Self::Secret => "TEXT",
            Self::Bool => "",
            Self::Int | Self::Uint => "N",
            Self::Span => "DURATION",
            Self::List => "LIST",
            Self::Numbers => "NUMBERS",
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out: by these keys of `lb`, separated by commas.
    Becomes(&'static str),
    /// It has no effect, and will have none; the reason.
    Nothing(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name as a flag and in the properties file.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default as one would write it; [`super::Machine`] knows those that differ between machines.
    pub default: &'static str,
    /// One sentence: what it does in Fabio.
    pub doc: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

/// Every key, in the order of the manual.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [proxy::KEYS, registry::KEYS, surroundings::KEYS].into_iter().flatten()
}

/// The key of that name. Names are case-sensitive, as in Fabio.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// Whether a key of that name, given in the properties file, is one of old versions of Fabio: quietly passed over.
#[must_use]
pub fn is_of_old(name: &str) -> bool {
    name.starts_with("tracing.")
}

const fn becomes(name: &'static str, kind: Kind, default: &'static str, doc: &'static str, ours: &'static str) -> Key {
    Key { name, kind, default, doc, fate: Fate::Becomes(ours) }
}

const fn nothing(name: &'static str, kind: Kind, default: &'static str, doc: &'static str, why: &'static str) -> Key {
    Key { name, kind, default, doc, fate: Fate::Nothing(why) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::keys::SECTIONS;
    use crate::fabio::value;

    #[test]
    fn names_are_unique_and_defaults_fit() {
        let mut names = BTreeSet::new();
        for key in all() {
            assert!(names.insert(key.name.to_ascii_uppercase()), "{} shares its environment name", key.name);
            assert_eq!(value::check(key.kind, key.default), Ok(()), "{}", key.name);
            assert!(key.doc.ends_with('.'), "{}: {}", key.name, key.doc);
        }
        assert!(names.len() > 120, "{}", names.len());
    }

    #[test]
    fn what_keys_become_exists() {
        let ours: BTreeSet<String> =
            SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| section.path(key))).collect();
        for key in all() {
            match key.fate {
                Fate::Becomes(names) => {
                    for name in names.split(", ") {
                        assert!(ours.contains(name), "{} becomes {name}, which is no key", key.name);
                    }
                }
                Fate::Nothing(reason) => {
                    assert!(!reason.is_empty() && !reason.ends_with('.'), "{}: {reason}", key.name);
                }
            }
        }
    }

    /// Section 9 of the specification, name by name.
    #[test]
    fn the_table_is_whole() {
        let names: Vec<&str> = include_str!("keys/names.txt").lines().collect();
        let known: Vec<&str> = all().map(|key| key.name).collect();
        let missing: Vec<_> = names.iter().filter(|name| !known.contains(name)).collect();
        let surplus: Vec<_> = known.iter().filter(|name| !names.contains(name)).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
    }

    /// The tables of the migration guide: made from this one, so that they cannot go stale.
    #[test]
    fn the_migration_guide_has_these_tables() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating-from-fabio.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let rows = |wanted: fn(Fate) -> Option<&'static str>| {
            let row = |key: &Key| wanted(key.fate).map(|about| format!("| `{}` | {about} |\n", key.name));
            all().filter_map(row).collect::<String>()
        };
        let ours = |fate| if let Fate::Becomes(ours) = fate { Some(ours) } else { None };
        let carried_out: String = all()
            .filter_map(|key| Some(format!("| `{}` | `{}` |\n", key.name, ours(key.fate)?.replace(", ", "`, `"))))
            .collect();
        let tables = [
            (
                "keys without effect",
                "reason",
                rows(|fate| if let Fate::Nothing(why) = fate { Some(why) } else { None }),
            ),
            ("keys that are carried out", "lb", carried_out),
        ];
        let mut expected = text.clone();
        for (title, column, rows) in tables {
            let begin = expected.find(&format!("<!-- {title}:")).unwrap_or_else(|| panic!("no place for {title}"));
            let begin = begin + expected[begin..].find("-->\n").unwrap() + "-->\n".len();
            let end = begin + expected[begin..].find("<!-- end -->").unwrap();
            expected.replace_range(begin..end, &format!("\n| key | {column} |\n|---|---|\n{rows}\n"));
        }
        if std::env::var_os("LB_TEST_WRITE").is_some() {
            return std::fs::write(&path, expected).unwrap();
        }
        assert!(text == expected, "the tables are old; write them with LB_TEST_WRITE=1 cargo test --lib fabio::keys");
    }
}
