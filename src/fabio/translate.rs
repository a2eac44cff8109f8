//! From Fabio's settings to a configuration of `lb`.
//!
//! The result is TOML text that gives the same behaviour under `lb run`: what the user set, and every default of Fabio
//! that is not ours. Where Fabio's own behaviour is listed as a weakness and nobody asked for it (no limit for a slow
//! request head, no retries), ours stays.

mod certificates;
mod consul;
mod data_path;
mod left_out;
mod listeners;

use std::time::Duration;

use super::document::{Document, Value, bounds};
use super::machine::Machine;
use super::settings::{Settings, Warning};
use crate::config::format_duration;

/// A configuration of `lb`.
#[derive(Clone, Debug)]
pub struct Translation {
    /// As TOML.
    pub toml: String,
    /// What is not carried out, or not as somebody may think; each once.
    pub warnings: Vec<Warning>,
}

/// Translates.
///
/// # Errors
/// Everything that Fabio refuses too, and what would be unsafe to leave out; each as a warning would be.
pub fn translate(settings: &Settings, machine: &Machine) -> Result<Translation, Vec<Warning>> {
    let mut translator =
        Translator { settings, machine, document: Document::default(), warnings: Vec::new(), refusals: Vec::new() };
    translator.document.note(
        "What Fabio's settings are in lb's own configuration: for `lb run --config FILE`.\n\
         Behind each line stands the key of Fabio that it comes from.",
    );
    translator.left_out();
    translator.registry();
    translator.listeners();
    translator.data_path();
    match translator.refusals.is_empty() {
        true => Ok(Translation { toml: translator.document.render(), warnings: translator.warnings }),
        false => Err(translator.refusals),
    }
}

struct Translator<'a> {
    settings: &'a Settings,
    machine: &'a Machine,
    document: Document,
    warnings: Vec<Warning>,
    refusals: Vec<Warning>,
}

impl Translator<'_> {
    fn about(&self, key: &str, text: String) -> Warning {
        Warning { key: key.to_owned(), origin: self.settings.origin(key).cloned(), text }
    }

    fn warn(&mut self, key: &str, text: impl Into<String>) {
        let warning = self.about(key, text.into());
        self.warnings.push(warning);
    }

    fn refuse(&mut self, key: &str, text: impl Into<String>) {
        let refusal = self.about(key, text.into());
        self.refusals.push(refusal);
    }

    /// One of some words; another one is refused.
    fn word(&mut self, key: &str, words: &[&str]) -> String {
        let text = self.settings.text(key);
        if !words.contains(&text) {
            self.refuse(key, format!("{text:?} is not one of {}", words.join(", ")));
        }
        text.to_owned()
    }

    /// A duration, brought into the bounds of our key; what that changes is told.
    fn set_time(&mut self, ours: &str, time: Duration, key: &str) {
        let (min, max) = bounds(ours).unwrap_or((Duration::ZERO, Duration::MAX));
        let within = time.clamp(min, max);
        if within != time {
            let text = format!("{} is taken as {}", format_duration(time), format_duration(within));
            self.warn(key, text);
        }
        self.document.set(ours, Value::Time(within), key);
    }

    /// A duration whose zero means "no limit": the longest that our key takes.
    fn set_limit(&mut self, ours: &str, time: Duration, key: &str) {
        match (time.is_zero(), bounds(ours)) {
            (true, Some((_, max))) => self.document.set(ours, Value::Time(max), &format!("{key}: no limit")),
            _ => self.set_time(ours, time, key),
        }
    }

    /// A text, if it is not empty.
    fn set_text(&mut self, ours: &str, key: &str) {
        let text = self.settings.text(key);
        if !text.is_empty() {
            self.document.set(ours, text, key);
        }
    }

    /// A path, if it is not empty.
    fn set_path(&mut self, ours: &str, key: &str) {
        let text = self.settings.text(key);
        if !text.is_empty() {
            self.document.set(ours, self.machine.absolute(text), key);
        }
    }
}
