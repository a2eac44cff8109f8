//! Whether an instance that owes a response is frozen, or only takes its time.
//!
//! From outside the two look alike: a stopped process still accepts connections and acknowledges
//! what is sent to it (its kernel does). What tells is how it behaves beside the others of its
//! route:
//!
//! ```text
//!   a response is late ─> doubt ──> requests given to it on purpose (probes) ──> frozen
//!                           ^          │ a response: anything at all              no response, while others of the
//!                           └──────────┘                                         route responded to requests sent after
//! ```
//!
//! Long polls, reports and other slow requests never come so far: either no instance of the route
//! responds meanwhile, or this one responds to what else it is given. A strategy that goes by load
//! sends nothing to an instance that has the most in flight, hence the probes: a few usual GETs and
//! HEADs, one after another, each only after others have responded to something sent after the one
//! before. A probe waits like any other request, and is sent elsewhere like any other when the
//! instance proves frozen.
//!
//! Times are of the process clock, in milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Route, TargetState};
use crate::catalog::options::Strategy;

/// How many requests in a row have to stay without a response.
const PROBES: u32 = 3;
/// Where responses take long it may be chance that one instance gives none for a while: then the
/// others have to give so many for each instance of the route meanwhile. Were it well, each of
/// those would be its own as likely as any other's.
const ANSWERS_EACH: u32 = 10;
/// But so many are enough.
const ANSWERS_MAX: u32 = 200;
/// How many responses an instance has to owe at once where no more requests come.
const CROWD: u32 = 5;
/// The same where a hash decides.
const CROWD_BY_HASH: u32 = 16;
/// Bits for how long a response took (ms): 4.6 hours. The others hold when it came.
const TOOK_BITS: u32 = 24;
const TOOK_MAX: u64 = (1 << TOOK_BITS) - 1;
/// A doubt ends after so many times the limit without anything new about it.
const STALE: u64 = 10;

/// The instance that is to get one of the next requests, whatever the strategy says: shared by all
/// workers. At most one at a time; another instance in doubt has its next chance soon.
#[derive(Clone, Debug, Default)]
pub struct Probe(Arc<AtomicU64>);

impl Probe {
    /// Key of the instance; 0: none.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn want(&self, key: u64) {
        self.0.store(key, Relaxed);
    }

    /// To be called before a request goes to `state`: whether it is the one that was wanted.
    #[must_use]
    pub fn take(&self, state: &TargetState, now_ms: u64) -> bool {
        let taken = self
            .0
            .compare_exchange(state.key, 0, Relaxed, Relaxed)
            .is_ok();
        if taken {
            state.probe_ms.store(now_ms, Relaxed);
            state.probes.fetch_add(1, Relaxed);
        }
        taken
    }
}

impl TargetState {
    pub(super) fn note_heard(&self, now_ms: u64, took_us: u64) {
        self.heard.store(
            (now_ms << TOOK_BITS) | (took_us / 1000).min(TOOK_MAX),
            Relaxed,
        );
        // Two workers at the same time may count one: it is a measure, and this is cheaper.
        self.answers
            .store(self.answers.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// When the head of a response came last; 0: never.
    #[must_use]
    pub fn heard_ms(&self) -> u64 {
        self.heard.load(Relaxed) >> TOOK_BITS
    }

    /// When the request was sent whose response came last.
    fn responded_begun_ms(&self) -> u64 {
        let heard = self.heard.load(Relaxed);
        (heard >> TOOK_BITS).saturating_sub(heard & TOOK_MAX)
    }

    /// Whether it was found frozen and nothing was heard of it since.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let doubt = self.doubt_ms.load(Relaxed);
        doubt != 0 && self.probes.load(Relaxed) >= PROBES && self.heard_ms() < doubt
    }

    /// Looks at an instance that has owed a response since `since_ms`, and says whether it is
    /// frozen. `limit_ms` is `health.frozen_after`. To be called again and again while the response
    /// is late.
    pub fn look_for_frost(
        &self,
        now_ms: u64,
        since_ms: u64,
        limit_ms: u64,
        route: &Route,
        probe: &Probe,
    ) -> bool {
        let others = || {
            route
                .targets
                .iter()
                .map(|target| &*target.state)
                .filter(|state| state.key != self.key)
        };
        let answered_since = |ms| others().any(|state| state.responded_begun_ms() > ms);
        if others().next().is_none() {
            return false;
        }
        if self.is_ejected(now_ms) && self.failures.load(Relaxed) > 0 && self.heard_ms() < since_ms
        {
            // Its machine may be gone: no connection could be made either.
            return answered_since(since_ms);
        }
        let answers = || {
            others()
                .map(|state| state.answers.load(Relaxed))
                .fold(0u32, u32::wrapping_add)
        };
        let (doubt, given) = (self.doubt_ms.load(Relaxed), self.probe_ms.load(Relaxed));
        let stale = now_ms.saturating_sub(doubt.max(given)) > STALE.saturating_mul(limit_ms);
        if doubt == 0 || self.heard_ms() >= doubt || stale {
            self.probes.store(0, Relaxed);
            self.probe_ms.store(0, Relaxed);
            self.doubt_answers.store(answers(), Relaxed);
            self.doubt_ms.store(now_ms, Relaxed);
            if self.heard_ms().max(since_ms) + limit_ms / 4 <= now_ms {
                probe.want(self.key);
            }
            return false;
        }
        // Another worker's clock may have been read later.
        let lasting = now_ms.saturating_sub(doubt) >= limit_ms / 2;
        match self.probes.load(Relaxed) {
            _ if lasting && self.owes_a_crowd(route) && answered_since(since_ms) => {
                self.probes.store(PROBES, Relaxed);
                self.probe_ms.store(since_ms, Relaxed);
                return true;
            }
            0 => probe.want(self.key),
            PROBES.. => {
                let quick_us = limit_ms.saturating_mul(1000) / 8;
                let quick = others().all(|state| state.latency_us.load(Relaxed) <= quick_us);
                let wanted = u32::try_from(route.targets.len())
                    .unwrap_or(u32::MAX)
                    .saturating_mul(ANSWERS_EACH);
                let given_since = answers().wrapping_sub(self.doubt_answers.load(Relaxed));
                return lasting
                    && answered_since(given)
                    && (quick || given_since >= wanted.min(ANSWERS_MAX));
            }
            _ if now_ms.saturating_sub(given) >= limit_ms / 8 && answered_since(given) => {
                probe.want(self.key)
            }
            _ => {}
        }
        false
    }

    /// Whether it owes many responses, and the others next to none.
    fn owes_a_crowd(&self, route: &Route) -> bool {
        let crowd = if matches!(route.strategy, Strategy::Hash(_)) {
            CROWD_BY_HASH
        } else {
            CROWD
        };
        let owes = |state: &Self| {
            state
                .in_flight
                .load(Relaxed)
                .saturating_sub(state.tunnels.load(Relaxed))
        };
        let own = owes(self);
        let others = route
            .targets
            .iter()
            .filter(|target| target.state.key != self.key);
        let owed: u32 = others.map(|target| owes(&target.state)).sum();
        own >= crowd && owed <= own / CROWD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::options::HashKey;
    use crate::catalog::tag::RouteKey;
    use crate::table::InFlight;
    use crate::table::fixture::equal_targets;

    const LIMIT_MS: u64 = 2_000;

    fn route(count: u16, strategy: Strategy) -> Route {
        let key = RouteKey {
            host: String::new(),
            path: "/".into(),
        };
        Route {
            strategy,
            targets: equal_targets(count),
            ..Route::without_targets(key)
        }
    }

    /// A request sent to the first of `count` at 1,000 stays without a response. The others respond
    /// in 5 ms to what they get every `quick_ms` (0: they get nothing); probes get a response where
    /// `alive`. When it counts as frozen, within a minute.
    fn found_frozen(count: u16, quick_ms: u64, alive: bool) -> Option<u64> {
        let (route, probe) = (route(count, Strategy::P2c), Probe::default());
        let (targets, first) = (&route.targets, &route.targets[0].state);
        first.record_success(900, 5_000);
        let mut look_at = 1_000 + LIMIT_MS / 2;
        for now_ms in 1_000..60_000 {
            if quick_ms > 0 && now_ms % quick_ms == 0 {
                if probe.wanted() == first.key && probe.take(first, now_ms) {
                    if alive {
                        first.record_success(now_ms + 5, 5_000);
                    }
                } else if let Some(other) = targets.get(1) {
                    other.state.record_success(now_ms + 5, 5_000);
                }
            }
            if now_ms == look_at {
                if first.look_for_frost(now_ms, 1_000, LIMIT_MS, &route, &probe) {
                    assert!(first.is_frozen());
                    return Some(now_ms);
                }
                look_at = now_ms + (LIMIT_MS / 8).max((now_ms - 1_000) / 8);
            }
        }
        assert!(!first.is_frozen());
        None
    }

    #[test]
    fn silence_while_others_answer_is_frost() {
        for quick_ms in [2, 20, 100] {
            let found = found_frozen(3, quick_ms, false).unwrap();
            assert!(
                (3_000..=3_600).contains(&found),
                "every {quick_ms} ms: {found}"
            );
        }
        assert!(
            found_frozen(2, 1_000, false).is_some_and(|found| found < 10_000),
            "little traffic takes longer"
        );
    }

    #[test]
    fn a_slow_request_is_not_frost() {
        assert_eq!(
            found_frozen(3, 20, true),
            None,
            "the instance responds to other requests"
        );
        assert_eq!(found_frozen(3, 0, false), None, "it gets no other request");
        assert_eq!(found_frozen(1, 20, false), None, "there is no other one");
    }

    #[test]
    fn long_polls_alone_are_not_frost() {
        let (route, probe) = (route(2, Strategy::P2c), Probe::default());
        let (first, second) = (&route.targets[0].state, &route.targets[1].state);
        let mut polls = vec![1_000];
        // All requests are polls of 7 s: the probes are, and what the second instance gets one
        // after another.
        for now_ms in (2_000..60_000).step_by(50) {
            if probe.take(first, now_ms) {
                polls.push(now_ms);
            }
            if polls.first().is_some_and(|begun| begun + 7_000 <= now_ms) {
                first.record_success(now_ms, 7_000_000);
                polls.remove(0);
            }
            second.record_success(now_ms, 7_000_000);
            let since_ms = polls.first().copied().unwrap_or(now_ms);
            assert!(
                !first.look_for_frost(now_ms, since_ms, LIMIT_MS, &route, &probe),
                "{now_ms}"
            );
        }
    }

    #[test]
    fn polls_that_end_by_chance_are_not_frost() {
        // Three instances with ten polls each; one of the route ends after 20 ms to 30 s, and is
        // sent again at once.
        let (route, probe) = (route(3, Strategy::P2c), Probe::default());
        let mut rng = fastrand::Rng::with_seed(7);
        let duration = |rng: &mut fastrand::Rng| {
            if rng.u8(..8) == 0 {
                20
            } else {
                rng.u64(1_000..30_000)
            }
        };
        let mut polls: Vec<Vec<(u64, u64)>> = vec![Vec::new(); 3];
        for all in &mut polls {
            (0..10).for_each(|_| all.push((1, 1 + duration(&mut rng))));
        }
        let mut looks = 0;
        for now_ms in (100..600_000).step_by(10) {
            for at in 0..3 {
                let state = &route.targets[at].state;
                let over: Vec<_> = polls[at].extract_if(.., |poll| poll.1 <= now_ms).collect();
                for (begun, _) in over {
                    state.record_success(now_ms, (now_ms - begun) * 1000);
                    let to = (0..3).find(|to| probe.take(&route.targets[*to].state, now_ms));
                    let until = now_ms + duration(&mut rng);
                    polls[to.unwrap_or(rng.usize(..3))].push((now_ms, until));
                }
            }
            if now_ms % 250 == 0 {
                for (target, polls) in route.targets.iter().zip(&polls) {
                    let Some(oldest) = polls.iter().map(|poll| poll.0).min() else {
                        continue;
                    };
                    if now_ms - oldest >= LIMIT_MS / 2 {
                        looks += 1;
                        assert!(
                            !target
                                .state
                                .look_for_frost(now_ms, oldest, LIMIT_MS, &route, &probe),
                            "{now_ms}"
                        );
                    }
                }
            }
        }
        assert!(looks > 5_000);
    }

    #[test]
    fn an_ejected_one_that_was_not_heard_since_is_frozen_for_those_that_wait() {
        let (route, probe) = (route(2, Strategy::P2c), Probe::default());
        let (first, second) = (&route.targets[0].state, &route.targets[1].state);
        first.ejected_until_ms.store(9_000, Relaxed);
        first.failures.store(5, Relaxed);
        let look = |now_ms| first.look_for_frost(now_ms, 1_000, LIMIT_MS, &route, &probe);
        assert!(!look(2_000));
        second.record_success(2_100, 5_000);
        assert!(look(2_250));
        first.record_success(2_300, 5_000);
        assert!(!look(2_500));
    }

    #[test]
    fn a_crowd_that_waits_for_one_alone_tells_where_no_more_requests_come() {
        for (strategy, waiting, others, later, frozen) in [
            (Strategy::RoundRobin, 5, 0, true, true),
            (Strategy::RoundRobin, 4, 0, true, false),
            (Strategy::RoundRobin, 20, 20, true, false),
            (Strategy::RoundRobin, 20, 0, false, false),
            (Strategy::Hash(HashKey::Ip), 8, 0, true, false),
            (Strategy::Hash(HashKey::Ip), 16, 0, true, true),
        ] {
            let (route, probe) = (route(3, strategy), Probe::default());
            let states = |at: usize, count: usize| {
                (0..count)
                    .map(|_| InFlight::new(Arc::clone(&route.targets[at].state)))
                    .collect::<Vec<_>>()
            };
            let _busy = (states(0, waiting), states(1, others));
            let [first, second, _] = &*route.targets else {
                unreachable!()
            };
            second
                .state
                .record_success(if later { 1_200 } else { 1_001 }, 100_000);
            let found = (2_000..10_000).step_by(250).find(|&now_ms| {
                first
                    .state
                    .look_for_frost(now_ms, 1_000, LIMIT_MS, &route, &probe)
            });
            assert_eq!(found.is_some(), frozen, "{waiting} and {others}");
            assert_eq!(first.state.is_frozen(), frozen);
            assert!(found.is_none_or(|found| found == 3_000));
        }
    }

    #[test]
    fn nothing_is_owed_on_tunnels() {
        let (route, probe) = (route(2, Strategy::RoundRobin), Probe::default());
        let (first, second) = (&route.targets[0].state, &route.targets[1].state);
        let _open: Vec<_> = (0..10).map(|_| InFlight::new(Arc::clone(first))).collect();
        first.tunnels.store(9, Relaxed);
        second.record_success(1_200, 1_000);
        let frozen = |now_ms| first.look_for_frost(now_ms, 1_000, LIMIT_MS, &route, &probe);
        assert!(
            !(2_000..10_000).step_by(250).any(frozen),
            "one request and nine websockets"
        );
    }

    #[test]
    fn a_doubt_that_was_never_cleared_is_forgotten() {
        let (route, probe) = (route(2, Strategy::P2c), Probe::default());
        let (first, second) = (&route.targets[0].state, &route.targets[1].state);
        assert!(!first.look_for_frost(2_000, 1_000, LIMIT_MS, &route, &probe));
        for n in 0..u64::from(PROBES) {
            assert!(!first.look_for_frost(2_100 + n * 400, 1_000, LIMIT_MS, &route, &probe));
            assert!(probe.take(first, 2_200 + n * 400));
            second.record_success(2_300 + n * 400, 1_000);
        }
        assert!(first.look_for_frost(3_400, 1_000, LIMIT_MS, &route, &probe));
        assert!(
            !first.look_for_frost(50_000, 49_000, LIMIT_MS, &route, &probe),
            "an hour of quiet, a slow request"
        );
    }

    #[test]
    fn what_was_heard_is_kept_whole() {
        let route = route(1, Strategy::P2c);
        let state = &route.targets[0].state;
        state.record_success(1_000_000_000, 7_000_900);
        assert_eq!(
            (state.heard_ms(), state.responded_begun_ms()),
            (1_000_000_000, 999_993_000)
        );
        state.record_success(1_000_000_000, u64::MAX);
        assert_eq!(state.heard_ms(), 1_000_000_000);
    }
}
