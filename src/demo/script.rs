//! What happens in the demo, and when: instances join, leave, turn sick, crash and come back.
//!
//! Pure: time and randomness are arguments. It only decides; `stage` acts the decisions out, and
//! the router learns of them in the same way as in production.

/// Fewest well instances that a service keeps, so that nothing in the demo is *meant* to fail.
const WELL_MIN: usize = 2;
/// Most instances of a service.
const MEMBERS_MAX: usize = 5;
/// Time to the first event: long enough to read the screen once.
const FIRST_EVENT_MS: u64 = 3_000;
/// Time from one event to the next.
const PAUSE_MS: std::ops::Range<u64> = 1_500..4_000;
/// How long an instance stays sick or down.
const ILLNESS_MS: std::ops::Range<u64> = 5_000..9_000;

/// Health of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It responds, and its health check passes.
    Well,
    /// It responds, but its health check fails.
    Sick {
        /// When it recovers.
        until_ms: u64,
    },
    /// Its process is gone although it is registered.
    Down {
        /// When it is started again.
        until_ms: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Number within its service; never used twice.
    pub number: u32,
    pub condition: Condition,
}

/// One service and its instances.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    /// Instances, in order of joining.
    pub members: Vec<Member>,
    last_number: u32,
}

impl Cast {
    fn with(members: u32) -> Self {
        let members_list = (1..=members)
            .map(|number| Member {
                number,
                condition: Condition::Well,
            })
            .collect();
        Self {
            members: members_list,
            last_number: members,
        }
    }

    fn well(&self) -> usize {
        self.members
            .iter()
            .filter(|member| member.condition == Condition::Well)
            .count()
    }
}

/// What happened to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Started and registered.
    Joined,
    /// Deregistered, then stopped once its requests are done.
    Left,
    /// Its check fails now; it still responds.
    Sickened,
    /// Its check passes again.
    Recovered,
    /// Killed without a word: connections are reset, the check notices later.
    Crashed,
    /// Started again under its old name.
    Restarted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Index of the service.
    pub service: usize,
    /// Number of the instance.
    pub number: u32,
    pub change: Change,
}

/// The whole script, with the state it is in.
#[derive(Debug)]
pub(super) struct Script {
    rng: fastrand::Rng,
    next_at_ms: u64,
    casts: Vec<Cast>,
}

impl Script {
    /// Services with that many instances each; the same seed gives the same story.
    pub(super) fn new(seed: u64, members: &[u32]) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            next_at_ms: FIRST_EVENT_MS,
            casts: members.iter().map(|&count| Cast::with(count)).collect(),
        }
    }

    /// The services as they are now.
    pub(super) fn casts(&self) -> &[Cast] {
        &self.casts
    }

    /// The event that is due at `now_ms`, if any; the state already includes it. Call until it says
    /// none.
    pub(super) fn advance(&mut self, now_ms: u64) -> Option<Event> {
        if let Some(event) = self.end_illness(now_ms) {
            return Some(event);
        }
        if now_ms < self.next_at_ms {
            return None;
        }
        self.next_at_ms = now_ms + self.rng.u64(PAUSE_MS);
        let service = self.rng.usize(..self.casts.len().max(1));
        let possible = possible_changes(self.casts.get(service)?);
        let change = self.rng.choice(possible)?;
        Some(self.apply(service, change, now_ms))
    }

    fn end_illness(&mut self, now_ms: u64) -> Option<Event> {
        for (service, cast) in self.casts.iter_mut().enumerate() {
            for member in &mut cast.members {
                let change = match member.condition {
                    Condition::Sick { until_ms } if until_ms <= now_ms => Change::Recovered,
                    Condition::Down { until_ms } if until_ms <= now_ms => Change::Restarted,
                    _ => continue,
                };
                member.condition = Condition::Well;
                return Some(Event {
                    service,
                    number: member.number,
                    change,
                });
            }
        }
        None
    }

    fn apply(&mut self, service: usize, change: Change, now_ms: u64) -> Event {
        let until_ms = now_ms + self.rng.u64(ILLNESS_MS);
        let cast = &mut self.casts[service];
        if change == Change::Joined {
            cast.last_number += 1;
            cast.members.push(Member {
                number: cast.last_number,
                condition: Condition::Well,
            });
            return Event {
                service,
                number: cast.last_number,
                change,
            };
        }
        let well: Vec<usize> = (0..cast.members.len())
            .filter(|&at| cast.members[at].condition == Condition::Well)
            .collect();
        let at = self
            .rng
            .choice(well)
            .expect("chosen only while more than WELL_MIN are well");
        let number = cast.members[at].number;
        match change {
            Change::Sickened => cast.members[at].condition = Condition::Sick { until_ms },
            Change::Crashed => cast.members[at].condition = Condition::Down { until_ms },
            _ => drop(cast.members.remove(at)),
        }
        Event {
            service,
            number,
            change,
        }
    }
}

fn possible_changes(cast: &Cast) -> Vec<Change> {
    let mut possible = Vec::with_capacity(4);
    if cast.members.len() < MEMBERS_MAX {
        possible.push(Change::Joined);
    }
    if cast.well() > WELL_MIN {
        possible.extend([Change::Left, Change::Sickened, Change::Crashed]);
    }
    possible
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten minutes of events, a tick every 50 ms.
    fn play(seed: u64, mut check: impl FnMut(u64, &Event, &Script)) {
        let mut script = Script::new(seed, &[3, 4, 2]);
        for now_ms in (0..600_000).step_by(50) {
            let mut at_once = 0;
            while let Some(event) = script.advance(now_ms) {
                check(now_ms, &event, &script);
                at_once += 1;
                assert!(at_once < 20, "the script must come to rest at every moment");
            }
        }
    }

    #[test]
    fn same_seed_same_story() {
        let mut stories = [Vec::new(), Vec::new(), Vec::new()];
        for (story, seed) in stories.iter_mut().zip([7, 7, 8]) {
            play(seed, |now_ms, event, _| story.push((now_ms, *event)));
        }
        assert_eq!(stories[0], stories[1]);
        assert_ne!(stories[0], stories[2]);
    }

    #[test]
    fn first_event_comes_after_three_seconds() {
        let mut first = None;
        play(1, |now_ms, _, _| first = first.or(Some(now_ms)));
        assert_eq!(first, Some(3_000));
    }

    #[test]
    fn enough_instances_stay_well_and_none_grows_without_bound() {
        for seed in 0..20 {
            play(seed, |now_ms, event, script| {
                for cast in script.casts() {
                    assert!(
                        cast.well() >= WELL_MIN,
                        "seed {seed}, {now_ms} ms, after {event:?}: {cast:?}"
                    );
                    assert!(cast.members.len() <= MEMBERS_MAX);
                }
            });
        }
    }

    #[test]
    fn everything_happens_and_illness_ends() {
        let mut seen: Vec<Change> = Vec::new();
        let mut ill: Vec<(usize, u32, u64)> = Vec::new();
        play(3, |now_ms, event, _| {
            if !seen.contains(&event.change) {
                seen.push(event.change);
            }
            match event.change {
                Change::Sickened | Change::Crashed => {
                    ill.push((event.service, event.number, now_ms))
                }
                Change::Recovered | Change::Restarted => {
                    ill.retain(|(service, number, _)| {
                        (*service, *number) != (event.service, event.number)
                    });
                }
                _ => {}
            }
            for (_, _, since_ms) in &ill {
                assert!(now_ms - since_ms <= ILLNESS_MS.end + 50, "illness must end");
            }
        });
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn numbers_are_never_used_twice() {
        let mut joined = std::collections::BTreeSet::new();
        play(5, |_, event, _| {
            if event.change == Change::Joined {
                assert!(joined.insert((event.service, event.number)));
            }
        });
        assert!(joined.len() > 10);
    }
}
