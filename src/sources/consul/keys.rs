//! Keys of the KV store under a path, and the route commands in their values. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use base64::prelude::BASE64_STANDARD;
use base64::{DecodeError, Engine as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::client::KEYS;
use crate::catalog::command::CommandError;
use crate::catalog::command_list::{CommandList, CommandText};

/// Characters that may stand in the path of a key as they are.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Without the white space around it. What is not UTF-8 is replaced: it makes a line that is
    /// refused, and nothing else.
    pub(super) text: String,
}

/// As Consul writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    key: String,
    /// Base64; null for a key without a value.
    value: Option<String>,
}

/// What reads or writes one key.
#[must_use]
pub(crate) fn of(key: &str) -> String {
    format!("{KEYS}{}", utf8_percent_encode(key, PATH))
}

/// What reads every key that begins with `prefix`.
#[must_use]
pub(crate) fn path(prefix: &str) -> String {
    format!("{}?recurse", of(prefix))
}

/// A key, and the bytes of its value, or why they cannot be read.
pub(crate) type KeyValue = (String, Result<Vec<u8>, DecodeError>);

/// Reads a response: all keys, as they come.
///
/// # Errors
/// What is not a list of keys.
pub(crate) fn values(body: &[u8]) -> Result<Vec<KeyValue>, serde_json::Error> {
    let wire: Vec<Wire> = serde_json::from_slice(body)?;
    let value = |Wire { key, value }| (key, BASE64_STANDARD.decode(value.unwrap_or_default()));
    Ok(wire.into_iter().map(value).collect())
}

/// Reads a response as text: all keys, in the order of their names.
pub(super) fn decode(body: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    let entry = |(key, bytes): KeyValue| {
        let bytes = bytes
            .map_err(|error| serde::de::Error::custom(format!("the value of {key}: {error}")))?;
        Ok(Entry {
            key,
            text: text(bytes),
        })
    };
    let mut entries = values(body)?
        .into_iter()
        .map(entry)
        .collect::<Result<Vec<_>, serde_json::Error>>()?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

/// A value as text without the white space around it. Most are right as they come, and large.
fn text(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let trimmed = text.trim();
    if trimmed.len() == text.len() {
        text
    } else {
        trimmed.to_owned()
    }
}

/// Commands, and the lines that make none.
pub(super) type Listing = (CommandList, Arc<[CommandError]>);

/// The commands of all keys, with a memory: a change of one line of one key parses that line.
#[derive(Debug, Default)]
pub(super) struct Parsed(HashMap<String, CommandText>);

impl Parsed {
    /// The commands in the order of the entries, and the lines that make none, each with its key.
    pub(super) fn take(&mut self, entries: Vec<Entry>) -> Listing {
        let mut before = std::mem::take(&mut self.0);
        let (mut commands, mut errors) = (Vec::new(), Vec::new());
        for Entry { key, text } in entries {
            let mut part = before.remove(&key).unwrap_or_default();
            if part.text() != text {
                part.replace(text);
            }
            let name: Arc<str> = key.as_str().into();
            commands.extend(part.commands().cloned());
            errors.extend(part.errors().map(|error| CommandError {
                part: Some(Arc::clone(&name)),
                ..error
            }));
            self.0.insert(key, part);
        }
        (commands.into_iter().collect(), errors.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::command::Command;

    fn entry(key: &str, text: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_path_is_a_prefix() {
        assert_eq!(path("fabio/config"), "/v1/kv/fabio/config?recurse");
        assert_eq!(path("a b/?#&%"), "/v1/kv/a%20b/%3F%23%26%25?recurse");
    }

    #[test]
    fn values_are_trimmed_and_keys_in_order() {
        let body = r#"[{"Key":"b","Value":"IHggCg==","Flags":0},{"Key":"a/","Value":null},{"Key":"a","Value":"/w=="}]"#;
        assert_eq!(
            decode(body.as_bytes()).unwrap(),
            [entry("a", "\u{fffd}"), entry("a/", ""), entry("b", "x")]
        );
        for wrong in [
            "",
            "{}",
            r#"[{"Key":"a"}]x"#,
            r#"[{"Key":"a","Value":"?"}]"#,
            r#"[{"Value":"/w=="}]"#,
        ] {
            assert!(decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(decode(b"[]").unwrap(), []);
    }

    #[test]
    fn commands_come_in_the_order_of_keys_and_a_bad_line_costs_itself_only() {
        let mut parsed = Parsed::default();
        let add = |service: &str| format!("route add {service} / http://10.0.0.1:80/");
        let names = |commands: &CommandList| {
            let name = |command: &Arc<Command>| match &**command {
                Command::Add(add) => add.service.to_string(),
                other => other.to_string(),
            };
            commands.iter().map(name).collect::<Vec<_>>()
        };
        let two = vec![
            entry("c", &add("one")),
            entry("c-2", &format!("# text\n\nnonsense\n{}", add("two"))),
        ];
        let (commands, errors) = parsed.take(two.clone());
        assert_eq!(names(&commands), ["one", "two"]);
        let places: Vec<_> = errors.iter().map(CommandError::place).collect();
        assert_eq!(places, ["c-2, line 3"]);
        // Another text of one key; the other key stays, and one is new.
        let (commands, errors) = parsed.take(vec![
            entry("b", "route del one"),
            entry("c", &add("three")),
            two[1].clone(),
        ]);
        assert_eq!(names(&commands), ["route del one", "three", "two"]);
        assert_eq!(errors.len(), 1);
        assert_eq!(parsed.take(Vec::new()).0.len(), 0);
        assert!(parsed.0.is_empty());
    }
}
