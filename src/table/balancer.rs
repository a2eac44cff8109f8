//! Picking one of a route's targets.

use std::sync::Arc;

use super::{Route, Target};

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
}

impl PickState {
    /// State with its own seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed) }
    }

    /// Picks a target, or none when the route has none left to try.
    pub fn pick<'a>(&mut self, route: &'a Arc<Route>, context: PickContext<'_>) -> Option<&'a Target> {
        let _ = context;
        let index = self.rng.usize(..route.targets.len().max(1));
        route.targets.get(index)
    }
}
