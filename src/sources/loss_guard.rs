//! When a response is too bad to be believed at once.
//!
//! Servers can respond 200 with too little: around leader elections, after a restore, and to a token
//! without rights. So a response that empties a service, or takes a large share of everything that
//! is known, has to be confirmed by a second read.
//!
//! Pure: what is read, and when, is the caller's business.

use std::collections::HashMap;

use crate::catalog::{Instance, ServiceName};

/// Fewer instances than this are never a mass, whatever their share: in a small catalog every one
/// is a large part.
const MASS_MIN: usize = 3;

/// Counts of what is believed, to judge what comes.
#[derive(Debug, Default)]
pub(crate) struct LossGuard {
    counts: HashMap<ServiceName, usize>,
    total: usize,
}

/// Whether a response may be believed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Take it.
    Believe,
    /// Read again in default mode first: the service, or services, would lose every instance.
    ConfirmEmpty,
    /// Read again in default mode first: a large share of all instances vanished.
    ConfirmLoss {
        /// Instances that vanished.
        vanished: usize,
        /// Instances known before, of all services.
        of: usize,
    },
}

impl LossGuard {
    /// Judges a response of one service against what is believed of it. `confirm_percent`: see
    /// `[consul]`.
    #[must_use]
    pub(crate) fn judge(
        &self,
        before: &[Instance],
        after: &[Instance],
        confirm_percent: u32,
    ) -> Verdict {
        if !before.is_empty() && after.is_empty() {
            return Verdict::ConfirmEmpty;
        }
        // Both are sorted by id.
        let vanished = before
            .iter()
            .filter(|old| after.binary_search_by(|new| new.id.cmp(&old.id)).is_err())
            .count();
        if vanished >= MASS_MIN
            && vanished as u128 * 100 > u128::from(confirm_percent) * self.total as u128
        {
            return Verdict::ConfirmLoss {
                vanished,
                of: self.total,
            };
        }
        Verdict::Believe
    }

    /// Judges a response of the list in which these services are missing: any that still has
    /// instances needs a second look.
    #[must_use]
    pub(crate) fn judge_missing<'a>(
        &self,
        mut missing: impl Iterator<Item = &'a ServiceName>,
    ) -> Verdict {
        if missing.any(|name| self.counts.get(name).is_some_and(|&count| count > 0)) {
            Verdict::ConfirmEmpty
        } else {
            Verdict::Believe
        }
    }

    /// Notes what is believed of a service now.
    pub(crate) fn believe(&mut self, name: &ServiceName, instances: usize) {
        let before = self.counts.insert(name.clone(), instances).unwrap_or(0);
        self.total = self.total - before + instances;
    }

    /// Instances believed of all services together.
    #[must_use]
    pub(crate) fn instances(&self) -> usize {
        self.total
    }

    pub(crate) fn forget(&mut self, name: &ServiceName) {
        self.total -= self.counts.remove(name).unwrap_or(0);
    }
}

/// What a response says beyond dispute while a loss is being confirmed: all that it holds, and what
/// it lacks is kept. Both must be sorted by id, and so is the result.
#[must_use]
pub(crate) fn undisputed(before: &[Instance], after: &[Instance]) -> Vec<Instance> {
    let missing = before
        .iter()
        .filter(|old| after.binary_search_by(|new| new.id.cmp(&old.id)).is_err());
    let mut all: Vec<_> = after.iter().chain(missing).cloned().collect();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Endpoint, InstanceId, Registration, Weights};

    fn instances(ids: &[&str]) -> Vec<Instance> {
        ids.iter()
            .map(|&id| Instance {
                id: InstanceId {
                    node: "n".into(),
                    id: id.into(),
                },
                endpoint: Endpoint::Addr(([127, 0, 0, 1], 80).into()),
                tags: Vec::new(),
                checks: Vec::new(),
                weights: Weights::default(),
                registration: Registration::default(),
            })
            .collect()
    }

    #[test]
    fn emptiness_and_mass_loss_need_a_second_look() {
        let mut guard = LossGuard::default();
        guard.believe(&"a".into(), 4);
        guard.believe(&"b".into(), 6);
        let before = ["1", "2", "3", "4"];
        let cases: [(&[&str], &[&str], u32, Verdict); 8] = [
            (&before, &before, 20, Verdict::Believe),
            (&before, &["1", "2", "3"], 20, Verdict::Believe),
            (&before, &["1", "2"], 20, Verdict::Believe),
            (
                &before,
                &["1"],
                20,
                Verdict::ConfirmLoss {
                    vanished: 3,
                    of: 10,
                },
            ),
            // Replaced is vanished too.
            (
                &before,
                &["5", "6", "7", "8"],
                20,
                Verdict::ConfirmLoss {
                    vanished: 4,
                    of: 10,
                },
            ),
            (&before, &[], 100, Verdict::ConfirmEmpty),
            (&[], &[], 20, Verdict::Believe),
            (&[], &["1"], 0, Verdict::Believe),
        ];
        for (before, after, percent, expected) in cases {
            let verdict = guard.judge(&instances(before), &instances(after), percent);
            assert_eq!(verdict, expected, "{before:?} -> {after:?} at {percent} %");
        }
    }

    #[test]
    fn single_removals_are_no_mass_in_a_small_catalog() {
        let mut guard = LossGuard::default();
        guard.believe(&"a".into(), 3);
        assert_eq!(
            guard.judge(&instances(&["1", "2", "3"]), &instances(&["1", "2"]), 20),
            Verdict::Believe
        );
        assert_eq!(
            guard.judge(&instances(&["1", "2", "3"]), &instances(&["1"]), 0),
            Verdict::Believe
        );
        let all = Verdict::ConfirmLoss { vanished: 3, of: 3 };
        assert_eq!(
            guard.judge(&instances(&["1", "2", "3"]), &instances(&["4"]), 20),
            all
        );
        // The last one: rarely urgent, and what a token without rights would show.
        assert_eq!(
            guard.judge(&instances(&["1"]), &[], 20),
            Verdict::ConfirmEmpty
        );
    }

    #[test]
    fn what_is_new_is_beyond_dispute_and_what_is_missing_is_kept() {
        let before = instances(&["1", "3", "5"]);
        let mut after = instances(&["2", "3", "6"]);
        after[1].tags = vec!["changed".into()];
        let all = undisputed(&before, &after);
        let ids: Vec<_> = all
            .iter()
            .map(|instance| instance.id.id.to_string())
            .collect();
        assert_eq!(ids, ["1", "2", "3", "5", "6"]);
        assert_eq!(all[2].tags, after[1].tags, "the newer one counts");
        assert_eq!(undisputed(&before, &[]), before);
        assert_eq!(undisputed(&[], &after), after);
    }

    #[test]
    fn the_total_follows_what_is_believed() {
        let mut guard = LossGuard::default();
        guard.believe(&"a".into(), 4);
        guard.believe(&"a".into(), 1);
        guard.believe(&"b".into(), 2);
        guard.forget(&"b".into());
        guard.forget(&"never seen".into());
        assert_eq!(guard.total, 1);
    }

    #[test]
    fn services_without_instances_may_leave_the_list_at_once() {
        let mut guard = LossGuard::default();
        guard.believe(&"full".into(), 1);
        guard.believe(&"empty".into(), 0);
        assert_eq!(
            guard.judge_missing([&"empty".into(), &"unknown".into()].into_iter()),
            Verdict::Believe
        );
        assert_eq!(
            guard.judge_missing([&"empty".into(), &"full".into()].into_iter()),
            Verdict::ConfirmEmpty
        );
    }
}
