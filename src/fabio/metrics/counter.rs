//! A count that only rises, and what of it was reported already.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Written by all workers; reported by one task.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    total: AtomicU64,
    reported: AtomicU64,
}

/// A count and what it grew by since it was last taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Since the start.
    pub total: u64,
    /// Since the last call.
    pub since: u64,
}

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.total.fetch_add(more, Relaxed);
    }

    /// Since the start.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// The growth since the last call. For one caller.
    #[must_use]
    pub(crate) fn take(&self) -> Growth {
        let total = self.total();
        Growth {
            total,
            since: total.saturating_sub(self.reported.swap(total, Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_reported_once() {
        let counter = Counter::default();
        counter.add(3);
        assert_eq!(counter.take(), Growth { total: 3, since: 3 });
        assert_eq!(counter.take(), Growth { total: 3, since: 0 });
        counter.add(2);
        assert_eq!(
            (counter.take(), counter.total()),
            (Growth { total: 5, since: 2 }, 5)
        );
    }
}
