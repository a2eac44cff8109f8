//! Passive health: what the traffic itself says about an instance.

use super::TargetState;

/// Rules of passive ejection (`[health]`).
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// Failures in a row that eject an instance (`health.eject_after`); 0: never.
    pub eject_after: u32,
    /// Length of the first ejection in milliseconds; doubles each time (`health.eject_base`).
    pub eject_base_ms: u64,
    /// Longest ejection in milliseconds (`health.eject_max`).
    pub eject_max_ms: u64,
    /// Largest share of a service's instances that may be ejected at once, in percent (`health.eject_max_percent`).
    pub eject_max_percent: u32,
    /// Time to full share after coming in or back, in milliseconds (`health.slow_start`); 0: at once.
    pub slow_start_ms: u64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { eject_after: 5, eject_base_ms: 5_000, eject_max_ms: 60_000, eject_max_percent: 50, slow_start_ms: 0 }
    }
}

impl TargetState {
    /// Notes an answer from the instance.
    pub fn record_success(&self, now_ms: u64, latency_us: u64) {
        let _ = (now_ms, latency_us);
    }

    /// Notes a failure; true when it ejected the instance. `ejected` and `total` are the present counts among the
    /// targets of the route at hand, for the cap.
    pub fn record_failure(&self, now_ms: u64, config: &HealthConfig, ejected: usize, total: usize) -> bool {
        let _ = (now_ms, config, ejected, total);
        false
    }
}
