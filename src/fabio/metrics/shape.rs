//! What all series have in common.

use super::timer::{Bounds, Timer};

/// What all series have in common.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) bounds: Bounds,
    /// Reports take what is kept.
    pub(super) reports: bool,
}

impl Shape {
    pub(super) fn timer(&self, samples_max: usize) -> Timer {
        Timer::new(&self.bounds, if self.reports { samples_max } else { 0 })
    }
}
