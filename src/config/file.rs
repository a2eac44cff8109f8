//! From the text of a configuration file to [`Settings`]: every syntax error and every unknown key,
//! with its line.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location, nearest};
use super::key::{Key, Section, Shape};
use super::raw::{Entry, Group, Placed, RawValue, Settings};
use super::schema::{ITEMS_MAX, Schema, is_name};
use super::syntax::{self, Lines};

/// Reads a file's text. ConfigErrors and warnings are added to the lists.
pub(crate) fn read(
    schema: &'static Schema,
    path: Arc<Path>,
    text: &str,
    mistakes: &mut Vec<ConfigError>,
    warnings: &mut Vec<ConfigError>,
) -> Settings {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        schema,
        lines: Lines::of(path, text),
        settings: Settings::default(),
        mistakes,
        warnings,
    };
    syntax::note(&errors, &reader.lines, reader.mistakes);
    if errors.is_empty() {
        // After a syntax error the rest would be guesswork, and the guesses would drown the error.
        reader.top(table.get_ref());
    }
    reader.settings
}

struct Reader<'a> {
    schema: &'static Schema,
    lines: Lines,
    settings: Settings,
    mistakes: &'a mut Vec<ConfigError>,
    warnings: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Location {
        self.lines.location(offset)
    }

    fn wrong(&mut self, key: &str, offset: usize, problem: &str, advice: String) {
        let place = self.place(offset);
        self.mistakes
            .push(ConfigError::new(key, place, problem, advice));
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let (word, at) = (name.get_ref().as_ref(), name.span().start);
            if let Some(key) = self.key_at_top(word) {
                self.put_at_top(key, at, value);
            } else if let Some(section) = self.schema.section(word) {
                self.section(section, at, value);
            } else if let Some(inner) = self.schema.below(word) {
                self.sections_below(word, inner, value);
            } else {
                let known = self.schema.sections.iter();
                let known = known.filter_map(|section| section.name.split('.').next());
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
                        let mut mistake = self.schema.unknown(None, word, word.to_owned(), place);
                        if matches!(value.get_ref(), DeValue::Table(_)) {
                            mistake.problem = "is not a known section".to_owned();
                        }
                        self.mistakes.push(mistake);
                    }
                }
            }
        }
    }

    fn key_at_top(&self, word: &str) -> Option<&'static Key> {
        self.schema.key(self.schema.section("")?, word)
    }

    /// A key of the top that is taken inside of a section.
    fn misplaced(&self, word: &str) -> Option<&'static Key> {
        self.key_at_top(word)
            .filter(|_| self.schema.takes_misplaced)
    }

    fn put_at_top(&mut self, key: &'static Key, at: usize, value: &Spanned<DeValue<'_>>) {
        let entry = self.entry(at, value);
        self.settings
            .once
            .entry("")
            .or_insert_with(|| Group::new(Location::Absent))
            .put(key, entry);
    }

    /// What stands at `static`, which is not a section itself.
    fn sections_below(
        &mut self,
        parent: &str,
        inner: &'static Section,
        value: &Spanned<DeValue<'_>>,
    ) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong(
                parent,
                value.span().start,
                "is not a section",
                format!("write {}", header(inner)),
            );
        };
        for (name, value) in table {
            let (path, at) = (format!("{parent}.{}", name.get_ref()), name.span().start);
            match self.schema.section(&path) {
                Some(section) => self.section(section, at, value),
                None => {
                    let advice = format!("write {}", header(inner));
                    self.wrong(&path, at, "is not a known section", advice);
                }
            }
        }
    }

    fn entry(&self, at: usize, value: &Spanned<DeValue<'_>>) -> Entry {
        Entry::in_file(Placed {
            value: self.written(value.get_ref()),
            place: self.place(at),
        })
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
            (Shape::Once, value) if !matches!(value, DeValue::Array(_)) => self.wrong(
                section.name,
                at,
                "is a section, not a value",
                format!("{} on a line of its own", advice(section)),
            ),
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
            let (word, at) = (name.get_ref().as_ref(), name.span().start);
            let inner = || self.schema.section(&format!("{}.{word}", section.name));
            if let Some(key) = self.schema.key(section, word) {
                group.put(key, self.entry(at, value));
            } else if let Some(inner) = inner() {
                self.section(inner, at, value);
            } else if let Some(key) = self.misplaced(word) {
                // TOML reads a line after a [section] as part of it; the meaning is clear all the
                // same.
                self.warnings.push(ConfigError::new(
                    format!("{path}.{word}"),
                    self.place(at),
                    format!("stands inside [{path}] and is read as {word}"),
                    "move the line to the top of the file, before the first [section]",
                ));
                self.put_at_top(key, at, value);
            } else {
                let (path, place) = (format!("{path}.{word}"), self.place(at));
                let mistake = self.schema.unknown(Some(section), word, path, place);
                self.mistakes.push(mistake);
            }
        }
        group
    }

    fn written(&self, value: &DeValue<'_>) -> RawValue {
        match value {
            DeValue::String(text) => RawValue::Text(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => {
                RawValue::Integer(number.as_str().to_owned())
            }
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(value) => RawValue::Integer(value.to_string()),
                    Err(_) => RawValue::Other(number.to_string()),
                }
            }
            DeValue::Boolean(value) => RawValue::Bool(*value),
            DeValue::Array(items) => {
                RawValue::List(items.iter().map(|item| self.placed(item)).collect())
            }
            DeValue::Table(keys) => {
                let keys = keys.iter();
                let placed =
                    keys.map(|(name, value)| (name.get_ref().to_string(), self.placed(value)));
                RawValue::Table(placed.collect())
            }
            DeValue::Float(number) => RawValue::Other(number.to_string()),
            DeValue::Datetime(date) => RawValue::Other(date.to_string()),
        }
    }

    fn placed(&self, value: &Spanned<DeValue<'_>>) -> Placed {
        Placed {
            value: self.written(value.get_ref()),
            place: self.place(value.span().start),
        }
    }
}

fn advice(section: &Section) -> String {
    let two = match section.shape {
        Shape::List => ", with two brackets",
        _ => "",
    };
    format!("write {}{two}", header(section))
}

/// How a section begins.
fn header(section: &Section) -> String {
    match section.shape {
        Shape::Top | Shape::Once => format!("[{}]", section.name),
        Shape::List => format!("[[{}]]", section.name),
        Shape::Named => format!("[{}.NAME]", section.name),
    }
}
