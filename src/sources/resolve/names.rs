//! What is known of each name, what to believe of a response, and when to query again. Pure: time
//! is an argument.
//!
//! - A response replaces the one before and is queried again after its TTL, within the configured
//!   bounds.
//! - A failure (timeout, refusal, SERVFAIL) changes nothing: the last good response stays for as
//!   long as it takes, queried again after a growing pause.
//! - "No such name" is a response, but also what a DNS server in trouble says (Consul's, for one,
//!   while it starts or sees no healthy instance). It is believed when [`ABSENT_CONFIRMED`]
//!   queries in a row had that result.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::ServiceName;
use crate::catalog::source::SourceName;
use crate::sources::dns::{DnsResponse, Found, Question, ResolveError};

/// One service of a source, or (none) its command list.
pub(super) type SlotKey = (SourceName, Option<ServiceName>);

/// How many times in a row a name must be said not to exist before its addresses are given up.
pub(super) const ABSENT_CONFIRMED: u32 = 3;
/// Pause between these questions, and after a first failure.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All names in use.
#[derive(Debug)]
pub(super) struct Names {
    ttl_min: Duration,
    ttl_max: Duration,
    known: BTreeMap<Question, State>,
    /// When to query next; not for names whose query is under way.
    schedule: BTreeSet<(Instant, Question)>,
}

#[derive(Debug)]
struct State {
    users: BTreeSet<SlotKey>,
    found: Vec<Found>,
    /// Some response, good or bad, was there.
    settled: bool,
    /// Where it stands in the schedule; none while its query is under way.
    due: Option<Instant>,
    failures: u32,
    absences: u32,
    trouble: Option<String>,
}

/// What a response changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The addresses differ, or this was the first response, or there are none for another reason
    /// than before.
    pub(super) changed: bool,
    /// A change between good and bad that is worth a line in the log.
    pub(super) news: Option<News>,
}

/// A line in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Queries fail, for this reason; `kept` addresses stay.
    Failing { reason: String, kept: usize },
    /// The name is gone, and so are its addresses.
    Gone,
    /// Good responses again.
    Recovered,
}

impl Names {
    pub(super) fn new(ttl_min: Duration, ttl_max: Duration) -> Self {
        Self {
            ttl_min,
            ttl_max: ttl_max.max(ttl_min),
            known: BTreeMap::new(),
            schedule: BTreeSet::new(),
        }
    }

    /// Notes that `slot`, which used the names of `before`, uses those of `questions` now. New
    /// names are due at once, those without a user any more are forgotten.
    pub(super) fn set_used(
        &mut self,
        slot: &SlotKey,
        before: &BTreeSet<Question>,
        questions: &BTreeSet<Question>,
        now: Instant,
    ) {
        for question in questions {
            let state = self.known.entry(question.clone()).or_insert_with(|| {
                self.schedule.insert((now, question.clone()));
                State::new(now)
            });
            state.users.insert(slot.clone());
        }
        for question in before.difference(questions) {
            let Some(state) = self.known.get_mut(question) else {
                continue;
            };
            state.users.remove(slot);
            if !state.users.is_empty() {
                continue;
            }
            if let Some(due) = state.due {
                self.schedule.remove(&(due, question.clone()));
            }
            self.known.remove(question);
        }
    }

    /// Whether the name has been looked up at least once.
    pub(super) fn is_settled(&self, question: &Question) -> bool {
        self.known.get(question).is_some_and(|state| state.settled)
    }

    /// What is believed of a name now.
    pub(super) fn found(&self, question: &Question) -> &[Found] {
        self.known.get(question).map_or(&[], |state| &state.found)
    }

    /// What went wrong with the last question about a name, if it did.
    pub(super) fn trouble(&self, question: &Question) -> Option<&str> {
        self.known.get(question)?.trouble.as_deref()
    }

    /// The slots that use a name.
    pub(super) fn users(&self, question: &Question) -> impl Iterator<Item = &SlotKey> {
        self.known
            .get(question)
            .into_iter()
            .flat_map(|state| &state.users)
    }

    /// When the next question is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// Takes the next question that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Question> {
        if self.next_due()? > now {
            return None;
        }
        let (_, question) = self.schedule.pop_first()?;
        if let Some(state) = self.known.get_mut(&question) {
            state.due = None;
        }
        Some(question)
    }

    /// All names are due at once, those under way too: responses to these are not to be recorded.
    pub(super) fn requery_all(&mut self, now: Instant) {
        self.schedule = self
            .known
            .keys()
            .map(|question| (now, question.clone()))
            .collect();
        for state in self.known.values_mut() {
            state.due = Some(now);
            (state.failures, state.absences) = (0, 0);
        }
    }

    /// Takes note of a response.
    pub(super) fn record(
        &mut self,
        question: &Question,
        result: Result<DnsResponse, ResolveError>,
        now: Instant,
    ) -> Outcome {
        // The name may not be needed any more; or it is needed again, and then it is in the
        // schedule.
        let Some(state) = self
            .known
            .get_mut(question)
            .filter(|state| state.due.is_none())
        else {
            return Outcome::default();
        };
        let first = !std::mem::replace(&mut state.settled, true);
        let (mut outcome, pause) = match result {
            Ok(response) => state.believe(response, self.ttl_min, self.ttl_max),
            Err(error) => state.doubt(&error),
        };
        outcome.changed |= first;
        let due = now + pause;
        state.due = Some(due);
        self.schedule.insert((due, question.clone()));
        outcome
    }
}

impl State {
    fn new(due: Instant) -> Self {
        Self {
            users: BTreeSet::new(),
            found: Vec::new(),
            settled: false,
            due: Some(due),
            failures: 0,
            absences: 0,
            trouble: None,
        }
    }

    fn believe(
        &mut self,
        response: DnsResponse,
        ttl_min: Duration,
        ttl_max: Duration,
    ) -> (Outcome, Duration) {
        let DnsResponse {
            mut found,
            failed_targets,
            ttl,
        } = response;
        // Targets that could not be looked up keep what they had.
        found.extend(
            self.found
                .iter()
                .filter(|old| failed_targets.contains(&old.target))
                .cloned(),
        );
        found.sort();
        found.dedup();
        let changed = self.found != found;
        self.found = found;
        (self.failures, self.absences) = (0, 0);
        let news = self.trouble.take().map(|_| News::Recovered);
        (Outcome { changed, news }, ttl.clamp(ttl_min, ttl_max))
    }

    fn doubt(&mut self, error: &ResolveError) -> (Outcome, Duration) {
        if *error == ResolveError::Absent {
            (self.absences, self.failures) = (self.absences.saturating_add(1), 0);
        } else {
            (self.absences, self.failures) = (0, self.failures.saturating_add(1));
        }
        let gone = self.absences >= ABSENT_CONFIRMED && !self.found.is_empty();
        if gone {
            self.found.clear();
        }
        let reason = error.to_string();
        let was_logged = self
            .trouble
            .replace(reason.clone())
            .is_some_and(|before| before == reason);
        let news = match (gone, was_logged) {
            (true, _) => Some(News::Gone),
            (false, false) => Some(News::Failing {
                reason,
                kept: self.found.len(),
            }),
            (false, true) => None,
        };
        // The first questions after an absence come quickly, to confirm it.
        let rounds = self
            .failures
            .max(self.absences.saturating_sub(ABSENT_CONFIRMED - 1))
            .saturating_sub(1);
        let pause = RETRY_MIN.saturating_mul(1 << rounds.min(5)).min(RETRY_MAX);
        // A slot without an address is shown with the reason.
        let changed = gone || (!was_logged && self.found.is_empty());
        (Outcome { changed, news }, pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Question {
        Question {
            name: name.into(),
            srv: false,
        }
    }

    fn slot(service: &str) -> SlotKey {
        ("test", Some(service.into()))
    }

    fn found(target: &str, last: u8) -> Found {
        Found {
            target: target.into(),
            addr: [10, 0, 0, last].into(),
            port: 0,
            weight: 0,
        }
    }

    fn resolved(found: &[Found], ttl_s: u64) -> Result<DnsResponse, ResolveError> {
        Ok(DnsResponse {
            found: found.to_vec(),
            failed_targets: Vec::new(),
            ttl: Duration::from_secs(ttl_s),
        })
    }

    fn failed() -> Result<DnsResponse, ResolveError> {
        Err(ResolveError::Failed("timeout".to_owned()))
    }

    struct Fixture {
        names: Names,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let mut names = Names::new(Duration::from_secs(2), Duration::from_secs(60));
            let now = Instant::now();
            names.set_used(
                &slot("s"),
                &BTreeSet::new(),
                &BTreeSet::from([question("a")]),
                now,
            );
            Self { names, now }
        }

        /// Lets time pass until the question is due, records a result, and returns the outcome and
        /// how long it took.
        fn record(&mut self, result: Result<DnsResponse, ResolveError>) -> (Outcome, u64) {
            let due = self.names.next_due().expect("something is due");
            let waited = due.saturating_duration_since(self.now).as_secs();
            self.now = self.now.max(due);
            assert_eq!(self.names.take_due(self.now), Some(question("a")));
            assert_eq!(
                self.names.next_due(),
                None,
                "a name has one query at a time"
            );
            (self.names.record(&question("a"), result, self.now), waited)
        }

        fn found(&self) -> &[Found] {
            self.names.found(&question("a"))
        }
    }

    #[test]
    fn names_are_queried_again_after_their_clamped_ttl() {
        let mut fixture = Fixture::new();
        let one = [found("a", 1)];
        assert_eq!(
            fixture.record(resolved(&one, 0)),
            (
                Outcome {
                    changed: true,
                    news: None
                },
                0
            )
        );
        assert_eq!(fixture.record(resolved(&one, 5)), (Outcome::default(), 2));
        assert_eq!(
            fixture.record(resolved(&one, 3600)),
            (Outcome::default(), 5)
        );
        let two = [found("a", 1), found("a", 2)];
        assert_eq!(
            fixture.record(resolved(&two, 1)),
            (
                Outcome {
                    changed: true,
                    news: None
                },
                60
            )
        );
        assert_eq!(fixture.found(), two);
    }

    #[test]
    fn failures_never_take_addresses_away() {
        let mut fixture = Fixture::new();
        let one = [found("a", 1)];
        fixture.record(resolved(&one, 2));
        let news = Some(News::Failing {
            reason: "timeout".to_owned(),
            kept: 1,
        });
        assert_eq!(
            fixture.record(failed()),
            (
                Outcome {
                    changed: false,
                    news
                },
                2
            )
        );
        for pause in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert_eq!(
                fixture.record(failed()),
                (Outcome::default(), pause),
                "logged once, queried ever more slowly"
            );
            assert_eq!(fixture.found(), one);
        }
        let (outcome, _) = fixture.record(resolved(&one, 2));
        assert_eq!(
            outcome,
            Outcome {
                changed: false,
                news: Some(News::Recovered)
            }
        );
    }

    #[test]
    fn absence_is_believed_when_confirmed_in_a_row() {
        let mut fixture = Fixture::new();
        let absent = || Err(ResolveError::Absent);
        fixture.record(resolved(&[found("a", 1)], 2));
        fixture.record(absent());
        fixture.record(absent());
        fixture.record(failed());
        for _ in 1..ABSENT_CONFIRMED {
            let (outcome, pause) = fixture.record(absent());
            assert!(!outcome.changed && pause == 1 && !fixture.found().is_empty());
        }
        assert_eq!(
            fixture.record(absent()).0,
            Outcome {
                changed: true,
                news: Some(News::Gone)
            }
        );
        assert!(fixture.found().is_empty());
        assert!(!fixture.record(absent()).0.changed);
        assert!(fixture.record(resolved(&[found("a", 1)], 2)).0.changed);
    }

    #[test]
    fn a_first_failure_settles_the_name_without_addresses() {
        let mut fixture = Fixture::new();
        assert!(!fixture.names.is_settled(&question("a")));
        assert!(fixture.record(failed()).0.changed);
        assert!(fixture.names.is_settled(&question("a")) && fixture.found().is_empty());
        assert_eq!(fixture.names.trouble(&question("a")), Some("timeout"));
        assert!(!fixture.record(failed()).0.changed);
        assert!(
            fixture.record(Err(ResolveError::Absent)).0.changed,
            "another reason to show"
        );
        assert_eq!(fixture.names.trouble(&question("a")), Some("no such name"));
        fixture.record(resolved(&[found("a", 1)], 2));
        assert_eq!(fixture.names.trouble(&question("a")), None);
    }

    #[test]
    fn targets_that_fail_keep_what_they_had() {
        let mut fixture = Fixture::new();
        fixture.record(resolved(&[found("x", 1), found("y", 2), found("z", 3)], 2));
        let partial = DnsResponse {
            found: vec![found("x", 9)],
            failed_targets: vec!["y".into()],
            ttl: Duration::from_secs(2),
        };
        assert!(fixture.record(Ok(partial)).0.changed);
        assert_eq!(fixture.found(), [found("x", 9), found("y", 2)]);
    }

    #[test]
    fn names_live_as_long_as_somebody_uses_them() {
        let mut fixture = Fixture::new();
        let (a, none) = (BTreeSet::from([question("a")]), BTreeSet::new());
        fixture.names.set_used(&slot("t"), &none, &a, fixture.now);
        fixture.record(resolved(&[found("a", 1)], 2));
        fixture.names.set_used(&slot("s"), &a, &none, fixture.now);
        assert_eq!(
            fixture.names.users(&question("a")).collect::<Vec<_>>(),
            [&slot("t")]
        );
        fixture.names.set_used(&slot("t"), &a, &none, fixture.now);
        assert!(fixture.names.next_due().is_none() && fixture.found().is_empty());
        // A response that comes too late, after the name was forgotten and wanted again, is not
        // taken for a new one.
        fixture.names.set_used(&slot("s"), &none, &a, fixture.now);
        assert_eq!(
            fixture.names.record(&question("a"), failed(), fixture.now),
            Outcome::default()
        );
        assert!(!fixture.names.is_settled(&question("a")));
    }
}
