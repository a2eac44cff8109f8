//! Route commands as a JSON list, the way Fabio's custom registry is told them: objects with `cmd`,
//! `service`, `src`, `dst`, `weight`, `tags` and `opts`. Each means what the same command means as
//! a line.
//!
//! Read as Go reads it: names of fields in any case, `null` as nothing, unknown fields passed over.
//! Unlike there, an entry that makes no command costs itself only.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::command::{Command, CommandError, interpret, is_service_name};
use super::command_line::Line;

/// Most characters of an entry that an error shows.
const SHOWN_MAX: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Definition {
    #[serde(deserialize_with = "null_is_default")]
    cmd: String,
    #[serde(deserialize_with = "null_is_default")]
    service: String,
    #[serde(deserialize_with = "null_is_default")]
    src: String,
    #[serde(deserialize_with = "null_is_default")]
    dst: String,
    #[serde(deserialize_with = "null_is_default")]
    weight: f64,
    #[serde(deserialize_with = "null_is_default")]
    tags: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    opts: BTreeMap<String, String>,
}

/// The commands of a list, and the entries that make none; each error names its entry, from 1.
///
/// # Errors
/// The text is not a JSON list.
pub fn parse_definitions(
    body: &[u8],
) -> Result<(Vec<Command>, Vec<CommandError>), serde_json::Error> {
    let (mut commands, mut errors, mut number) = (Vec::new(), Vec::new(), 0);
    let take = |entry: Value| {
        number += 1;
        let mut report = |reason| {
            let text = entry.to_string().chars().take(SHOWN_MAX).collect();
            errors.push(CommandError {
                part: Some(format!("entry {number}").into()),
                line: 0,
                text,
                reason,
            });
        };
        match definition(&entry).and_then(|definition| definition.commands()) {
            Ok((parsed, remarks)) => {
                commands.extend(parsed);
                remarks
                    .into_iter()
                    .for_each(|remark| report(format!("{remark} (entry kept)")));
            }
            Err(reason) => report(reason),
        }
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.deserialize_seq(Entries(take))?;
    reader.end()?;
    Ok((commands, errors))
}

/// Takes one entry after the other: as JSON, all of them together would fill many times the memory
/// of their text.
struct Entries<F>(F);

impl<'de, F: FnMut(Value)> Visitor<'de> for Entries<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of route commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element()? {
            (self.0)(entry);
        }
        Ok(())
    }
}

fn definition(entry: &Value) -> Result<Definition, String> {
    let Value::Object(fields) = entry else {
        return Err("is not a JSON object".to_owned());
    };
    let fields: Map<_, _> = fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    Definition::deserialize(Value::Object(fields)).map_err(|error| error.to_string())
}

impl Definition {
    fn commands(&self) -> Result<(Vec<Command>, Vec<String>), String> {
        let (tags, opts) = (self.tags.join(","), self.options()?);
        let weight = self.weight.to_string();
        let service = some(&self.service);
        if service.is_some_and(|service| !is_service_name(service)) {
            return Err(format!(
                "service `{}` holds a blank or a quote",
                self.service
            ));
        }
        let given = |name: &str, value: &str| {
            if is_blank(value) {
                Err(format!("{name} is missing"))
            } else {
                Ok(())
            }
        };
        let line = match &*self.cmd {
            "route add" => {
                [
                    ("service", &self.service),
                    ("src", &self.src),
                    ("dst", &self.dst),
                ]
                .into_iter()
                .try_for_each(|(name, value)| given(name, value))?;
                let weight = (self.weight != 0.0).then_some(&*weight);
                Line::Add {
                    service: &self.service,
                    source: &self.src,
                    url: &self.dst,
                    weight,
                    tags: &tags,
                    opts: &opts,
                }
            }
            // As in Fabio: with tags, it is they that count, wherever the target stands.
            "route del" if !self.tags.is_empty() => Line::Del {
                service,
                source: None,
                url: None,
                tags: &tags,
            },
            "route del" => {
                given("service", &self.service)?;
                let (source, url) = (some(&self.src), some(&self.dst));
                if url.is_some() && source.is_none() {
                    return Err("dst is given without src".to_owned());
                }
                Line::Del {
                    service,
                    source,
                    url,
                    tags: "",
                }
            }
            "route weight" => {
                given("src", &self.src)?;
                Line::Weight {
                    service,
                    source: &self.src,
                    weight: &weight,
                    tags: &tags,
                }
            }
            other => {
                return Err(format!(
                    "unknown cmd {other:?}: write route add, route del or route weight"
                ));
            }
        };
        interpret(line)
    }

    /// The options as they stand in a line.
    fn options(&self) -> Result<String, String> {
        let word = |(key, value): (&String, &String)| {
            let odd = |text: &str| text.contains(char::is_whitespace);
            if key.is_empty() || odd(key) || key.contains('=') || odd(value) {
                return Err(format!(
                    "option {key:?} = {value:?}: names and values of options hold no blanks"
                ));
            }
            Ok(if value.is_empty() {
                key.clone()
            } else {
                format!("{key}={value}")
            })
        };
        Ok(self
            .opts
            .iter()
            .map(word)
            .collect::<Result<Vec<_>, _>>()?
            .join(" "))
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !is_blank(text))
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// For fields that a program in Go writes as `null` where it means nothing.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::command::parse_commands;

    /// Entries and the lines that say the same.
    #[test]
    fn an_entry_is_the_command_that_a_line_would_be() {
        for (entry, line) in [
            (
                r#"{"cmd":"route add","service":"s","src":"A.test/x","dst":"http://10.0.0.1:80/","weight":0.25,
                    "tags":["a","b"],"opts":{"strip":"/x","proto":"https","prepend":""}}"#,
                r#"route add s A.test/x http://10.0.0.1:80/ weight 0.25 tags "a,b" opts "prepend proto=https strip=/x""#,
            ),
            (
                r#"{"Cmd":"route add","Service":"s","SRC":":80","Dst":"tcp://10.0.0.1:80","Weight":0,"Tags":null,"New":{}}"#,
                "route add s :80 tcp://10.0.0.1:80",
            ),
            (r#"{"cmd":"route del","service":"s"}"#, "route del s"),
            (
                r#"{"cmd":"route del","service":"s","src":"/x"}"#,
                "route del s /x",
            ),
            (
                r#"{"cmd":"route del","service":"s","src":"/x","dst":"http://h:1/"}"#,
                "route del s /x http://h:1/",
            ),
            (
                r#"{"cmd":"route del","service":"s","src":"/x","tags":["a"]}"#,
                "route del s tags \"a\"",
            ),
            (
                r#"{"cmd":"route del","tags":["a","b"]}"#,
                "route del tags \"a,b\"",
            ),
            (
                r#"{"cmd":"route weight","service":"s","src":"/x","weight":0.5}"#,
                "route weight s /x weight 0.5",
            ),
            (
                r#"{"cmd":"route weight","src":"/x","weight":1,"tags":["a"]}"#,
                "route weight /x weight 1 tags \"a\"",
            ),
        ] {
            let (commands, errors) = parse_definitions(format!("[{entry}]").as_bytes()).unwrap();
            assert_eq!((commands, errors), parse_commands(line), "{entry}");
        }
    }

    #[test]
    fn a_bad_entry_costs_itself_and_says_which_it_is() {
        let good = r#"{"cmd":"route add","service":"s","src":"/","dst":"http://10.0.0.1:80/"}"#;
        for (entry, reason) in [
            ("7", "not a JSON object"),
            ("{}", "unknown cmd \"\""),
            (r#"{"cmd":"route addd"}"#, "unknown cmd \"route addd\""),
            (
                r#"{"cmd":"route add","src":"/","dst":"http://h/"}"#,
                "service is missing",
            ),
            (
                r#"{"cmd":"route add","service":"s","dst":"http://h/"}"#,
                "src is missing",
            ),
            (
                r#"{"cmd":"route add","service":"s","src":"/"}"#,
                "dst is missing",
            ),
            (
                r#"{"cmd":"route add","service":"a b","src":"/","dst":"http://h/"}"#,
                "blank",
            ),
            (
                r#"{"cmd":"route add","service":"s","src":"/","dst":"nothing"}"#,
                "nothing",
            ),
            (
                r#"{"cmd":"route add","service":"s","src":"/","dst":"http://h/","weight":"much"}"#,
                "f64",
            ),
            (
                r#"{"cmd":"route add","service":"s","src":"/","dst":"http://h/","opts":{"strip":"/a b"}}"#,
                "no blanks",
            ),
            (r#"{"cmd":"route del"}"#, "service is missing"),
            (
                r#"{"cmd":"route del","service":"s","dst":"http://h/"}"#,
                "without src",
            ),
            (
                r#"{"cmd":"route weight","service":"s","weight":1}"#,
                "src is missing",
            ),
        ] {
            let (commands, errors) =
                parse_definitions(format!("[{good},{entry},{good}]").as_bytes()).unwrap();
            assert_eq!(
                (commands.len(), errors.len()),
                (2, 1),
                "{entry}: {errors:?}"
            );
            assert_eq!(errors[0].place(), "entry 2");
            assert!(
                errors[0].reason.contains(reason),
                "{entry}: {}",
                errors[0].reason
            );
        }
        let odd = good.replace('}', r#","opts":{"colour":"red"}}"#);
        let (commands, errors) = parse_definitions(format!("[{odd}]").as_bytes()).unwrap();
        assert_eq!(commands.len(), 1);
        assert!(errors[0].reason.ends_with("(entry kept)"), "{errors:?}");
        for wrong in ["", "null", "{}", "[", "[1,]", "\"route add\""] {
            assert!(parse_definitions(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(parse_definitions(b" [] ").unwrap(), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_refused(
            cmd in "route (add|del|weight)|", texts in prop::collection::vec("[a-z/:. \"$=]{0,8}", 4), weight in any::<f64>(),
        ) {
            let [service, src, dst, option] = &texts[..] else { unreachable!() };
            let entry = serde_json::json!({"cmd": cmd, "service": service, "src": src, "dst": dst, "weight": weight,
                "tags": [option], "opts": {option.clone(): option}});
            let _ = parse_definitions(serde_json::json!([entry]).to_string().as_bytes()).unwrap();
        }
    }
}
