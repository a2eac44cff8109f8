//! Services that get copies of a route's requests (`mirror=`).

use std::sync::Arc;

use super::Target;
use super::draft::{Admission, Draft};
use super::named::{NamedDraft, under};
use super::rotation::Rotation;
use crate::catalog::ServiceName;
use crate::catalog::options::RouteOptions;
use crate::catalog::other_services::WHOLE;
use crate::metrics::ServiceMetrics;

/// Where copies go of requests that an instance with certain options has responded to.
#[derive(Debug)]
pub struct RouteMirror {
    /// Those of the instances.
    of: Arc<RouteOptions>,
    /// Instances that may serve, under the same options.
    targets: Box<[Target]>,
    /// Counters of the service, whether it is there or not.
    pub service: Arc<ServiceMetrics>,
    /// Requests of the route so far, in [`WHOLE`]. Outlives tables.
    requests: Rotation,
    /// Whose turn it is.
    rotation: Rotation,
}

impl RouteMirror {
    /// The mirrors of `targets`: one for all with the same options.
    pub(super) fn of_targets(
        targets: &[Target],
        requests: &Rotation,
        instances: impl Fn(&ServiceName) -> Vec<NamedDraft>,
        service: impl Fn(&ServiceName) -> Arc<ServiceMetrics>,
    ) -> Box<[Self]> {
        let mut mirrors: Vec<Self> = Vec::new();
        for target in targets {
            let options = &target.options;
            let Some(mirror) = &options.mirror else {
                continue;
            };
            if mirrors.iter().any(|known| Arc::ptr_eq(&known.of, options)) {
                continue;
            }
            let there = instances(&mirror.service);
            let serving = there
                .iter()
                .filter(|named| matches!(named.draft.admission, Admission::Eligible { .. }));
            let drafts: Vec<Draft> = serving.map(|named| under(options, named)).collect();
            let share = 1.0 / drafts.len().max(1) as f64;
            mirrors.push(Self {
                of: Arc::clone(options),
                targets: drafts.iter().map(|draft| draft.target(share)).collect(),
                service: service(&mirror.service),
                requests: requests.clone(),
                rotation: Rotation::default(),
            });
        }
        mirrors.into()
    }

    /// Whether it is for requests that `target` has responded to.
    #[must_use]
    pub fn is_of(&self, target: &Target) -> bool {
        Arc::ptr_eq(&self.of, &target.options)
    }

    /// Whether the next request is copied.
    #[must_use]
    pub fn takes_next(&self) -> bool {
        let turn = self.requests.next(WHOLE as usize);
        let mirror = self.of.mirror.as_ref();
        mirror.is_some_and(|mirror| mirror.takes(turn as u64))
    }

    /// The instance that gets the next copy: one after the other of those that are open. What comes
    /// of copies ejects none.
    #[must_use]
    pub fn next(&self, now_ms: u64) -> Option<&Target> {
        let count = self.targets.len();
        if count == 0 {
            return None;
        }
        let from = self.rotation.next(count);
        let mut around = (0..count).map(|step| &self.targets[(from + step) % count]);
        around.find(|target| target.state.is_open(now_ms))
    }

    /// In words, for the operator.
    #[must_use]
    pub fn note(&self) -> String {
        let options = self.of.mirror.as_ref().map(ToString::to_string);
        let options = options.unwrap_or_default();
        match self.targets.len() {
            0 => format!("mirror={options}: no instance of it is there, copies are dropped"),
            count => format!("mirror={options}: {count} of its instances get copies"),
        }
    }
}
