//! Durations of one series: a histogram that only grows, and the durations themselves for reports.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of a histogram; ascending.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    seconds: Box<[f64]>,
    /// The same in nanoseconds, as the request path compares integers.
    nanoseconds: Box<[u64]>,
}

impl Bounds {
    /// Of bounds in seconds, which are finite, positive and ascending.
    #[must_use]
    pub(crate) fn new(seconds: &[f64]) -> Self {
        Self {
            seconds: seconds.into(),
            nanoseconds: seconds
                .iter()
                .map(|bound| (bound * 1e9).round() as u64)
                .collect(),
        }
    }

    /// In seconds.
    #[must_use]
    pub(crate) fn seconds(&self) -> &[f64] {
        &self.seconds
    }
}

/// What a histogram holds at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    /// Durations per bound (the last one above all of them), not cumulated.
    pub buckets: Vec<u64>,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Durations since they were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many there were.
    pub seen: u64,
    /// Those that were kept, in nanoseconds: all, or a sample in which each had the same chance.
    pub kept: Vec<u64>,
}

/// Durations of one series; written by all workers.
#[derive(Debug)]
pub(crate) struct Timer {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
    samples: Samples,
}

impl Timer {
    /// Without any. At most `samples_max` durations are kept between two calls of [`Timer::take`];
    /// 0: none.
    #[must_use]
    pub(crate) fn new(bounds: &Bounds, samples_max: usize) -> Self {
        Self {
            buckets: (0..=bounds.seconds.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            sum_ns: AtomicU64::new(0),
            samples: Samples {
                room: samples_max,
                seen: AtomicU64::new(0),
                kept: OnceLock::new(),
            },
        }
    }

    /// Counts one. `bounds` are those it was made with.
    pub(crate) fn record(&self, bounds: &Bounds, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bounds
            .nanoseconds
            .iter()
            .position(|&bound| ns <= bound)
            .unwrap_or(bounds.nanoseconds.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(ns, Relaxed);
        self.samples.record(ns);
    }

    /// Everything since the start.
    #[must_use]
    pub(crate) fn histogram(&self) -> Histogram {
        Histogram {
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Relaxed))
                .collect(),
            sum_seconds: self.sum_ns.load(Relaxed) as f64 / 1e9,
        }
    }

    /// What came since the last call. For one caller: two would share it out among them.
    #[must_use]
    pub(crate) fn take(&self) -> Taken {
        self.samples.take()
    }
}

/// The first durations of an interval; past `room`, a random choice of all of them (reservoir
/// sampling, Vitter's R).
#[derive(Debug)]
struct Samples {
    room: usize,
    seen: AtomicU64,
    /// Made at first use: most series are quiet.
    kept: OnceLock<Box<[AtomicU64]>>,
}

impl Samples {
    fn record(&self, ns: u64) {
        if self.room == 0 {
            return;
        }
        let before = self.seen.fetch_add(1, Relaxed);
        let at = if before < self.room as u64 {
            before
        } else {
            scramble(before ^ ns.rotate_left(32)) % (before + 1)
        };
        let kept = self
            .kept
            .get_or_init(|| (0..self.room).map(|_| AtomicU64::new(0)).collect());
        if let Some(slot) = usize::try_from(at).ok().and_then(|at| kept.get(at)) {
            slot.store(ns, Relaxed);
        }
    }

    /// A worker in the middle of [`record`](Self::record) may leave its duration to the next
    /// interval: the counts are right all the same.
    fn take(&self) -> Taken {
        let seen = self.seen.swap(0, Relaxed);
        let kept = usize::try_from(seen).unwrap_or(usize::MAX).min(self.room);
        let slots = self.kept.get().map(Box::as_ref).unwrap_or_default();
        Taken {
            seen,
            kept: slots
                .iter()
                .take(kept)
                .map(|slot| slot.load(Relaxed))
                .collect(),
        }
    }
}

/// Spreads bits evenly (the finish of splitmix64).
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let bounds = Bounds::new(&[0.005, 1.0]);
        let timer = Timer::new(&bounds, 0);
        for ns in [0, 5_000_000, 5_000_001, 1_000_000_000, 1_000_000_001] {
            timer.record(&bounds, Duration::from_nanos(ns));
        }
        let histogram = timer.histogram();
        assert_eq!(
            (histogram.buckets.clone(), histogram.count()),
            (vec![2, 2, 1], 5)
        );
        assert!(
            (histogram.sum_seconds - 2.010_000_002).abs() < 1e-9,
            "{histogram:?}"
        );
        assert_eq!(
            timer.take(),
            Taken {
                seen: 0,
                kept: vec![]
            },
            "samples were not wanted"
        );
    }

    #[test]
    fn few_durations_are_kept_as_they_are_and_taken_once() {
        let bounds = Bounds::new(&[]);
        let timer = Timer::new(&bounds, 4);
        for ns in [7, 8, 9] {
            timer.record(&bounds, Duration::from_nanos(ns));
        }
        assert_eq!(
            timer.take(),
            Taken {
                seen: 3,
                kept: vec![7, 8, 9]
            }
        );
        assert_eq!(timer.take(), Taken::default());
        timer.record(&bounds, Duration::from_nanos(1));
        assert_eq!(
            timer.take(),
            Taken {
                seen: 1,
                kept: vec![1]
            }
        );
        assert_eq!(
            timer.histogram().count(),
            4,
            "the histogram forgets nothing"
        );
    }

    #[test]
    fn of_many_durations_each_has_the_same_chance() {
        let bounds = Bounds::new(&[]);
        let timer = Timer::new(&bounds, 100);
        let mut sum = 0;
        for round in 0..200 {
            (0..1000).for_each(|at| {
                timer.record(&bounds, Duration::from_nanos((at + round * 37) % 1000))
            });
            let taken = timer.take();
            assert_eq!((taken.seen, taken.kept.len()), (1000, 100));
            sum += taken.kept.iter().sum::<u64>();
        }
        // Deterministic: the choice hangs on counts and durations alone.
        let mean = sum as f64 / 20_000.0;
        assert!((485.0..515.0).contains(&mean), "{mean}");
    }
}
