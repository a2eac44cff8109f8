//! Reads sections by their declarations, as often as each stands in the settings.

use std::collections::BTreeMap;

use super::declare::Declared;
use super::error::{Findings, Location};
use super::raw::{Group, Settings};
use super::reader::{ReadContext, Reader};

/// Reads sections, and notes what is wrong with them.
pub(super) struct Sections<'a> {
    pub(super) settings: &'a Settings,
    pub(super) context: ReadContext,
    pub(super) findings: &'a mut Findings,
}

impl Sections<'_> {
    /// A section that stands once.
    pub(super) fn once<S: Declared>(&mut self) -> S {
        self.with::<S, _>(S::read)
    }

    /// What `read` makes of a section that stands once.
    pub(super) fn with<S: Declared, T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let name = S::SECTION.name;
        let absent = Group::new(Location::Absent);
        let group = self.settings.once.get(name).unwrap_or(&absent);
        read(&mut self.reader::<S>(name.to_owned(), group))
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

/// A section of which nothing is written.
pub(super) fn defaults<S: Declared>() -> S {
    let mut sections = Sections {
        settings: &Settings::default(),
        context: ReadContext::default(),
        findings: &mut Findings::default(),
    };
    sections.once()
}
