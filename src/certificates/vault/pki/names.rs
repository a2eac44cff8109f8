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
/// How long after a refusal no certificate is requested for that name.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// New names: a burst, and a rate (1/s).
const NEW: (f64, f64) = (50.0, 2.0);
/// A renewal that failed is tried again after this long.
const RENEWAL_PAUSE: i64 = 60;

/// What became of a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is a certificate, or will be one, or is known to be none.
    Settled,
    /// There is no room for one more.
    TooMany,
}

pub(super) struct Names {
    renew_before: i64,
    states: HashMap<String, NameState>,
    issued: usize,
    refused: usize,
    queue: VecDeque<String>,
    running: usize,
    allowance: Allowance,
}

enum NameState {
    /// Its first certificate is requested, or will be; the senders are of the clients that wait.
    Pending(Vec<oneshot::Sender<()>>),
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
                NameState::Issued {
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

    /// A client needs a certificate for `name`; `waiter` is dropped as soon as it is known whether
    /// there is one.
    pub(super) fn demand(
        &mut self,
        name: &str,
        waiter: oneshot::Sender<()>,
        at: Instant,
    ) -> Admission {
        match self.states.get_mut(name) {
            Some(NameState::Pending(waiters)) => {
                if waiters.len() < WAITERS_MAX {
                    waiters.push(waiter);
                }
                return Admission::Settled;
            }
            Some(NameState::Issued { .. }) => return Admission::Settled,
            Some(NameState::Refused { until }) if at < *until => return Admission::Settled,
            Some(NameState::Refused { .. }) => {
                self.states.remove(name);
                self.refused -= 1;
            }
            None => {}
        }
        let pending = self.states.len() - self.issued - self.refused;
        let full = self.queue.len() >= QUEUE_MAX || self.issued + pending >= ISSUED_MAX;
        if full || !self.allowance.take(at) {
            return Admission::TooMany;
        }
        self.states
            .insert(name.to_owned(), NameState::Pending(vec![waiter]));
        self.queue.push_back(name.to_owned());
        Admission::Settled
    }

    /// The next name to request a certificate for.
    pub(super) fn next(&mut self) -> Option<String> {
        if self.running >= RUNNING_MAX {
            return None;
        }
        let name = self.queue.pop_front()?;
        self.running += 1;
        Some(name)
    }

    /// Vault has responded: the certificate ends then, or there is none.
    pub(super) fn issued(&mut self, name: &str, ends_at: Option<i64>, now: i64, at: Instant) {
        self.running = self.running.saturating_sub(1);
        let before = self.states.remove(name);
        let state = match (ends_at, before) {
            (Some(ends_at), before) => {
                if !matches!(before, Some(NameState::Issued { .. })) {
                    self.issued += 1;
                }
                let renew_at = renew_at(now, ends_at, self.renew_before);
                NameState::Issued {
                    renew_at,
                    ends_at,
                    used: false,
                    renewing: false,
                }
            }
            (None, Some(NameState::Issued { ends_at, used, .. })) => NameState::Issued {
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
                NameState::Refused {
                    until: at + REFUSED_FOR,
                }
            }
        };
        self.states.insert(name.to_owned(), state);
    }

    /// Queues what is to be issued anew; returns what has ended. `used_now`: names that were in a
    /// handshake since the last look.
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
            let NameState::Issued {
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
            .retain(|_, state| !matches!(state, NameState::Refused { until } if *until <= at));
        self.refused = self
            .states
            .values()
            .filter(|state| matches!(state, NameState::Refused { .. }))
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

    fn demand(names: &mut Names, name: &str, at: Instant) -> (Admission, oneshot::Receiver<()>) {
        let (waiter, waiting) = oneshot::channel();
        (names.demand(name, waiter, at), waiting)
    }

    fn is_settled(waiting: &mut oneshot::Receiver<()>) -> bool {
        waiting.try_recv() != Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn demands_for_one_name_share_one_request() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut waiting: Vec<_> = (0..5).map(|_| demand(&mut names, "a", at).1).collect();
        assert_eq!((names.next().as_deref(), names.next()), (Some("a"), None));
        assert!(!waiting.iter_mut().any(is_settled));
        names.issued("a", Some(100 * HOUR), 0, at);
        assert!(waiting.iter_mut().all(is_settled));
        assert!(is_settled(&mut demand(&mut names, "a", at).1) && names.next().is_none());
    }

    #[test]
    fn what_was_refused_is_not_requested_until_later() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut waiting = demand(&mut names, "a", at).1;
        names.next();
        names.issued("a", None, 0, at);
        assert!(is_settled(&mut waiting));
        assert!(is_settled(&mut demand(&mut names, "a", at).1) && names.next().is_none());
        assert!(!is_settled(
            &mut demand(&mut names, "a", at + REFUSED_FOR).1
        ));
        assert_eq!(names.next().as_deref(), Some("a"));
    }

    #[test]
    fn a_flood_of_names_makes_few_requests() {
        let at = Instant::now();
        let mut names = names(&[], at);
        let mut requests = 0;
        for number in 0..100_000 {
            demand(&mut names, &format!("{number}.test"), at);
            while let Some(name) = names.next() {
                requests += 1;
                names.issued(&name, None, 0, at);
            }
        }
        assert_eq!(requests, NEW.0 as usize);
        // A second later, two more.
        let later = at + Duration::from_secs(1);
        let granted = (0..10)
            .filter(|at| demand(&mut names, &format!("{at}.more"), later).0 == Admission::Settled)
            .count();
        assert_eq!(granted, NEW.1 as usize);
    }

    #[test]
    fn few_requests_run_at_a_time_and_few_names_wait() {
        let at = Instant::now();
        let mut names = names(&[], at);
        for number in 0..40 {
            demand(&mut names, &format!("{number}"), at);
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
        assert_eq!(demand(&mut names, "one more", at).0, Admission::TooMany);
        // Those that end make room.
        assert_eq!(names.look(&HashSet::new(), 10 * HOUR, at).len(), ISSUED_MAX);
        assert_eq!(demand(&mut names, "one more", at).0, Admission::Settled);
    }

    #[test]
    fn used_ones_are_renewed_before_their_end_and_others_end() {
        let at = Instant::now();
        let mut names = names(&[], at);
        for name in ["used", "unused"] {
            demand(&mut names, name, at);
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
