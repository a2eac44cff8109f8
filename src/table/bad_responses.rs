//! Responses that count as failures: what they do to an instance's place among the others.
//!
//! An instance that responds with 503 at once looks like the best one: quick, and nothing in
//! flight. So such responses
//! - never lower the latency that `ewma` sees,
//! - weigh more than any load while they make up more than a third of an instance's last 16
//!   responses,
//! - eject the instance, as failed connections do, when `eject_after` come in a row *and others of
//!   the route do better*: others have responded since the run began, well the last time, and
//!   failed at most half as often. What fails everywhere (an overload, a path that responds with
//!   503 by design, a database that is away) ejects nothing.
//!
//! A response that does not come within its limit counts like these: a request that takes too long
//! does so on any instance.

use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::health::HealthConfig;
use super::{Target, TargetState};

/// Responses that the weight against load is taken from.
const LATEST: u64 = 0xffff;
/// Errors among them that make one step.
const STEP: u32 = 6;
/// How long (ms) errors weigh against load after the last one: then the instance gets a request
/// again, whose response decides. Where it cannot be ejected this is what keeps it from most
/// requests.
const WEIGHS_MS: u64 = 500;
/// By how many errors, of 64 responses, an instance has to be worse than twice the better ones.
const WORSE_BY: u32 = 4;

impl TargetState {
    /// How much errors weigh against the instance, from 0 to 2.
    #[must_use]
    pub fn error_level(&self, now_ms: u64) -> u32 {
        let outcomes = self.outcomes.load(Relaxed);
        if outcomes == 0 || now_ms.saturating_sub(self.bad_at_ms.load(Relaxed)) >= WEIGHS_MS {
            return 0;
        }
        (outcomes & LATEST).count_ones() / STEP
    }

    /// Notes a response that counts as a failure; true when it ejected the instance. `targets` are
    /// those of the route.
    pub fn record_bad_response(
        &self,
        now_ms: u64,
        latency_us: u64,
        config: &HealthConfig,
        targets: &[Target],
    ) -> bool {
        self.note_heard(now_ms, latency_us);
        if latency_us as f64 > self.latency_at(now_ms) {
            self.note_latency(now_ms, latency_us);
        }
        self.record_no_response(now_ms, config, targets)
    }

    /// The same for a response that did not come in time.
    pub fn record_no_response(
        &self,
        now_ms: u64,
        config: &HealthConfig,
        targets: &[Target],
    ) -> bool {
        if self.is_ejected(now_ms) {
            return false;
        }
        let before = self.outcomes.load(Relaxed);
        let outcomes = (before << 1) | 1;
        self.outcomes.store(outcomes, Relaxed);
        self.bad_at_ms.store(now_ms, Relaxed);
        if before & 1 == 0 {
            self.bad_since_ms.store(now_ms, Relaxed);
        }
        let probation = self.probation.load(Relaxed);
        let run = outcomes.trailing_ones();
        if config.eject_after == 0 || (run < config.eject_after.min(u64::BITS) && !probation) {
            return false;
        }
        if !self.others_do_better(now_ms, config, targets) {
            // As good as the others, so it is back.
            if probation {
                self.end_probation(now_ms);
            }
            return false;
        }
        let ejected = targets
            .iter()
            .filter(|target| target.state.is_ejected(now_ms))
            .count();
        self.eject(now_ms, config, ejected, targets.len())
    }

    /// Whether the better quarter of those that were heard since this one began to fail failed at
    /// most half as often.
    fn others_do_better(&self, now_ms: u64, config: &HealthConfig, targets: &[Target]) -> bool {
        let since = self.bad_since_ms.load(Relaxed);
        let heard = |state: &TargetState| {
            state.key != self.key && state.is_open(now_ms) && state.heard_ms() >= since
        };
        let others = targets
            .iter()
            .map(|target| &*target.state)
            .filter(|state| heard(state));
        // How many responses there were before the first error is not known, so the last one has to
        // be good.
        let errors = others.map(|state| match state.outcomes.load(Relaxed) {
            outcomes if outcomes & 1 == 0 => outcomes.count_ones(),
            _ => u64::BITS,
        });
        let mut errors: SmallVec<[u32; 16]> = errors.collect();
        if errors.is_empty() {
            return false;
        }
        let quarter = (errors.len() - 1) / 4;
        let (_, better, _) = errors.select_nth_unstable(quarter);
        self.outcomes.load(Relaxed).count_ones() >= 2 * *better + WORSE_BY.min(config.eject_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ErrorStatus;
    use crate::table::fixture::equal_targets;

    /// Lets targets respond in turn, each with an error where `fails` says so, until one is ejected
    /// or `turns` are over. Which ones are ejected then.
    fn ejected(count: u16, turns: u64, fails: impl Fn(usize, u64) -> bool) -> Vec<usize> {
        let (targets, config) = (equal_targets(count), HealthConfig::default());
        for turn in 0..turns {
            for (at, target) in targets.iter().enumerate() {
                let now_ms = 1 + turn * 10;
                if fails(at, turn) {
                    target
                        .state
                        .record_bad_response(now_ms, 200, &config, &targets);
                } else {
                    target.state.record_success(now_ms, 100_000);
                }
            }
        }
        let now_ms = turns * 10;
        (0..targets.len())
            .filter(|at| targets[*at].state.is_ejected(now_ms))
            .collect()
    }

    #[test]
    fn statuses_that_count() {
        for (rule, counted) in [
            (ErrorStatus::Off, &[][..]),
            (ErrorStatus::Gateway, &[502, 503, 504]),
            (ErrorStatus::All, &[500, 501, 502, 503, 504, 599]),
        ] {
            let all: Vec<u16> = [200, 404, 429, 499, 500, 501, 502, 503, 504, 599, 600]
                .into_iter()
                .filter(|status| rule.counts(*status))
                .collect();
            assert_eq!(all, counted, "{rule:?}");
        }
    }

    #[test]
    fn an_instance_that_fails_while_others_do_better_is_ejected() {
        assert_eq!(ejected(4, 20, |at, _| at == 2), [2]);
        assert_eq!(ejected(2, 20, |at, _| at == 0), [0]);
        assert_eq!(ejected(4, 20, |at, _| at < 2), [0, 1]);
        // The cap leaves half of them.
        assert_eq!(ejected(4, 20, |at, _| at < 3).len(), 2);
        assert_eq!(
            ejected(4, 4, |at, _| at == 2),
            [0; 0],
            "four in a row are not enough"
        );
        assert_eq!(ejected(1, 100, |_, _| true), [0; 0], "the only one");
    }

    #[test]
    fn what_fails_everywhere_ejects_nothing() {
        for count in [2, 3, 4, 20] {
            assert_eq!(ejected(count, 200, |_, _| true), [0; 0], "{count}");
            // One path of several, an overload: runs of errors on all of them, but none is worse.
            for percent in [10, 30, 50, 80] {
                let fails = |at: usize, turn: u64| {
                    let mixed =
                        (turn * 31 + at as u64 * 17 + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                    mixed % 100 < percent
                };
                assert_eq!(ejected(count, 500, fails), [0; 0], "{percent} % of {count}");
            }
        }
    }

    #[test]
    fn others_that_were_not_heard_since_say_nothing() {
        let (targets, config) = (equal_targets(3), HealthConfig::default());
        targets
            .iter()
            .for_each(|target| target.state.record_success(10, 100));
        let bad = |now_ms| {
            targets[0]
                .state
                .record_bad_response(now_ms, 100, &config, &targets)
        };
        assert!(
            (100..120).all(|now_ms| !bad(now_ms)),
            "all clients may go to this one alone"
        );
        targets[1].state.record_success(121, 100);
        assert!(bad(122));
    }

    #[test]
    fn one_failure_on_probation_ejects_again_and_a_good_answer_ends_it() {
        let (targets, config) = (equal_targets(3), HealthConfig::default());
        let state = &targets[0].state;
        let others = |now_ms| {
            targets[1..]
                .iter()
                .for_each(|target| target.state.record_success(now_ms, 100))
        };
        let ejects: Vec<bool> = (0..5)
            .map(|n| {
                others(100 + n);
                state.record_bad_response(100 + n, 100, &config, &targets)
            })
            .collect();
        assert_eq!(ejects, [false, false, false, false, true]);
        assert!(!state.is_open(5_000) && state.is_open(5_104));
        others(5_105);
        assert!(
            state.record_bad_response(5_106, 100, &config, &targets),
            "on probation one is enough"
        );
        assert!(
            !state.is_open(15_000) && state.is_open(15_106),
            "twice as long"
        );
        state.record_success(15_107, 100);
        assert_eq!(
            (state.word(15_107), state.error_level(15_107)),
            ("healthy", 0)
        );
    }

    #[test]
    fn errors_weigh_while_they_are_recent_and_do_not_look_quick() {
        let (targets, config) = (
            equal_targets(2),
            HealthConfig {
                eject_after: 0,
                ..HealthConfig::default()
            },
        );
        let state = &targets[0].state;
        state.record_success(1, 50_000);
        for n in 0..16u32 {
            assert_eq!(state.error_level(1), n / STEP);
            assert!(!state.record_bad_response(1, 100, &config, &targets));
        }
        assert_eq!(state.error_level(WEIGHS_MS), 2);
        assert_eq!(
            state.error_level(1 + WEIGHS_MS),
            0,
            "gets requests again after a while"
        );
        assert!(state.latency_at(1) >= 50_000.0);
        state.record_bad_response(2, 90_000, &config, &targets);
        assert!(state.latency_at(2) >= 90_000.0, "slow errors are slow");
    }
}
