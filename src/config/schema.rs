//! What one kind of file may hold: its sections, and what is said about keys that it does not have.

use super::error::{ConfigError, Location, nearest};
use super::key::{Key, Moved, Section};

/// The sections of one kind of file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    /// All of them, in the order of the shipped file.
    pub(crate) sections: &'static [Section],
    /// Keys that are taken in the section that they were in, too.
    pub(crate) moved: &'static [Moved],
    /// Whether a key of the top inside a section is taken with a warning; else it is a mistake.
    pub(crate) takes_misplaced: bool,
    /// The shipped file, which shows every key.
    pub(crate) shown_in: &'static str,
}

/// Most repetitions of a section: far above need, and a bound on what an index can allocate.
pub(crate) const ITEMS_MAX: usize = 100_000;

/// Whether a text can name a repetition.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

impl Schema {
    /// The section of that name.
    pub(crate) fn section(&self, name: &str) -> Option<&'static Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The first section below a name that is not a section itself: `[[static.route]]` of `static`.
    pub(crate) fn below(&self, name: &str) -> Option<&'static Section> {
        let is_below = |section: &&Section| {
            let rest = section.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        match self.section(name) {
            Some(_) => None,
            None => self.sections.iter().find(is_below),
        }
    }

    /// The key of that name, or the one that has moved from here to another section.
    pub(crate) fn key(&self, section: &Section, name: &str) -> Option<&'static Key> {
        let mut keys = section.keys.iter().chain(self.moved(section));
        keys.find(|key| key.name == name)
    }

    /// The keys that have moved from this section to another; they are still taken here.
    pub(crate) fn moved(&self, section: &Section) -> impl Iterator<Item = &'static Key> {
        let (schema, name) = (*self, section.name);
        let from_here = self.moved.iter().filter(move |moved| moved.from == name);
        from_here.flat_map(move |moved| {
            let keys = schema
                .section(moved.to)
                .map_or(&[][..], |section| section.keys);
            keys.iter()
                .filter(move |key| moved.keys.contains(&key.name))
        })
    }

    /// The mistake of an unknown key, with the nearest known one. `section` is where it was written.
    pub(crate) fn unknown(
        &self,
        section: Option<&Section>,
        name: &str,
        path: String,
        place: Location,
    ) -> ConfigError {
        let is_of_the_top = !self.takes_misplaced
            && section.is_some()
            && self
                .section("")
                .is_some_and(|top| self.key(top, name).is_some());
        let here = section.and_then(|section| {
            let taken = section.keys.iter().chain(self.moved(section));
            let key = nearest(name, taken.map(|key| key.name))?;
            self.present_path(section, key)
        });
        let elsewhere = || {
            self.sections
                .iter()
                .find_map(|section| self.present_path(section, name))
                .or_else(|| {
                    let all: Vec<String> = self
                        .sections
                        .iter()
                        .flat_map(|s| s.keys.iter().map(|key| s.path(key)))
                        .collect();
                    nearest(&path, all.iter().map(String::as_str)).map(str::to_owned)
                })
        };
        let advice = match here.or_else(elsewhere) {
            _ if is_of_the_top => {
                format!("{name} belongs at the top of the file, above the first [section]")
            }
            Some(known) => format!("did you mean {known}?"),
            None => format!("{} lists every key", self.shown_in),
        };
        ConfigError::new(path, place, "is not a known key", advice)
    }

    /// The full name of a key that this section takes, in the section that it is in now.
    fn present_path(&self, section: &Section, name: &str) -> Option<String> {
        let is_here = |section: &&Section| section.keys.iter().any(|key| key.name == name);
        let moved = self.moved.iter().filter(|moved| moved.from == section.name);
        let section = std::iter::once(section)
            .chain(moved.filter_map(|moved| self.section(moved.to)))
            .find(is_here)?;
        self.key(section, name).map(|key| section.path(key))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::SCHEMA;
    use super::*;

    #[test]
    fn unknown_keys_name_the_nearest() {
        let consul = SCHEMA.section("consul");
        let advice = |section, name: &str, path: &str| {
            let mistake = SCHEMA.unknown(section, name, path.to_owned(), Location::Absent);
            mistake.advice
        };
        assert_eq!(
            advice(consul, "adress", "consul.adress"),
            "did you mean consul.address?"
        );
        assert_eq!(
            advice(consul, "workers", "consul.workers"),
            "did you mean proxy.workers?"
        );
        assert_eq!(
            advice(consul, "tag_prefx", "consul.tag_prefx"),
            "did you mean routing.tag_prefix?"
        );
        assert_eq!(
            advice(None, "qqqq", "qqqq"),
            "config/lb.toml lists every key"
        );
    }
}
