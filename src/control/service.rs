//! One service of one source: which instances may serve, under which tags, and what to report about
//! it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::change::SeenService;
use super::tags::{TagMemory, TagRules};
use super::transitions::{EJECTED, EXCLUDED, HEALTHY, HELD, Reasons, UNCONFIRMED};
use super::{ControlSettings, InstanceStatus};
use crate::catalog::eligibility::{EligibilityVerdict, History};
use crate::catalog::{Endpoint, Instance, Registration, ServiceSnapshot};
use crate::table::{Admission, Clock, Contribution, NamedInstance, TableBuilder, TargetState};

/// The present state of one service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) snapshot: Arc<ServiceSnapshot>,
    history: History,
    pub(super) tags: TagMemory,
    verdicts: Vec<EligibilityVerdict>,
    pub(super) held: Option<String>,
    /// As of the last evaluation.
    pub(super) seen: Option<SeenService>,
    /// When to evaluate again although nothing was heard.
    pub(super) next_deadline: Option<Instant>,
}

/// Instances of a service by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) healthy: u64,
    pub(super) excluded: u64,
    pub(super) ejected: u64,
    /// Critical or not confirmed, and kept for now.
    pub(super) held: u64,
}

/// What an evaluation needs from around.
pub(super) struct EvaluationContext<'a> {
    pub(super) settings: &'a ControlSettings,
    pub(super) tag_rules: TagRules<'a>,
    pub(super) builder: &'a TableBuilder,
    pub(super) clock: Clock,
    pub(super) now: Instant,
    /// The source has not synced yet.
    pub(super) starting: bool,
}

/// Variables in tags: where the settings give no datacenter, it is that of the snapshot.
pub(super) fn tag_env<'a>(
    settings: &'a HashMap<String, String>,
    snapshot: &ServiceSnapshot,
) -> Cow<'a, HashMap<String, String>> {
    match (settings.get("DC"), &snapshot.datacenter) {
        (None, Some(name)) => Cow::Owned(HashMap::from([("DC".to_owned(), name.to_string())])),
        _ => Cow::Borrowed(settings),
    }
}

impl Service {
    pub(super) fn new(snapshot: Arc<ServiceSnapshot>) -> Self {
        Self {
            snapshot,
            history: History::default(),
            tags: TagMemory::default(),
            verdicts: Vec::new(),
            held: None,
            seen: None,
            next_deadline: None,
        }
    }

    /// Decides for every instance, and says what the service contributes to the table: at the places
    /// of its tags, and where its name stands in tags of others.
    pub(super) fn evaluate(
        &mut self,
        around: &EvaluationContext<'_>,
    ) -> (Vec<Contribution>, Vec<NamedInstance>) {
        let snapshot = Arc::clone(&self.snapshot);
        let now_ms = around.clock.at(around.now);
        let eject_after = around.settings.eject_after;
        let is_dead = |id: &_, endpoint: &_| {
            let Endpoint::Addr(addr) = endpoint else {
                return true;
            };
            around.builder.state(id, *addr).is_some_and(|state| {
                // The cap may keep the last instances from being ejected; their failures still
                // tell.
                state.is_ejected(now_ms)
                    || (eject_after > 0 && state.failures.load(Relaxed) >= eject_after)
            })
        };
        let dialled = dialled(&snapshot);
        let evaluation = self.history.evaluate(
            &around.settings.rules,
            &dialled,
            around.now,
            around.starting,
            is_dead,
        );
        self.verdicts = with_unresolved(&snapshot, evaluation.verdicts);
        self.held = evaluation.held;
        self.next_deadline = evaluation.next_deadline;
        let env = tag_env(around.tag_rules.env, &snapshot);
        let tags = self.tags.read(
            TagRules {
                env: &env,
                ..around.tag_rules
            },
            &snapshot.instances,
        );
        let is_named = around.builder.is_named(&snapshot.name);
        let (mut contributions, mut named) = (Vec::new(), Vec::new());
        for ((instance, verdict), tags) in snapshot.instances.iter().zip(&self.verdicts).zip(tags) {
            let (addr, admission) = place(instance, verdict);
            contributions.extend(tags.routes.iter().map(|route| Contribution {
                key: route.key.clone(),
                instance: instance.id.clone(),
                addr,
                options: Arc::clone(&route.options),
                tags: Arc::clone(&tags.plain),
                admission: admission.clone(),
            }));
            if is_named {
                let own = tags.routes.first();
                named.push(NamedInstance {
                    instance: instance.id.clone(),
                    addr,
                    own: own.map(|route| Arc::clone(&route.options)),
                    tags: tags.plain,
                    admission,
                });
            }
        }
        (contributions, named)
    }

    /// The service as the last evaluation left it.
    pub(super) fn see(&self) -> SeenService {
        let serving = self
            .verdicts
            .iter()
            .filter(|verdict| matches!(verdict, EligibilityVerdict::Eligible { .. }))
            .count();
        SeenService {
            snapshot: Arc::clone(&self.snapshot),
            serving,
        }
    }

    /// The verdicts of the last evaluation, in the order of the instances that it saw.
    pub(super) fn verdicts(&self) -> &[EligibilityVerdict] {
        &self.verdicts
    }

    /// The same, before the next evaluation makes new ones.
    pub(super) fn take_verdicts(&mut self) -> Vec<EligibilityVerdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// Every instance as it is now.
    pub(super) fn statuses(
        &self,
        builder: &TableBuilder,
        now_ms: u64,
        reasons: Reasons<'_>,
    ) -> Vec<InstanceStatus> {
        let instances = self.snapshot.instances.iter().zip(&self.verdicts);
        let name = &self.snapshot.name;
        instances
            .map(|(instance, verdict)| status(name, instance, verdict, builder, now_ms, reasons))
            .collect()
    }

    /// How many are healthy, held, excluded and ejected now.
    pub(super) fn counts(&self, builder: &TableBuilder, now_ms: u64) -> Counts {
        let mut counts = Counts::default();
        for (instance, verdict) in self.snapshot.instances.iter().zip(&self.verdicts) {
            let (addr, admission) = place(instance, verdict);
            let state = builder.state(&instance.id, addr);
            match admission {
                Admission::Excluded { .. } => counts.excluded += 1,
                Admission::Eligible { .. }
                    if state.is_some_and(|state| state.is_ejected(now_ms)) =>
                {
                    counts.ejected += 1
                }
                Admission::Eligible { .. }
                    if matches!(verdict, EligibilityVerdict::Eligible { held: true, .. }) =>
                {
                    counts.held += 1
                }
                Admission::Eligible { .. } => counts.healthy += 1,
            }
        }
        counts
    }
}

/// The service without the instances that have no address: these neither serve nor keep others from
/// being held.
fn dialled(snapshot: &Arc<ServiceSnapshot>) -> Arc<ServiceSnapshot> {
    let has_address = |instance: &&Instance| matches!(instance.endpoint, Endpoint::Addr(_));
    if snapshot
        .instances
        .iter()
        .all(|instance| has_address(&instance))
    {
        return Arc::clone(snapshot);
    }
    let instances = snapshot
        .instances
        .iter()
        .filter(has_address)
        .cloned()
        .collect();
    Arc::new(ServiceSnapshot {
        instances,
        ..ServiceSnapshot::clone(snapshot)
    })
}

/// One verdict per instance, in their order, from those of the instances with an address.
fn with_unresolved(
    snapshot: &ServiceSnapshot,
    verdicts: Vec<EligibilityVerdict>,
) -> Vec<EligibilityVerdict> {
    let mut of_dialled = verdicts.into_iter();
    let verdict = |instance: &Instance| match instance.endpoint.trouble() {
        Some(reason) => EligibilityVerdict::Excluded { reason },
        None => of_dialled
            .next()
            .expect("a verdict for each instance with an address"),
    };
    snapshot.instances.iter().map(verdict).collect()
}

/// Where the instance is, and whether it may serve there.
fn place(instance: &Instance, verdict: &EligibilityVerdict) -> (SocketAddr, Admission) {
    let admission = match verdict {
        EligibilityVerdict::Eligible { weight, .. } => Admission::Eligible { weight: *weight },
        EligibilityVerdict::Excluded { reason } => Admission::Excluded {
            reason: Arc::clone(reason),
        },
    };
    (instance.endpoint.addr(), admission)
}

/// Why an ejected instance gets nothing, and for how long.
pub(super) fn reason_of_ejection(state: &TargetState, now_ms: u64) -> String {
    let left_ms = state.ejected_until_ms.load(Relaxed).saturating_sub(now_ms);
    let failures = state.failures.load(Relaxed);
    format!(
        "{failures} failures in a row; no requests for {:.1} s more",
        left_ms as f64 / 1000.0
    )
}

fn status(
    service: &str,
    instance: &Instance,
    verdict: &EligibilityVerdict,
    builder: &TableBuilder,
    now_ms: u64,
    reasons: Reasons<'_>,
) -> InstanceStatus {
    let (addr, admission) = place(instance, verdict);
    let state = builder.state(&instance.id, addr);
    let ejected = state.is_some_and(|state| state.is_ejected(now_ms));
    let (word, reason) = match admission {
        Admission::Excluded { reason } => (
            EXCLUDED,
            Some(reasons.with_output(service, instance, &reason)),
        ),
        Admission::Eligible { .. } if ejected => (
            EJECTED,
            state.map(|state| reason_of_ejection(state, now_ms)),
        ),
        Admission::Eligible { .. } => match (&instance.registration, verdict) {
            (Registration::Unconfirmed { reason, .. }, _) => {
                (UNCONFIRMED, Some(reason.to_string()))
            }
            (_, EligibilityVerdict::Eligible { held: true, .. }) => {
                (HELD, Some(reasons.of_hold(service, instance)))
            }
            _ => (HEALTHY, None),
        },
    };
    InstanceStatus {
        id: instance.id.clone(),
        address: instance.endpoint.to_string(),
        state: word,
        reason,
        tags: instance.tags.iter().map(ToString::to_string).collect(),
        in_flight: state.map_or(0, |state| state.in_flight.load(Relaxed)),
        failures: state.map_or(0, |state| state.failures.load(Relaxed)),
    }
}
