//! Which registered instances may get traffic.
//!
//! Pure rules over one service's snapshot and what was seen of it before; the time is an argument,
//! and what the traffic knows of dead instances comes in as a closure. For each instance, the first
//! rule that speaks decides:
//!
//! | rule | effect |
//! |---|---|
//! | not a target (a proxy or gateway of the service mesh) | out for good |
//! | not admitted (registered, and not known to be up yet) | out until it is, and never held |
//! | maintenance of node or service | out at once: an operator wants it |
//! | `serfHealth` or another node check critical (or `serfHealth` alone counts) | out; held if that would empty the pool |
//! | Consul weight 0 | out |
//! | service checks accepted (all, or one) | in |
//! | service checks not accepted | out; held in a mass fall, or if that would empty the pool |
//! | no service check, `require_check` | out |
//! | no service check, not seen before | waits `check_grace`: Nomad registers services before their checks |
//!
//! **Holding.** An agent that restarts, and a canary that is promoted, turn healthy instances
//! critical for seconds although they serve all the time. So an instance that was good keeps its
//! traffic for up to `critical_hold` when more than half of the good instances fell in the same
//! step (or within half a second), or while no other instance of the service is accepted. A hold
//! ends when the instance passes again, proves dead, is deregistered or put into maintenance. It
//! does not end for all when the first one passes again: after an agent restart they come back one
//! by one, and the first would meet the traffic of all.
//!
//! **Not confirmed.** An instance that its source shows no longer, without proof that it was
//! deregistered, goes on as its last known checks say, and counts as held. Unless the rights to see
//! it are known to be lost, such a hold ends for all of them when none can be connected to any
//! more: then they are gone most likely.
//!
//! **Start.** Instances that are registered when `lb` starts are admitted without grace: most of
//! them have been there for long, and after a restart of `lb` no client should wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Check, CheckScope, CheckStatus, Endpoint, Instance, InstanceId, Registration, ServiceSnapshot,
};

/// Which checks count, and how long instances are held: the keys of `[consul]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Check states that count as healthy (`routing.accept_status`).
    pub accept_status: Vec<CheckStatus>,
    /// Every service check must be in one of them; else one is enough (`routing.checks_required`).
    pub checks_required_all: bool,
    /// An instance without service checks never serves (`routing.require_check`).
    pub require_check: bool,
    /// Every check of a node counts for its instances, else `serfHealth` alone
    /// (`routing.node_checks`).
    pub node_checks_all: bool,
    /// Consul's weights count (`routing.weights`); else all are the same, and none bars.
    pub weights: bool,
    /// How long a new instance without service checks waits for one (`routing.check_grace`).
    pub check_grace: Duration,
    /// How long instances that fell together are kept (`routing.critical_hold`); zero: not at all.
    pub critical_hold: Duration,
}

/// What is decided for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EligibilityVerdict {
    /// May serve.
    Eligible {
        /// Consul's weight for its state; at least 1.
        weight: u32,
        /// Its checks fail, or its registration is not confirmed, but it is kept for now.
        held: bool,
    },
    /// Gets nothing.
    Excluded {
        /// Why, in words for the operator.
        reason: Arc<str>,
    },
}

/// What is decided for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// One per instance of the snapshot, in its order.
    pub verdicts: Vec<EligibilityVerdict>,
    /// Why instances are held, if some are.
    pub held: Option<String>,
    /// When to evaluate again although nothing may have changed.
    pub next_deadline: Option<Instant>,
}

/// The check that Consul itself keeps of a node: whether its agent is alive.
const SERF: &str = "serfHealth";

/// How often a service with held instances is looked at for instances that proved dead.
const HOLD_LOOK: Duration = Duration::from_millis(250);

/// Falls this close to each other are one step: a restarted agent tells the catalog of its checks
/// one by one.
const TOGETHER: Duration = Duration::from_millis(500);

/// What was seen of one service's instances. An instance on another address is another instance.
#[derive(Clone, Debug, Default)]
pub struct History {
    seen: HashMap<(InstanceId, Endpoint), InstanceHistory>,
}

#[derive(Clone, Debug)]
struct InstanceHistory {
    /// Admitted without service checks from here on.
    grace_until: Instant,
    /// Its checks were accepted when last looked at.
    good: bool,
    /// When it ceased to be good, while it is not good again and may be held.
    fell: Option<Fall>,
}

#[derive(Clone, Copy, Debug)]
struct Fall {
    at: Instant,
    /// Together with more than half of those that were good.
    with_most: bool,
}

/// What the checks alone say.
enum Standing {
    Good {
        weight: u32,
    },
    /// Out whatever happened before.
    Barred(String),
    /// Out, but may be held.
    Fallen {
        reason: String,
        weight: u32,
        by_node: bool,
    },
    /// No service check yet.
    Waiting {
        until: Instant,
    },
}

impl History {
    /// Decides for every instance of `snapshot`, and remembers what the next call needs.
    ///
    /// `starting`: the source has not synced yet. `is_dead`: connects to the instance fail, so it
    /// is not held.
    pub fn evaluate(
        &mut self,
        rules: &Rules,
        snapshot: &ServiceSnapshot,
        now: Instant,
        starting: bool,
        is_dead: impl Fn(&InstanceId, &Endpoint) -> bool,
    ) -> Evaluation {
        let instances = &snapshot.instances;
        let mut before = std::mem::take(&mut self.seen);
        let mut seen: Vec<InstanceHistory> = Vec::with_capacity(instances.len());
        let mut standings = Vec::with_capacity(instances.len());
        for instance in instances {
            let entry = before
                .remove(&(instance.id.clone(), instance.endpoint.clone()))
                .unwrap_or_else(|| InstanceHistory {
                    grace_until: if starting {
                        now
                    } else {
                        now + rules.check_grace
                    },
                    good: false,
                    fell: None,
                });
            standings.push(standing(rules, instance, entry.grace_until, now));
            seen.push(entry);
        }
        note_falls(&mut seen, &standings, now);
        let doubt = Doubt::of(instances, &is_dead);

        let nobody_good = !standings
            .iter()
            .any(|standing| matches!(standing, Standing::Good { .. }));
        let mut deadline: Option<Instant> = None;
        let mut wake =
            |at: Instant| deadline = Some(deadline.map_or(at, |known: Instant| known.min(at)));
        let mut held = 0;
        let mut verdicts = Vec::with_capacity(instances.len());
        for ((instance, standing), seen) in instances.iter().zip(standings).zip(&mut seen) {
            verdicts.push(match standing {
                Standing::Good { weight } => match &instance.registration {
                    Registration::Unconfirmed {
                        reason,
                        rights_lost: false,
                    } if doubt.all_dead => EligibilityVerdict::Excluded {
                        reason: format!("{reason}; connections to it fail").into(),
                    },
                    registration => {
                        let held = matches!(registration, Registration::Unconfirmed { .. });
                        EligibilityVerdict::Eligible { weight, held }
                    }
                },
                Standing::Barred(reason) => EligibilityVerdict::Excluded {
                    reason: reason.into(),
                },
                Standing::Waiting { until } => {
                    wake(until);
                    EligibilityVerdict::Excluded {
                        reason: "new, and without a check yet: waits for check_grace".into(),
                    }
                }
                Standing::Fallen {
                    reason,
                    weight,
                    by_node,
                } => {
                    let until = hold_until(seen, rules, now, nobody_good, by_node);
                    match until.filter(|_| !is_dead(&instance.id, &instance.endpoint)) {
                        Some(until) => {
                            held += 1;
                            wake(until.min(now + HOLD_LOOK));
                            EligibilityVerdict::Eligible { weight, held: true }
                        }
                        None => {
                            // Once let go, it must pass again first: dead ones do not come back by
                            // ejection's end.
                            if until.is_some()
                                || seen
                                    .fell
                                    .is_some_and(|fall| fall.at + rules.critical_hold <= now)
                            {
                                seen.fell = None;
                            }
                            EligibilityVerdict::Excluded {
                                reason: reason.into(),
                            }
                        }
                    }
                }
            });
        }
        let keys = instances
            .iter()
            .map(|instance| (instance.id.clone(), instance.endpoint.clone()));
        self.seen = keys.zip(seen).collect();
        if doubt.ends_by_death && !doubt.all_dead {
            wake(now + HOLD_LOOK);
        }
        let held = (held > 0).then(|| {
            format!(
                "{held} of {} instances turned critical together; kept for at most {:?} while connects succeed",
                instances.len(),
                rules.critical_hold
            )
        });
        let held = doubt
            .words(instances.len())
            .into_iter()
            .chain(held)
            .reduce(|one, other| format!("{one}; {other}"));
        Evaluation {
            verdicts,
            held,
            next_deadline: deadline,
        }
    }
}

/// What is known of the instances whose registration is not confirmed.
struct Doubt<'a> {
    count: usize,
    reason: Option<&'a str>,
    /// Some of them are held no longer than one of these can be connected to.
    ends_by_death: bool,
    /// And none of these can.
    all_dead: bool,
}

impl<'a> Doubt<'a> {
    fn of(instances: &'a [Instance], is_dead: &impl Fn(&InstanceId, &Endpoint) -> bool) -> Self {
        let mut doubt = Self {
            count: 0,
            reason: None,
            ends_by_death: false,
            all_dead: true,
        };
        for instance in instances {
            let Registration::Unconfirmed {
                reason,
                rights_lost,
            } = &instance.registration
            else {
                continue;
            };
            doubt.count += 1;
            doubt.reason.get_or_insert(reason);
            if !rights_lost {
                doubt.ends_by_death = true;
                doubt.all_dead &= is_dead(&instance.id, &instance.endpoint);
            }
        }
        doubt.all_dead &= doubt.ends_by_death;
        doubt
    }

    fn words(&self, of: usize) -> Option<String> {
        let Self {
            count,
            reason,
            all_dead,
            ..
        } = self;
        reason
            .filter(|_| !all_dead)
            .map(|reason| format!("{count} of {of} instances are held, not confirmed: {reason}"))
    }
}

/// Notes which instances were good until now and are not any more, and whether most fell together.
fn note_falls(seen: &mut [InstanceHistory], standings: &[Standing], now: Instant) {
    let mut still_good = 0;
    for (seen, standing) in seen.iter_mut().zip(standings) {
        let was_good = std::mem::replace(&mut seen.good, matches!(standing, Standing::Good { .. }));
        match standing {
            Standing::Fallen { .. } if was_good => {
                seen.fell = Some(Fall {
                    at: now,
                    with_most: false,
                })
            }
            Standing::Fallen { .. } => {}
            Standing::Good { .. } => {
                seen.fell = None;
                still_good += usize::from(was_good);
            }
            Standing::Barred(_) | Standing::Waiting { .. } => seen.fell = None,
        }
    }
    let by_itself =
        |standing: &Standing| matches!(standing, Standing::Fallen { by_node: false, .. });
    let fallen = seen
        .iter_mut()
        .zip(standings)
        .filter(|(_, standing)| by_itself(standing));
    let mut together: Vec<_> = fallen.filter_map(|(seen, _)| seen.fell.as_mut()).collect();
    together.retain(|fall| now.saturating_duration_since(fall.at) <= TOGETHER);
    if together.len() > still_good {
        together.into_iter().for_each(|fall| fall.with_most = true);
    }
}

/// Until when a fallen instance is held; none: it is not.
fn hold_until(
    seen: &InstanceHistory,
    rules: &Rules,
    now: Instant,
    nobody_good: bool,
    by_node: bool,
) -> Option<Instant> {
    let fall = seen.fell?;
    let until = fall.at + rules.critical_hold;
    (until > now && (nobody_good || (fall.with_most && !by_node))).then_some(until)
}

fn standing(rules: &Rules, instance: &Instance, grace_until: Instant, now: Instant) -> Standing {
    if let Registration::NotATarget { reason } | Registration::NotAdmitted { reason } =
        &instance.registration
    {
        return Standing::Barred(reason.to_string());
    }
    let checks = &instance.checks;
    if let Some(check) = maintenance(checks) {
        let whose = if check.scope == CheckScope::NodeMaintenance {
            "its node"
        } else {
            "the instance"
        };
        return Standing::Barred(format!("{whose} is in maintenance ({})", check.id));
    }
    let warns = checks
        .iter()
        .any(|check| check.status == CheckStatus::Warning);
    let weight = match (rules.weights, warns) {
        (false, _) => 1,
        (true, true) => instance.weights.warning,
        (true, false) => instance.weights.passing,
    };
    if weight == 0 {
        let state = if warns { "warning" } else { "passing" };
        return Standing::Barred(format!("its Consul weight while {state} is 0"));
    }
    if let Some(check) = node_down(rules, checks) {
        return Standing::Fallen {
            reason: format!("node check {} is critical", check.id),
            weight,
            by_node: true,
        };
    }
    let has_own = checks
        .iter()
        .any(|check| check.scope == CheckScope::Service);
    if !has_own && rules.require_check {
        return Standing::Barred("it has no check of its own (routing.require_check)".to_owned());
    }
    if !has_own {
        return if now < grace_until {
            Standing::Waiting { until: grace_until }
        } else {
            Standing::Good { weight }
        };
    }
    match refused(rules, checks) {
        Some(check) => {
            let reason = format!("check {} is {}", check.id, word(check.status));
            Standing::Fallen {
                reason,
                weight,
                by_node: false,
            }
        }
        None => Standing::Good { weight },
    }
}

/// The check on which it rests that an instance is out or held, if it rests on one: what that check
/// says is the reason.
#[must_use]
pub fn blamed<'a>(rules: &Rules, instance: &'a Instance) -> Option<&'a Check> {
    let checks = &instance.checks;
    maintenance(checks)
        .or_else(|| node_down(rules, checks))
        .or_else(|| refused(rules, checks))
}

fn maintenance(checks: &[Check]) -> Option<&Check> {
    checks.iter().find(|check| is_maintenance(check))
}

/// A check of the node that takes all its instances out.
fn node_down<'a>(rules: &Rules, checks: &'a [Check]) -> Option<&'a Check> {
    let counts = |check: &Check| rules.node_checks_all || *check.id == *SERF;
    checks.iter().find(|check| {
        check.scope == CheckScope::Node && check.status == CheckStatus::Critical && counts(check)
    })
}

/// The instance's own check that is not accepted, unless the others make up for it.
fn refused<'a>(rules: &Rules, checks: &'a [Check]) -> Option<&'a Check> {
    let own = || {
        checks
            .iter()
            .filter(|check| check.scope == CheckScope::Service)
    };
    let accepted = |check: &&Check| rules.accept_status.contains(&check.status);
    let fine = if rules.checks_required_all {
        own().all(|c| accepted(&c))
    } else {
        own().any(|c| accepted(&c))
    };
    if fine {
        None
    } else {
        own().find(|check| !accepted(check))
    }
}

/// Whether the check takes its instance out of service because an operator wants that.
fn is_maintenance(check: &Check) -> bool {
    match check.scope {
        // Its presence counts, in any state.
        CheckScope::NodeMaintenance => true,
        CheckScope::ServiceMaintenance => check.status != CheckStatus::Passing,
        CheckScope::Service | CheckScope::Node => check.status == CheckStatus::Maintenance,
    }
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
        CheckStatus::Maintenance => "in maintenance",
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::catalog::{Registration, Weights};
    use CheckScope::{Node, NodeMaintenance, Service, ServiceMaintenance};
    use CheckStatus::{Critical, Passing, Warning};

    const HOLD: Duration = Duration::from_secs(5);
    const GRACE: Duration = Duration::from_secs(2);

    fn rules() -> Rules {
        Rules {
            accept_status: vec![Passing],
            checks_required_all: true,
            require_check: false,
            node_checks_all: true,
            weights: true,
            check_grace: GRACE,
            critical_hold: HOLD,
        }
    }

    fn instance(n: u16, checks: &[(CheckScope, CheckStatus)]) -> Instance {
        let check = |(at, (scope, status)): (usize, &(CheckScope, CheckStatus))| Check {
            id: format!("c{at}").into(),
            scope: *scope,
            status: *status,
        };
        Instance {
            id: InstanceId {
                node: "n".into(),
                id: format!("i{n}").into(),
            },
            endpoint: Endpoint::Addr(SocketAddr::from(([127, 0, 0, 1], 1000 + n))),
            tags: vec![],
            checks: checks.iter().enumerate().map(check).collect(),
            weights: Weights::default(),
            registration: Registration::default(),
        }
    }

    fn service(instances: Vec<Instance>) -> ServiceSnapshot {
        ServiceSnapshot {
            name: "s".into(),
            datacenter: None,
            instances,
        }
    }

    /// All with one service check in the given state.
    fn states(states: &[CheckStatus]) -> ServiceSnapshot {
        service(
            states
                .iter()
                .zip(0..)
                .map(|(status, n)| instance(n, &[(Service, *status)]))
                .collect(),
        )
    }

    /// `+` in, `h` held, `-` out.
    fn picture(evaluation: &Evaluation) -> String {
        let sign = |verdict: &EligibilityVerdict| match verdict {
            EligibilityVerdict::Eligible { held: false, .. } => '+',
            EligibilityVerdict::Eligible { held: true, .. } => 'h',
            EligibilityVerdict::Excluded { .. } => '-',
        };
        evaluation.verdicts.iter().map(sign).collect()
    }

    #[test]
    fn checks_decide() {
        let now = Instant::now();
        let warning_too = Rules {
            accept_status: vec![Passing, Warning],
            ..rules()
        };
        let critical_too = Rules {
            accept_status: vec![Passing, Critical],
            ..rules()
        };
        let one = Rules {
            checks_required_all: false,
            ..rules()
        };
        for (rules, checks, expected) in [
            (&rules(), &[(Service, Passing)][..], "+"),
            (&rules(), &[(Service, Warning)], "-"),
            (&warning_too, &[(Service, Warning)], "+"),
            (&rules(), &[(Service, Critical)], "-"),
            (&critical_too, &[(Service, Critical)], "+"),
            (&critical_too, &[(Service, Warning)], "-"),
            (&critical_too, &[(Service, Critical), (Node, Critical)], "-"),
            (&rules(), &[(Service, Passing), (Service, Critical)], "-"),
            (&one, &[(Service, Passing), (Service, Critical)], "+"),
            (&one, &[(Service, Critical), (Service, Critical)], "-"),
            (&one, &[(Service, Passing), (Node, Critical)], "-"),
            (&rules(), &[(Service, Passing), (Node, Passing)], "+"),
            (&rules(), &[(Service, Passing), (Node, Warning)], "+"),
            (&rules(), &[(Service, Passing), (Node, Critical)], "-"),
            (
                &rules(),
                &[(Service, Passing), (NodeMaintenance, Passing)],
                "-",
            ),
            (
                &rules(),
                &[(Service, Passing), (ServiceMaintenance, Critical)],
                "-",
            ),
            (
                &rules(),
                &[(Service, Passing), (ServiceMaintenance, Passing)],
                "+",
            ),
        ] {
            let mut history = History::default();
            let got = history.evaluate(
                rules,
                &service(vec![instance(1, checks)]),
                now,
                false,
                |_, _| false,
            );
            assert_eq!(picture(&got), expected, "{checks:?}");
        }
    }

    #[test]
    fn serf_health_may_be_the_only_check_of_a_node_that_counts() {
        let serf_only = Rules {
            node_checks_all: false,
            ..rules()
        };
        let mut sick = instance(1, &[(Service, Passing), (Node, Critical)]);
        let picture_of = |instance: &Instance| {
            let snapshot = service(vec![instance.clone()]);
            picture(&History::default().evaluate(
                &serf_only,
                &snapshot,
                Instant::now(),
                false,
                |_, _| false,
            ))
        };
        assert_eq!(picture_of(&sick), "+");
        sick.checks[1].id = SERF.into();
        assert_eq!(picture_of(&sick), "-");
    }

    #[test]
    fn a_new_instance_without_checks_waits_but_not_at_the_start() {
        let start = Instant::now();
        let snapshot = service(vec![instance(1, &[(Node, Passing)])]);
        let mut history = History::default();
        let first = history.evaluate(&rules(), &snapshot, start, false, |_, _| false);
        assert_eq!(
            (picture(&first).as_str(), first.next_deadline),
            ("-", Some(start + GRACE))
        );
        let later = history.evaluate(&rules(), &snapshot, start + GRACE, false, |_, _| false);
        assert_eq!((picture(&later).as_str(), later.next_deadline), ("+", None));
        let at_start = History::default().evaluate(&rules(), &snapshot, start, true, |_, _| false);
        assert_eq!(picture(&at_start), "+");
        let mut checked = History::default();
        checked.evaluate(&rules(), &snapshot, start, false, |_, _| false);
        let with_check = service(vec![instance(1, &[(Service, Passing)])]);
        assert_eq!(
            picture(&checked.evaluate(&rules(), &with_check, start, false, |_, _| false)),
            "+"
        );
    }

    #[test]
    fn weights_follow_the_state() {
        let rules = Rules {
            accept_status: vec![Passing, Warning],
            ..rules()
        };
        for (status, passing, warning, expected) in [
            (Passing, 5, 1, Some(5)),
            (Warning, 5, 2, Some(2)),
            (Warning, 5, 0, None),
            (Passing, 0, 1, None),
        ] {
            let mut one = instance(1, &[(Service, status)]);
            one.weights = Weights { passing, warning };
            let got = History::default().evaluate(
                &rules,
                &service(vec![one]),
                Instant::now(),
                false,
                |_, _| false,
            );
            let weight = match got.verdicts[0] {
                EligibilityVerdict::Eligible { weight, .. } => Some(weight),
                EligibilityVerdict::Excluded { .. } => None,
            };
            assert_eq!(weight, expected);
        }
    }

    #[test]
    fn falls_are_held_by_the_rules() {
        let (p, c) = (Passing, Critical);
        // Each step: seconds since the start, states, what is expected.
        for (name, steps) in [
            (
                "all at once, for the time of the hold",
                &[
                    (0, [p, p, p], "+++"),
                    (1, [c, c, c], "hhh"),
                    (5, [c, c, c], "hhh"),
                    (6, [c, c, c], "---"),
                ][..],
            ),
            (
                "most at once",
                &[
                    (0, [p, p, p], "+++"),
                    (1, [p, c, c], "+hh"),
                    (6, [p, c, c], "+--"),
                ],
            ),
            (
                "a minority is not held",
                &[(0, [p, p, p], "+++"), (1, [p, p, c], "++-")],
            ),
            (
                "one by one, until none is left",
                &[
                    (0, [p, p, p], "+++"),
                    (1, [p, p, c], "++-"),
                    (2, [p, c, c], "+--"),
                    (3, [c, c, c], "hhh"),
                    (6, [c, c, c], "hh-"),
                    (8, [c, c, c], "---"),
                ],
            ),
            (
                "never good, never held",
                &[(0, [p, c, c], "+--"), (1, [c, c, c], "h--")],
            ),
            (
                "coming back one by one",
                &[
                    (0, [p, p, p], "+++"),
                    (1, [c, c, c], "hhh"),
                    (2, [c, p, c], "h+h"),
                    (3, [p, p, p], "+++"),
                ],
            ),
            (
                "the hold does not start again",
                &[
                    (0, [p, p, p], "+++"),
                    (1, [c, c, c], "hhh"),
                    (6, [c, c, c], "---"),
                    (7, [c, c, c], "---"),
                ],
            ),
        ] {
            let start = Instant::now();
            let mut history = History::default();
            for (second, now_states, expected) in steps {
                let now = start + Duration::from_secs(*second);
                let got = history.evaluate(&rules(), &states(now_states), now, false, |_, _| false);
                assert_eq!(picture(&got), *expected, "{name}, second {second}");
                assert_eq!(got.held.is_some(), expected.contains('h'), "{name}");
                assert_eq!(
                    got.next_deadline.is_some(),
                    expected.contains('h'),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn falls_within_half_a_second_are_one_step() {
        let (p, c) = (Passing, Critical);
        let start = Instant::now();
        for (gap_ms, expected) in [
            (TOGETHER.as_millis() as u64, "+hh"),
            (TOGETHER.as_millis() as u64 + 1, "+--"),
        ] {
            let mut history = History::default();
            let mut at = |ms: u64, now_states: &[CheckStatus]| {
                let now = start + Duration::from_millis(ms);
                picture(&history.evaluate(&rules(), &states(now_states), now, false, |_, _| false))
            };
            at(0, &[p, p, p]);
            assert_eq!(at(10, &[p, c, p]), "+-+");
            assert_eq!(at(10 + gap_ms, &[p, c, c]), expected, "{gap_ms} ms apart");
        }
    }

    #[test]
    fn holds_end_for_the_dead_and_do_not_cover_maintenance_or_nodes() {
        let now = Instant::now();
        let dead = InstanceId {
            node: "n".into(),
            id: "i1".into(),
        };
        let mut history = History::default();
        history.evaluate(&rules(), &states(&[Passing; 3]), now, false, |_, _| false);
        let fell = states(&[Critical; 3]);
        assert_eq!(
            picture(&history.evaluate(&rules(), &fell, now, false, |id, _| *id == dead)),
            "h-h"
        );
        assert_eq!(
            picture(&history.evaluate(&rules(), &fell, now, false, |_, _| false)),
            "h-h",
            "stays out"
        );

        for (scope, status, expected) in [
            (NodeMaintenance, Critical, "--+"),
            (ServiceMaintenance, Critical, "--+"),
            (Node, Critical, "--+"),
        ] {
            let mut history = History::default();
            history.evaluate(&rules(), &states(&[Passing; 3]), now, false, |_, _| false);
            let mut snapshot = states(&[Passing; 3]);
            for n in [0, 1] {
                snapshot.instances[n].checks.push(Check {
                    id: "m".into(),
                    scope,
                    status,
                });
            }
            assert_eq!(
                picture(&history.evaluate(&rules(), &snapshot, now, false, |_, _| false)),
                expected,
                "{scope:?}"
            );
        }
    }

    #[test]
    fn what_is_not_a_target_is_out_whatever_its_checks_say_and_keeps_no_other_from_being_held() {
        let now = Instant::now();
        let sidecar = |snapshot: &mut ServiceSnapshot| {
            snapshot.instances[1].registration = Registration::NotATarget {
                reason: "Connect proxy".into(),
            };
        };
        let mut history = History::default();
        let mut well = states(&[Passing, Passing]);
        sidecar(&mut well);
        let got = history.evaluate(&rules(), &well, now, true, |_, _| false);
        assert_eq!(
            (picture(&got).as_str(), got.next_deadline, got.held),
            ("+-", None, None)
        );
        assert_eq!(
            got.verdicts[1],
            EligibilityVerdict::Excluded {
                reason: "Connect proxy".into()
            }
        );
        let mut sick = states(&[Critical, Passing]);
        sidecar(&mut sick);
        assert_eq!(
            picture(&history.evaluate(&rules(), &sick, now, false, |_, _| false)),
            "h-"
        );
        let mut alone = service(vec![instance(1, &[])]);
        alone.instances[0].registration = Registration::NotATarget {
            reason: "Connect proxy".into(),
        };
        let got = History::default().evaluate(&rules(), &alone, now, false, |_, _| false);
        assert_eq!(
            (picture(&got).as_str(), got.next_deadline),
            ("-", None),
            "it waits for no check"
        );
    }

    #[test]
    fn what_is_not_confirmed_is_held_as_it_was_until_none_of_it_can_be_connected_to() {
        let now = Instant::now();
        let unconfirmed = |rights_lost, mut snapshot: ServiceSnapshot, which: &[usize]| {
            for &at in which {
                snapshot.instances[at].registration = Registration::Unconfirmed {
                    reason: "why".into(),
                    rights_lost,
                };
            }
            snapshot
        };
        let all = [Passing, Passing, Critical];
        // Rights lost, which are unconfirmed, which are dead, expected, looks again.
        type Case<'a> = (bool, &'a [usize], &'a [&'a str], &'a str, bool);
        let cases: [Case<'_>; 7] = [
            (false, &[0, 1, 2], &[], "hh-", true),
            (false, &[0, 1, 2], &["i0"], "hh-", true),
            (false, &[0, 1, 2], &["i0", "i1", "i2"], "---", false),
            (false, &[0], &["i0"], "-+-", false),
            (false, &[0], &["i1"], "h+-", true),
            (true, &[0, 1, 2], &[], "hh-", false),
            // Nothing is known of them, so passive health alone decides.
            (true, &[0, 1, 2], &["i0", "i1", "i2"], "hh-", false),
        ];
        for (rights_lost, which, dead, expected, again) in cases {
            let snapshot = unconfirmed(rights_lost, states(&all), which);
            let is_dead = |id: &InstanceId, _: &Endpoint| dead.contains(&&*id.id);
            let got = History::default().evaluate(&rules(), &snapshot, now, false, is_dead);
            assert_eq!(picture(&got), expected, "{rights_lost} {which:?} {dead:?}");
            assert_eq!(
                got.next_deadline.is_some(),
                again,
                "{rights_lost} {which:?} {dead:?}"
            );
            assert_eq!(got.held.is_some(), expected.contains('h'), "{:?}", got.held);
            if let Some(held) = got.held {
                assert_eq!(
                    held,
                    format!(
                        "{} of 3 instances are held, not confirmed: why",
                        which.len()
                    )
                );
            }
        }
    }

    #[test]
    fn another_address_is_another_instance() {
        let now = Instant::now();
        let mut history = History::default();
        history.evaluate(&rules(), &states(&[Passing]), now, false, |_, _| false);
        let mut moved = states(&[Critical]);
        moved.instances[0].endpoint = Endpoint::Addr(SocketAddr::from(([127, 0, 0, 1], 9)));
        assert_eq!(
            picture(&history.evaluate(&rules(), &moved, now, false, |_, _| false)),
            "-"
        );
    }
}
