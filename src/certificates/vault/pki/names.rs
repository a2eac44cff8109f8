//! What is known of each name, and what is to be done about it. Pure: times come in as arguments,
//! requests go out as names in a queue.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Requests to Vault at a time.
const RUNNING_MAX: usize = 4;
/// Names that wait for their request.
const QUEUE_MAX: usize = 64;
/// Clients that wait for one name.
const WAITERS_MAX: usize = 256;
/// Names with a certificate: each is a series of the metric, a pair in memory, and a renewal.
const ISSUED_MAX: usize = 2000;
/// Refused names that are remembered.
const REFUSED_MAX: usize = 10_000;
/// How long a refused name is not asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// New names: a burst, and a rate (1/s).
const NEW: (f64, f64) = (50.0, 2.0);
/// A renewal that failed is tried again after this long.
const RENEWAL_PAUSE: i64 = 60;

/// What became of a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is a certificate, or will be one, or is known to be none.
    Settled,
    /// There is no room for one more.
    TooMany,
}

/// All names.
pub(super) struct Names {
    renew_before: i64,
    states: HashMap<String, State>,
    issued: usize,
    refused: usize,
    queue: VecDeque<String>,
    running: usize,
    allowance: Allowance,
}

enum State {
    /// Asked for, for the first time.
    Asked(Vec<oneshot::Sender<()>>),
    Issued {
        /// Unix times, s.
        renew_at: i64,
        ends_at: i64,
        /// Since it was issued.
        used: bool,
        renewing: bool,
    },
    Refused {
        until: Instant,
    },
}

/// Lets a burst through, and then a steady rate.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * NEW.1).min(NEW.0);
        self.at = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

impl Names {
    /// `issued`: names that have a certificate from before, with their ends. `now`: unix time, s.
    pub(super) fn new(
        renew_before: Duration,
        issued: Vec<(String, i64)>,
        now: i64,
        at: Instant,
    ) -> Self {
        let renew_before = i64::try_from(renew_before.as_secs()).unwrap_or(i64::MAX);
        let mut names = Self {
            renew_before,
            states: HashMap::new(),
            issued: 0,
            refused: 0,
            queue: VecDeque::new(),
            running: 0,
            allowance: Allowance { left: NEW.0, at },
        };
        for (name, ends_at) in issued {
            // When it was issued is not known any more; its end is.
            let renew_at = ends_at.saturating_sub(renew_before).max(now);
            names.states.insert(
                name,
                State::Issued {
                    renew_at,
                    ends_at,
                    used: true,
                    renewing: false,
                },
            );
            names.issued += 1;
        }
        names
    }

    /// Somebody wants a certificate for `name`. Dropping the waiter is the answer.
    pub(super) fn demand(
        &mut self,
        name: &str,
        waiter: oneshot::Sender<()>,
        at: Instant,
    ) -> Verdict {
        match self.states.get_mut(name) {
            Some(State::Asked(waiters)) => {
                if waiters.len() < WAITERS_MAX {
                    waiters.push(waiter);
                }
                return Verdict::Settled;
            }
            Some(State::Issued { .. }) => return Verdict::Settled,
            Some(State::Refused { until }) if at < *until => return Verdict::Settled,
            Some(State::Refused { .. }) => {
                self.states.remove(name);
                self.refused -= 1;
            }
            None => {}
        }
        let asked = self.states.len() - self.issued - self.refused;
        let full = self.queue.len() >= QUEUE_MAX || self.issued + asked >= ISSUED_MAX;
        if full || !self.allowance.take(at) {
            return Verdict::TooMany;
        }
        self.states
            .insert(name.to_owned(), State::Asked(vec![waiter]));
        self.queue.push_back(name.to_owned());
        Verdict::Settled
    }

    /// The next name to ask Vault for.
    pub(super) fn next(&mut self) -> Option<String> {
        if self.running >= RUNNING_MAX {
            return None;
        }
        let name = self.queue.pop_front()?;
        self.running += 1;
        Some(name)
    }

    /// Vault has answered: the certificate ends then, or there is none.
    pub(super) fn issued(&mut self, name: &str, ends_at: Option<i64>, now: i64, at: Instant) {
        self.running = self.running.saturating_sub(1);
        let before = self.states.remove(name);
        let state = match (ends_at, before) {
            (Some(ends_at), before) => {
                if !matches!(before, Some(State::Issued { .. })) {
                    self.issued += 1;
                }
                let renew_at = renew_at(now, ends_at, self.renew_before);
                State::Issued {
                    renew_at,
                    ends_at,
                    used: false,
                    renewing: false,
                }
            }
            (None, Some(State::Issued { ends_at, used, .. })) => State::Issued {
                renew_at: now.saturating_add(RENEWAL_PAUSE),
                ends_at,
                used,
                renewing: false,
            },
            (None, _) => {
                if self.refused >= REFUSED_MAX {
                    self.forget_refused(at);
                }
                if self.refused >= REFUSED_MAX {
                    return;
                }
                self.refused += 1;
                State::Refused {
                    until: at + REFUSED_FOR,
                }
            }
        };
        self.states.insert(name.to_owned(), state);
    }

    /// Queues what is to be issued anew; returns what has ended. `used`: names that clients asked
    /// for since the last look.
    pub(super) fn look(
        &mut self,
        used_now: &HashSet<String>,
        now: i64,
        at: Instant,
    ) -> Vec<String> {
        self.forget_refused(at);
        let mut gone = Vec::new();
        let mut due = Vec::new();
        for (name, state) in &mut self.states {
            let State::Issued {
                renew_at,
                ends_at,
                used,
                renewing,
            } = state
            else {
                continue;
            };
            *used |= used_now.contains(name);
            if *ends_at <= now {
                if !*renewing {
                    gone.push(name.clone());
                }
            } else if *renew_at <= now && *used && !*renewing {
                *renewing = true;
                due.push(name.clone());
            }
        }
        self.queue.extend(due);
        for name in &gone {
            self.states.remove(name);
            self.issued -= 1;
        }
        gone
    }

    fn forget_refused(&mut self, at: Instant) {
        self.states
            .retain(|_, state| !matches!(state, State::Refused { until } if *until <= at));
        self.refused = self
            .states
            .values()
            .filter(|state| matches!(state, State::Refused { .. }))
            .count();
    }
}

/// `renew_before` its end; but not before two thirds of its life have passed, or a short one would
/// never be used.
fn renew_at(now: i64, ends_at: i64, renew_before: i64) -> i64 {
    let life = ends_at.saturating_sub(now).max(0);
    ends_at
        .saturating_sub(renew_before)
        .max(now.saturating_add(life / 3 * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn names(issued: &[(&str, i64)], at: Instant) -> Names {
        let issued = issued
            .iter()
            .map(|(name, end)| ((*name).to_owned(), *end))
            .collect();
        Names::new(Duration::from_secs(3600), issued, 0, at)
    }

    fn ask(names: &mut Names, name: &str, at: Instant) -> (Verdict, oneshot::Receiver<()>) {
        let (waiter, waiting) = oneshot::channel();
        (names.demand(name, waiter, at), waiting)
    }

    fn is_answered(waiting: &mut oneshot::Receiver<()>) -> bool {
        waiting.try_recv() != Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn all_who_ask_for_a_name_share_one_request() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut waiting: Vec<_> = (0..5).map(|_| ask(&mut names, "a", at).1).collect();
        assert_eq!((names.next().as_deref(), names.next()), (Some("a"), None));
        assert!(!waiting.iter_mut().any(is_answered));
        names.issued("a", Some(100 * HOUR), 0, at);
        assert!(waiting.iter_mut().all(is_answered));
        assert!(is_answered(&mut ask(&mut names, "a", at).1) && names.next().is_none());
    }

    #[test]
    fn what_was_refused_is_not_asked_for_until_later() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut waiting = ask(&mut names, "a", at).1;
        names.next();
        names.issued("a", None, 0, at);
        assert!(is_answered(&mut waiting));
        assert!(is_answered(&mut ask(&mut names, "a", at).1) && names.next().is_none());
        assert!(!is_answered(&mut ask(&mut names, "a", at + REFUSED_FOR).1));
        assert_eq!(names.next().as_deref(), Some("a"));
    }

    #[test]
    fn a_flood_of_names_asks_for_few() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut requests = 0;
        for number in 0..100_000 {
            ask(&mut names, &format!("{number}.test"), at);
            while let Some(name) = names.next() {
                requests += 1;
                names.issued(&name, None, 0, at);
            }
        }
        assert_eq!(requests, NEW.0 as usize);
        // A second later, two more.
        let later = at + Duration::from_secs(1);
        let granted = (0..10)
            .filter(|at| ask(&mut names, &format!("{at}.more"), later).0 == Verdict::Settled)
            .count();
        assert_eq!(granted, NEW.1 as usize);
    }

    #[test]
    fn few_requests_run_at_a_time_and_few_names_wait() {
        let at = Instant::now();
        let mut names = names(&[], at);
        for number in 0..40 {
            ask(&mut names, &format!("{number}"), at);
        }
        let first: Vec<_> = std::iter::from_fn(|| names.next()).collect();
        assert_eq!(first.len(), RUNNING_MAX);
        names.issued(&first[0], Some(HOUR), 0, at);
        assert!(names.next().is_some() && names.next().is_none());
    }

    #[test]
    fn what_is_issued_is_bounded() {
        let at = Instant::now();
        let many: Vec<String> = (0..ISSUED_MAX).map(|number| number.to_string()).collect();
        let many: Vec<(&str, i64)> = many.iter().map(|name| (name.as_str(), 10 * HOUR)).collect();
        let mut names = names(&many, at);
        assert_eq!(ask(&mut names, "one more", at).0, Verdict::TooMany);
        // Those that end make room.
        assert_eq!(names.look(&HashSet::new(), 10 * HOUR, at).len(), ISSUED_MAX);
        assert_eq!(ask(&mut names, "one more", at).0, Verdict::Settled);
    }

    #[test]
    fn used_ones_are_renewed_before_their_end_and_others_end() {
        let at = Instant::now();
        let mut names = names(&[], at);
        for name in ["used", "unused"] {
            ask(&mut names, name, at);
            names.next();
            names.issued(name, Some(100 * HOUR), 0, at);
        }
        let used = HashSet::from(["used".to_owned()]);
        assert!(names.look(&used, 98 * HOUR, at).is_empty() && names.next().is_none());
        assert!(names.look(&HashSet::new(), 99 * HOUR, at).is_empty());
        assert_eq!(
            (names.next().as_deref(), names.next()),
            (Some("used"), None)
        );
        // It fails, is left alone for a minute, and then tried again.
        names.issued("used", None, 99 * HOUR, at);
        names.look(&HashSet::new(), 99 * HOUR + RENEWAL_PAUSE - 1, at);
        assert!(names.next().is_none());
        names.look(&HashSet::new(), 99 * HOUR + RENEWAL_PAUSE, at);
        assert_eq!(names.next().as_deref(), Some("used"));
        assert_eq!(names.look(&HashSet::new(), 100 * HOUR, at), ["unused"]);
        names.issued("used", Some(200 * HOUR), 100 * HOUR, at);
        assert!(names.look(&used, 198 * HOUR, at).is_empty() && names.next().is_none());
    }

    #[test]
    fn short_lives_are_used_for_two_thirds() {
        for (ends_at, wanted) in [
            (72 * HOUR, 71 * HOUR),
            (1800, 1200),
            (2 * HOUR, 2 * HOUR / 3 * 2),
            (0, 0),
        ] {
            assert_eq!(renew_at(0, ends_at, HOUR), wanted, "{ends_at}");
        }
    }
}
