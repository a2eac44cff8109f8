//! `/api/certificates`: which certificates there are, until when, and what is wrong with them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::journal::events::timestamp;

/// Tells which certificates there are now.
pub type CertificateList = Arc<dyn Fn() -> Vec<CertificateRow> + Send + Sync>;

/// One certificate, or a name that is to have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRow {
    /// The section that it is of: `main` for `[certificates.main]`.
    pub source: String,
    /// The word of the source: `file`, `acme`, …
    pub kind: &'static str,
    /// Its file, or the host that it was ordered for.
    pub name: String,
    /// `valid` or `expired`; of those that are ordered also `ordering`, `waiting`, `failing`,
    /// `refused`, `unused`.
    pub state: &'static str,
    /// Its end (unix time, s); none while there is none.
    pub not_after: Option<i64>,
    /// What is wrong.
    pub reason: Option<String>,
    /// Before then (unix time, s) nothing is tried.
    pub next_try: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct Shown {
    source: String,
    kind: &'static str,
    name: String,
    state: &'static str,
    /// RFC 3339.
    not_after: Option<String>,
    seconds_left: Option<i64>,
    reason: Option<String>,
    next_try: Option<String>,
}

/// All of them as the API shows them.
pub(super) fn list(certificates: &CertificateList) -> Vec<Shown> {
    let now = SystemTime::now();
    let rows = certificates();
    rows.into_iter().map(|row| shown(row, now)).collect()
}

fn shown(row: CertificateRow, now: SystemTime) -> Shown {
    let at = |time: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
    let left = |time: i64| match at(time).duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(past) => -i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX),
    };
    Shown {
        source: row.source,
        kind: row.kind,
        name: row.name,
        state: row.state,
        not_after: row.not_after.and_then(|time| timestamp(at(time))),
        seconds_left: row.not_after.map(left),
        reason: row.reason,
        next_try: row.next_try.and_then(|time| timestamp(at(time))),
    }
}
