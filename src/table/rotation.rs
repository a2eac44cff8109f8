//! Turns that all workers take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The turns of a place, counted for all workers together: a client with many requests, on whatever
/// connections, sees each target in its turn. With a count for each worker, two of them that step
/// along would send both their requests to the same target.
#[derive(Clone, Debug, Default)]
pub struct Rotation(Arc<AtomicU32>);

impl Rotation {
    /// The next of `count` turns, from 0. (Once in 2^32 requests the step back to 0 may repeat or
    /// skip some.)
    #[must_use]
    pub fn next(&self, count: usize) -> usize {
        // Nothing else is read or written by this order: it is a count.
        self.0.fetch_add(1, Ordering::Relaxed) as usize % count
    }
}
