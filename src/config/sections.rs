//! Reads sections by their declarations, as often as each stands in the settings.

use std::collections::BTreeMap;

use super::declare::Declared;
use super::error::{ConfigError, Findings, Location, nearest};
use super::raw::{Entry, Group, Placed, RawValue, Settings};
use super::reader::{ReadContext, Reader};

/// Reads sections, and notes what is wrong with them.
pub(crate) struct Sections<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) context: ReadContext,
    pub(crate) findings: &'a mut Findings,
}

impl Sections<'_> {
    /// A section that stands once.
    pub(crate) fn once<S: Declared>(&mut self) -> S {
        self.with::<S, _>(S::read)
    }

    /// What `read` makes of a section that stands once.
    pub(crate) fn with<S: Declared, T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let name = S::SECTION.name;
        let absent = Group::new(Location::Absent);
        let group = self.settings.once.get(name).unwrap_or(&absent);
        read(&mut self.reader::<S>(name.to_owned(), group))
    }

    /// Notes a mistake about a key of a section that stands once, with its value and place.
    pub(crate) fn wrong<S: Declared>(&mut self, key: &str, problem: &str, advice: &str) {
        self.with::<S, _>(|reader| reader.wrong(key, problem, advice));
    }

    /// Notes a mistake about a part of a value.
    pub(crate) fn wrong_at(
        &mut self,
        path: &str,
        part: Option<&Placed>,
        problem: &str,
        advice: &str,
    ) {
        let place = part.map_or(Location::Absent, |part| part.place.clone());
        self.findings.mistakes.push(ConfigError {
            value: part.map(|part| part.value.to_string()),
            ..ConfigError::new(path, place, problem, advice)
        });
    }

    /// A table inside a value, by the declaration of its keys. `path` is what messages call it.
    pub(crate) fn table<S: Declared>(
        &mut self,
        path: &str,
        place: &Location,
        table: &BTreeMap<String, Placed>,
    ) -> S {
        let keys = S::SECTION.keys;
        let mut group = Group::new(place.clone());
        for (name, part) in table {
            if let Some(key) = keys.iter().find(|key| key.name == name) {
                group.put(key, Entry::in_file(part.clone()));
                continue;
            }
            let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
            let advice = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("a {} has {}", S::SECTION.name, known.join(", ")),
            };
            let path = format!("{path}.{name}");
            self.wrong_at(&path, Some(part), "is not a known key", &advice);
        }
        S::read(&mut self.reader::<S>(path.to_owned(), &group))
    }

    /// Every repetition of a `[[section]]`, by what `finish` makes of it.
    pub(super) fn each<S: Declared, T>(
        &mut self,
        mut finish: impl FnMut(S, &mut Reader<'_>) -> Option<T>,
    ) -> Vec<T> {
        let name = S::SECTION.name;
        let groups = self.settings.lists.get(name).into_iter().flatten();
        let numbered = groups.enumerate();
        numbered
            .filter_map(|(at, group)| {
                let mut reader = self.reader::<S>(format!("{name}.{at}"), group);
                finish(S::read(&mut reader), &mut reader)
            })
            .collect()
    }

    /// Every repetition of a `[section.NAME]`.
    pub(super) fn named<S: Declared>(&mut self) -> BTreeMap<String, S> {
        let section = S::SECTION.name;
        let groups = self.settings.named.get(section).into_iter().flatten();
        groups
            .map(|(name, group)| {
                let mut reader = self.reader::<S>(format!("{section}.{name}"), group);
                (name.clone(), S::read(&mut reader))
            })
            .collect()
    }

    fn reader<'a, S: Declared>(&'a mut self, path: String, group: &'a Group) -> Reader<'a> {
        Reader::new(&S::SECTION, path, group, self.context, self.findings)
    }
}

/// A table inside a value of a section, by the declaration of its keys; `path` leads to it. None: it
/// is not a table, and `example` shows one.
pub(crate) fn inside<S: Declared>(
    reader: &mut Reader<'_>,
    path: &str,
    part: &Placed,
    example: &str,
) -> Option<S> {
    let RawValue::Table(table) = &part.value else {
        reader.wrong_part(path, part, "is not a table", &format!("write {example}"));
        return None;
    };
    let (path, context, findings) = reader.inner(path);
    let mut sections = Sections {
        settings: &Settings::default(),
        context,
        findings,
    };
    Some(sections.table(&path, &part.place, table))
}

/// A section of which nothing is written.
pub(super) fn defaults<S: Declared>() -> S {
    let mut sections = Sections {
        settings: &Settings::default(),
        context: ReadContext::default(),
        findings: &mut Findings::default(),
    };
    sections.once()
}
