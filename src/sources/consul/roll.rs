//! Who has to answer before the source counts as synced, and when to go on without those who
//! cannot.
//!
//! A table that is complete but for one broken service is worth serving; one that lacks most
//! services is not. So a service whose first reads fail is excused, but never are more excused than
//! answered; and what a token may not read is excused only once something else has instances, else
//! nothing at all may be readable. Pure.

use std::collections::HashMap;

use crate::catalog::ServiceName;

/// Failed first reads after which a service is excused.
const FAILURES_MAX: u32 = 3;

/// The services of the first list.
#[derive(Debug)]
pub(super) struct Roll(HashMap<ServiceName, State>);

/// What is known of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has not answered; reads that failed so far.
    Pending(u32),
    /// Cannot be read.
    Excused,
    /// May not be read with this token.
    NoRights,
    /// Has answered.
    Answered,
}

impl Roll {
    pub(super) fn new(names: impl Iterator<Item = ServiceName>) -> Self {
        Self(names.map(|name| (name, State::Pending(0))).collect())
    }

    /// It answered.
    pub(super) fn answered(&mut self, name: &ServiceName) {
        self.set(name, State::Answered);
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

    /// Its answers show too little for the token to have rights.
    pub(super) fn lacks_rights(&mut self, name: &ServiceName) {
        if self
            .0
            .get(name)
            .is_some_and(|state| *state != State::Answered)
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

    /// Whether what has answered may be served. `instances`: known of all services together.
    pub(super) fn is_over(&self, instances: usize) -> bool {
        let count = |wanted| self.0.values().filter(|state| **state == wanted).count();
        let (answered, excused, rightless) = (
            count(State::Answered),
            count(State::Excused),
            count(State::NoRights),
        );
        let settled = answered + excused + rightless == self.0.len();
        settled && excused <= answered && (excused + rightless == 0 || instances > 0)
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
        Answered,
        Failed(u32),
        NoRights,
        Gone,
        Nothing,
    }
    use Event::{Answered, Failed, Gone, NoRights, Nothing};

    fn roll(events: &[Event]) -> Roll {
        let name = |number: usize| ServiceName::from(format!("s{number}").as_str());
        let mut roll = Roll::new((0..events.len()).map(name));
        for (number, event) in events.iter().enumerate() {
            match event {
                Answered => roll.answered(&name(number)),
                Failed(times) => (0..*times).for_each(|_| roll.failed(&name(number))),
                NoRights => roll.lacks_rights(&name(number)),
                Gone => roll.gone(&name(number)),
                Nothing => {}
            }
        }
        roll
    }

    #[test]
    fn one_service_that_fails_holds_nobody_up() {
        // events, instances known, over now, over when time is up
        let cases: [(&[Event], usize, bool, bool); 14] = [
            (&[], 0, true, true),
            (&[Answered, Answered], 2, true, true),
            // Confirmed to be empty.
            (&[Answered], 0, true, true),
            (&[Answered, Nothing], 1, false, true),
            (&[Answered, Failed(2)], 1, false, true),
            (&[Answered, Failed(3)], 1, true, true),
            (&[Answered, Failed(9)], 1, true, true),
            // Most fail: that is not one odd service, but Consul.
            (&[Answered, Failed(3), Failed(3)], 1, false, false),
            (&[Failed(3)], 0, false, false),
            (&[Nothing], 0, false, false),
            (&[Answered, NoRights, NoRights], 1, true, true),
            // Not a single instance may be read.
            (&[NoRights, NoRights], 0, false, false),
            (&[Answered, NoRights], 0, false, false),
            (&[Answered, Gone], 1, true, true),
        ];
        for (number, (events, instances, now, later)) in cases.into_iter().enumerate() {
            let mut roll = roll(events);
            assert_eq!(roll.is_over(instances), now, "case {number}: {roll:?}");
            roll.overdue();
            assert_eq!(
                roll.is_over(instances),
                later,
                "case {number} when time is up: {roll:?}"
            );
        }
    }

    #[test]
    fn an_answer_stays_one_and_makes_good_what_was_before() {
        let mut roll = roll(&[NoRights, Failed(3)]);
        roll.answered(&"s0".into());
        roll.answered(&"s1".into());
        roll.failed(&"s1".into());
        roll.lacks_rights(&"s0".into());
        roll.failed(&"never listed".into());
        roll.lacks_rights(&"never listed".into());
        assert!(roll.is_over(0), "{roll:?}");
    }
}
