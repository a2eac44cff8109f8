//! Reads the keys of one section.
//!
//! A value that does not fit is noted, and the key's default takes its place, so that one pass
//! finds every mistake.

use super::error::{ConfigError, Findings, Location, nearest};
use super::key::{Key, Kind, Section, Shape};
use super::raw::{Entry, Group, Placed, RawValue};
use super::typed::{Typed, convert, default_of};
use super::value::{Problem, SettingValue};

/// What `CONSUL_*` says beyond keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsulEnvironment {
    /// Any of the variables is set.
    pub(crate) any: bool,
    /// `CONSUL_HTTP_SSL=true`.
    pub(crate) ssl: bool,
}

/// What a section's checks need to know beside its keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadContext {
    /// Standard error is a terminal: `log.format = "auto"` means text.
    pub(crate) terminal: bool,
    /// What `CONSUL_*` says beyond keys.
    pub(crate) consul: ConsulEnvironment,
    /// There is a `[consul]`.
    pub(crate) has_consul: bool,
}

/// Reads the keys of one group.
pub(crate) struct Reader<'a> {
    section: &'static Section,
    /// `listener.0`, `certificates.main`, `consul`: what messages call the group.
    path: String,
    group: &'a Group,
    left_out: Vec<&'static str>,
    pub(crate) context: ReadContext,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        section: &'static Section,
        path: String,
        group: &'a Group,
        context: ReadContext,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            section,
            path,
            group,
            left_out: Vec::new(),
            context,
            findings,
        }
    }

    /// The value of a key, by the type that its declaration gives it.
    pub(crate) fn value<T: SettingValue>(&mut self, name: &str) -> T {
        let Some(typed) = self.typed(name) else {
            return T::unset();
        };
        T::from_typed(typed).unwrap_or_else(|error| {
            self.wrong(name, &error.problem, &error.advice);
            T::unset()
        })
    }

    /// The value of a key that other keys depend on, before its turn. What is wrong with it is said
    /// then.
    pub(crate) fn peek<T: SettingValue>(&self, name: &str) -> T {
        let key = self.key(name);
        let written = self.group.entries.get(name);
        let written = written.and_then(|entry| checked(key, entry).ok());
        let typed = written.or_else(|| default_of(key));
        let value = typed.map(T::from_typed);
        value.and_then(Result::ok).unwrap_or_else(T::unset)
    }

    /// Takes a key for unset, whatever is written: another key says that it has no meaning.
    pub(crate) fn leave_out(&mut self, name: &'static str) {
        self.left_out.push(name);
    }

    /// The name of a repetition by name: `main` of `[certificates.main]`.
    pub(crate) fn own_name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Where the group begins.
    fn group_place(&self) -> Location {
        self.group.place.clone()
    }

    /// Where a key is written, if it is.
    pub(crate) fn place(&self, name: &str) -> Option<&Location> {
        self.group.entries.get(name).map(|entry| &entry.place)
    }

    /// What is written at a key, if anything is.
    pub(crate) fn written(&self, name: &str) -> Option<&RawValue> {
        self.group.entries.get(name).map(|entry| &entry.value)
    }

    /// Whether a key is written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.group.entries.contains_key(name)
    }

    /// The mistake about a key of this group, with its value and place.
    fn about(&self, name: &str, problem: &str, advice: &str) -> ConfigError {
        let entry = self.group.entries.get(name);
        let secret = self
            .key_if_declared(name)
            .is_some_and(|key| matches!(key.kind, Kind::Secret | Kind::Headers));
        ConfigError {
            key: match self.group.old_names.get(name) {
                Some(old) => old.clone(),
                None if self.section.shape == Shape::Top => name.to_owned(),
                None => format!("{}.{name}", self.path),
            },
            value: entry.map(|entry| {
                if secret {
                    "***".to_owned()
                } else {
                    first_line(entry.value.to_string())
                }
            }),
            place: entry.map_or_else(|| self.group_place(), |entry| entry.place.clone()),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// As [`Reader::wrong`], for a value that is not to be shown.
    pub(crate) fn wrong_secret(&mut self, name: &str, problem: &str, advice: &str) {
        let mistake = self.about(name, problem, advice);
        let value = mistake.value.is_some().then(|| "***".to_owned());
        self.findings
            .mistakes
            .push(ConfigError { value, ..mistake });
    }

    /// Notes a mistake about a key of this group.
    pub(crate) fn wrong(&mut self, name: &str, problem: &str, advice: &str) {
        let mistake = self.about(name, problem, advice);
        self.findings.mistakes.push(mistake);
    }

    /// Notes a mistake about a part of a value of this group; `path` leads to it from the group.
    pub(crate) fn wrong_part(&mut self, path: &str, part: &Placed, problem: &str, advice: &str) {
        self.findings.mistakes.push(ConfigError {
            key: format!("{}.{path}", self.path),
            value: Some(first_line(part.value.to_string())),
            place: part.place.clone(),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        });
    }

    /// Whether a key of this group was found to be wrong.
    pub(crate) fn has_mistakes(&self) -> bool {
        let prefix = format!("{}.", self.path);
        let mut mistakes = self.findings.mistakes.iter();
        mistakes.any(|mistake| mistake.key.starts_with(&prefix))
    }

    /// What a reader of a table inside a value begins with: its path and what it shares with this one.
    pub(crate) fn inner(&mut self, path: &str) -> (String, ReadContext, &mut Findings) {
        (format!("{}.{path}", self.path), self.context, self.findings)
    }

    /// Notes what is odd about a key of this group.
    pub(crate) fn warn(&mut self, name: &str, problem: &str, advice: &str) {
        let warning = self.about(name, problem, advice);
        self.findings.warnings.push(warning);
    }

    fn key_if_declared(&self, name: &str) -> Option<&'static Key> {
        self.section.keys.iter().find(|key| key.name == name)
    }

    fn key(&self, name: &str) -> &'static Key {
        self.key_if_declared(name)
            .expect("names of keys in this crate are declared")
    }

    /// The value of a key, or its default. An empty text says nothing.
    fn typed(&mut self, name: &str) -> Option<Typed> {
        let key = self.key(name);
        if self.left_out.contains(&name) {
            return None;
        }
        let says = |typed: &Typed| !matches!(typed, Typed::Text(text) if text.is_empty());
        if let Some(entry) = self.group.entries.get(name) {
            match checked(key, entry) {
                Ok(value) => return Some(value).filter(says),
                Err(found) => self.wrong(name, &found.problem, &found.advice),
            }
        }
        default_of(key).filter(says)
    }
}

/// The value of an entry by the kind of its key, held to the check of its declaration.
fn checked(key: &Key, entry: &Entry) -> Result<Typed, Problem> {
    let value = convert(key, entry).map_err(|problem| {
        let mut advice = key.kind.expected();
        if let (Kind::Word(words), RawValue::Text(text) | RawValue::Bare(text)) =
            (key.kind, &entry.value)
            && let Some(near) = nearest(text, words.iter().copied())
        {
            advice = format!("did you mean {near}? {advice}");
        }
        Problem { problem, advice }
    })?;
    if let (Some(check), Typed::Text(text)) = (key.check, &value) {
        (check.refuse)(text).map_err(|problem| Problem {
            problem: problem.to_owned(),
            advice: check.advice.to_owned(),
        })?;
    }
    Ok(value)
}

/// A text of many lines, such as a certificate, would bury what is said about it.
fn first_line(text: String) -> String {
    match text
        .split_once('\n')
        .filter(|(_, rest)| !rest.trim().is_empty())
    {
        Some((first, _)) => format!("{first}…"),
        None => text,
    }
}
