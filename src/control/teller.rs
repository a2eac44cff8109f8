//! Tells of what happened to instances and services: one line of the log and one event each.
//!
//! What changes in one table is collected and told when that table is live. Workers see ejections
//! and pass them on. An ejection ends by time alone, so ejected instances are checked until they
//! are well again.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::transitions::{EJECTED, EXCLUDED, GONE, HEALTHY, NEW, PROBATION, Transition, summed_up};
use crate::catalog::source::SourceName;
use crate::catalog::{InstanceId, ServiceName};
use crate::journal::{Draft, Ejection, Journal, Kind, few};
use crate::table::{CommandServices, TargetState};

/// Most instances that get a line each in the log of one table; more are summed up. Each has its
/// event all the same.
const LINES_MAX: usize = 50;
/// Most lines of such a sum.
const SUMS_MAX: usize = 20;
/// How often ejected instances are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most services that one line names.
const NAMED_MAX: usize = 10;

/// An instance on an address.
type InstanceAddress = (InstanceId, SocketAddr);

/// Targets of a service of route commands: why one is out, if it is.
type Targets = BTreeMap<InstanceAddress, Option<Arc<str>>>;

/// Collects what changes, and tells it.
#[derive(Debug)]
pub(super) struct Teller {
    journal: Journal,
    transitions: Vec<Transition>,
    services: Vec<ServiceChange>,
    ejected: HashMap<InstanceAddress, Watched>,
    look_at: Option<Instant>,
    /// Targets of route commands as they were told last: why one is out, if it is.
    commands: BTreeMap<ServiceName, Targets>,
}

/// An instance that was ejected, and is not well again.
#[derive(Debug)]
struct Watched {
    service: String,
    state: Arc<TargetState>,
    /// As told last.
    word: &'static str,
    /// The catalog takes it out as well: the end of its ejection changes nothing.
    excluded: bool,
}

/// A service that got its first usable instance, or lost its last.
#[derive(Debug)]
struct ServiceChange {
    service: String,
    known: bool,
    was: usize,
    now: usize,
    registered: usize,
}

impl Teller {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            transitions: Vec::new(),
            services: Vec::new(),
            ejected: HashMap::new(),
            look_at: None,
            commands: BTreeMap::new(),
        }
    }

    /// The state that the traffic gave to an instance, as it was told; none: healthy.
    pub(super) fn of_traffic(&self, id: &InstanceId, addr: SocketAddr) -> Option<&'static str> {
        if self.ejected.is_empty() {
            return None;
        }
        self.ejected
            .get(&(id.clone(), addr))
            .map(|watched| watched.word)
    }

    pub(super) fn note(&mut self, mut transitions: Vec<Transition>, now_ms: u64) {
        if !self.ejected.is_empty() {
            transitions
                .iter_mut()
                .for_each(|transition| self.note_traffic(transition, now_ms));
        }
        self.transitions.append(&mut transitions);
    }

    /// What the catalog says now of an instance that was ejected.
    fn note_traffic(&mut self, transition: &mut Transition, now_ms: u64) {
        let Ok(addr) = transition.address.parse() else {
            return;
        };
        let place = (transition.instance.clone(), addr);
        if transition.to == GONE {
            self.ejected.remove(&place);
            return;
        }
        let Some(watched) = self.ejected.get_mut(&place) else {
            return;
        };
        watched.excluded = transition.to == EXCLUDED;
        if transition.to == HEALTHY {
            watched.word = watched.state.word(now_ms);
            if watched.word == HEALTHY {
                self.ejected.remove(&place);
            } else {
                transition.to = watched.word;
                transition.reason.push_str(", but requests to it failed");
            }
        }
    }

    /// Collects a change of the number of usable instances, if it is to or from none. `known`: the
    /// service was there before.
    pub(super) fn note_usable(
        &mut self,
        service: &str,
        known: bool,
        was: usize,
        now: usize,
        registered: usize,
    ) {
        if (was == 0) != (now == 0) {
            self.services.push(ServiceChange {
                service: service.to_owned(),
                known,
                was,
                now,
                registered,
            });
        }
    }

    /// Something that has no state before it.
    pub(super) fn event(&self, event: Draft) {
        self.journal.events().push(event);
    }

    /// Compares the targets of route commands with those that were told last. `starting`: whether a
    /// source has not synced yet.
    pub(super) fn note_commands(
        &mut self,
        services: &CommandServices,
        starting: impl Fn(&str) -> bool,
        now_ms: u64,
    ) {
        let of = |name: &ServiceName| -> Targets {
            let place = |state: &TargetState| (state.id.clone(), state.addr);
            services
                .targets(name)
                .map(|target| (place(&target.state), target.excluded.clone()))
                .collect()
        };
        let now: BTreeMap<ServiceName, _> = services
            .names()
            .map(|name| (Arc::clone(name), of(name)))
            .collect();
        let before = std::mem::replace(&mut self.commands, now);
        let none = Targets::new();
        let mut found = Vec::new();
        let mut usable = Vec::new();
        let names: std::collections::BTreeSet<&ServiceName> =
            before.keys().chain(self.commands.keys()).collect();
        for name in names {
            let (old, new) = (
                before.get(name).unwrap_or(&none),
                self.commands.get(name).unwrap_or(&none),
            );
            if old == new {
                continue;
            }
            found.extend(self.of_commands(name, old, new, &starting));
            let count = |targets: &Targets| targets.values().filter(|out| out.is_none()).count();
            usable.push((
                Arc::clone(name),
                !old.is_empty(),
                count(old),
                count(new),
                new.len(),
            ));
        }
        for (name, known, was, now, registered) in usable {
            // What is there at the start is not reported one by one.
            let started_with =
                !known && found.iter().all(|transition| *transition.service != *name);
            if !started_with {
                self.note_usable(&name, known, was, now, registered);
            }
        }
        self.note(found, now_ms);
    }

    fn of_commands(
        &self,
        name: &ServiceName,
        old: &Targets,
        new: &Targets,
        starting: &impl Fn(&str) -> bool,
    ) -> Vec<Transition> {
        let mut found = Vec::new();
        let mut push = |place: &InstanceAddress, from, to, reason: String| {
            let (instance, address) = (place.0.clone(), place.1.to_string());
            found.push(Transition {
                service: name.to_string(),
                instance,
                address,
                from,
                to,
                reason,
            });
        };
        // One whose name has no address any more has its place among the new ones, with the reason.
        let lost = |id: &InstanceId| {
            new.iter()
                .find(|((of, _), _)| of == id)
                .and_then(|(_, out)| out.as_deref())
        };
        for (place, out) in old.iter().filter(|(place, _)| !new.contains_key(place)) {
            let from = if out.is_some() {
                EXCLUDED
            } else {
                self.of_traffic(&place.0, place.1).unwrap_or(HEALTHY)
            };
            push(
                place,
                from,
                GONE,
                lost(&place.0)
                    .unwrap_or("no route command names it any more")
                    .to_owned(),
            );
        }
        for (place, out) in new {
            match (old.get(place), out) {
                (None, None) if starting(&place.0.node) => {}
                (None, None) => push(place, NEW, HEALTHY, "added by a route command".to_owned()),
                (None, Some(reason)) => push(place, NEW, EXCLUDED, reason.to_string()),
                (Some(None), Some(reason)) => {
                    push(
                        place,
                        self.of_traffic(&place.0, place.1).unwrap_or(HEALTHY),
                        EXCLUDED,
                        reason.to_string(),
                    );
                }
                (Some(Some(_)), None) => push(
                    place,
                    EXCLUDED,
                    HEALTHY,
                    "it has an address again".to_owned(),
                ),
                (Some(Some(was)), Some(is)) if was != is => {
                    push(place, EXCLUDED, EXCLUDED, is.to_string())
                }
                (Some(None), None) | (Some(Some(_)), Some(_)) => {}
            }
        }
        found
    }

    /// A worker ejected an instance; `state` is its state, if it is still in the table.
    pub(super) fn ejected(
        &mut self,
        ejection: &Ejection,
        state: Option<&Arc<TargetState>>,
        now: Instant,
    ) {
        let dropped = self.journal.take_dropped();
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "more ejections at once than can be told one by one"
            );
        }
        let Ejection {
            service,
            node,
            id,
            address,
            failures,
            why,
            for_ms,
        } = ejection;
        let why = why.map_or_else(|| format!("{failures} failures in a row"), str::to_owned);
        let instance = InstanceId {
            node: Arc::clone(node),
            id: Arc::clone(id),
        };
        let Some(state) = state else { return };
        self.transitions.push(Transition {
            service: service.to_string(),
            instance: instance.clone(),
            address: address.to_string(),
            from: self.of_traffic(&instance, *address).unwrap_or(HEALTHY),
            to: EJECTED,
            reason: format!("{why}; no requests for {:.1} s", *for_ms as f64 / 1000.0),
        });
        let watched = Watched {
            service: service.to_string(),
            state: Arc::clone(state),
            word: EJECTED,
            excluded: false,
        };
        self.ejected.insert((instance, *address), watched);
        self.look_at.get_or_insert(now + LOOK_EVERY);
    }

    /// When ejected instances want to be looked at.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.look_at
    }

    /// Looks at ejected instances, if it is time.
    pub(super) fn look(&mut self, now: Instant, now_ms: u64) {
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        let mut found = Vec::new();
        self.ejected.retain(|(instance, address), watched| {
            if watched.state.retired.load(Relaxed) {
                return false;
            }
            let word = watched.state.word(now_ms);
            if word != watched.word && !watched.excluded {
                found.push(Transition {
                    service: watched.service.clone(),
                    instance: instance.clone(),
                    address: address.to_string(),
                    from: watched.word,
                    to: word,
                    reason: match word {
                        PROBATION => "its ejection is over; one request tries it".to_owned(),
                        EJECTED => "the request that tried it failed".to_owned(),
                        _ => "a request to it succeeded".to_owned(),
                    },
                });
            }
            watched.word = word;
            word != HEALTHY
        });
        self.transitions.append(&mut found);
        self.look_at = (!self.ejected.is_empty()).then(|| now + LOOK_EVERY);
    }

    /// Tells what was collected. Returns the services of which the traffic changed an instance.
    pub(super) fn tell(&mut self) -> Vec<String> {
        let transitions = std::mem::take(&mut self.transitions);
        let of_traffic = |word: &str| matches!(word, EJECTED | PROBATION);
        let touched = transitions
            .iter()
            .filter(|it| of_traffic(it.from) || of_traffic(it.to));
        let touched = touched.map(|it| it.service.clone()).collect();
        if transitions.len() <= LINES_MAX {
            transitions.iter().for_each(log);
        } else {
            let sums = summed_up(&transitions);
            for sum in sums.iter().take(SUMS_MAX) {
                tracing::info!(what = sum, "instances changed their state");
            }
            if let Some(more) = sums.len().checked_sub(SUMS_MAX).filter(|more| *more > 0) {
                tracing::info!(
                    more,
                    "further services have instances that changed their state: see /api/events"
                );
            }
        }
        for transition in transitions {
            let Transition {
                service,
                instance,
                address,
                from,
                to,
                reason,
            } = transition;
            let mut event = Draft::new(Kind::Instance)
                .of(&service)
                .states(from, to)
                .because(&reason);
            (event.instance, event.address) = (Some(instance.to_string()), Some(address));
            self.event(event);
        }
        self.tell_services();
        touched
    }

    fn tell_services(&mut self) {
        let changes = std::mem::take(&mut self.services);
        let many = changes.len() > LINES_MAX;
        if many {
            let names = |is: fn(&ServiceChange) -> bool| {
                let names = changes
                    .iter()
                    .filter(|change| is(change))
                    .map(|change| &*change.service);
                few(&names.collect::<Vec<_>>(), NAMED_MAX)
            };
            if changes.iter().any(|change| change.now == 0) {
                let services = names(|change| change.now == 0);
                tracing::warn!(
                    services,
                    "services have no usable instance any more: requests for them fail"
                );
            }
            if changes.iter().any(|change| change.now > 0) {
                tracing::info!(
                    services = names(|change| change.now > 0),
                    "services have usable instances"
                );
            }
        }
        for ServiceChange {
            service,
            known,
            was,
            now,
            registered,
        } in changes
        {
            let event = Draft::new(Kind::Service).of(&service);
            self.event(match (now, registered) {
                (0, 0) => {
                    if !many {
                        tracing::warn!(
                            service,
                            was,
                            "service is gone: its last usable instances left with it"
                        );
                    }
                    event
                        .states("up", GONE)
                        .because("it is not registered any more")
                }
                (0, _) => {
                    if !many {
                        tracing::warn!(
                            service,
                            was,
                            registered,
                            "service has no usable instance: requests for it fail"
                        );
                    }
                    event
                        .states("up", "down")
                        .because(&format!("none of {registered} instances is usable"))
                }
                _ => {
                    if !many {
                        tracing::info!(
                            service,
                            usable = now,
                            registered,
                            "service has usable instances"
                        );
                    }
                    let from = if known { "down" } else { NEW };
                    event
                        .states(from, "up")
                        .because(&format!("{now} of {registered} instances are usable"))
                }
            });
        }
    }

    /// A source has synced: which of its services have instances, and none to use.
    pub(super) fn synced(&self, source: SourceName, down: &[&str]) {
        self.journal.sources().synced(source);
        self.event(
            Draft::new(Kind::Source)
                .of(source)
                .states("waiting", "ok")
                .because("first complete answer"),
        );
        for service in down {
            let event = Draft::new(Kind::Service).of(service).states(NEW, "down");
            self.event(event.because("none of its instances is usable"));
        }
        if !down.is_empty() {
            tracing::warn!(
                source,
                services = few(down, NAMED_MAX),
                "services without a usable instance: requests for them fail"
            );
        }
    }
}

fn log(transition: &Transition) {
    let Transition {
        service,
        instance,
        address,
        from,
        to,
        reason,
    } = transition;
    tracing::info!(service, %instance, address, from, to, reason, "instance changed its state");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::health::HealthConfig;

    fn state() -> Arc<TargetState> {
        let id = InstanceId {
            node: "n".into(),
            id: "i".into(),
        };
        Arc::new(TargetState::new(1, id, ([127, 0, 0, 1], 1).into(), 0))
    }

    fn ejection() -> Ejection {
        Ejection {
            service: "web".into(),
            node: "n".into(),
            id: "i".into(),
            address: ([127, 0, 0, 1], 1).into(),
            failures: 5,
            why: None,
            for_ms: 5000,
        }
    }

    fn states(journal: &Journal) -> Vec<String> {
        let word = |text: &Option<std::borrow::Cow<'static, str>>| {
            text.as_deref().unwrap_or("-").to_owned()
        };
        journal
            .events()
            .list(None)
            .iter()
            .map(|e| format!("{} -> {}", word(&e.what.from), word(&e.what.to)))
            .collect()
    }

    #[test]
    fn an_ejection_is_followed_to_its_end() {
        let journal = Journal::default();
        let mut teller = Teller::new(journal.clone());
        let state = state();
        let config = HealthConfig::default();
        let start = Instant::now();
        for _ in 0..5 {
            state.record_failure(1000, &config, 0, 4);
        }
        teller.ejected(&ejection(), Some(&state), start);
        assert_eq!(teller.of_traffic(&state.id, state.addr), Some(EJECTED));
        let mut look = |after_ms: u64, now_ms: u64| {
            teller.look(start + Duration::from_millis(after_ms), now_ms);
            let _ = teller.tell();
        };
        look(100, 1100);
        look(600, 1600);
        look(5200, 6200);
        state.record_success(6300, 10);
        look(6000, 7000);
        assert_eq!(
            states(&journal),
            [
                "healthy -> ejected",
                "ejected -> probation",
                "probation -> healthy"
            ]
        );
        assert_eq!(teller.next_look(), None);
        let reason = journal.events().list(None)[0].what.reason.clone();
        assert_eq!(
            reason.as_deref(),
            Some("5 failures in a row; no requests for 5.0 s")
        );
    }

    #[test]
    fn the_catalog_and_the_traffic_speak_of_one_instance() {
        let journal = Journal::default();
        let mut teller = Teller::new(journal.clone());
        let state = state();
        (0..5).for_each(|_| _ = state.record_failure(1000, &HealthConfig::default(), 0, 4));
        let start = Instant::now();
        teller.ejected(&ejection(), Some(&state), start);
        let transition = |from, to| Transition {
            service: "web".to_owned(),
            instance: state.id.clone(),
            address: state.addr.to_string(),
            from,
            to,
            reason: "x".to_owned(),
        };
        teller.note(vec![transition(EJECTED, EXCLUDED)], 1500);
        // Excluded meanwhile: the end of the ejection changes nothing.
        teller.look(start + Duration::from_secs(6), 7000);
        teller.note(vec![transition(EXCLUDED, HEALTHY)], 7100);
        teller.note(vec![transition(PROBATION, GONE)], 7200);
        let _ = teller.tell();
        assert_eq!(
            states(&journal),
            [
                "healthy -> ejected",
                "ejected -> excluded",
                "excluded -> probation",
                "probation -> gone"
            ]
        );
        teller.look(start + Duration::from_secs(9), 9000);
        assert_eq!(teller.next_look(), None);
    }

    #[test]
    fn a_service_is_told_when_it_falls_to_nothing_and_when_it_is_back() {
        let journal = Journal::default();
        let mut teller = Teller::new(journal.clone());
        for (was, now, registered) in [
            (0, 0, 3),
            (0, 2, 3),
            (2, 1, 3),
            (1, 0, 3),
            (0, 1, 3),
            (1, 0, 0),
        ] {
            teller.note_usable("web", true, was, now, registered);
        }
        teller.note_usable("new", false, 0, 1, 1);
        let _ = teller.tell();
        assert_eq!(
            states(&journal),
            [
                "down -> up",
                "up -> down",
                "down -> up",
                "up -> gone",
                "new -> up"
            ]
        );
    }
}
