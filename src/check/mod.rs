//! `lb check`: every mistake at once, before anything is started.
//!
//! [`files`] and `certificates` look at what the configuration names, `jobs` reads Nomad job
//! files and [`lints`] judges the services in them. Reading the configuration itself is the
//! business of [`crate::config`]; dialling Consul (`--live`) of `sources`, dialling where keys come
//! from of [`keys`].

pub(crate) mod certificates;
pub mod files;
pub(crate) mod jobs;
pub mod keys;
pub mod lints;
mod reading;
pub mod unconfigured;

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::{ConfigError, Location};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It will not work.
    Error,
    /// It works, but is hardly meant so, or not for long.
    Warning,
    /// It works and goes on working, but is written otherwise by now. Never an error, and not
    /// counted.
    Remark,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Remark => "remark",
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, or `environment`, `command line`, `configuration`: findings are grouped by it.
    pub file: String,
    /// Line, from 1.
    pub line: Option<usize>,
    /// What it is about: a key, or `job web, group app, service api`.
    pub subject: String,
    /// The value or tag, if there is one and it is not a secret.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Finding {
    /// A mistake of the configuration as a finding.
    #[must_use]
    pub fn from_mistake(mistake: &ConfigError, severity: Severity) -> Self {
        let (file, line, place) = match &mistake.place {
            Location::File(path, line) => (path.display().to_string(), Some(*line), None),
            Location::Env(name) => ("environment".to_owned(), None, Some(name)),
            Location::Flag(name) => ("command line".to_owned(), None, Some(name)),
            Location::Absent => ("configuration".to_owned(), None, None),
        };
        let subject = match place {
            Some(place) if mistake.key.is_empty() => place.clone(),
            Some(place) => format!("{place}: {}", mistake.key),
            None => mistake.key.clone(),
        };
        let (value, problem, advice) = (
            mistake.value.clone(),
            mistake.problem.clone(),
            mistake.advice.clone(),
        );
        Self {
            severity,
            file,
            line,
            subject,
            value,
            problem,
            advice,
        }
    }

    /// The same, as a warning.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// A job file that cannot be read.
    #[must_use]
    pub fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self {
            severity: Severity::Error,
            file: path.display().to_string(),
            line: None,
            subject: String::new(),
            value: None,
            problem: format!("cannot be read: {error}"),
            advice: "check the path".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "severity": self.severity.word(),
            "file": self.file,
            "line": self.line,
            "subject": self.subject,
            "value": self.value,
            "problem": self.problem,
            "advice": self.advice,
        })
    }
}

/// Everything found, grouped by file, in the order of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Puts findings in order. Files keep the order in which they first appear.
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        let mut files: Vec<String> = Vec::new();
        for finding in &findings {
            if !files.contains(&finding.file) {
                files.push(finding.file.clone());
            }
        }
        let mut findings = findings;
        findings.sort_by_key(|finding| {
            (
                files.iter().position(|file| *file == finding.file),
                finding.line,
            )
        });
        Self { findings }
    }

    /// With every warning as an error.
    #[must_use]
    pub fn strict(mut self) -> Self {
        let warnings = self.findings.iter_mut();
        warnings
            .filter(|finding| finding.severity == Severity::Warning)
            .for_each(|finding| finding.severity = Severity::Error);
        self
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many of that severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// Exit code: 2 with any error, else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.count(Severity::Error) > 0 {
            2
        } else {
            0
        }
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "findings": self.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }

    /// For people: a list by file. `colour` paints the severities.
    #[must_use]
    pub fn to_text(&self, colour: bool) -> String {
        let mut out = String::new();
        let mut file = None;
        for finding in &self.findings {
            if file != Some(&finding.file) {
                let _ = writeln!(
                    out,
                    "{}{}",
                    if file.is_some() { "\n" } else { "" },
                    finding.file
                );
                file = Some(&finding.file);
            }
            let line = finding
                .line
                .map(|line| format!("{line}: "))
                .unwrap_or_default();
            let word = finding.severity.word();
            let word = match (colour, finding.severity) {
                (false, _) => word.to_owned(),
                (true, Severity::Error) => format!("\x1b[1;31m{word}\x1b[0m"),
                (true, Severity::Warning) => format!("\x1b[33m{word}\x1b[0m"),
                (true, Severity::Remark) => format!("\x1b[36m{word}\x1b[0m"),
            };
            let subject = if finding.subject.is_empty() {
                String::new()
            } else {
                format!("{} ", finding.subject)
            };
            let value = finding
                .value
                .as_ref()
                .map(|value| format!("= {value} "))
                .unwrap_or_default();
            let _ = writeln!(out, "  {line}{word}: {subject}{value}{}", finding.problem);
            if !finding.advice.is_empty() {
                let _ = writeln!(out, "      {}", finding.advice);
            }
        }
        out
    }

    /// The last line: `2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |severity, word: &str| match self.count(severity) {
            1 => format!("1 {word}"),
            count => format!("{count} {word}s"),
        };
        match (self.count(Severity::Error), self.count(Severity::Warning)) {
            (0, 0) => "no mistakes found".to_owned(),
            (_, 0) => count(Severity::Error, "error"),
            (0, _) => count(Severity::Warning, "warning"),
            _ => format!(
                "{}, {}",
                count(Severity::Error, "error"),
                count(Severity::Warning, "warning")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(file: &str, line: usize, severity: Severity) -> Finding {
        Finding {
            severity,
            file: file.to_owned(),
            line: Some(line),
            subject: "a key".to_owned(),
            value: Some("1".to_owned()),
            problem: "is odd".to_owned(),
            advice: "make it even".to_owned(),
        }
    }

    #[test]
    fn findings_are_grouped_by_file_in_the_order_of_lines() {
        let report = Report::new(vec![
            finding("b", 9, Severity::Warning),
            finding("a", 1, Severity::Error),
            finding("b", 2, Severity::Warning),
        ]);
        let text = "b\n  2: warning: a key = 1 is odd\n      make it even\n  9: warning: a key = 1 is odd\n      make it even\n\
                    \na\n  1: error: a key = 1 is odd\n      make it even\n";
        assert_eq!(report.to_text(false), text);
        assert_eq!(report.summary(), "1 error, 2 warnings");
        assert_eq!(report.exit_code(), 2);
        assert!(report.to_text(true).contains("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn a_remark_is_shown_and_counts_for_nothing() {
        let report = Report::new(vec![finding("b", 9, Severity::Remark)]).strict();
        assert_eq!(
            (report.exit_code(), report.summary().as_str()),
            (0, "no mistakes found")
        );
        assert!(
            report
                .to_text(false)
                .contains("9: remark: a key = 1 is odd")
        );
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let report = Report::new(vec![finding("b", 9, Severity::Warning)]);
        assert_eq!(
            (report.exit_code(), report.summary().as_str()),
            (0, "1 warning")
        );
        assert_eq!(Report::default().summary(), "no mistakes found");
    }
}
