//! Nodes as `terraform output -json` prints them, read as if they were the lists of `cluster.toml`.
//!
//! Taken are the outputs with one named `inventory`, and the inventory itself:
//! ```json
//! { "inventory": { "value": { "consul_servers": [ { "name": "consul-0", "address": "10.0.0.11", "ssh": "203.0.113.1" } ] } } }
//! ```
//! Whether names and addresses are right is the business of `nodes`.

use std::path::Path;

use serde_json::Value as Json;

use super::nodes::ROLES;
use crate::config::error::{ConfigError, nearest};
use crate::config::raw::{Placed, RawValue};
use crate::config::syntax::Lines;

/// Reads the text of an inventory: role keys with their lists. ConfigErrors are added to the list.
pub(super) fn read(
    path: &Path,
    text: &str,
    mistakes: &mut Vec<ConfigError>,
) -> Vec<(&'static str, Placed)> {
    let mut file = File {
        lines: Lines::of(path.into(), text),
        text,
        mistakes,
    };
    let outputs: Json = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => {
            let advice = "write what `terraform output -json` prints into it";
            let start = error.line().saturating_sub(1);
            let lines = text.split_inclusive('\n').take(start);
            let at = lines.map(str::len).sum();
            file.wrong("", at, &format!("is not JSON: {error}"), advice);
            return Vec::new();
        }
    };
    let inventory = outputs
        .get("inventory")
        .map_or(&outputs, |output| output.get("value").unwrap_or(output));
    let Some(roles) = inventory.as_object() else {
        file.wrong(
            "inventory",
            0,
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
            file.wrong(key, start, "is not a role", &advice);
            continue;
        };
        if let Some(items) = value.as_array() {
            let value = RawValue::List(file.nodes(start, items));
            found.push((
                *known,
                Placed {
                    value,
                    place: file.lines.location(start),
                },
            ));
        } else {
            file.wrong(
                key,
                start,
                "is not a list",
                "write [ { \"name\": …, \"address\": …, \"ssh\": … } ]",
            );
        }
    }
    if roles.is_empty() {
        file.wrong(
            "inventory",
            0,
            "is empty",
            "it has consul_servers, nomad_servers and nomad_clients",
        );
    }
    found
}

struct File<'a> {
    lines: Lines,
    text: &'a str,
    mistakes: &'a mut Vec<ConfigError>,
}

impl File<'_> {
    /// The parser of JSON keeps no lines: a node is told by the line that its address stands on.
    fn nodes(&self, start: usize, items: &[Json]) -> Vec<Placed> {
        let mut at = start;
        let each = |item: &Json| {
            if let Some(text) = item.as_str().or_else(|| item.get("address")?.as_str()) {
                at = self.find(at, &format!("{text:?}"));
            }
            self.placed(at, item)
        };
        items.iter().map(each).collect()
    }

    fn placed(&self, at: usize, json: &Json) -> Placed {
        let value = match json {
            Json::String(text) => RawValue::Text(text.clone()),
            Json::Bool(truth) => RawValue::Bool(*truth),
            Json::Number(number) => number.as_i64().map_or_else(
                || RawValue::Other(number.to_string()),
                |number| RawValue::Integer(number.to_string()),
            ),
            Json::Array(items) => {
                RawValue::List(items.iter().map(|item| self.placed(at, item)).collect())
            }
            // terraform writes null for what is not set.
            Json::Object(keys) => {
                let set = keys.iter().filter(|(_, value)| !value.is_null());
                RawValue::Table(
                    set.map(|(key, value)| (key.clone(), self.placed(at, value)))
                        .collect(),
                )
            }
            Json::Null => RawValue::Other("null".to_owned()),
        };
        Placed {
            value,
            place: self.lines.location(at),
        }
    }

    /// Offset of the text from `start` on; `start` when it is not there.
    fn find(&self, start: usize, needle: &str) -> usize {
        self.text
            .get(start..)
            .and_then(|rest| rest.find(needle))
            .map_or(start, |found| start + found)
    }

    fn wrong(&mut self, key: &str, at: usize, problem: &str, advice: &str) {
        let place = self.lines.location(at);
        self.mistakes
            .push(ConfigError::new(key, place, problem, advice));
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

    fn lists(text: &str) -> Vec<(&'static str, Placed)> {
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
            .flat_map(|(_, placed)| match &placed.value {
                RawValue::List(items) => items.iter().map(|item| item.place.to_string()).collect(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(lines, ["i.json:3", "i.json:4", "i.json:9"]);
        assert_eq!(
            bare.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            ["consul_servers", "nomad_clients"]
        );
        let RawValue::List(items) = &bare[1].1.value else {
            panic!()
        };
        let RawValue::Table(keys) = &items[0].value else {
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
