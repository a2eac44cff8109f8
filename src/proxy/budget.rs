//! The retry budget: how many retries recent traffic pays for.
//!
//! Pure; one per worker, time as an argument. Retries help when one instance is sick and hurt when
//! all are: without a bound, an overloaded service gets its load multiplied. The bound is a share
//! of the requests of the last ten seconds, and a floor per second so that a quiet service may
//! retry at all. Failed connects do not count here: nothing was sent.

/// Length of the window in seconds, and number of its slots.
const WINDOW_S: u64 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    requests: u64,
    /// Granted by the floor.
    floor: u32,
    /// Granted by the share.
    share: u64,
}

/// Counts requests and grants retries.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    percent: u64,
    floor_per_s: u32,
    slots: [Slot; WINDOW_S as usize],
}

impl RetryBudget {
    /// `percent` of the recent requests, and `floor_per_s` in any case.
    #[must_use]
    pub fn new(percent: u32, floor_per_s: u32) -> Self {
        Self {
            percent: percent.into(),
            floor_per_s,
            slots: [Slot::default(); WINDOW_S as usize],
        }
    }

    /// Takes over changed rules; what was counted stays.
    pub fn set(&mut self, percent: u32, floor_per_s: u32) {
        self.percent = percent.into();
        self.floor_per_s = floor_per_s;
    }

    /// Counts a request (not its retries).
    pub fn record_request(&mut self, now_ms: u64) {
        self.slot(now_ms).requests += 1;
    }

    /// Whether one retry may be made now; a granted one is counted.
    pub fn try_retry(&mut self, now_ms: u64) -> bool {
        let floor_per_s = self.floor_per_s;
        let slot = self.slot(now_ms);
        if slot.floor < floor_per_s {
            slot.floor += 1;
            return true;
        }
        self.try_of_share(now_ms)
    }

    /// The same without the floor: what nothing but recent requests may pay for.
    pub fn try_of_share(&mut self, now_ms: u64) -> bool {
        let oldest = (now_ms / 1000).saturating_sub(WINDOW_S - 1);
        let recent = self.slots.iter().filter(|slot| slot.second >= oldest);
        let (requests, share) = recent.fold((0, 0), |(requests, share), slot| {
            (requests + slot.requests, share + slot.share)
        });
        let granted = share < requests.saturating_mul(self.percent) / 100;
        if granted {
            self.slot(now_ms).share += 1;
        }
        granted
    }

    fn slot(&mut self, now_ms: u64) -> &mut Slot {
        let second = now_ms / 1000;
        let slot = &mut self.slots[(second % WINDOW_S) as usize];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(budget: &mut RetryBudget, now_ms: u64, asked: u32) -> usize {
        (0..asked).filter(|_| budget.try_retry(now_ms)).count()
    }

    #[test]
    fn floor_holds_each_second() {
        let mut budget = RetryBudget::new(20, 3);
        for second in 0..30 {
            assert_eq!(
                granted(&mut budget, second * 1000 + 7, 10),
                3,
                "second {second}"
            );
        }
    }

    #[test]
    fn share_follows_the_requests_of_ten_seconds() {
        let mut budget = RetryBudget::new(20, 0);
        assert!(!budget.try_retry(0));
        (0..100).for_each(|_| budget.record_request(500));
        assert_eq!(granted(&mut budget, 900, 50), 20);
        assert_eq!(granted(&mut budget, 9_999, 50), 0, "spent");
        assert_eq!(granted(&mut budget, 10_000, 50), 0, "forgotten");
        (0..10).for_each(|_| budget.record_request(10_500));
        assert_eq!(granted(&mut budget, 19_999, 50), 2);
    }

    #[test]
    fn without_the_floor_only_requests_pay() {
        let mut budget = RetryBudget::new(20, 1000);
        assert!(!budget.try_of_share(500));
        (0..60).for_each(|_| budget.record_request(500));
        assert_eq!((0..50).filter(|_| budget.try_of_share(900)).count(), 12);
        assert!(budget.try_retry(900), "the floor is as it was");
    }

    #[test]
    fn nothing_granted_when_switched_off() {
        let mut budget = RetryBudget::new(0, 0);
        (0..1000).for_each(|_| budget.record_request(1));
        assert!(!budget.try_retry(1));
        budget.set(1, 0);
        assert_eq!(granted(&mut budget, 1, 50), 10);
    }

    #[test]
    fn an_outage_costs_no_more_than_the_share() {
        let mut budget = RetryBudget::new(20, 10);
        let mut retries = 0;
        for ms in 0..60_000 {
            budget.record_request(ms);
            retries += u32::from(budget.try_retry(ms));
        }
        assert!(
            (12_000..=13_500).contains(&retries),
            "{retries} for 60000 requests"
        );
    }
}
