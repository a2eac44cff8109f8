//! When a response is too bad to be believed at once.
//!
//! Consul can respond 200 with too little: around leader elections, and to a token without rights
//! (its responses are filtered, not refused). So a response that empties a service, or takes a
//! large share of everything that is known, has to be confirmed by a second read in default mode;
//! and emptiness is compared with the catalog, which lists the service `consul` for every token
//! that may read it. What the token may read is looked up where that is in doubt (`rights`).
//!
//! Pure: what is read, and when, is the caller's business.

use std::collections::{BTreeSet, HashMap};

use super::settings::Reader;
use super::wire::ServiceList;
use crate::catalog::{Instance, ServiceName};

/// Registered by every Consul cluster that works, in the default namespace.
pub(super) const CONSUL: &str = "consul";

/// Fewer instances than this are never a mass, whatever their share: in a small catalog every one
/// is a large part.
const MASS_MIN: usize = 3;

/// Counts of what is believed, to judge what comes.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    counts: HashMap<ServiceName, usize>,
    total: usize,
    /// The reader that saw `consul` in the list.
    whole_seen_by: Option<Reader>,
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

impl Guard {
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

    /// Notes what a list shows to this reader; returns whether the same reader saw `consul` before.
    pub(super) fn note_sight(&mut self, sight: Visibility, reader: Reader) -> bool {
        let before = self.whole_seen_by.as_ref() == Some(&reader);
        if sight == Visibility::Whole {
            self.whole_seen_by = Some(reader);
        }
        before
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

/// What a token may see, judged by one response of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// `consul` is there.
    Whole,
    /// Something, but not `consul`: a token for some services only.
    Part,
    Nothing,
}

/// Judges what the token may see.
#[must_use]
pub(crate) fn sight(list: &ServiceList) -> Visibility {
    if list.contains_key(CONSUL) {
        Visibility::Whole
    } else if list.is_empty() {
        Visibility::Nothing
    } else {
        Visibility::Part
    }
}

/// Names of the services that carry a routing tag: one that starts with `tag_prefix` after spaces
/// are trimmed.
#[must_use]
pub(crate) fn routed(list: &ServiceList, tag_prefix: &str) -> BTreeSet<ServiceName> {
    list.iter()
        .filter(|(_, tags)| {
            tags.iter()
                .flatten()
                .any(|tag| tag.trim().starts_with(tag_prefix))
        })
        .map(|(name, _)| ServiceName::from(name.as_str()))
        .collect()
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

    fn list(text: &str) -> ServiceList {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn emptiness_and_mass_loss_need_a_second_look() {
        let mut guard = Guard::default();
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
        let mut guard = Guard::default();
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
        let mut guard = Guard::default();
        guard.believe(&"a".into(), 4);
        guard.believe(&"a".into(), 1);
        guard.believe(&"b".into(), 2);
        guard.forget(&"b".into());
        guard.forget(&"never seen".into());
        assert_eq!(guard.total, 1);
    }

    #[test]
    fn services_without_instances_may_leave_the_list_at_once() {
        let mut guard = Guard::default();
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

    #[test]
    fn a_list_shows_how_much_of_the_catalog_may_be_seen() {
        let whole = sight(&list(r#"{"consul":[],"web":["x"]}"#));
        let part = sight(&list(r#"{"web":["x"]}"#));
        let nothing = sight(&list("{}"));
        assert_eq!(
            (whole, part, nothing),
            (Visibility::Whole, Visibility::Part, Visibility::Nothing)
        );
    }

    #[test]
    fn routed_services_carry_the_prefix_after_trimming() {
        let list = list(
            r#"{"a":["urlprefix-/a"],"b":["x","  urlprefix-/b "],"c":["my-urlprefix-/c"],"d":null,"e":[]}"#,
        );
        let names: Vec<_> = routed(&list, "urlprefix-").into_iter().collect();
        assert_eq!(names, ["a".into(), "b".into()]);
    }
}
