//! Typed reading of what was written: a wrong value becomes a mistake and counts as absent, so that
//! the rest is read on.

use std::path::{Path, PathBuf};

use super::raw::{Raw, Spanned, Value};
use crate::config::error::{ConfigError, Location as SourceLocation, nearest};

/// Reads keys and gathers mistakes.
pub(super) struct Reader<'a> {
    raw: &'a Raw,
    /// Folder that paths are relative to.
    folder: &'a Path,
    /// What `~/` stands for.
    home: Option<&'a Path>,
    /// All that was found wrong.
    pub(super) mistakes: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Raw, folder: &'a Path, home: Option<&'a Path>) -> Self {
        Self {
            raw,
            folder,
            home,
            mistakes: Vec::new(),
        }
    }

    pub(super) fn spanned(&self, key: &str) -> Option<&'a Spanned> {
        self.raw.get(key)
    }

    /// Notes a mistake about the key, with its value and place.
    pub(super) fn wrong(
        &mut self,
        key: &str,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.wrong_at(key, self.raw.get(key), problem, advice);
    }

    /// Notes a mistake about a part of a key's value.
    pub(super) fn wrong_at(
        &mut self,
        key: &str,
        spanned: Option<&Spanned>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.mistakes.push(ConfigError {
            key: key.to_owned(),
            value: spanned.map(|spanned| spanned.value.to_string()),
            place: spanned.map_or(SourceLocation::Absent, |spanned| spanned.place.clone()),
            problem: problem.into(),
            advice: advice.into(),
        });
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match &self.spanned(key)?.value {
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.wrong(key, "is not a text", "put it in double quotes");
                None
            }
        }
    }

    /// A text that the check accepts; its complaint reads on after the value.
    pub(super) fn checked(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), &'static str>,
        advice: &str,
    ) -> Option<String> {
        let text = self.text(key)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err(problem) => {
                self.wrong(key, problem, advice);
                None
            }
        }
    }

    pub(super) fn truth(&mut self, key: &str) -> Option<bool> {
        match &self.spanned(key)?.value {
            Value::Bool(truth) => Some(*truth),
            _ => {
                self.wrong(
                    key,
                    "is neither true nor false",
                    "write true or false, without quotes",
                );
                None
            }
        }
    }

    /// A whole number within bounds, both included.
    pub(super) fn whole(&mut self, key: &str, least: u16, most: u16) -> Option<u16> {
        let number = match &self.spanned(key)?.value {
            Value::Integer(number) => u16::try_from(*number).ok(),
            _ => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Some(number),
            None => {
                let problem = format!("is not a whole number from {least} to {most}");
                self.wrong(key, problem, "write it without quotes");
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(" or ");
            let advice = match nearest(&text, words.iter().map(|(word, _)| *word)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write {known}"),
            };
            self.wrong(key, format!("is not {known}"), advice);
        }
        found.map(|(_, value)| *value)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(spanned) = self.spanned(key) else {
            return Vec::new();
        };
        let Value::List(items) = &spanned.value else {
            self.wrong(key, "is not a list", "write [\"…\", \"…\"]");
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match &item.value {
                Value::Text(text) => texts.push(text.clone()),
                _ => self.wrong_at(
                    &format!("{key}[{at}]"),
                    Some(item),
                    "is not a text",
                    "put it in double quotes",
                ),
            }
        }
        texts
    }

    /// A path, absolute: relative ones are meant from the folder of the file, `~/` from the user's.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.path_at(key, self.spanned(key)?)
    }

    /// The same in a part of a key's value.
    pub(super) fn path_at(&mut self, key: &str, spanned: &Spanned) -> Option<PathBuf> {
        let Value::Text(text) = &spanned.value else {
            self.wrong_at(
                key,
                Some(spanned),
                "is not a text",
                "put it in double quotes",
            );
            return None;
        };
        if text.is_empty() || text.contains('\0') {
            self.wrong_at(
                key,
                Some(spanned),
                "is not a path",
                "write the path of a file or folder, or take the line away",
            );
            return None;
        }
        match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => Some(home.join(rest)),
            (Some(_), None) => {
                self.wrong_at(
                    key,
                    Some(spanned),
                    "begins with ~, and HOME is not set",
                    "write the whole path",
                );
                None
            }
            (None, _) => Some(plain(&self.folder.join(text))),
        }
    }
}

/// The path without `.` in it.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| !matches!(part, std::path::Component::CurDir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_a_mistake_and_reads_as_absent() {
        let mut none = Vec::new();
        let text = "name = 3\nacl = \"yes\"\n[ssh]\nport = 70000\nparallel = \"4\"\noptions = \"-4\"\nrunner = \"sytemd\"\n";
        let raw = super::super::raw::read(Path::new("c.toml"), text, &mut none);
        let mut reader = Reader::new(&raw, Path::new("/f"), None);
        assert_eq!(reader.text("name"), None);
        assert_eq!(reader.truth("acl"), None);
        assert_eq!(reader.whole("ssh.port", 1, 65535), None);
        assert_eq!(reader.whole("ssh.parallel", 1, 64), None);
        assert!(reader.texts("ssh.options").is_empty());
        assert_eq!(
            reader.one_of("ssh.runner", &[("systemd", 1), ("process", 2)]),
            None
        );
        let said: Vec<String> = reader.mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "c.toml:1: name = 3 is not a text; put it in double quotes",
                "c.toml:2: acl = \"yes\" is neither true nor false; write true or false, without quotes",
                "c.toml:4: ssh.port = 70000 is not a whole number from 1 to 65535; write it without quotes",
                "c.toml:5: ssh.parallel = \"4\" is not a whole number from 1 to 64; write it without quotes",
                "c.toml:6: ssh.options = \"-4\" is not a list; write [\"…\", \"…\"]",
                "c.toml:7: ssh.runner = \"sytemd\" is not \"systemd\" or \"process\"; did you mean \"systemd\"?",
            ]
        );
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        for (written, home, expected) in [
            ("x", None, Some("/f/x")),
            ("./x/./y", None, Some("/f/x/y")),
            ("../x", None, Some("/f/../x")),
            ("/x", None, Some("/x")),
            ("~/x", Some("/home/a"), Some("/home/a/x")),
            ("~/x", None, None),
            ("", None, None),
        ] {
            let raw = super::super::raw::read(
                Path::new("c"),
                &format!("state = \"{written}\""),
                &mut Vec::new(),
            );
            let mut reader = Reader::new(&raw, Path::new("/f"), home.map(Path::new));
            assert_eq!(
                reader.path("state"),
                expected.map(PathBuf::from),
                "{written}"
            );
            assert_eq!(
                reader.mistakes.len(),
                usize::from(expected.is_none()),
                "{written}"
            );
        }
    }
}
