//! What is said about a wrong setting: the key, the value, the place, and what to do.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a file, at a line counted from 1.
    File(Arc<Path>, usize),
    /// In an environment variable.
    Env(String),
    /// On the command line, with its dashes.
    Flag(String),
    /// Nowhere: the default, or something missing.
    Absent,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Absent => f.write_str("configuration"),
        }
    }
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which key, as a dotted path; empty when the whole file is meant.
    pub key: String,
    /// The value as written, if there is one and it is not a secret.
    pub value: Option<String>,
    /// Where it stands.
    pub place: Location,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

impl ConfigError {
    /// A mistake without a value; without a key it is about the whole file.
    pub(crate) fn new(
        key: impl Into<String>,
        place: Location,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: None,
            place,
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match (&*self.key, &self.value) {
            ("", _) => {}
            (key, Some(value)) => write!(f, "{key} = {value} ")?,
            (key, None) => write!(f, "{key} ")?,
        }
        f.write_str(&self.problem)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

/// Every mistake found, in the order of the places; never empty when returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What reading finds.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) mistakes: Vec<ConfigError>,
    /// What works but is hardly meant.
    pub(crate) warnings: Vec<ConfigError>,
}

/// The known word nearest to `word`, if any is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearer_than(0.8, word, known)
}

/// As [`nearest`], with a bound of one's own between 0 (anything) and 1 (the same word).
#[must_use]
pub(crate) fn nearer_than<'a>(
    bound: f64,
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Strangers' text may be long; what is compared is not.
    if word.len() > 100 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&word.to_ascii_lowercase(), candidate),
                candidate,
            )
        })
        .filter(|(score, _)| *score >= bound)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_reads_like_a_sentence() {
        let mistake = ConfigError {
            key: "consul.wait".to_owned(),
            value: Some("\"5\"".to_owned()),
            place: Location::File(Path::new("lb.toml").into(), 3),
            problem: "has no unit".to_owned(),
            advice: "write \"5s\"".to_owned(),
        };
        assert_eq!(
            mistake.to_string(),
            "lb.toml:3: consul.wait = \"5\" has no unit; write \"5s\""
        );
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["address", "ca_file", "cert_file", "stale"];
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("cafile", known), Some("ca_file"));
        assert_eq!(nearest("zzz", known), None);
    }
}
