//! Which services have to respond before the source counts as synced, and when to go on without
//! those that cannot.
//!
//! A table that is complete but for one broken service is worth serving; one that lacks most
//! services is not. So a service whose first reads fail is excused, but never are more excused than
//! responded; and what a token may not read is excused only once something else has instances, else
//! nothing at all may be readable. Pure.

use std::collections::HashMap;

use crate::catalog::ServiceName;

/// Failed first reads after which a service is excused.
const FAILURES_MAX: u32 = 3;

/// The services of the first list.
#[derive(Debug)]
pub(super) struct InitialSync(HashMap<ServiceName, State>);

/// What is known of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has not responded; reads that failed so far.
    Pending(u32),
    /// Cannot be read.
    Excused,
    /// May not be read with this token.
    NoRights,
    /// Has responded.
    Responded,
}

impl InitialSync {
    pub(super) fn new(names: impl Iterator<Item = ServiceName>) -> Self {
        Self(names.map(|name| (name, State::Pending(0))).collect())
    }

    pub(super) fn responded(&mut self, name: &ServiceName) {
        self.set(name, State::Responded);
    }

    /// It left the list.
    pub(super) fn gone(&mut self, name: &ServiceName) {
        self.0.remove(name);
    }

    /// A read of it failed, and not because there is no connection.
    pub(super) fn failed(&mut self, name: &ServiceName) {
        if let Some(state @ State::Pending(_)) = self.0.get_mut(name) {
            *state = match *state {
                State::Pending(failures) if failures + 1 < FAILURES_MAX => {
                    State::Pending(failures + 1)
                }
                _ => State::Excused,
            };
        }
    }

    /// Its responses show too little for the token to have rights.
    pub(super) fn lacks_rights(&mut self, name: &ServiceName) {
        if self
            .0
            .get(name)
            .is_some_and(|state| *state != State::Responded)
        {
            self.set(name, State::NoRights);
        }
    }

    /// All have had their time: those that said nothing yet are excused as well.
    pub(super) fn overdue(&mut self) {
        for state in self.0.values_mut() {
            if let State::Pending(_) = state {
                *state = State::Excused;
            }
        }
    }

    /// Whether what has responded may be served. `instances`: known of all services together.
    pub(super) fn is_over(&self, instances: usize) -> bool {
        let count = |wanted| self.0.values().filter(|state| **state == wanted).count();
        let (responded, excused, rightless) = (
            count(State::Responded),
            count(State::Excused),
            count(State::NoRights),
        );
        let settled = responded + excused + rightless == self.0.len();
        settled && excused <= responded && (excused + rightless == 0 || instances > 0)
    }

    fn set(&mut self, name: &ServiceName, state: State) {
        if let Some(present) = self.0.get_mut(name) {
            *present = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Event {
        Responded,
        Failed(u32),
        NoRights,
        Gone,
        Nothing,
    }
    use Event::{Failed, Gone, NoRights, Nothing, Responded};

    fn sync(events: &[Event]) -> InitialSync {
        let name = |number: usize| ServiceName::from(format!("s{number}").as_str());
        let mut sync = InitialSync::new((0..events.len()).map(name));
        for (number, event) in events.iter().enumerate() {
            match event {
                Responded => sync.responded(&name(number)),
                Failed(times) => (0..*times).for_each(|_| sync.failed(&name(number))),
                NoRights => sync.lacks_rights(&name(number)),
                Gone => sync.gone(&name(number)),
                Nothing => {}
            }
        }
        sync
    }

    #[test]
    fn one_service_that_fails_holds_nobody_up() {
        // events, instances known, over now, over when time is up
        let cases: [(&[Event], usize, bool, bool); 14] = [
            (&[], 0, true, true),
            (&[Responded, Responded], 2, true, true),
            // Confirmed to be empty.
            (&[Responded], 0, true, true),
            (&[Responded, Nothing], 1, false, true),
            (&[Responded, Failed(2)], 1, false, true),
            (&[Responded, Failed(3)], 1, true, true),
            (&[Responded, Failed(9)], 1, true, true),
            // Most fail: that is not one odd service, but Consul.
            (&[Responded, Failed(3), Failed(3)], 1, false, false),
            (&[Failed(3)], 0, false, false),
            (&[Nothing], 0, false, false),
            (&[Responded, NoRights, NoRights], 1, true, true),
            // Not a single instance may be read.
            (&[NoRights, NoRights], 0, false, false),
            (&[Responded, NoRights], 0, false, false),
            (&[Responded, Gone], 1, true, true),
        ];
        for (number, (events, instances, now, later)) in cases.into_iter().enumerate() {
            let mut sync = sync(events);
            assert_eq!(sync.is_over(instances), now, "case {number}: {sync:?}");
            sync.overdue();
            assert_eq!(
                sync.is_over(instances),
                later,
                "case {number} when time is up: {sync:?}"
            );
        }
    }

    #[test]
    fn a_response_stays_one_and_makes_good_what_was_before() {
        let mut sync = sync(&[NoRights, Failed(3)]);
        sync.responded(&"s0".into());
        sync.responded(&"s1".into());
        sync.failed(&"s1".into());
        sync.lacks_rights(&"s0".into());
        sync.failed(&"never listed".into());
        sync.lacks_rights(&"never listed".into());
        assert!(sync.is_over(0), "{sync:?}");
    }
}
