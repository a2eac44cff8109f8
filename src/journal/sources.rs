//! How the sources of routes and certificates are: what was heard last, what went wrong, since
//! when.
//!
//! A source has one or more *watches* (one per service for Consul, one per name for DNS). It is
//! failing while any of them is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::events::{Draft, Kind};
use super::text::{TEXT_MAX, bounded};

/// A source that fails and recovers all the time makes at most one pair of events in this time.
const PAIRS_EVERY: Duration = Duration::from_secs(10);

/// Longest error that is kept, in characters: they name what to do, so they are longer than outputs
/// of checks.
const ERROR_MAX: usize = 2 * TEXT_MAX;

/// All sources, by name.
#[derive(Debug, Default)]
pub struct Sources(Mutex<BTreeMap<String, SourceState>>);

#[derive(Debug, Default)]
struct SourceState {
    synced: bool,
    transport: Option<String>,
    last_success: Option<SystemTime>,
    last_error: Option<(String, SystemTime)>,
    errors: u64,
    /// Present state of each watch; an error while it fails.
    watches: BTreeMap<String, Option<String>>,
    failing: Option<Failing>,
    /// When the last pair of events began.
    told: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: SystemTime,
    began: Instant,
    reminded: Instant,
    /// An event told of its beginning.
    told: bool,
}

/// A source as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// What it knows is complete: every watch has had a response once, or is excused.
    pub synced: bool,
    /// Where its requests go, and how.
    pub transport: Option<String>,
    /// When its last good response came.
    pub last_success: Option<SystemTime>,
    /// The last error, even if it is over.
    pub last_error: Option<String>,
    /// When the last error came.
    pub last_error_at: Option<SystemTime>,
    /// Since when some watch cannot read; none while all is well.
    pub failing_since: Option<SystemTime>,
    /// Watches, and how many of them cannot read now.
    pub watches: usize,
    /// How many of them cannot read now.
    pub failing_watches: usize,
    /// Errors since the start.
    pub errors: u64,
}

impl SourceStatus {
    /// `waiting` before the first complete response, `failing`, or `ok`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (self.failing_since, self.synced) {
            (Some(_), _) => "failing",
            (None, false) => "waiting",
            (None, true) => "ok",
        }
    }

    /// What is wrong, in one sentence without a full stop; none while nothing is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.failing_since?;
        let error = self.last_error.as_deref().unwrap_or("no answer");
        Some(match (self.failing_watches, self.watches) {
            (failing, all) if all > 1 && failing < all => {
                format!(
                    "{}: {failing} of {all} watches cannot read: {error}",
                    self.name
                )
            }
            _ => format!("{}: {error}", self.name),
        })
    }
}

/// A line for the log: this still fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reminder {
    /// How it is.
    pub status: SourceStatus,
    /// For how long it has been failing.
    pub lasting: Duration,
}

impl Sources {
    /// Makes the source known before its first response. `transport`: where its requests go, if
    /// that is known.
    pub fn expect(&self, name: &str, transport: Option<String>) {
        let mut all = self.all();
        let state = all.entry(name.to_owned()).or_default();
        state.transport = transport.or(state.transport.take());
    }

    /// Forgets a source that is no longer configured.
    pub fn forget(&self, name: &str) {
        self.all().remove(name);
    }

    /// What it knows is complete.
    pub fn synced(&self, name: &str) {
        let mut all = self.all();
        let state = all.entry(name.to_owned()).or_default();
        state.synced = true;
        // Sources that cannot fail have no watch that could say so.
        state.last_success.get_or_insert_with(SystemTime::now);
    }

    /// A watch of it has read something good. Returns the event if that ends a failure.
    #[must_use]
    pub fn succeeded(&self, name: &str, watch: &str) -> Option<Draft> {
        let mut all = self.all();
        let state = state_of(&mut all, name);
        state.last_success = Some(SystemTime::now());
        match state.watches.get_mut(watch) {
            Some(None) => None,
            Some(failing) => {
                *failing = None;
                state.recovered(name)
            }
            None => {
                state.watches.insert(watch.to_owned(), None);
                None
            }
        }
    }

    /// A watch of it could not read, or read what is not believed. Returns the event if that begins
    /// a failure.
    #[must_use]
    pub fn failed(&self, name: &str, watch: &str, error: &str) -> Option<Draft> {
        let mut all = self.all();
        let state = state_of(&mut all, name);
        let (now, error) = (SystemTime::now(), bounded(error, ERROR_MAX));
        state.errors += 1;
        state.last_error = Some((error.clone(), now));
        match state.watches.get_mut(watch) {
            Some(known) => *known = Some(error.clone()),
            None => drop(state.watches.insert(watch.to_owned(), Some(error.clone()))),
        }
        if state.failing.is_some() {
            return None;
        }
        let began = Instant::now();
        let told = state
            .told
            .is_none_or(|at| began.duration_since(at) >= PAIRS_EVERY);
        state.failing = Some(Failing {
            since: now,
            began,
            reminded: began,
            told,
        });
        if !told {
            return None;
        }
        state.told = Some(began);
        let from = if state.last_success.is_some() {
            "ok"
        } else {
            "waiting"
        };
        Some(
            Draft::new(Kind::Source)
                .of(name)
                .states(from, "failing")
                .because(&error),
        )
    }

    /// A watch of it is needed no more. Returns the event if that ends a failure.
    #[must_use]
    pub fn ended(&self, name: &str, watch: &str) -> Option<Draft> {
        let mut all = self.all();
        let state = all.get_mut(name)?;
        state.watches.remove(watch)?;
        state.recovered(name)
    }

    /// All of them as they are now.
    #[must_use]
    pub fn list(&self) -> Vec<SourceStatus> {
        self.all()
            .iter()
            .map(|(name, state)| state.status(name))
            .collect()
    }

    /// One of them as it is now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<SourceStatus> {
        self.all().get(name).map(|state| state.status(name))
    }

    /// Sources that have been failing for `every` since their last line in the log.
    #[must_use]
    pub fn reminders(&self, every: Duration, now: Instant) -> Vec<Reminder> {
        let mut due = Vec::new();
        for (name, state) in self.all().iter_mut() {
            let status = state.status(name);
            if let Some(failing) = &mut state.failing
                && now.saturating_duration_since(failing.reminded) >= every
            {
                failing.reminded = now;
                due.push(Reminder {
                    status,
                    lasting: now.saturating_duration_since(failing.began),
                });
            }
        }
        due
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, SourceState>> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a source, without a new name for it each time.
fn state_of<'a>(all: &'a mut BTreeMap<String, SourceState>, name: &str) -> &'a mut SourceState {
    if !all.contains_key(name) {
        all.insert(name.to_owned(), SourceState::default());
    }
    all.get_mut(name).expect("inserted above")
}

impl SourceState {
    /// Ends the failure if no watch fails any more.
    fn recovered(&mut self, name: &str) -> Option<Draft> {
        if self.watches.values().any(Option::is_some) {
            return None;
        }
        let failing = self.failing.take()?;
        let lasted = failing.began.elapsed().as_secs();
        let told = Draft::new(Kind::Source).of(name).states("failing", "ok");
        failing
            .told
            .then(|| told.because(&format!("after {lasted} s")))
    }

    fn status(&self, name: &str) -> SourceStatus {
        let failing = |error: &&Option<String>| error.is_some();
        // While something fails, its own error says more than the last one of all.
        let present = self.watches.values().flatten().next();
        let (last_error, last_error_at) = self.last_error.clone().unzip();
        let last_is_present = self
            .watches
            .values()
            .flatten()
            .any(|error| Some(error) == last_error.as_ref());
        SourceStatus {
            name: name.to_owned(),
            synced: self.synced,
            transport: self.transport.clone(),
            last_success: self.last_success,
            last_error: if last_is_present {
                last_error
            } else {
                present.cloned().or(last_error)
            },
            last_error_at,
            failing_since: self.failing.map(|failing| failing.since),
            watches: self.watches.len(),
            failing_watches: self.watches.values().filter(failing).count(),
            errors: self.errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_begins_with_the_first_watch_and_ends_with_the_last() {
        let sources = Sources::default();
        sources.expect("consul", Some("https://127.0.0.1:8501".to_owned()));
        assert_eq!(sources.get("consul").unwrap().word(), "waiting");
        assert_eq!(sources.succeeded("consul", "list"), None);
        sources.synced("consul");
        assert_eq!(sources.get("consul").unwrap().word(), "ok");
        let event = sources
            .failed("consul", "web", "connection refused\n")
            .unwrap();
        assert_eq!(
            (event.from.as_deref(), event.to.as_deref()),
            (Some("ok"), Some("failing"))
        );
        assert_eq!(event.reason.as_deref(), Some("connection refused"));
        assert_eq!(sources.failed("consul", "list", "connection refused"), None);
        let status = sources.get("consul").unwrap();
        assert_eq!(
            (
                status.word(),
                status.watches,
                status.failing_watches,
                status.errors
            ),
            ("failing", 2, 2, 2)
        );
        assert_eq!(
            status.trouble().as_deref(),
            Some("consul: connection refused")
        );
        assert_eq!(sources.succeeded("consul", "list"), None, "one still fails");
        let status = sources.get("consul").unwrap();
        assert_eq!(
            status.trouble().as_deref(),
            Some("consul: 1 of 2 watches cannot read: connection refused")
        );
        let event = sources.ended("consul", "web").unwrap();
        assert_eq!(
            (event.from.as_deref(), event.to.as_deref()),
            (Some("failing"), Some("ok"))
        );
        let status = sources.get("consul").unwrap();
        assert_eq!(
            (status.word(), status.watches, status.failing_since),
            ("ok", 1, None)
        );
        assert_eq!(
            status.last_error.as_deref(),
            Some("connection refused"),
            "it is still known"
        );
        assert_eq!(sources.ended("consul", "unknown"), None);
    }

    #[test]
    fn a_source_that_flaps_makes_one_pair_of_events() {
        let sources = Sources::default();
        let mut events = 0;
        for _ in 0..50 {
            events += usize::from(sources.failed("file", "", "gone").is_some());
            events += usize::from(sources.succeeded("file", "").is_some());
        }
        assert_eq!(events, 2);
    }

    #[test]
    fn reminders_come_at_intervals_while_it_lasts() {
        let sources = Sources::default();
        let every = Duration::from_secs(180);
        let _ = sources.failed("consul", "web", "refused");
        let _ = sources.succeeded("static", "");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let due = |seconds| sources.reminders(every, at(seconds)).len();
        assert_eq!(
            [due(1), due(179), due(181), due(200), due(362)],
            [0, 0, 1, 0, 1]
        );
        let _ = sources.succeeded("consul", "web");
        assert_eq!(due(2000), 0);
    }
}
