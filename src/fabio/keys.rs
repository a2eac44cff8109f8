//! The one table of Fabio's keys: names, types, defaults, and what becomes of each here.
//!
//! From it come the flags, the names in the environment, the check of values, the warnings at
//! start, the comments of `--print-config` and the tables of the migration guide. What
//! [`Mapping::Becomes`] names is written by `translate`.

mod key;
mod proxy;
mod registry;
mod runtime;

pub use key::{Key, Kind, Mapping};

/// Every key, in the order of the manual.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [proxy::KEYS, registry::KEYS, runtime::KEYS]
        .into_iter()
        .flatten()
}

/// The key of that name. Names are case-sensitive, as in Fabio.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// Whether a key of that name, given in the properties file, is one of old versions of Fabio:
/// quietly passed over.
#[must_use]
pub fn is_of_old(name: &str) -> bool {
    name.starts_with("tracing.")
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
            assert!(
                names.insert(key.name.to_ascii_uppercase()),
                "{} shares its environment name",
                key.name
            );
            assert_eq!(value::check(key.kind, key.default), Ok(()), "{}", key.name);
            assert!(key.doc.ends_with('.'), "{}: {}", key.name, key.doc);
        }
        assert!(names.len() > 120, "{}", names.len());
    }

    #[test]
    fn what_keys_become_exists() {
        let ours: BTreeSet<String> = SECTIONS
            .iter()
            .flat_map(|section| section.keys.iter().map(|key| section.path(key)))
            .collect();
        for key in all() {
            match key.mapping {
                Mapping::Becomes(names) => {
                    for name in names.split(", ") {
                        assert!(
                            ours.contains(name),
                            "{} becomes {name}, which is not a key",
                            key.name
                        );
                    }
                }
                Mapping::Nothing(reason) => {
                    assert!(
                        !reason.is_empty() && !reason.ends_with('.'),
                        "{}: {reason}",
                        key.name
                    );
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
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "missing {missing:?}, surplus {surplus:?}"
        );
    }

    /// The tables of the migration guide: made from this one, so that they cannot go stale.
    #[test]
    fn the_migration_guide_has_these_tables() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating-from-fabio.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let rows = |wanted: fn(Mapping) -> Option<&'static str>| {
            let row = |key: &Key| {
                wanted(key.mapping).map(|about| format!("| `{}` | {about} |\n", key.name))
            };
            all().filter_map(row).collect::<String>()
        };
        let ours = |mapping| {
            if let Mapping::Becomes(ours) = mapping {
                Some(ours)
            } else {
                None
            }
        };
        let carried_out: String = all()
            .filter_map(|key| {
                Some(format!(
                    "| `{}` | `{}` |\n",
                    key.name,
                    ours(key.mapping)?.replace(", ", "`, `")
                ))
            })
            .collect();
        let tables = [
            (
                "keys without effect",
                "reason",
                rows(|mapping| {
                    if let Mapping::Nothing(why) = mapping {
                        Some(why)
                    } else {
                        None
                    }
                }),
            ),
            ("keys that are carried out", "lb", carried_out),
        ];
        let mut expected = text.clone();
        for (title, column, rows) in tables {
            let begin = expected
                .find(&format!("<!-- {title}:"))
                .unwrap_or_else(|| panic!("no place for {title}"));
            let begin = begin + expected[begin..].find("-->\n").unwrap() + "-->\n".len();
            let end = begin + expected[begin..].find("<!-- end -->").unwrap();
            expected.replace_range(
                begin..end,
                &format!("\n| key | {column} |\n|---|---|\n{rows}\n"),
            );
        }
        if std::env::var_os("LB_TEST_WRITE").is_some() {
            return std::fs::write(&path, expected).unwrap();
        }
        assert!(
            text == expected,
            "the tables are old; write them with LB_TEST_WRITE=1 cargo test --lib fabio::keys"
        );
    }
}
