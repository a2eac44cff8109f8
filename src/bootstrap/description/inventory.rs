//! Nodes as `terraform output -json` prints them, read as if they were the lists of `cluster.toml`.
//!
//! Taken are the outputs with one named `inventory`, and the inventory itself:
//! ```json
//! { "inventory": { "value": { "consul_servers": [ { "name": "consul-0", "address": "10.0.0.11", "ssh": "203.0.113.1" } ] } } }
//! ```
//! Whether names and addresses are right is the business of `nodes`.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::nodes::ROLES;
use super::raw::{Spanned, Value};
use crate::config::error::{ConfigError, Location as SourceLocation, nearest};

/// Reads the text of an inventory: role keys with their lists. ConfigErrors are added to the list.
pub(super) fn read(
    path: &Path,
    text: &str,
    mistakes: &mut Vec<ConfigError>,
) -> Vec<(&'static str, Spanned)> {
    let mut file = File {
        path: path.into(),
        text,
        mistakes,
    };
    let outputs: Json = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => {
            let advice = "write what `terraform output -json` prints into it";
            file.wrong(
                "",
                error.line().max(1),
                &format!("is not JSON: {error}"),
                advice,
            );
            return Vec::new();
        }
    };
    let inventory = outputs
        .get("inventory")
        .map_or(&outputs, |output| output.get("value").unwrap_or(output));
    let Some(roles) = inventory.as_object() else {
        file.wrong(
            "inventory",
            1,
            "is not an object",
            "it has consul_servers, nomad_servers and nomad_clients",
        );
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, value) in roles {
        let start = file.find(0, &format!("{key:?}"));
        let Some((_, known, _)) = ROLES.iter().find(|(_, known, _)| known == key) else {
            let known = ROLES.iter().map(|(_, known, _)| *known);
            let advice = match nearest(key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => "an inventory has consul_servers, nomad_servers and nomad_clients, \
                         or an output that is called inventory"
                    .to_owned(),
            };
            file.wrong(key, file.line(start), "is not a role", &advice);
            continue;
        };
        if let Some(items) = value.as_array() {
            let value = Value::List(file.nodes(start, items));
            found.push((
                *known,
                Spanned {
                    value,
                    place: file.place(start),
                },
            ));
        } else {
            file.wrong(
                key,
                file.line(start),
                "is not a list",
                "write [ { \"name\": …, \"address\": …, \"ssh\": … } ]",
            );
        }
    }
    if roles.is_empty() {
        file.wrong(
            "inventory",
            1,
            "is empty",
            "it has consul_servers, nomad_servers and nomad_clients",
        );
    }
    found
}

struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
    mistakes: &'a mut Vec<ConfigError>,
}

impl File<'_> {
    /// The parser of JSON keeps no lines: a node is told by the line that its address stands on.
    fn nodes(&self, start: usize, items: &[Json]) -> Vec<Spanned> {
        let mut at = start;
        let each = |item: &Json| {
            if let Some(text) = item.as_str().or_else(|| item.get("address")?.as_str()) {
                at = self.find(at, &format!("{text:?}"));
            }
            self.spanned(at, item)
        };
        items.iter().map(each).collect()
    }

    fn spanned(&self, at: usize, json: &Json) -> Spanned {
        let value = match json {
            Json::String(text) => Value::Text(text.clone()),
            Json::Bool(truth) => Value::Bool(*truth),
            Json::Number(number) => number
                .as_i64()
                .map_or_else(|| Value::Other(number.to_string()), Value::Integer),
            Json::Array(items) => {
                Value::List(items.iter().map(|item| self.spanned(at, item)).collect())
            }
            // terraform writes null for what is not set.
            Json::Object(keys) => {
                let set = keys.iter().filter(|(_, value)| !value.is_null());
                Value::Table(
                    set.map(|(key, value)| (key.clone(), self.spanned(at, value)))
                        .collect(),
                )
            }
            Json::Null => Value::Other("null".to_owned()),
        };
        Spanned {
            value,
            place: self.place(at),
        }
    }

    /// Offset of the text from `start` on; `start` when it is not there.
    fn find(&self, start: usize, needle: &str) -> usize {
        self.text
            .get(start..)
            .and_then(|rest| rest.find(needle))
            .map_or(start, |found| start + found)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|byte| *byte == b'\n')
            .count()
    }

    fn place(&self, offset: usize) -> SourceLocation {
        SourceLocation::File(self.path.clone(), self.line(offset))
    }

    fn wrong(&mut self, key: &str, line: usize, problem: &str, advice: &str) {
        let place = SourceLocation::File(self.path.clone(), line);
        let (key, problem, advice) = (key.to_owned(), problem.to_owned(), advice.to_owned());
        self.mistakes.push(ConfigError {
            key,
            value: None,
            place,
            problem,
            advice,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = r#"{
  "consul_servers": [
    { "name": "consul-0", "address": "10.0.0.11", "ssh": "203.0.113.1" },
    "10.0.0.12"
  ],
  "nomad_clients": [
    {
      "name": "w",
      "address": "10.0.0.13",
      "dynamic_ports": null
    }
  ]
}"#;

    fn lists(text: &str) -> Vec<(&'static str, Spanned)> {
        let mut mistakes = Vec::new();
        let found = read(Path::new("i.json"), text, &mut mistakes);
        assert_eq!(mistakes, []);
        found
    }

    #[test]
    fn outputs_and_the_bare_object_are_the_same() {
        let bare = lists(BARE);
        let lines: Vec<String> = bare
            .iter()
            .flat_map(|(_, spanned)| match &spanned.value {
                Value::List(items) => items.iter().map(|item| item.place.to_string()).collect(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(lines, ["i.json:3", "i.json:4", "i.json:9"]);
        assert_eq!(
            bare.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            ["consul_servers", "nomad_clients"]
        );
        let Value::List(items) = &bare[1].1.value else {
            panic!()
        };
        let Value::Table(keys) = &items[0].value else {
            panic!()
        };
        assert_eq!(
            keys.keys().collect::<Vec<_>>(),
            ["address", "name"],
            "null is nothing"
        );
        let wrapped = format!(
            "{{\"other\": {{\"value\": 3}}, \"inventory\": {{\"sensitive\": false, \"value\": {BARE}}}}}"
        );
        assert_eq!(lists(&wrapped), bare);
        assert_eq!(lists(&format!("{{\"inventory\": {BARE}}}")), bare);
    }

    #[test]
    fn mistakes_have_their_line() {
        for (text, expected) in [
            (
                "",
                "i.json:1: is not JSON: EOF while parsing a value at line 1 column 0; write what `terraform output -json` prints into it",
            ),
            ("{\n\"consul_servers\": [\n", "i.json:3: is not JSON: EOF"),
            (
                "[]",
                "i.json:1: inventory is not an object; it has consul_servers, nomad_servers and nomad_clients",
            ),
            ("{}", "i.json:1: inventory is empty; it has"),
            (
                "{\n\"consul_server\": []}",
                "i.json:2: consul_server is not a role; did you mean consul_servers?",
            ),
            (
                "{\n\"zzz\": []}",
                "i.json:2: zzz is not a role; an inventory has consul_servers",
            ),
            (
                "{\n\"consul_servers\": 3}",
                "i.json:2: consul_servers is not a list; write [",
            ),
        ] {
            let mut mistakes = Vec::new();
            read(Path::new("i.json"), text, &mut mistakes);
            let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            assert!(
                said.len() == 1 && said[0].starts_with(expected),
                "{text}: {said:?}"
            );
        }
    }
}
