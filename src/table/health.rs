//! Passive health: what the traffic itself says about an instance.
//!
//! ```text
//!            eject_after failures in a row               ejection over
//!   healthy ────────────────────────────────> ejected ────────────────> probation ── success ──> healthy
//!                                                ^                          │
//!                                                └──── one failure, twice ──┘
//!                                                      as long each time
//! ```
//!
//! Lock-free: each figure is an atomic of its own, written by all workers with relaxed ordering. A
//! lost race costs one failure counted twice or late, never a wrong memory. The clock is an
//! argument.

use std::sync::atomic::Ordering::Relaxed;

use super::TargetState;

/// Which responses count as failures of the instance (`health.error_status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorStatus {
    /// No response counts.
    Off,
    /// 502, 503 and 504; of gRPC, UNAVAILABLE.
    #[default]
    Gateway,
    /// Every 5xx; of gRPC, UNAVAILABLE.
    All,
}

impl ErrorStatus {
    /// Whether a response with this status counts as a failure.
    #[must_use]
    pub fn counts(self, status: u16) -> bool {
        match self {
            Self::Off => false,
            Self::Gateway => matches!(status, 502..=504),
            Self::All => matches!(status, 500..=599),
        }
    }
}

/// Rules of passive ejection (`[health]`).
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// Failures in a row that eject an instance (`health.eject_after`); 0: never.
    pub eject_after: u32,
    /// Length of the first ejection in milliseconds; doubles each time (`health.eject_base`).
    pub eject_base_ms: u64,
    /// Longest ejection in milliseconds (`health.eject_max`).
    pub eject_max_ms: u64,
    /// Largest share of a service's instances that may be ejected at once, in percent
    /// (`health.eject_max_percent`).
    pub eject_max_percent: u32,
    /// Time to full share after coming in or back, in milliseconds (`health.slow_start`); 0: at
    /// once.
    pub slow_start_ms: u64,
    /// Which responses count as failures of the instance (`health.error_status`).
    pub error_status: ErrorStatus,
    /// How long an instance has to be silent, in milliseconds, until it counts as frozen
    /// (`health.frozen_after`); 0: nothing is looked at.
    pub frozen_after_ms: u64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            eject_after: 5,
            eject_base_ms: 5_000,
            eject_max_ms: 60_000,
            eject_max_percent: 50,
            slow_start_ms: 0,
            error_status: ErrorStatus::Gateway,
            frozen_after_ms: 2_000,
        }
    }
}

/// After how long (ms) a measured latency has faded to a third: an instance that was slow once gets
/// requests again.
const LATENCY_DECAY_MS: f64 = 10_000.0;

/// How long (ms) the one request that tries an instance on probation keeps others away; then,
/// unless it has reported, the next may try.
const TRIAL_MS: u64 = 1_000;

impl TargetState {
    /// Whether the instance may get a request while others may too: not ejected, not just being
    /// tried after an ejection, and its connections were not lost just now.
    #[must_use]
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.closed_until_ms.load(Relaxed) <= now_ms
            && (!self.probation.load(Relaxed) || self.trial_until_ms.load(Relaxed) <= now_ms)
    }

    /// To be called for a picked target: false when it is on probation and another request got the
    /// trial.
    pub(super) fn begin_trial(&self, now_ms: u64) -> bool {
        if !self.probation.load(Relaxed) || self.is_ejected(now_ms) {
            return true;
        }
        let until = self.trial_until_ms.load(Relaxed);
        until <= now_ms
            && self
                .trial_until_ms
                .compare_exchange(until, now_ms.saturating_add(TRIAL_MS), Relaxed, Relaxed)
                .is_ok()
    }

    /// Latency in microseconds as it counts at `now_ms`; 0: not known.
    #[must_use]
    pub fn latency_at(&self, now_ms: u64) -> f64 {
        let latency = self.latency_us.load(Relaxed) as f64;
        let age = now_ms.saturating_sub(self.latency_at_ms.load(Relaxed));
        if age == 0 {
            latency
        } else {
            latency * (-(age as f64) / LATENCY_DECAY_MS).exp()
        }
    }

    /// Notes a response from the instance.
    ///
    /// While the instance is ejected only the latency is noted: a response to a request from before
    /// says little.
    pub fn record_success(&self, now_ms: u64, latency_us: u64) {
        self.note_heard(now_ms, latency_us);
        self.note_latency(now_ms, latency_us);
        if self.is_ejected(now_ms) {
            return;
        }
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        let outcomes = self.outcomes.load(Relaxed);
        if outcomes != 0 {
            self.outcomes.store(outcomes << 1, Relaxed);
        }
        if self.probation.load(Relaxed) {
            self.end_probation(now_ms);
        }
    }

    /// Back after an ejection.
    pub(super) fn end_probation(&self, now_ms: u64) {
        if self.probation.swap(false, Relaxed) {
            self.outcomes.store(0, Relaxed);
            // Slow start counts from here.
            self.since_ms.store(now_ms, Relaxed);
        }
    }

    /// Notes a failure; true when it ejected the instance. `ejected` and `total` are the present
    /// counts among the targets of the route at hand, for the cap.
    ///
    /// Two workers that eject two instances in the same instant can pass the cap by one: the counts
    /// are theirs, not locked. Picking ignores ejection when no target is left, so that costs
    /// nothing.
    pub fn record_failure(
        &self,
        now_ms: u64,
        config: &HealthConfig,
        ejected: usize,
        total: usize,
    ) -> bool {
        if self.is_ejected(now_ms) || config.eject_after == 0 {
            return false;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < config.eject_after && !self.probation.load(Relaxed) {
            return false;
        }
        self.eject(now_ms, config, ejected, total)
    }

    /// Notes that it is frozen, which counts as failures enough in a row; true when that ejected
    /// it.
    pub fn record_frozen(
        &self,
        now_ms: u64,
        config: &HealthConfig,
        ejected: usize,
        total: usize,
    ) -> bool {
        if self.is_ejected(now_ms) || config.eject_after == 0 {
            return false;
        }
        self.failures.fetch_max(config.eject_after, Relaxed);
        self.eject(now_ms, config, ejected, total)
    }

    /// Ejects it if the cap lets it, and says whether that happened.
    pub(super) fn eject(
        &self,
        now_ms: u64,
        config: &HealthConfig,
        ejected: usize,
        total: usize,
    ) -> bool {
        let until = self.ejected_until_ms.load(Relaxed);
        if until > now_ms {
            return false;
        }
        let cap = total.saturating_mul(config.eject_max_percent as usize);
        if ejected.saturating_add(1).saturating_mul(100) > cap {
            return false;
        }
        let before = self.remembered_ejections(now_ms, until, config);
        let length = ejection_ms(before, config);
        let ejects = self
            .ejected_until_ms
            .compare_exchange(until, now_ms.saturating_add(length), Relaxed, Relaxed)
            .is_ok();
        if ejects {
            self.closed_until_ms
                .fetch_max(now_ms.saturating_add(length), Relaxed);
            self.ejections.store(before.saturating_add(1), Relaxed);
            self.trial_until_ms.store(0, Relaxed);
            self.probation.store(true, Relaxed);
        }
        ejects
    }

    /// Ejections so far, one less for every `eject_max_ms` that went well since the last one ended.
    fn remembered_ejections(&self, now_ms: u64, until: u64, config: &HealthConfig) -> u32 {
        let quiet = now_ms.saturating_sub(until) / config.eject_max_ms.max(1);
        self.ejections
            .load(Relaxed)
            .saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
    }

    /// A higher latency counts at once, a lower one as the old fades.
    pub(super) fn note_latency(&self, now_ms: u64, latency_us: u64) {
        let old = self.latency_us.load(Relaxed) as f64;
        let new = latency_us as f64;
        let age = now_ms.saturating_sub(self.latency_at_ms.load(Relaxed)) as f64;
        let keep = (-age.max(1.0) / LATENCY_DECAY_MS).exp().min(0.95);
        let next = if new >= old {
            new
        } else {
            new + (old - new) * keep
        };
        self.latency_us.store((next as u64).max(1), Relaxed);
        self.latency_at_ms.store(now_ms, Relaxed);
    }
}

/// `eject_base · 2^before`, at most `eject_max`.
fn ejection_ms(before: u32, config: &HealthConfig) -> u64 {
    let factor = 1u64.checked_shl(before).unwrap_or(u64::MAX);
    config
        .eject_base_ms
        .saturating_mul(factor)
        .min(config.eject_max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::InstanceId;

    fn state() -> TargetState {
        TargetState::new(
            1,
            InstanceId {
                node: "n".into(),
                id: "i".into(),
            },
            ([127, 0, 0, 1], 1).into(),
            0,
        )
    }

    fn config() -> HealthConfig {
        HealthConfig {
            eject_after: 3,
            eject_base_ms: 100,
            eject_max_ms: 1000,
            ..HealthConfig::default()
        }
    }

    #[test]
    fn failures_in_a_row_eject() {
        for (events, ejected) in [
            ("fff", true),
            ("ff", false),
            ("ffsff", false),
            ("ffsfff", true),
            ("ffffff", true),
        ] {
            let state = state();
            for event in events.chars() {
                match event {
                    'f' => _ = state.record_failure(10, &config(), 0, 4),
                    _ => state.record_success(10, 1),
                }
            }
            assert_eq!(state.is_ejected(10), ejected, "{events}");
        }
        let never = HealthConfig {
            eject_after: 0,
            ..config()
        };
        let state = state();
        assert!((0..100).all(|_| !state.record_failure(10, &never, 0, 4)));
    }

    #[test]
    fn each_ejection_is_twice_as_long_up_to_a_limit_and_forgotten_in_quiet_times() {
        let state = state();
        let mut now = 1;
        let mut eject = |failures: usize, pause: u64| {
            now += pause;
            let ejects: Vec<bool> = (0..failures)
                .map(|_| state.record_failure(now, &config(), 0, 4))
                .collect();
            assert_eq!(
                ejects.iter().filter(|ejects| **ejects).count(),
                1,
                "{ejects:?}"
            );
            let length = state.ejected_until_ms.load(Relaxed) - now;
            now += length;
            length
        };
        assert_eq!(eject(3, 0), 100);
        // On probation one failure is enough.
        assert_eq!(
            [
                eject(1, 0),
                eject(1, 1),
                eject(1, 0),
                eject(1, 0),
                eject(1, 0)
            ],
            [200, 400, 800, 1000, 1000]
        );
        // 6 so far; after 5 quiet periods only one is remembered.
        assert_eq!(eject(1, 5000), 200);
    }

    #[test]
    fn the_cap_leaves_enough_instances() {
        for (ejected, total, ejects) in [
            (0, 1, false),
            (0, 2, true),
            (1, 2, false),
            (1, 3, false),
            (1, 4, true),
            (2, 4, false),
        ] {
            let state = state();
            let got = (0..3).any(|_| state.record_failure(10, &config(), ejected, total));
            assert_eq!(got, ejects, "{ejected} of {total}");
            // Refused by the cap, it is ejected by the next failure after another has come back.
            assert!(got || state.record_failure(10, &config(), 0, 4));
        }
    }

    #[test]
    fn success_counts_only_after_the_ejection() {
        let state = state();
        assert_eq!(
            (0..3)
                .filter(|_| state.record_failure(10, &config(), 0, 4))
                .count(),
            1
        );
        state.record_success(50, 1);
        assert!(
            state.is_ejected(109) && state.probation.load(Relaxed),
            "the response to an old request changes nothing"
        );
        assert_eq!(state.word(110), "probation");
        assert!(
            state.begin_trial(110) && !state.begin_trial(110) && !state.is_open(110),
            "one trial at a time"
        );
        assert!(
            state.begin_trial(110 + TRIAL_MS),
            "a lost trial does not keep it out for ever"
        );
        state.record_success(1200, 1);
        assert_eq!(
            (state.word(1200), state.since_ms.load(Relaxed)),
            ("healthy", 1200)
        );
        assert!(
            !state.record_failure(1201, &config(), 0, 4),
            "the count starts anew"
        );
    }

    #[test]
    fn latency_rises_at_once_and_fades() {
        let state = state();
        state.record_success(1, 100);
        state.record_success(2, 9000);
        assert_eq!(state.latency_at(2) as u64, 9000);
        state.record_success(3, 100);
        let after = state.latency_at(3) as u64;
        assert!((5000..9000).contains(&after), "{after}");
        assert!(state.latency_at(60_003) < 100.0);
    }
}
