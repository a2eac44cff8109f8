//! `cluster.toml` as written: keys with values and lines, unknown keys refused. What they mean is
//! `build`'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::config::error::{ConfigError, Location as SourceLocation, nearer_than, nearest};
use crate::config::syntax;

/// Every key there is, with its section. `config/cluster.toml` shows each of them.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "datacenter",
    "region",
    "domain",
    "target",
    "acl",
    "ca",
    "state",
    "consul_servers",
    "nomad_servers",
    "nomad_clients",
    "inventory",
    "local.network",
    "ssh.user",
    "ssh.port",
    "ssh.identity_file",
    "ssh.jump",
    "ssh.options",
    "ssh.sudo",
    "ssh.parallel",
    "ssh.runner",
    "consul.version",
    "consul.binary",
    "nomad.version",
    "nomad.binary",
    "nomad.network_interface",
    "clients.raw_exec",
    "certificates.days",
    "releases.url",
    "releases.signing_key",
    "releases.fingerprint",
    "releases.key_url",
];

/// A value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Spanned>),
    Table(BTreeMap<String, Spanned>),
    /// Something that no key takes: a float, a date, a number out of range.
    Other(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::List(items) => write!(f, "[ {} values ]", items.len()),
            Self::Table(_) => f.write_str("{ … }"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spanned {
    pub(crate) value: Value,
    pub(crate) place: SourceLocation,
}

/// All that was written, by dotted key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    values: BTreeMap<&'static str, Spanned>,
}

impl Raw {
    /// What stands at the key.
    pub(crate) fn get(&self, key: &str) -> Option<&Spanned> {
        self.values.get(key)
    }

    /// Puts a value in the place of what was there: a flag wins over the file.
    pub(crate) fn put(&mut self, key: &'static str, value: Value, place: SourceLocation) {
        self.values.insert(key, Spanned { value, place });
    }

    /// Takes the key away.
    pub(crate) fn remove(&mut self, key: &str) {
        self.values.remove(key);
    }
}

/// Reads the text of a file; mistakes are added to the list.
pub(crate) fn read(path: &Path, text: &str, mistakes: &mut Vec<ConfigError>) -> Raw {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut file = File {
        path: path.into(),
        text,
        raw: Raw::default(),
        mistakes,
    };
    syntax::note(&errors, &file.path, text, file.mistakes);
    if errors.is_empty() {
        // After a syntax error the rest would be guesswork.
        file.top(table.get_ref());
    }
    file.raw
}

struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
    raw: Raw,
    mistakes: &'a mut Vec<ConfigError>,
}

impl File<'_> {
    fn place(&self, offset: usize) -> SourceLocation {
        syntax::location(&self.path, self.text, offset)
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let (word, at) = (name.get_ref().as_ref(), name.span().start);
            match value.get_ref() {
                DeValue::Table(keys) if is_section(word) => self.section(word, keys),
                _ if is_section(word) => {
                    self.wrong(
                        word,
                        at,
                        "is a section, not a value",
                        format!("write [{word}] on a line of its own"),
                    );
                }
                DeValue::Table(_) if !KEYS.contains(&word) => {
                    let advice = match nearest(word, sections()) {
                        Some(near) => format!("did you mean [{near}]?"),
                        None => "config/cluster.toml lists every section".to_owned(),
                    };
                    self.wrong(word, at, "is not a known section", advice);
                }
                _ => self.key(word, at, value),
            }
        }
    }

    fn section(&mut self, section: &str, keys: &DeTable<'_>) {
        for (name, value) in keys {
            self.key(
                &format!("{section}.{}", name.get_ref()),
                name.span().start,
                value,
            );
        }
    }

    fn key(&mut self, path: &str, at: usize, value: &toml::Spanned<DeValue<'_>>) {
        match KEYS.iter().find(|known| **known == path) {
            Some(known) => {
                let value = self.value(value);
                self.raw.put(known, value, self.place(at));
            }
            None => self.wrong(path, at, "is not a known key", suggestion(path)),
        }
    }

    fn value(&self, value: &toml::Spanned<DeValue<'_>>) -> Value {
        let spanned = |value: &toml::Spanned<DeValue<'_>>| Spanned {
            value: self.value(value),
            place: self.place(value.span().start),
        };
        match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::Integer(number),
                    Err(_) => Value::Other(number.to_string()),
                }
            }
            DeValue::Array(items) => Value::List(items.iter().map(spanned).collect()),
            DeValue::Table(keys) => Value::Table(
                keys.iter()
                    .map(|(name, value)| (name.get_ref().to_string(), spanned(value)))
                    .collect(),
            ),
            DeValue::Float(number) => Value::Other(number.as_str().to_owned()),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
        }
    }

    fn wrong(&mut self, key: &str, at: usize, problem: &str, advice: String) {
        let place = self.place(at);
        self.mistakes.push(ConfigError {
            key: key.to_owned(),
            value: None,
            place,
            problem: problem.to_owned(),
            advice,
        });
    }
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, _)| section)
}

fn is_section(word: &str) -> bool {
    sections().any(|section| section == word)
}

/// What may have been meant by an unknown key.
fn suggestion(path: &str) -> String {
    let (section, word) = path.rsplit_once('.').unwrap_or(("", path));
    if !section.is_empty() && KEYS.contains(&word) {
        return format!("{word} belongs at the top of the file, above the first [section]");
    }
    let here = KEYS
        .iter()
        .filter(|key| key.rsplit_once('.').map_or("", |(section, _)| section) == section);
    let near = nearest(word, here.map(|key| key.rsplit('.').next().unwrap_or(key)));
    if let Some(near) = near {
        return if section.is_empty() {
            format!("did you mean {near}?")
        } else {
            format!("did you mean {section}.{near}?")
        };
    }
    let elsewhere = KEYS
        .iter()
        .filter_map(|key| key.split_once('.'))
        .find(|(_, key)| *key == word);
    match (elsewhere, nearer_than(0.75, path, KEYS.iter().copied())) {
        (Some((section, key)), _) => format!("{key} belongs below [{section}]"),
        (None, Some(near)) => format!("did you mean {near}?"),
        (None, None) => "config/cluster.toml lists every key".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        read(Path::new("c.toml"), text, &mut mistakes);
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_keep_their_lines() {
        let mut mistakes = Vec::new();
        let text = "acl = true\n\nnomad_clients = [\n  \"10.0.0.1\",\n  { name = \"a\" },\n]\n[ssh]\nport = 0x16\n";
        let raw = read(Path::new("c.toml"), text, &mut mistakes);
        assert_eq!(mistakes, []);
        let line = |spanned: &Spanned| spanned.place.to_string();
        assert_eq!(raw.get("acl").unwrap().value, Value::Bool(true));
        assert_eq!(raw.get("ssh.port").unwrap().value, Value::Integer(22));
        assert_eq!(line(raw.get("ssh.port").unwrap()), "c.toml:8");
        let Value::List(items) = &raw.get("nomad_clients").unwrap().value else {
            panic!()
        };
        assert_eq!(
            items.iter().map(line).collect::<Vec<_>>(),
            ["c.toml:4", "c.toml:5"]
        );
        let Value::Table(keys) = &items[1].value else {
            panic!()
        };
        assert_eq!(keys["name"].value, Value::Text("a".to_owned()));
    }

    #[test]
    fn unknown_keys_are_told_with_what_was_meant() {
        for (text, expected) in [
            (
                "nmae = 1",
                "c.toml:1: nmae is not a known key; did you mean name?",
            ),
            (
                "\nconsul_server = 3",
                "c.toml:2: consul_server is not a known key; did you mean consul_servers?",
            ),
            (
                "[ssh]\nusr = 1",
                "c.toml:2: ssh.usr is not a known key; did you mean ssh.user?",
            ),
            (
                "[ssh]\nacl = true",
                "c.toml:2: ssh.acl is not a known key; acl belongs at the top of the file, above the first [section]",
            ),
            (
                "jump = \"a\"",
                "c.toml:1: jump is not a known key; jump belongs below [ssh]",
            ),
            (
                "zzzz = 1",
                "c.toml:1: zzzz is not a known key; config/cluster.toml lists every key",
            ),
            (
                "[certificate]\ndays = 1",
                "c.toml:1: certificate is not a known section; did you mean [certificates]?",
            ),
            (
                "consul = \"1.8.7\"",
                "c.toml:1: consul is a section, not a value; write [consul] on a line of its own",
            ),
        ] {
            assert_eq!(said(text), [expected], "{text}");
        }
    }

    #[test]
    fn syntax_errors_have_their_line_and_nothing_else_is_guessed() {
        let found = said("nmae = 1\nacl = \n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("c.toml:2: "), "{found:?}");
    }

    #[test]
    fn strange_text_does_no_harm() {
        for text in [
            "",
            "\u{feff}",
            "= = =",
            "[[ssh]]",
            "a.b.c = 1",
            "[ssh",
            "consul_servers = [[[[]]]]",
            "\0",
        ] {
            said(text);
        }
    }
}
