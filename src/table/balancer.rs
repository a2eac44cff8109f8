//! Picking one of a route's targets.
//!
//! Every strategy follows the same list of wishes, and gives up the last first:
//! 1. never a target whose share is 0, nor one that was tried for this request already;
//! 2. not one that is ejected (or on probation while another request tries it), unless no other is left;
//! 3. a young target (slow start) only with the chance its age gives it.
//!
//! A draw follows the shares; load then decides between two draws (`p2c`, `ewma`) or all targets (`least`).
//! Nothing here allocates, waits or locks; every search is bounded by the number of targets.

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

/// Randomness and cursors of one worker: seeded apart, so that workers do not march in step.
#[derive(Debug)]
pub struct PickState {
    rng: fastrand::Rng,
    /// Cursors of `rr`, each in the slot its route's id falls on: bounded memory, and they outlive tables. A route
    /// that loses its slot to another starts again somewhere else, which is as fair.
    cursors: Box<[Cursor]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    route: u64,
    next: u32,
}

/// Routes whose `rr` cursors a worker can hold at once.
const CURSORS: usize = 4096;

/// Draws before a search through all targets takes over.
const DRAWS_MAX: usize = 8;

/// Smallest chance of a young target: it must get some request to grow on.
const SLOW_START_MIN: f64 = 0.05;

/// How far the wishes are given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mercy {
    None,
    Ejected,
}

impl PickState {
    /// State with its own seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), cursors: vec![Cursor::default(); CURSORS].into() }
    }

    /// Picks a target, or none when the route has none left to try.
    pub fn pick<'a>(&mut self, route: &'a Arc<Route>, context: PickContext<'_>) -> Option<&'a Target> {
        let picked = self.pick_with(route, &context, Mercy::None);
        if let Some(target) = picked.filter(|target| target.state.begin_trial(context.now_ms)) {
            return Some(target);
        }
        // Another worker took the trial in between, or everybody is out: then ejection is ignored.
        picked
            .and_then(|_| self.pick_with(route, &context, Mercy::None))
            .or_else(|| self.pick_with(route, &context, Mercy::Ejected))
    }

    fn pick_with<'a>(&mut self, route: &'a Route, context: &PickContext<'_>, mercy: Mercy) -> Option<&'a Target> {
        let scope = Scope { route, context, mercy };
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
        // Rounding left a crumb.
        targets.iter().rev().find(|target| target.share > 0.0)
    }

    /// The first usable target from a random place on.
    fn first_usable<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        let targets = &scope.route.targets;
        let start = self.rng.usize(..targets.len().max(1));
        let (before, after) = targets.split_at_checked(start)?;
        after.iter().chain(before).find(|target| scope.is_usable(target))
    }

    /// Two draws, and the one with the lower figure; the first when equal, so that an idle route follows the shares.
    fn better_of_two<'a>(&mut self, scope: &Scope<'a, '_>, figure: impl Fn(&Target) -> f64) -> Option<&'a Target> {
        let first = self.draw(scope)?;
        if scope.route.targets.len() == 1 {
            return Some(first);
        }
        let mut second = self.draw(scope)?;
        if scope.route.even && std::ptr::eq(first, second) {
            second = self.draw(scope)?;
        }
        Some(if figure(second) < figure(first) { second } else { first })
    }

    /// The lowest load of all; by chance among equals.
    fn least<'a>(&mut self, scope: &Scope<'a, '_>) -> Option<&'a Target> {
        let mut best = self.draw(scope)?;
        let mut load = scope.load(best);
        for target in scope.route.targets.iter().filter(|target| scope.is_usable(target)) {
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
        let turns = if route.ring.is_empty() { route.targets.len() } else { route.ring.len() };
        if turns == 0 {
            return None;
        }
        // A long ring can give many turns in a row to one target that is out; the search after it is fair enough.
        for _ in 0..turns.min(64) {
            let turn = self.advance(route.id, turns);
            let at = route.ring.get(turn).map_or(turn, |&target| target as usize);
            let target = route.targets.get(at)?;
            if scope.is_usable(target) && self.is_old_enough(target, scope.context) {
                return Some(target);
            }
        }
        self.first_usable(scope)
    }

    fn advance(&mut self, route: u64, turns: usize) -> usize {
        let cursor = &mut self.cursors[(route % CURSORS as u64) as usize];
        if cursor.route != route {
            *cursor = Cursor { route, next: self.rng.u32(..) };
        }
        let turn = cursor.next as usize % turns;
        cursor.next = cursor.next.wrapping_add(1);
        // Without this, the step from 2^32 to 0 would skip turns; also keeps the place when the number of turns falls.
        if cursor.next as usize >= turns {
            cursor.next %= turns as u32;
        }
        turn
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

/// One pick: which targets it may see, and how it values them.
struct Scope<'a, 'c> {
    route: &'a Route,
    context: &'c PickContext<'c>,
    mercy: Mercy,
}

impl<'a> Scope<'a, '_> {
    fn is_usable(&self, target: &Target) -> bool {
        target.share > 0.0
            && !self.context.tried.contains(&target.state.key)
            && (self.mercy == Mercy::Ejected || target.state.is_open(self.context.now_ms))
    }

    /// Requests in flight per share; a tie says nothing, so the first draw stays.
    fn load(&self, target: &Target) -> f64 {
        f64::from(target.state.in_flight.load(Relaxed)) / target.share
    }

    /// Latency times load. An instance that never answered costs nothing per microsecond but counts its load, so
    /// that it gets its first requests one by one.
    fn cost(&self, target: &Target) -> f64 {
        let part = target.share * self.route.targets.len() as f64;
        let load = f64::from(target.state.in_flight.load(Relaxed)) / part;
        target.state.latency_at(self.context.now_ms).max(1.0) * (load + 1.0)
    }

    /// Weighted rendezvous hashing: each target has a score for the key, and the highest usable one wins. When a
    /// target leaves, only its own keys move, each to the next best score.
    fn by_hash(&self) -> Option<&'a Target> {
        let usable = self.route.targets.iter().filter(|target| self.is_usable(target));
        let score = |target: &Target| {
            let mixed = mix(self.context.hash ^ mix(target.state.hash));
            if self.route.even {
                return mixed as f64;
            }
            // Uniform in (0, 1]; -share/ln(u) makes the chance of winning proportional to the share.
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
