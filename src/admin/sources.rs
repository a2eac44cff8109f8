//! `/api/sources`: how fresh the knowledge of each source is, and what is wrong with it.

use std::time::SystemTime;

use serde::Serialize;

use crate::journal::SourceStatus;
use crate::journal::events::timestamp;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct SourceRow {
    pub(super) name: String,
    /// `ok`, `failing`, or `waiting` for its first complete response.
    pub(super) state: &'static str,
    pub(super) synced: bool,
    /// RFC 3339; none before the first response.
    pub(super) last_success: Option<String>,
    pub(super) age_seconds: Option<f64>,
    /// Kept when it is over.
    pub(super) last_error: Option<String>,
    pub(super) last_error_at: Option<String>,
    /// Since when something cannot be read; none while all is well.
    pub(super) since: Option<String>,
    pub(super) failing_seconds: Option<f64>,
    pub(super) watches: usize,
    pub(super) failing_watches: usize,
    pub(super) errors_total: u64,
    /// Where its requests go.
    pub(super) transport: Option<String>,
    /// What is wrong, in one sentence; none while nothing is.
    pub(super) trouble: Option<String>,
}

/// All sources as the API shows them.
pub(super) fn list(sources: &[SourceStatus], now: SystemTime) -> Vec<SourceRow> {
    sources.iter().map(|source| row(source, now)).collect()
}

fn row(source: &SourceStatus, now: SystemTime) -> SourceRow {
    // A clock set back makes no negative age.
    let age = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs_f64();
    SourceRow {
        name: source.name.clone(),
        state: source.word(),
        synced: source.synced,
        last_success: source.last_success.and_then(timestamp),
        age_seconds: source.last_success.map(age),
        last_error: source.last_error.clone(),
        last_error_at: source.last_error_at.and_then(timestamp),
        since: source.failing_since.and_then(timestamp),
        failing_seconds: source.failing_since.map(age),
        watches: source.watches,
        failing_watches: source.failing_watches,
        errors_total: source.errors,
        transport: source.transport.clone(),
        trouble: source.trouble(),
    }
}

/// What is wrong now, in a sentence for each source that fails, with the time since when.
pub(super) fn warnings(sources: &[SourceStatus]) -> Vec<String> {
    let sentence = |source: &SourceStatus| {
        let since = source.failing_since.and_then(timestamp).unwrap_or_default();
        let kept = match source.last_success {
            Some(_) => "; what was known then stays in force",
            None => "; nothing of it is known yet",
        };
        Some(format!(
            "{}; failing since {since}{kept}",
            source.trouble()?
        ))
    };
    sources.iter().filter_map(sentence).collect()
}

/// The name of a source with what keeps it from responding, if something does.
pub(super) fn with_cause(name: &str, sources: &[SourceStatus]) -> String {
    let trouble = sources
        .iter()
        .find(|source| source.name == name)
        .and_then(SourceStatus::trouble);
    trouble.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::Journal;

    #[test]
    fn a_source_shows_what_is_wrong_and_since_when() {
        let journal = Journal::default();
        journal
            .sources()
            .expect("consul", Some("https://127.0.0.1:8501".to_owned()));
        journal.source_read("consul", "");
        journal.sources().synced("consul");
        journal.source_failed(
            "consul",
            "",
            "https://127.0.0.1:8501: cannot connect: Connection refused",
        );
        let now = SystemTime::now() + Duration::from_secs(60);
        let rows = serde_json::to_value(list(&journal.sources().list(), now)).unwrap();
        let row = &rows[0];
        assert_eq!(
            (row["name"].as_str(), row["state"].as_str()),
            (Some("consul"), Some("failing"))
        );
        assert!(
            row["age_seconds"].as_f64().unwrap() >= 60.0
                && row["failing_seconds"].as_f64().unwrap() >= 60.0
        );
        assert!(
            row["last_error"]
                .as_str()
                .unwrap()
                .contains("Connection refused"),
            "{row}"
        );
        assert!(
            row["since"].as_str().unwrap().ends_with('Z')
                && row["transport"] == "https://127.0.0.1:8501"
        );
        let warnings = warnings(&journal.sources().list());
        assert!(warnings[0].starts_with(
            "consul: https://127.0.0.1:8501: cannot connect: Connection refused; failing"
        ));
        assert!(
            warnings[0].ends_with("what was known then stays in force"),
            "{warnings:?}"
        );
        assert_eq!(with_cause("static", &journal.sources().list()), "static");
    }
}
