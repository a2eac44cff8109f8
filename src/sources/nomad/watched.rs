//! One service that is followed: what is known of it, and when it is looked at next. Pure but for
//! the time, which is an argument.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Admission, AllocationFacts};
use super::read::{Look, Seen};
use super::snapshot::{Admissions, Rejected, snapshot};
use crate::catalog::{ServiceName, ServiceSnapshot};
use crate::sources::backoff::Backoff;
use crate::sources::loss_guard::{LossGuard, Verdict, undisputed};

/// Every service is looked at this often without a reason.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pauses between looks while an instance waits to be admitted: no event tells of a check that
/// passes. They grow with the time that it has waited.
const WAIT_STEPS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Pauses after failed looks.
const FAILURE_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Failed looks after which the start does not wait for this service any more.
const FAILURES_MAX: u32 = 3;
/// Share of all instances that may vanish at once without a second look, in percent.
const CONFIRM_PERCENT: u32 = 30;

/// A service.
#[derive(Debug)]
pub(super) struct Watched {
    /// As the table knows it.
    pub name: ServiceName,
    /// Lists up to this index may lack it: they are older than what told of it.
    pub since_index: u64,
    /// As listed last.
    pub tags: Vec<String>,
    /// A look at it came to an end, or several failed.
    pub is_settled: bool,
    known: Option<Arc<ServiceSnapshot>>,
    facts: HashMap<String, AllocationFacts>,
    admissions: Admissions,
    rejected: Vec<Rejected>,
    /// Allocations that changed since the last look began.
    stale: HashSet<String>,
    /// When to look; none while a look is under way and nothing happened since.
    due: Option<Instant>,
    /// A look is under way.
    is_reading: bool,
    index: u64,
    seen_at: Option<Instant>,
    /// The last look lacked so much that a second one has to confirm it.
    doubted: bool,
    /// Since when an instance waits.
    waits_since: Option<Instant>,
    backoff: Backoff,
}

/// What a look brings.
#[derive(Debug)]
pub(super) struct Taken {
    /// The state to be passed on, if it differs, and when the change could first be seen.
    pub publish: Option<(Arc<ServiceSnapshot>, Instant)>,
    /// What is left out, and was not before.
    pub rejected: Vec<Rejected>,
}

impl Watched {
    /// A service that is to be looked at at once.
    pub(super) fn new(
        name: ServiceName,
        tags: Vec<String>,
        since_index: u64,
        now: Instant,
    ) -> Self {
        Self {
            name,
            since_index,
            tags,
            is_settled: false,
            known: None,
            facts: HashMap::new(),
            admissions: Admissions::new(),
            rejected: Vec::new(),
            stale: HashSet::new(),
            due: Some(now),
            is_reading: false,
            index: since_index,
            seen_at: Some(now),
            doubted: false,
            waits_since: None,
            backoff: Backoff::new(FAILURE_PAUSES.0, FAILURE_PAUSES.1),
        }
    }

    /// Something may have changed: looks at once. `index`: that of the event, or 0.
    pub(super) fn hint(&mut self, index: u64, at: Instant) {
        self.index = self.index.max(index);
        self.seen_at = Some(self.seen_at.map_or(at, |before| before.min(at)));
        self.due = Some(at);
    }

    /// Something of an allocation changed. Returns whether it is one of this service.
    pub(super) fn hint_allocation(&mut self, id: &str, at: Instant) -> bool {
        let is_own = self.facts.contains_key(id)
            || self
                .admissions
                .keys()
                .any(|(allocation, _)| allocation == id);
        // While a look is under way, its allocations may be others than those known.
        if is_own || self.is_reading {
            self.stale.insert(id.to_owned());
        }
        if is_own {
            self.hint(0, at);
        }
        is_own
    }

    /// Nothing that was read of allocations is certain any more.
    pub(super) fn forget_facts(&mut self, due: Instant) {
        self.stale.extend(self.facts.keys().cloned());
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// When to look at it; none while a look is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.is_reading)
    }

    /// Begins a look.
    pub(super) fn look(&mut self, namespace: &Arc<str>, service: &str) -> Look {
        self.is_reading = true;
        self.due = None;
        let stale = std::mem::take(&mut self.stale);
        self.facts.retain(|id, _| !stale.contains(id));
        Look {
            namespace: Arc::clone(namespace),
            service: service.to_owned(),
            index: std::mem::take(&mut self.index),
            facts: self.facts.clone(),
            admissions: self.admissions.clone(),
        }
    }

    /// A look failed: what is known stays.
    pub(super) fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        self.is_reading = false;
        let pause = self.backoff.failed(rng);
        self.is_settled |= self.backoff.failures() >= FAILURES_MAX;
        self.due = Some(now + pause);
    }

    /// Takes what a look has seen.
    pub(super) fn take(
        &mut self,
        namespace: &str,
        seen: Seen,
        guard: &LossGuard,
        now: Instant,
    ) -> Taken {
        self.is_reading = false;
        self.is_settled = true;
        self.backoff.succeeded();
        let (mut fresh, rejected) =
            snapshot(&self.name, namespace, &seen.registrations, &seen.admissions);
        let newly: Vec<Rejected> = rejected
            .iter()
            .filter(|it| !self.rejected.contains(it))
            .cloned()
            .collect();
        self.rejected = rejected;
        let before = self.known.as_ref().map_or(&[][..], |it| &it.instances);
        let verdict = guard.judge(before, &fresh.instances, CONFIRM_PERCENT);
        // A second look in a row that shows the same is the confirmation.
        let doubts = verdict != Verdict::Believe && !self.doubted;
        self.doubted = doubts;
        if doubts {
            // What is new should not wait until it is confirmed what is gone.
            fresh.instances = undisputed(before, &fresh.instances);
            let missing = std::mem::take(&mut self.admissions);
            self.admissions = missing.into_iter().chain(seen.admissions).collect();
        } else {
            self.admissions = seen.admissions;
        }
        self.facts = seen.facts;
        self.plan(doubts, seen.trouble.is_some(), now);
        let publish = (self.known.as_deref() != Some(&fresh)).then(|| {
            let fresh = Arc::new(fresh);
            self.known = Some(Arc::clone(&fresh));
            (fresh, self.seen_at.unwrap_or(now))
        });
        if !doubts && self.due.is_none_or(|due| due > now) {
            self.seen_at = None;
        }
        Taken {
            publish,
            rejected: newly,
        }
    }

    /// Plans the next look, unless there is a reason for one already.
    fn plan(&mut self, doubts: bool, trouble: bool, now: Instant) {
        let waits = self
            .admissions
            .values()
            .any(|it| matches!(it, Admission::Waiting(_)));
        self.waits_since = match waits || trouble {
            true => Some(self.waits_since.unwrap_or(now)),
            false => None,
        };
        let pause = match self.waits_since {
            _ if doubts => Duration::ZERO,
            None => LOOK_EVERY,
            Some(since) => {
                // Their allocations may have changed without an event that reached us.
                let waiting = self.admissions.iter();
                let waiting = waiting.filter(|(_, it)| matches!(it, Admission::Waiting(_)));
                self.stale.extend(waiting.map(|((id, _), _)| id.clone()));
                ((now - since) / 8).clamp(WAIT_STEPS.0, WAIT_STEPS.1)
            }
        };
        let planned = now + pause;
        self.due = Some(self.due.map_or(planned, |due| due.min(planned)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::Registration;

    fn seen(ids: &[&str], admission: &Admission) -> Seen {
        let registrations: Vec<super::super::wire::Registration> = ids
            .iter()
            .map(|id| {
                let value = json!({"ID": id, "ServiceName": "web", "NodeID": "n", "AllocID": id,
                    "Tags": [], "Address": "10.0.0.1", "Port": 80});
                serde_json::from_value(value).unwrap()
            })
            .collect();
        let admissions = registrations
            .iter()
            .map(|it| (super::super::snapshot::key(it), admission.clone()))
            .collect();
        let facts = ids
            .iter()
            .map(|id| ((*id).to_owned(), AllocationFacts::default()))
            .collect();
        Seen {
            registrations,
            facts,
            admissions,
            trouble: None,
        }
    }

    const IN: Admission = Admission::Admitted { restarted: None };

    fn ids(taken: &Taken) -> Option<Vec<String>> {
        let (snapshot, _) = taken.publish.as_ref()?;
        let instances = snapshot.instances.iter();
        Some(instances.map(|it| it.id.id.to_string()).collect())
    }

    /// A service with these instances, and the guard that knows them.
    fn with(all: &[&str], start: Instant) -> (Watched, LossGuard) {
        let (mut watched, mut guard) = (
            Watched::new("web".into(), Vec::new(), 0, start),
            LossGuard::default(),
        );
        watched.look(&"default".into(), "web");
        watched.take("default", seen(all, &IN), &guard, start);
        guard.believe(&"web".into(), all.len());
        (watched, guard)
    }

    #[test]
    fn emptiness_is_believed_when_a_second_look_shows_it_again() {
        let start = Instant::now();
        for after in [&[][..], &["new"]] {
            let (mut watched, guard) = with(&["a", "b", "c"], start);
            watched.look(&"default".into(), "web");
            let taken = watched.take("default", seen(after, &IN), &guard, start);
            let undisputed =
                (!after.is_empty()).then(|| ["a", "b", "c", "new"].map(str::to_owned).to_vec());
            assert_eq!(ids(&taken), undisputed, "what is new counts at once");
            assert_eq!(
                watched.due(),
                Some(start),
                "the second look follows at once"
            );
            watched.look(&"default".into(), "web");
            let taken = watched.take("default", seen(after, &IN), &guard, start);
            assert_eq!(ids(&taken).unwrap(), after);
        }
        let (mut watched, guard) = with(&["a", "b", "c"], start);
        watched.look(&"default".into(), "web");
        watched.take("default", seen(&[], &IN), &guard, start);
        watched.look(&"default".into(), "web");
        let taken = watched.take("default", seen(&["a", "b", "c"], &IN), &guard, start);
        assert_eq!(ids(&taken), None, "it was not true");
    }

    #[test]
    fn what_waits_is_looked_at_often_and_what_serves_seldom() {
        let start = Instant::now();
        let (mut watched, guard) = with(&["a"], start);
        assert_eq!(watched.due(), Some(start + LOOK_EVERY));
        let waiting = Admission::Waiting("why".to_owned());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, pause) in [
            (0, WAIT_STEPS.0),
            (8, Duration::from_secs(1)),
            (99, WAIT_STEPS.1),
        ] {
            watched.look(&"default".into(), "web");
            let taken = watched.take("default", seen(&["a"], &waiting), &guard, at(second));
            assert_eq!(watched.due(), Some(at(second) + pause));
            if let Some((snapshot, _)) = taken.publish {
                let registration = &snapshot.instances[0].registration;
                assert!(matches!(registration, Registration::NotAdmitted { .. }));
            }
            assert!(
                watched.look(&"default".into(), "web").facts.is_empty(),
                "read anew"
            );
        }
        watched.take("default", seen(&["a"], &IN), &guard, at(100));
        assert_eq!(watched.due(), Some(at(100) + LOOK_EVERY));
    }

    #[test]
    fn a_change_during_a_look_is_followed_by_another() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let (mut watched, guard) = with(&["a"], start);
        assert_eq!(watched.look(&"default".into(), "web").facts.len(), 1);
        assert!(watched.hint_allocation("a", later));
        assert!(!watched.hint_allocation("of another service", later));
        watched.hint(7, later);
        assert_eq!(watched.due(), None, "one look at a time");
        watched.take("default", seen(&["a"], &IN), &guard, later);
        assert_eq!(watched.due(), Some(later));
        let look = watched.look(&"default".into(), "web");
        assert_eq!((look.index, look.facts.len()), (7, 0));
    }

    #[test]
    fn a_failed_look_changes_nothing_and_comes_again() {
        let (start, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut watched = Watched::new("web".into(), Vec::new(), 0, start);
        for expected in [false, false, true] {
            watched.look(&"default".into(), "web");
            watched.failed(start, &mut rng);
            assert_eq!(watched.is_settled, expected);
            assert!(watched.due().unwrap() <= start + FAILURE_PAUSES.1);
        }
    }
}
