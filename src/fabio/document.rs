//! A configuration of `lb` as TOML text: only what differs from its defaults, each line with the
//! reason beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::keys::{Key, Kind, SECTIONS, Section, Shape, section};
use crate::config::{format_duration, parse_duration};

/// A value of a key of `lb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text, also a path, a word or an address.
    Text(String),
    Bool(bool),
    Count(u64),
    Time(Duration),
    /// A list of texts.
    List(Vec<String>),
}

impl Value {
    fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        match self {
            Self::Text(text) => quoted(text),
            Self::Bool(on) => on.to_string(),
            Self::Count(number) => number.to_string(),
            Self::Time(time) => quoted(&format_duration(*time)),
            Self::List(items) => {
                format!(
                    "[{}]",
                    items
                        .iter()
                        .map(|item| quoted(item))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
        }
    }

    fn is_default(&self, key: &Key) -> bool {
        let Some(default) = key.default else {
            return false;
        };
        match self {
            Self::Text(text) => text == default,
            Self::Bool(on) => default == on.to_string(),
            Self::Count(number) => default == number.to_string(),
            Self::Time(time) => parse_duration(default) == Ok(*time),
            Self::List(items) => default == items.join(","),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// The text in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    head: Vec<String>,
    /// By section, then by repetition (0 where there is none); each with its header.
    blocks: BTreeMap<(usize, usize), Block>,
}

#[derive(Clone, Debug)]
struct Block {
    header: String,
    /// By the key's place in its section.
    lines: BTreeMap<usize, String>,
}

/// A repetition of a `[[section]]`, or a `[section.NAME]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize, usize);

impl Document {
    /// Adds a comment to those at the top.
    pub(crate) fn note(&mut self, text: &str) {
        self.head.push(text.to_owned());
    }

    /// Sets `section.key`, unless that is its default. `from` says where it comes from.
    ///
    /// # Panics
    /// For a key that does not exist: names are written in this crate, and tests go through all of
    /// them.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Value>, from: &str) {
        let (name, key) = path.rsplit_once('.').unwrap_or(("", path));
        let (at, section) = find(name);
        let header = if section.shape == Shape::Top {
            String::new()
        } else {
            format!("[{name}]")
        };
        self.put(Place(at, 0), section, header, key, &value.into(), from);
    }

    /// Begins the next `[[section]]`.
    pub(crate) fn next(&mut self, name: &str) -> Place {
        let (at, _) = find(name);
        self.begin(at, format!("[[{name}]]"))
    }

    /// Begins `[section.title]`.
    pub(crate) fn named(&mut self, name: &str, title: &str) -> Place {
        let (at, _) = find(name);
        self.begin(at, format!("[{name}.{title}]"))
    }

    fn begin(&mut self, at: usize, header: String) -> Place {
        let place = Place(at, self.blocks.range((at, 0)..(at + 1, 0)).count());
        self.blocks.insert(
            (place.0, place.1),
            Block {
                header,
                lines: BTreeMap::new(),
            },
        );
        place
    }

    /// Sets a key of a repetition, unless that is its default. The key that a repetition begins
    /// with is always written.
    ///
    /// # Panics
    /// As [`Document::set`].
    pub(crate) fn set_in(&mut self, place: Place, key: &str, value: impl Into<Value>, from: &str) {
        self.put(
            place,
            &SECTIONS[place.0],
            String::new(),
            key,
            &value.into(),
            from,
        );
    }

    fn put(
        &mut self,
        place: Place,
        section: &'static Section,
        header: String,
        key: &str,
        value: &Value,
        from: &str,
    ) {
        let found = section
            .keys
            .iter()
            .enumerate()
            .find(|(_, known)| known.name == key);
        let (at, key) = found.expect("names of keys in this crate are in the table");
        let block = self.blocks.entry((place.0, place.1)).or_insert(Block {
            header,
            lines: BTreeMap::new(),
        });
        let begins = section.shape == Shape::List && block.lines.is_empty();
        if begins || !value.is_default(key) {
            let comment = if from.is_empty() {
                String::new()
            } else {
                format!(" # {from}")
            };
            block
                .lines
                .insert(at, format!("{} = {}{comment}", key.name, value.to_toml()));
        }
    }

    /// The whole text.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        for note in &self.head {
            let lines = note
                .lines()
                .map(|line| format!("# {line}").trim_end().to_owned() + "\n");
            out.extend(lines);
            out.extend(note.is_empty().then_some("#\n"));
        }
        for block in self.blocks.values().filter(|block| !block.lines.is_empty()) {
            out.push('\n');
            if !block.header.is_empty() {
                out.push_str(&format!("{}\n", block.header));
            }
            out.extend(block.lines.values().map(|line| format!("{line}\n")));
        }
        out
    }
}

/// The bounds of a key that holds a duration.
#[must_use]
pub(crate) fn bounds(path: &str) -> Option<(Duration, Duration)> {
    let (name, key) = path.rsplit_once('.').unwrap_or(("", path));
    match section(name)?.key(key)?.kind {
        Kind::Time(min, max) => Some((Duration::from_millis(min), Duration::from_millis(max))),
        _ => None,
    }
}

fn find(name: &str) -> (usize, &'static Section) {
    let found = SECTIONS
        .iter()
        .enumerate()
        .find(|(_, section)| section.name == name);
    found.expect("names of sections in this crate are in the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let mut document = Document::default();
        document.note("two\nlines");
        document.set("proxy.matcher", "prefix", "the same");
        document.set("proxy.strategy", "rnd", "proxy.strategy");
        document.set(
            "proxy.connect_timeout",
            Value::Time(Duration::from_secs(90)),
            "",
        );
        document.set(
            "drain.timeout",
            Value::Time(Duration::from_secs(30)),
            "the same",
        );
        document.set(
            "routing.accept_status",
            Value::List(vec!["passing".into(), "warning".into()]),
            "x",
        );
        document.set("routes_file", "/a \"b\"\n", "");
        for port in ["0.0.0.0:9999", "0.0.0.0:9998"] {
            let place = document.next("listener");
            document.set_in(place, "address", port, "");
            document.set_in(place, "protocol", "http", "");
            document.set_in(place, "strict_sni", Value::Bool(true), "s");
        }
        let expected = "# two\n# lines\n\nroutes_file = \"\"\"\n/a \"b\"\n\"\"\"\n\n[[listener]]\naddress = \"0.0.0.0:9999\"\n\
                        strict_sni = true # s\n\n[[listener]]\naddress = \"0.0.0.0:9998\"\nstrict_sni = true # s\n\n\
                        [routing]\naccept_status = [\"passing\", \"warning\"] # x\n\n[proxy]\nstrategy = \"rnd\" # proxy.strategy\nconnect_timeout = \"1m30s\"\n";
        assert_eq!(document.render(), expected);
        let _: toml::Table = toml::from_str(&document.render()).unwrap();
    }

    #[test]
    fn bounds_are_those_of_the_table() {
        assert_eq!(
            bounds("proxy.connect_timeout").unwrap().1,
            Duration::from_secs(3600)
        );
        assert_eq!(bounds("proxy.strategy"), None);
    }
}
