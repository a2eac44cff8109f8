//! From the text of a configuration file to [`Settings`]: every syntax error and every unknown key,
//! with its line.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location, nearest};
use super::keys::{SECTIONS, Section, Shape, section};
use super::raw::{Entry, Group, RawValue, Settings};
use super::slot::{ITEMS_MAX, is_name, unknown};
use super::syntax;

/// Reads a file's text. ConfigErrors and warnings are added to the lists.
pub(crate) fn read(
    path: &Arc<Path>,
    text: &str,
    mistakes: &mut Vec<ConfigError>,
    warnings: &mut Vec<ConfigError>,
) -> Settings {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        path,
        text,
        settings: Settings::default(),
        mistakes,
        warnings,
    };
    syntax::note(&errors, path, text, reader.mistakes);
    if errors.is_empty() {
        // After a syntax error the rest would be guesswork, and the guesses would drown the error.
        reader.top(table.get_ref());
    }
    reader.settings
}

struct Reader<'a> {
    path: &'a Arc<Path>,
    text: &'a str,
    settings: Settings,
    mistakes: &'a mut Vec<ConfigError>,
    warnings: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Location {
        syntax::location(self.path, self.text, offset)
    }

    fn wrong(&mut self, key: &str, offset: usize, problem: &str, advice: String) {
        let place = self.place(offset);
        let (key, problem) = (key.to_owned(), problem.to_owned());
        self.mistakes.push(ConfigError {
            key,
            value: None,
            place,
            problem,
            advice,
        });
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let (word, at) = (name.get_ref().as_ref(), name.span().start);
            let top = SECTIONS
                .iter()
                .find(|section| section.shape == Shape::Top && section.key(word).is_some());
            if let Some(key) = top.and_then(|section| section.key(word)) {
                let entry = Entry {
                    value: written(value.get_ref()),
                    place: self.place(at),
                    layer: 0,
                };
                self.settings
                    .once
                    .entry("")
                    .or_insert_with(|| Group::new(Location::Absent))
                    .put(key, entry);
            } else if word == "static" {
                self.static_routes(value);
            } else if let Some(section) = section(word) {
                self.section(section, at, value);
            } else {
                let known = SECTIONS
                    .iter()
                    .map(|section| section.name.split('.').next().unwrap_or_default());
                match nearest(word, known) {
                    Some(near)
                        if matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) =>
                    {
                        self.wrong(
                            word,
                            at,
                            "is not a known section",
                            format!("did you mean [{near}]?"),
                        );
                    }
                    _ => {
                        let place = self.place(at);
                        self.mistakes
                            .push(unknown(None, word, word.to_owned(), place));
                    }
                }
            }
        }
    }

    fn static_routes(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong(
                "static",
                value.span().start,
                "is not a section",
                "write [[static.route]]".to_owned(),
            );
        };
        for (name, value) in table {
            match section(&format!("static.{}", name.get_ref())) {
                Some(section) => self.section(section, name.span().start, value),
                None => {
                    let path = format!("static.{}", name.get_ref());
                    self.wrong(
                        &path,
                        name.span().start,
                        "is not a known section",
                        "write [[static.route]]".to_owned(),
                    );
                }
            }
        }
    }

    fn section(&mut self, section: &'static Section, at: usize, value: &Spanned<DeValue<'_>>) {
        self.settings.present.insert(section.name);
        match (section.shape, value.get_ref()) {
            (Shape::Once, DeValue::Table(table)) => {
                let group = self.group(section, section.name, at, table);
                self.settings.once.insert(section.name, group);
            }
            (Shape::List, DeValue::Array(items)) if items.len() <= ITEMS_MAX => {
                let mut groups = Vec::with_capacity(items.len());
                for (number, item) in items.iter().enumerate() {
                    let path = format!("{}.{number}", section.name);
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            groups.push(self.group(section, &path, item.span().start, table))
                        }
                        _ => self.wrong(
                            &path,
                            item.span().start,
                            "is not a section",
                            advice(section),
                        ),
                    }
                }
                self.settings.lists.insert(section.name, groups);
            }
            (Shape::Named, DeValue::Table(table)) => {
                for (name, item) in table {
                    let path = format!("{}.{}", section.name, name.get_ref());
                    match item.get_ref() {
                        DeValue::Table(_) if !is_name(name.get_ref()) => {
                            let advice = "use letters, digits, - and _".to_owned();
                            self.wrong(&path, name.span().start, "is not a usable name", advice);
                        }
                        DeValue::Table(table) => {
                            let group = self.group(section, &path, name.span().start, table);
                            let groups = self.settings.named.entry(section.name).or_default();
                            groups.insert(name.get_ref().to_string(), group);
                        }
                        _ => self.wrong(
                            &path,
                            name.span().start,
                            "is not a section",
                            advice(section),
                        ),
                    }
                }
            }
            _ => self.wrong(
                section.name,
                at,
                "is not written as this section is",
                advice(section),
            ),
        }
    }

    fn group(
        &mut self,
        section: &'static Section,
        path: &str,
        at: usize,
        table: &DeTable<'_>,
    ) -> Group {
        let mut group = Group::new(self.place(at));
        for (name, value) in table {
            let (word, place) = (name.get_ref().as_ref(), self.place(name.span().start));
            if let Some(key) = section.key(word) {
                group.put(
                    key,
                    Entry {
                        value: written(value.get_ref()),
                        place,
                        layer: 0,
                    },
                );
            } else if let Some(inner) = super::keys::section(&format!("{}.{word}", section.name)) {
                self.section(inner, name.span().start, value);
            } else if let Some(key) = super::keys::section("").and_then(|top| top.key(word)) {
                // TOML reads a line after a [section] as part of it; the meaning is clear all the
                // same.
                self.warnings.push(ConfigError {
                    key: format!("{path}.{word}"),
                    value: None,
                    place: place.clone(),
                    problem: format!("stands inside [{path}] and is read as {word}"),
                    advice: "move the line to the top of the file, before the first [section]"
                        .to_owned(),
                });
                let entry = Entry {
                    value: written(value.get_ref()),
                    place,
                    layer: 0,
                };
                self.settings
                    .once
                    .entry("")
                    .or_insert_with(|| Group::new(Location::Absent))
                    .put(key, entry);
            } else {
                self.mistakes.push(unknown(
                    Some(section),
                    word,
                    format!("{path}.{word}"),
                    place,
                ));
            }
        }
        group
    }
}

fn advice(section: &Section) -> String {
    match section.shape {
        Shape::Top | Shape::Once => format!("write [{}]", section.name),
        Shape::List => format!("write [[{}]], with two brackets", section.name),
        Shape::Named => format!("write [{}.NAME]", section.name),
    }
}

fn written(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            RawValue::Integer(number.as_str().to_owned())
        }
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => RawValue::Integer(value.to_string()),
            Err(_) => RawValue::Other(number.to_string()),
        },
        DeValue::Boolean(value) => RawValue::Bool(*value),
        DeValue::Array(items) => {
            RawValue::List(items.iter().map(|item| written(item.get_ref())).collect())
        }
        DeValue::Float(number) => RawValue::Other(number.to_string()),
        DeValue::Datetime(date) => RawValue::Other(date.to_string()),
        DeValue::Table(_) => RawValue::Other("{ ... }".to_owned()),
    }
}
