//! Picking one of a route's targets.
//!
//! Every strategy follows the same list of constraints, and gives up the last first:
//! 1. never a target whose share is 0, nor one that was tried for this request already;
//! 2. not one that is ejected (or on probation while another request tries it), whose connections
//!    were lost just now, or that has left the table meanwhile, unless no other is left;
//! 3. a young target (slow start) only with the chance its age gives it.
//!
//! A draw follows the shares; load then decides between two draws (`p2c`, `ewma`) or all targets
//! (`least`). An instance that responds with errors is quick and has little to do: errors come
//! before load, so that neither is a reason for more. Nothing here allocates, waits or locks; every
//! search is bounded by the number of targets.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Route, Target};
use crate::catalog::options::Strategy;

/// What a pick may look at.
#[derive(Clone, Copy, Debug)]
pub struct PickContext<'a> {
    /// Process clock, in milliseconds.
    pub now_ms: u64,
    /// Keys of targets already tried for this request.
    pub tried: &'a [u64],
    /// Hash of the request's key, when the strategy hashes.
    pub hash: u64,
    /// How long a new or returned instance takes to full share, in milliseconds; 0: at once.
    pub slow_start_ms: u64,
}

/// Randomness of one worker: seeded apart, so that workers do not march in step.
#[derive(Debug)]
pub struct PickState {
    rng: fastrand::Rng,
}

/// Draws before a search through all targets takes over.
const DRAWS_MAX: usize = 8;

/// Smallest chance of a young target: it must get some request to grow on.
const SLOW_START_MIN: f64 = 0.05;

/// How far the constraints are given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relaxation {
    None,
    Ejected,
    /// Also those that left the table: all of the route did, while the request was on its way.
    Retired,
}

/// What one step of errors weighs against load: more than any load.
const ERROR_WEIGHT: f64 = 1e9;

impl PickState {
    /// State with its own seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Picks a target, or none when the route has none left to try.
    pub fn pick<'a>(
        &mut self,
        route: &'a Arc<Route>,
        context: PickContext<'_>,
    ) -> Option<&'a Target> {
        let picked = self.pick_with(route, &context, Relaxation::None);
        if let Some(target) = picked.filter(|target| target.state.begin_trial(context.now_ms)) {
            return Some(target);
        }
        // Another worker took the trial in between, or every target is out: then ejection is
        // ignored.
        picked
            .and_then(|_| self.pick_with(route, &context, Relaxation::None))
            .or_else(|| self.pick_with(route, &context, Relaxation::Ejected))
            .or_else(|| self.pick_with(route, &context, Relaxation::Retired))
    }

    fn pick_with<'a>(
        &mut self,
        route: &'a Route,
        context: &PickContext<'_>,
        relaxation: Relaxation,
    ) -> Option<&'a Target> {
        let scope = Scope {
            route,
            context,
            relaxation,
        };
        match &route.strategy {
            Strategy::Hash(_) => scope.by_hash(),
            Strategy::RoundRobin => self.next_turn(&scope),
            Strategy::Random => self.draw(&scope),
            Strategy::P2c => self.better_of_two(&scope, |target| scope.load(target)),
            Strategy::Least => self.least(&scope),
            Strategy::Ewma => self.better_of_two(&scope, |target| scope.cost(target)),
        }
    }

    /// A usable target by chance, in proportion to the shares.
    fn draw<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        for _ in 0..DRAWS_MAX {
            let target = self.draw_any(scope.route)?;
            if scope.is_usable(target) && self.is_old_enough(target, scope.context) {
                return Some(target);
            }
        }
        self.first_usable(scope)
    }

    fn draw_any<'a>(&mut self, route: &'a Route) -> Option<&'a Target> {
        let targets = &route.targets;
        if route.even {
            return (!targets.is_empty()).then(|| &targets[self.rng.usize(..targets.len())]);
        }
        let mut left = self.rng.f64();
        for target in targets {
            left -= target.share;
            if left < 0.0 {
                return Some(target);
            }
        }
        // Rounding error: fall back to the last target.
        targets.iter().rev().find(|target| target.share > 0.0)
    }

    /// The first usable target from a random place on.
    fn first_usable<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        self.all_from_anywhere(scope)
            .find(|target| scope.is_usable(target))
    }

    /// Another usable target than `first`, from a random place on, that is old enough to be
    /// compared with it.
    fn any_but<'a>(&mut self, first: &Target, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        let mut others = self
            .all_from_anywhere(scope)
            .filter(|target| !std::ptr::eq(first, *target));
        let other = others.find(|target| scope.is_usable(target))?;
        self.is_old_enough(other, scope.context).then_some(other)
    }

    /// All targets, from a random place on and around the end.
    fn all_from_anywhere<'a>(
        &mut self,
        scope: &Scope<'a, '_>,
    ) -> impl Iterator<Item = &'a Target> + use<'a> {
        let targets = &scope.route.targets;
        let start = self.rng.usize(..targets.len().max(1));
        let (before, after) = targets.split_at(start.min(targets.len()));
        after.iter().chain(before)
    }

    /// Two draws, and the one with the lower figure; the first when equal, so that an idle route
    /// follows the shares.
    fn better_of_two<'a>(
        &mut self,
        scope: &Scope<'a, '_>,
        figure: impl Fn(&Target) -> f64,
    ) -> Option<&'a Target> {
        let first = self.draw(scope)?;
        if scope.route.targets.len() == 1 {
            return Some(first);
        }
        let second = self
            .draw(scope)
            .filter(|second| !std::ptr::eq(first, *second));
        let Some(second) = second.or_else(|| self.any_but(first, scope)) else {
            return Some(first);
        };
        Some(if figure(second) < figure(first) {
            second
        } else {
            first
        })
    }

    /// The lowest load of all; by chance among equals.
    fn least<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        let mut best = self.draw(scope)?;
        let mut load = scope.load(best);
        for target in scope
            .route
            .targets
            .iter()
            .filter(|target| scope.is_usable(target))
        {
            let other = scope.load(target);
            if other < load && self.is_old_enough(target, scope.context) {
                (best, load) = (target, other);
            }
        }
        Some(best)
    }

    /// The next turn of the ring (or of the targets, when shares are equal) that can be used.
    fn next_turn<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        let route = scope.route;
        let turns = if route.ring.is_empty() {
            route.targets.len()
        } else {
            route.ring.len()
        };
        if turns == 0 {
            return None;
        }
        // A long ring can give many turns in a row to one target that is out; the search after it
        // is fair enough.
        for _ in 0..turns.min(64) {
            let turn = route.rotation.next(turns);
            let at = route.ring.get(turn).map_or(turn, |&target| target as usize);
            let target = route.targets.get(at)?;
            if scope.is_usable(target) && self.is_old_enough(target, scope.context) {
                return Some(target);
            }
        }
        self.first_usable(scope)
    }

    fn is_old_enough(&mut self, target: &Target, context: &PickContext<'_>) -> bool {
        let since = target.state.since_ms.load(Relaxed);
        let age = context.now_ms.saturating_sub(since);
        if since == 0 || age >= context.slow_start_ms {
            return true;
        }
        self.rng.f64() < (age as f64 / context.slow_start_ms as f64).max(SLOW_START_MIN)
    }
}

/// The target that a hash strategy picks now; none for other strategies, and where there is no
/// target. Takes no trial.
#[must_use]
pub fn choice_by_hash<'a>(route: &'a Route, context: &PickContext<'_>) -> Option<&'a Target> {
    let Strategy::Hash(_) = route.strategy else {
        return None;
    };
    let pick = |relaxation| {
        Scope {
            route,
            context,
            relaxation,
        }
        .by_hash()
    };
    pick(Relaxation::None).or_else(|| pick(Relaxation::Ejected))
}

/// One pick: which targets it may see, and how it values them.
struct Scope<'a, 'c> {
    route: &'a Route,
    context: &'c PickContext<'c>,
    relaxation: Relaxation,
}

impl<'a> Scope<'a, '_> {
    fn is_usable(&self, target: &Target) -> bool {
        target.share > 0.0
            && !self.context.tried.contains(&target.state.key)
            && match self.relaxation {
                Relaxation::None => target.state.is_open(self.context.now_ms),
                Relaxation::Ejected => !target.state.retired.load(Relaxed),
                Relaxation::Retired => true,
            }
    }

    /// Requests in flight per share; a tie says nothing, so the first draw stays.
    fn load(&self, target: &Target) -> f64 {
        let load = f64::from(target.state.in_flight.load(Relaxed)) / target.share;
        match target.state.error_level(self.context.now_ms) {
            0 => load,
            level => load + f64::from(level) * ERROR_WEIGHT,
        }
    }

    /// Latency times load. An instance without a response so far costs nothing per microsecond but
    /// counts its load, so that it gets its first requests one by one.
    fn cost(&self, target: &Target) -> f64 {
        let part = target.share * self.route.targets.len() as f64;
        let load = f64::from(target.state.in_flight.load(Relaxed)) / part;
        let cost = target.state.latency_at(self.context.now_ms).max(1.0) * (load + 1.0);
        match target.state.error_level(self.context.now_ms) {
            0 => cost,
            // Microseconds: a latency of minutes times a load of thousands stays below one step.
            level => cost + f64::from(level) * ERROR_WEIGHT * 1e6,
        }
    }

    /// Weighted rendezvous hashing: each target has a score for the key, and the highest usable one
    /// wins. When a target leaves, only its own keys move, each to the next best score.
    fn by_hash(&self) -> Option<&'a Target> {
        let usable = self
            .route
            .targets
            .iter()
            .filter(|target| self.is_usable(target));
        let score = |target: &Target| {
            let mixed = mix(self.context.hash ^ mix(target.state.hash));
            if self.route.even {
                return mixed as f64;
            }
            // Uniform in (0, 1]; -share/ln(u) makes the chance of winning proportional to the
            // share.
            let uniform = ((mixed >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
            target.share / -uniform.ln()
        };
        usable.max_by(|a, b| score(a).total_cmp(&score(b)))
    }
}

/// Spreads every bit over the whole word (the finalizer of splitmix64).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::catalog::options::HashKey;
    use crate::catalog::tag::RouteKey;
    use crate::table::InFlight;
    use crate::table::fixture::targets;
    use crate::table::health::HealthConfig;
    use crate::table::shares::ring;

    const HASH: Strategy = Strategy::Hash(HashKey::Ip);
    const ALL: [Strategy; 6] = [
        Strategy::P2c,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Least,
        Strategy::Ewma,
        HASH,
    ];

    fn route(strategy: Strategy, shares: &[f64]) -> Arc<Route> {
        let key = RouteKey {
            host: String::new(),
            path: "/".into(),
        };
        let even = shares.iter().all(|share| share == &shares[0]);
        let ring = if even { Box::default() } else { ring(shares) };
        Arc::new(Route {
            strategy,
            even,
            targets: targets(shares),
            ring,
            ..Route::without_targets(key)
        })
    }

    fn context(tried: &[u64]) -> PickContext<'_> {
        PickContext {
            now_ms: 1000,
            tried,
            hash: 0,
            slow_start_ms: 0,
        }
    }

    fn eject(target: &Target, now_ms: u64) {
        let config = HealthConfig {
            eject_after: 1,
            eject_max_percent: 100,
            ..HealthConfig::default()
        };
        assert!(target.state.record_failure(now_ms, &config, 0, 1));
    }

    /// How often each target is picked, each time with another hash.
    fn tally(route: &Arc<Route>, picks: u64, context: PickContext<'_>) -> HashMap<u64, u64> {
        let mut state = PickState::new(42);
        let mut counts = HashMap::new();
        for n in 0..picks {
            if let Some(target) = state.pick(
                route,
                PickContext {
                    hash: mix(n),
                    ..context
                },
            ) {
                *counts.entry(target.state.key).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn an_idle_route_follows_its_shares() {
        for shares in [&[0.25; 4][..], &[0.1, 0.2, 0.3, 0.4], &[0.01, 0.99]] {
            for strategy in ALL {
                let counts = tally(&route(strategy.clone(), shares), 20_000, context(&[]));
                for (key, share) in (1..).zip(shares) {
                    let got = counts.get(&key).copied().unwrap_or(0) as f64 / 20_000.0;
                    assert!(
                        (got - share).abs() < 0.02 && got > 0.0,
                        "{strategy}: {key} got {got} of {share}"
                    );
                }
            }
        }
    }

    #[test]
    fn tried_ones_are_never_picked_and_ejected_ones_only_when_alone() {
        for strategy in ALL {
            for shares in [&[0.25; 4][..], &[0.1, 0.2, 0.3, 0.4], &[0.5, 0.5, 0.0, 0.0]] {
                let route = route(strategy.clone(), shares);
                eject(&route.targets[1], 1000);
                assert!(
                    !tally(&route, 500, context(&[])).contains_key(&2),
                    "{strategy}"
                );
                // Target 2 is ejected, 1 was tried; where 3 and 4 have no share, only the ejected
                // one is left.
                let left = tally(&route, 500, context(&[1]));
                let expected: &[u64] = if shares[2] == 0.0 { &[2] } else { &[3, 4] };
                assert!(
                    expected.iter().all(|key| left.contains_key(key))
                        && left.len() == expected.len(),
                    "{left:?}"
                );
                assert!(tally(&route, 10, context(&[1, 2, 3, 4])).is_empty());
            }
            assert!(tally(&route(strategy, &[]), 3, context(&[])).is_empty());
        }
    }

    #[test]
    fn load_decides_between_draws() {
        for strategy in [Strategy::P2c, Strategy::Least, Strategy::Ewma] {
            let route = route(strategy.clone(), &[0.25; 4]);
            let _busy: Vec<_> = (0..10)
                .map(|_| InFlight::new(Arc::clone(&route.targets[0].state)))
                .collect();
            let counts = tally(&route, 1000, context(&[]));
            assert!(
                counts.get(&1).copied().unwrap_or(0) < 30,
                "{strategy}: {counts:?}"
            );
        }
        let route = route(Strategy::Ewma, &[0.5; 2]);
        route.targets[0].state.record_success(1000, 50_000);
        route.targets[1].state.record_success(1000, 1_000);
        assert!(tally(&route, 1000, context(&[]))[&2] > 900);
    }

    #[test]
    fn turns_go_around_and_skip_targets_that_are_out() {
        let even = route(Strategy::RoundRobin, &[0.25; 4]);
        let mut state = PickState::new(1);
        let mut turns = |context: PickContext<'_>, n: usize| -> Vec<u64> {
            (0..n)
                .filter_map(|_| state.pick(&even, context))
                .map(|target| target.state.key)
                .collect()
        };
        let first = turns(context(&[]), 8);
        assert_eq!(first[..4], first[4..]);
        let mut sorted = first[..4].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 2, 3, 4]);
        eject(&even.targets[2], 1000);
        let rest = turns(context(&[]), 9);
        assert!(
            rest.windows(3)
                .all(|w| w[0] != w[1] && w[1] != w[2] && w[0] != w[2])
                && !rest.contains(&3),
            "{rest:?}"
        );
    }

    #[test]
    fn turns_are_one_row_for_all_workers() {
        let even = route(Strategy::RoundRobin, &[0.25; 4]);
        let mut workers = [1, 2, 3].map(PickState::new);
        let mut order = (0..).map(|step: usize| (step * step + step / 3) % 3);
        let picked: Vec<u64> = (0..12)
            .filter_map(|_| {
                workers[order.next()?]
                    .pick(&even, context(&[]))
                    .map(|target| target.state.key)
            })
            .collect();
        assert_eq!(picked, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn a_key_keeps_its_target_when_others_leave() {
        for shares in [&[0.25; 4][..], &[0.1, 0.2, 0.3, 0.4]] {
            let route = route(HASH, shares);
            let mut state = PickState::new(0);
            let mut pick = |hash| {
                state
                    .pick(
                        &route,
                        PickContext {
                            hash,
                            ..context(&[])
                        },
                    )
                    .map(|t| t.state.key)
            };
            let before: Vec<_> = (0..500).map(&mut pick).collect();
            eject(&route.targets[0], 1000);
            let after: Vec<_> = (0..500).map(&mut pick).collect();
            for (before, after) in before.iter().zip(&after) {
                assert!(*before == Some(1) || before == after);
                assert_ne!(*after, Some(1));
            }
        }
    }

    #[test]
    fn a_young_target_starts_slowly() {
        for strategy in [
            Strategy::P2c,
            Strategy::RoundRobin,
            Strategy::Random,
            Strategy::Least,
        ] {
            let route = route(strategy.clone(), &[0.5; 2]);
            route.targets[0].state.since_ms.store(1000, Relaxed);
            let share_at = |now_ms| {
                let counts = tally(
                    &route,
                    4000,
                    PickContext {
                        now_ms,
                        slow_start_ms: 10_000,
                        ..context(&[])
                    },
                );
                counts.get(&1).copied().unwrap_or(0) as f64 / 4000.0
            };
            let (young, older, grown) = (share_at(1000), share_at(6000), share_at(11_000));
            assert!(young > 0.0 && young < 0.12, "{strategy}: {young}");
            assert!(
                young < older && older < grown && (grown - 0.5).abs() < 0.03,
                "{strategy}: {young} {older} {grown}"
            );
        }
    }

    #[test]
    fn one_request_tries_an_instance_on_probation() {
        let route = route(Strategy::Random, &[0.5; 2]);
        eject(&route.targets[0], 1000);
        let back = 1000 + HealthConfig::default().eject_base_ms;
        let counts = tally(
            &route,
            100,
            PickContext {
                now_ms: back,
                ..context(&[])
            },
        );
        assert_eq!((counts[&1], counts[&2]), (1, 99));
        route.targets[0].state.record_success(back, 10);
        let counts = tally(
            &route,
            100,
            PickContext {
                now_ms: back,
                ..context(&[])
            },
        );
        assert!(counts[&1] > 30);
    }
}
