//! Connections that are lost together: the sign of a process that died, before anything else tells
//! of it.
//!
//! Where ports are given out anew at once (Nomad's dynamic ports) the next process to listen at the
//! address may be another service. So for a moment after such a loss others are preferred: on a new
//! connection to the address, a request could reach another service. Where there is no other
//! instance it gets requests all the same, as after a restart in place.
//!
//! Times are of the process clock, in milliseconds.

use std::sync::atomic::Ordering::Relaxed;

use super::TargetState;

/// How long others are preferred: Consul has learned of the death by then.
const AVOIDED_MS: u64 = 1_000;
/// So soon after one loss another one says nothing: a process dies once, and servers that often
/// close all their connections shall not lose their share by it.
const AGAIN_MS: u64 = 10_000;
/// Tunnels that an instance ends within this time count as ended together.
const TOGETHER_MS: u64 = 100;
/// Bits of their count, beside the time of the first.
const COUNT_BITS: u32 = 16;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// See [`TargetState::presence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    retired: bool,
    lost_ms: u64,
}

impl TargetState {
    /// Notes that its connections were lost together.
    pub fn note_loss(&self, now_ms: u64) {
        let before = self.lost_ms.load(Relaxed);
        if before != 0 && now_ms.saturating_sub(before) < AGAIN_MS {
            return;
        }
        self.lost_ms.store(now_ms, Relaxed);
        self.closed_until_ms
            .fetch_max(now_ms.saturating_add(AVOIDED_MS), Relaxed);
    }

    /// Whether that was just now.
    #[must_use]
    pub fn is_lost(&self, now_ms: u64) -> bool {
        let lost = self.lost_ms.load(Relaxed);
        lost != 0 && now_ms.saturating_sub(lost) < AVOIDED_MS
    }

    /// Differs when the instance went away meanwhile: what began with it before must not go on.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence {
            retired: self.retired.load(Relaxed),
            lost_ms: self.lost_ms.load(Relaxed),
        }
    }

    /// Notes that the instance ended a tunnel, its client did not. Two or more, and at least half
    /// of all that were open, are a loss. To be called while the tunnel still counts as in flight.
    pub fn note_tunnel_end(&self, now_ms: u64) {
        let before = self.tunnel_ends.load(Relaxed);
        let (first, count) = (before >> COUNT_BITS, before & COUNT_MAX);
        let together = now_ms.saturating_sub(first) < TOGETHER_MS;
        let (first, count) = if together {
            (first, (count + 1).min(COUNT_MAX))
        } else {
            (now_ms, 1)
        };
        self.tunnel_ends
            .store((first << COUNT_BITS) | count, Relaxed);
        let left = u64::from(self.in_flight.load(Relaxed).saturating_sub(1));
        if count >= 2 && count >= left {
            self.note_loss(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::InstanceId;
    use crate::table::InFlight;

    fn state() -> Arc<TargetState> {
        let id = InstanceId {
            node: "n".into(),
            id: "i".into(),
        };
        Arc::new(TargetState::new(1, id, ([127, 0, 0, 1], 1).into(), 0))
    }

    #[test]
    fn others_are_preferred_for_a_moment_and_not_again_soon() {
        let state = state();
        assert!(state.is_open(1) && !state.is_lost(1));
        state.note_loss(5_000);
        assert!(!state.is_open(5_000) && state.is_lost(5_999) && !state.is_open(5_999));
        assert!(state.is_open(6_000) && !state.is_lost(6_000));
        assert!(!state.is_ejected(5_000), "it is not its failure");
        state.note_loss(7_000);
        assert!(state.is_open(7_000));
        state.note_loss(15_000);
        assert!(!state.is_open(15_000));
    }

    #[test]
    fn a_loss_does_not_shorten_an_ejection() {
        let state = state();
        let config = crate::table::health::HealthConfig {
            eject_after: 1,
            ..Default::default()
        };
        assert!(state.record_failure(100, &config, 0, 4));
        state.note_loss(200);
        assert!(!state.is_open(5_000) && state.is_open(5_100));
    }

    #[test]
    fn tunnels_that_end_together_are_a_loss() {
        for (open, ends, lost) in [
            (1, &[10][..], false),
            (2, &[10, 20], true),
            (3, &[10, 20], true),
            (8, &[10, 20, 30], false),
            (8, &[10, 11, 12, 13], true),
            (4, &[10, 200, 400, 600], false),
        ] {
            let state = state();
            let mut tunnels: Vec<InFlight> = (0..open)
                .map(|_| InFlight::new(Arc::clone(&state)))
                .collect();
            for at in ends {
                state.note_tunnel_end(*at);
                tunnels.pop();
            }
            assert_eq!(
                state.is_lost(ends[ends.len() - 1]),
                lost,
                "{ends:?} of {open}"
            );
        }
    }

    #[test]
    fn what_left_the_table_is_closed_for_good() {
        let state = state();
        let before = state.presence();
        state.retire();
        assert!(!state.is_open(u64::MAX - 1) && state.presence() != before);
    }
}
