//! Which instances came, left or changed their state, and why: for the log and for `/api/events`.
//! Pure.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::catalog::eligibility::{Rules, Verdict, blamed};
use crate::catalog::{Endpoint, Instance, InstanceId, Registration, ServiceSnapshot};
use crate::journal::Outputs;

/// State of an instance that was not known before.
pub(super) const NEW: &str = "new";
/// State of an instance that is not registered any more.
pub(super) const GONE: &str = "gone";
pub(super) const HEALTHY: &str = "healthy";
pub(super) const HELD: &str = "held";
/// Its source shows it no longer, without proof that it was deregistered.
pub(super) const UNCONFIRMED: &str = "held, not confirmed";
pub(super) const EXCLUDED: &str = "excluded";
pub(super) const EJECTED: &str = "ejected";
pub(super) const PROBATION: &str = "probation";

/// One instance that changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) service: String,
    pub(super) instance: InstanceId,
    pub(super) address: String,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) reason: String,
}

/// What reasons are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reasons<'a> {
    pub(super) rules: &'a Rules,
    pub(super) outputs: &'a Outputs,
}

impl Reasons<'_> {
    /// Why an instance is out, with what its check says. `reason` is the verdict's.
    pub(super) fn with_output(&self, service: &str, instance: &Instance, reason: &str) -> String {
        // A name without an address is not the check's fault.
        let check = blamed(self.rules, instance).filter(|_| instance.endpoint.trouble().is_none());
        match check.and_then(|check| self.output(service, instance, &check.id)) {
            Some(output) => format!("{reason}: {output}"),
            None => reason.to_owned(),
        }
    }

    fn output(&self, service: &str, instance: &Instance, check: &Arc<str>) -> Option<Arc<str>> {
        let of = |id: Arc<str>| {
            self.outputs
                .get(service, &(instance.id.node.clone(), id, check.clone()))
        };
        // An instance that is registered under a name is one for each address of it.
        let registered = || {
            instance
                .id
                .id
                .rsplit_once('#')
                .and_then(|(id, _)| of(id.into()))
        };
        of(instance.id.id.clone()).or_else(registered)
    }

    /// Why an instance is held although its checks fail.
    pub(super) fn of_hold(&self, service: &str, instance: &Instance) -> String {
        let check = blamed(self.rules, instance)
            .map_or_else(String::new, |check| format!(": check {}", check.id));
        let kept = "its checks fail, it is kept for now (routing.critical_hold)";
        self.with_output(service, instance, &format!("{kept}{check}"))
    }
}

/// A service as one evaluation left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evaluated<'a> {
    pub(super) snapshot: &'a ServiceSnapshot,
    /// One per instance.
    pub(super) verdicts: &'a [Verdict],
}

fn word(instance: &Instance, verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Eligible { .. }
            if matches!(instance.registration, Registration::Unconfirmed { .. }) =>
        {
            UNCONFIRMED
        }
        Verdict::Eligible { held: false, .. } => HEALTHY,
        Verdict::Eligible { held: true, .. } => HELD,
        Verdict::Excluded { .. } => EXCLUDED,
    }
}

/// What an instance was told to be: where the catalog has no objection, what the traffic made of
/// it.
fn told_word(
    instance: &Instance,
    verdict: &Verdict,
    of_traffic: &impl Fn(&InstanceId, SocketAddr) -> Option<&'static str>,
) -> &'static str {
    match word(instance, verdict) {
        HEALTHY => of_traffic(&instance.id, instance.endpoint.addr()).unwrap_or(HEALTHY),
        word => word,
    }
}

/// What differs between two evaluations of a service. `of_traffic`: the state that the traffic gave
/// to an instance, if it is not healthy. `starting`: what is healthy from the start is no news.
pub(super) fn transitions(
    before: Option<Evaluated<'_>>,
    now: Evaluated<'_>,
    reasons: Reasons<'_>,
    starting: bool,
    of_traffic: impl Fn(&InstanceId, SocketAddr) -> Option<&'static str>,
) -> Vec<Transition> {
    let service = &*now.snapshot.name;
    let pairs = |evaluated: Evaluated<'_>| {
        evaluated
            .snapshot
            .instances
            .len()
            .min(evaluated.verdicts.len())
    };
    let (old_len, new_len) = (before.map_or(0, pairs), pairs(now));
    let old_at =
        |at: usize| before.map(|before| (&before.snapshot.instances[at], &before.verdicts[at]));
    let state_before =
        |instance: &Instance, verdict: &Verdict| told_word(instance, verdict, &of_traffic);
    let mut found = Vec::new();
    let mut push = |instance: &Instance, from, to, reason: String| {
        let (instance, address) = (instance.id.clone(), instance.endpoint.to_string());
        found.push(Transition {
            service: service.to_owned(),
            instance,
            address,
            from,
            to,
            reason,
        });
    };
    let (mut old, mut new) = (0, 0);
    loop {
        let known = (old < old_len).then(|| old_at(old)).flatten();
        let fresh = (new < new_len).then(|| (&now.snapshot.instances[new], &now.verdicts[new]));
        let order = match (known, fresh) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((known, _)), Some((fresh, _))) => known.id.cmp(&fresh.id),
        };
        old += usize::from(order.is_le());
        new += usize::from(order.is_ge());
        match (
            known.filter(|_| order.is_le()),
            fresh.filter(|_| order.is_ge()),
        ) {
            (Some((known, was)), None) => {
                push(
                    known,
                    state_before(known, was),
                    GONE,
                    reason_of_loss(known, now.snapshot),
                );
            }
            (None, Some((_, Verdict::Eligible { held: false, .. }))) if starting => {}
            (None, Some((fresh, is))) => push(
                fresh,
                NEW,
                word(fresh, is),
                reason_of(service, fresh, is, NEW, reasons),
            ),
            (Some((known, was)), Some((fresh, is))) if known.endpoint == fresh.endpoint => {
                let same = match (was, is) {
                    (Verdict::Excluded { reason: was }, Verdict::Excluded { reason: is }) => {
                        was == is
                    }
                    _ => word(known, was) == word(fresh, is),
                };
                if !same {
                    let from = state_before(known, was);
                    push(
                        fresh,
                        from,
                        word(fresh, is),
                        reason_of(service, fresh, is, from, reasons),
                    );
                }
            }
            // An instance on another address is another instance; one whose name got its address is
            // the same.
            (Some((known, was)), Some((fresh, is))) => {
                let both = matches!(
                    (&known.endpoint, &fresh.endpoint),
                    (Endpoint::Addr(_), Endpoint::Addr(_))
                );
                if both {
                    push(
                        known,
                        state_before(known, was),
                        GONE,
                        format!("its address is {} now", fresh.endpoint),
                    );
                }
                let from = if both { NEW } else { state_before(known, was) };
                push(
                    fresh,
                    from,
                    word(fresh, is),
                    reason_of(service, fresh, is, from, reasons),
                );
            }
            (None, None) => {}
        }
    }
}

/// All instances of a service that left.
pub(super) fn all_gone(
    before: Evaluated<'_>,
    reason: &str,
    of_traffic: impl Fn(&InstanceId, SocketAddr) -> Option<&'static str>,
) -> Vec<Transition> {
    let instances = before.snapshot.instances.iter().zip(before.verdicts);
    let gone = |(instance, verdict): (&Instance, &Verdict)| Transition {
        service: before.snapshot.name.to_string(),
        instance: instance.id.clone(),
        address: instance.endpoint.to_string(),
        from: told_word(instance, verdict, &of_traffic),
        to: GONE,
        reason: reason.to_owned(),
    };
    instances.map(gone).collect()
}

/// An instance whose name has no address any more left for that reason; all others were
/// deregistered.
fn reason_of_loss(lost: &Instance, now: &ServiceSnapshot) -> String {
    let (node, id) = (&lost.id.node, &lost.id.id);
    let of_name = now
        .instances
        .iter()
        .filter(|instance| instance.id.node == *node)
        .find_map(|instance| {
            let rest = id.strip_prefix(&*instance.id.id)?;
            instance
                .endpoint
                .trouble()
                .filter(|_| rest.starts_with('#'))
        });
    of_name.map_or_else(|| "deregistered".to_owned(), |reason| reason.to_string())
}

fn reason_of(
    service: &str,
    instance: &Instance,
    verdict: &Verdict,
    from: &str,
    reasons: Reasons<'_>,
) -> String {
    match (verdict, &instance.registration) {
        (Verdict::Eligible { .. }, Registration::Unconfirmed { reason, .. }) => {
            return reason.to_string();
        }
        (Verdict::Eligible { .. }, _) if from == UNCONFIRMED => {
            return "its source shows it again".to_owned();
        }
        _ => {}
    }
    match verdict {
        Verdict::Excluded { reason } => reasons.with_output(service, instance, reason),
        Verdict::Eligible { held: true, .. } => reasons.of_hold(service, instance),
        Verdict::Eligible { held: false, .. } if from == NEW => "registered".to_owned(),
        Verdict::Eligible { held: false, .. } if instance.checks.is_empty() => {
            "it may serve again".to_owned()
        }
        Verdict::Eligible { held: false, .. } => "its checks are accepted again".to_owned(),
    }
}

/// Many transitions in a few lines: how many of each kind, by service, with the reason of the
/// first.
pub(super) fn summed_up(transitions: &[Transition]) -> Vec<String> {
    let mut groups: Vec<(&Transition, usize)> = Vec::new();
    for transition in transitions {
        let same = |group: &&mut (&Transition, usize)| {
            (&group.0.service, group.0.from, group.0.to)
                == (&transition.service, transition.from, transition.to)
        };
        match groups.iter_mut().rev().find(same) {
            Some((_, count)) => *count += 1,
            None => groups.push((transition, 1)),
        }
    }
    let line = |(first, count): (&Transition, usize)| {
        let Transition {
            service,
            from,
            to,
            reason,
            instance,
            ..
        } = first;
        let mut line = format!("{service}: {count} {from} -> {to}");
        if !reason.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(line, " ({instance}: {reason})");
        }
        line
    };
    groups.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::{Check, CheckScope, CheckStatus, Weights};

    fn rules() -> Rules {
        Rules {
            accept_status: vec![CheckStatus::Passing],
            checks_required_all: true,
            require_check: false,
            node_checks_all: true,
            weights: true,
            check_grace: Duration::ZERO,
            critical_hold: Duration::ZERO,
        }
    }

    fn instance(id: &str, port: u16, status: CheckStatus) -> Instance {
        Instance {
            id: InstanceId {
                node: "n".into(),
                id: id.into(),
            },
            endpoint: Endpoint::Addr(([10, 0, 0, 1], port).into()),
            tags: Vec::new(),
            checks: vec![Check {
                id: "alive".into(),
                scope: CheckScope::Service,
                status,
            }],
            registration: Registration::default(),
            weights: Weights::default(),
        }
    }

    fn snapshot(instances: Vec<Instance>) -> ServiceSnapshot {
        ServiceSnapshot {
            name: "web".into(),
            datacenter: None,
            instances,
        }
    }

    const GOOD: Verdict = Verdict::Eligible {
        weight: 1,
        held: false,
    };
    const KEPT: Verdict = Verdict::Eligible {
        weight: 1,
        held: true,
    };

    fn out(reason: &str) -> Verdict {
        Verdict::Excluded {
            reason: reason.into(),
        }
    }

    fn outputs() -> Outputs {
        let outputs = Outputs::default();
        let key = |id: &str| (Arc::from("n"), Arc::from(id), Arc::from("alive"));
        outputs.set(&"web".into(), [(key("a"), "connection refused".to_owned())]);
        outputs
    }

    fn evaluated<'a>((snapshot, verdicts): (&'a ServiceSnapshot, &'a [Verdict])) -> Evaluated<'a> {
        Evaluated { snapshot, verdicts }
    }

    fn told(
        before: Option<(&ServiceSnapshot, &[Verdict])>,
        now: (&ServiceSnapshot, &[Verdict]),
    ) -> Vec<String> {
        let (rules, outputs) = (rules(), outputs());
        let reasons = Reasons {
            rules: &rules,
            outputs: &outputs,
        };
        let found = transitions(
            before.map(evaluated),
            evaluated(now),
            reasons,
            false,
            |id, _| (&*id.id == "e").then_some(EJECTED),
        );
        let line = |t: Transition| {
            format!(
                "{} {}: {} -> {}: {}",
                t.instance, t.address, t.from, t.to, t.reason
            )
        };
        found.into_iter().map(line).collect()
    }

    use CheckStatus::{Critical, Passing};

    #[test]
    fn each_instance_that_changed_is_told_with_its_reason() {
        let before = snapshot(vec![
            instance("a", 1, Passing),
            instance("b", 2, Passing),
            instance("c", 3, Passing),
            instance("e", 5, Passing),
            instance("f", 6, Passing),
        ]);
        let now = snapshot(vec![
            instance("a", 1, Critical),
            instance("b", 9, Passing),
            instance("d", 4, Critical),
            instance("e", 5, Critical),
            instance("f", 6, Critical),
        ]);
        let verdicts = [
            out("check alive is critical"),
            GOOD,
            out("check alive is critical"),
            out("x"),
            KEPT,
        ];
        let lines = told(
            Some((&before, &[GOOD, GOOD, GOOD, GOOD, GOOD])),
            (&now, &verdicts),
        );
        let expected = [
            "n/a 10.0.0.1:1: healthy -> excluded: check alive is critical: connection refused",
            "n/b 10.0.0.1:2: healthy -> gone: its address is 10.0.0.1:9 now",
            "n/b 10.0.0.1:9: new -> healthy: registered",
            "n/c 10.0.0.1:3: healthy -> gone: deregistered",
            "n/d 10.0.0.1:4: new -> excluded: check alive is critical",
            "n/e 10.0.0.1:5: ejected -> excluded: x",
            "n/f 10.0.0.1:6: healthy -> held: its checks fail, it is kept for now (routing.critical_hold): check alive",
        ];
        assert_eq!(lines, expected);
        // Nothing changed.
        assert!(told(Some((&now, &verdicts)), (&now, &verdicts)).is_empty());
        // Back again, and another reason.
        let lines = told(
            Some((&now, &verdicts)),
            (&now, &[GOOD, GOOD, out("y"), GOOD, GOOD]),
        );
        let expected = [
            "n/a 10.0.0.1:1: excluded -> healthy: its checks are accepted again",
            "n/d 10.0.0.1:4: excluded -> excluded: y",
            "n/e 10.0.0.1:5: excluded -> healthy: its checks are accepted again",
            "n/f 10.0.0.1:6: held -> healthy: its checks are accepted again",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_a_source_shows_no_longer_is_held_until_it_is_back_or_gone() {
        let confirmed = snapshot(vec![instance("a", 1, Passing)]);
        let registration = Registration::Unconfirmed {
            reason: "the token may not read it".into(),
            rights_lost: true,
        };
        let unconfirmed = snapshot(vec![Instance {
            registration,
            ..instance("a", 1, Passing)
        }]);
        let cases = [
            (
                &confirmed,
                &unconfirmed,
                "healthy -> held, not confirmed: the token may not read it",
            ),
            (
                &unconfirmed,
                &confirmed,
                "held, not confirmed -> healthy: its source shows it again",
            ),
            (
                &unconfirmed,
                &snapshot(vec![]),
                "held, not confirmed -> gone: deregistered",
            ),
        ];
        for (before, now, expected) in cases {
            let verdicts = vec![GOOD; now.instances.len()];
            let lines = told(Some((before, &[GOOD])), (now, &verdicts));
            assert_eq!(lines, [format!("n/a 10.0.0.1:1: {expected}")]);
        }
    }

    #[test]
    fn names_that_lose_and_get_their_address() {
        let reason = "name x.test does not resolve: no such name";
        let lost = Endpoint::Unresolved {
            host: "x.test".into(),
            port: 80,
            reason: reason.into(),
        };
        let named = Instance {
            endpoint: lost,
            ..instance("a", 1, Passing)
        };
        let found = Instance {
            id: InstanceId {
                node: "n".into(),
                id: "a#10.0.0.1".into(),
            },
            ..instance("a", 1, Passing)
        };
        let (before, now) = (snapshot(vec![found]), snapshot(vec![named]));
        let expected = [
            format!("n/a x.test:80: new -> excluded: {reason}"),
            format!("n/a#10.0.0.1 10.0.0.1:1: healthy -> gone: {reason}"),
        ];
        assert_eq!(
            told(Some((&before, &[GOOD])), (&now, &[out(reason)])),
            expected
        );
    }

    #[test]
    fn each_address_of_a_registered_name_has_the_output_of_its_check() {
        let of_name = Instance {
            id: InstanceId {
                node: "n".into(),
                id: "a#10.0.0.1".into(),
            },
            ..instance("a", 1, Critical)
        };
        let (rules, outputs) = (rules(), outputs());
        let reasons = Reasons {
            rules: &rules,
            outputs: &outputs,
        };
        assert_eq!(
            reasons.with_output("web", &of_name, "x"),
            "x: connection refused"
        );
        assert_eq!(
            reasons.with_output("web", &instance("b", 1, Critical), "x"),
            "x"
        );
        assert_eq!(reasons.with_output("api", &of_name, "x"), "x");
    }

    #[test]
    fn many_are_summed_up() {
        let transition = |service: &str, id: usize, from, to| Transition {
            service: service.to_owned(),
            instance: InstanceId {
                node: "n".into(),
                id: id.to_string().into(),
            },
            address: "10.0.0.1:1".to_owned(),
            from,
            to,
            reason: "check x is critical".to_owned(),
        };
        let mut all: Vec<Transition> = (0..60)
            .map(|id| transition("web", id, HEALTHY, EXCLUDED))
            .collect();
        all.extend((0..3).map(|id| transition("api", id, NEW, EXCLUDED)));
        all.push(transition("web", 60, EXCLUDED, HEALTHY));
        assert_eq!(
            summed_up(&all),
            [
                "web: 60 healthy -> excluded (n/0: check x is critical)",
                "api: 3 new -> excluded (n/0: check x is critical)",
                "web: 1 excluded -> healthy (n/60: check x is critical)",
            ]
        );
    }
}
