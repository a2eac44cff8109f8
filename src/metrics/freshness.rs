//! How long changes take to reach traffic.

/// Upper bounds of the histogram, in seconds.
pub(crate) const CHANGE_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A histogram of times in seconds.
#[derive(Clone, Debug, Default)]
pub struct ChangeTimes {
    /// Observations between two bounds; the last are above all of them.
    pub buckets: [u64; CHANGE_BUCKETS.len() + 1],
    /// Sum of all observations, in seconds.
    pub sum_seconds: f64,
}

impl ChangeTimes {
    /// Counts one time, in seconds.
    pub fn observe(&mut self, seconds: f64) {
        let bucket = CHANGE_BUCKETS
            .iter()
            .position(|&bound| seconds <= bound)
            .unwrap_or(CHANGE_BUCKETS.len());
        self.buckets[bucket] += 1;
        self.sum_seconds += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let mut times = ChangeTimes::default();
        [0.0005, 0.001, 0.0011, 30.0, 31.0]
            .into_iter()
            .for_each(|seconds| times.observe(seconds));
        assert_eq!((times.buckets[0], times.buckets[1]), (2, 1));
        assert_eq!((times.buckets[13], times.buckets[14]), (1, 1));
        assert!((times.sum_seconds - 61.0026).abs() < 1e-9);
    }
}
