//! One route: a place, and the targets that serve it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Target;
use super::limits::RouteLimits;
use super::mirrors::RouteMirror;
use super::named::Fallback;
use super::rotation::Rotation;
use super::sticky::StickyRoute;
use crate::catalog::matchers::Matchers;
use crate::catalog::options::{Proto, Strategy};
use crate::catalog::policies::Policies;
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName};

/// A route of the table.
///
/// What a request looks at comes first, down to its only target, and in this order: among many
/// routes each piece that lies elsewhere is a cache miss more.
#[derive(Debug)]
#[repr(C)]
pub struct Route {
    /// How to pick among the targets.
    pub strategy: Strategy,
    /// Whether all targets have the same share.
    pub even: bool,
    /// Whether it is one of TCP alone: all its instances, those that are out included, take bytes
    /// and not requests.
    pub tcp: bool,
    /// Whether a look-up has to look closer: it is one of TCP, has matchers, or has others beside it.
    pub conditional: bool,
    /// Targets that may get traffic. Empty while every instance is out: the response is then 503.
    pub targets: Targets,
    /// Order of turns for `rr` while shares differ (indexes of `targets`, spread out); empty
    /// otherwise.
    pub ring: Box<[u32]>,
    /// Whose turn it is with `rr`. Outlives tables.
    pub rotation: Rotation,
    /// Stays the same from table to table while the place is routed, and is never given to another
    /// place.
    pub id: u64,
    /// Host and path, or the TCP port.
    pub key: RouteKey,
    /// Instances that are registered for the route but get nothing, and why.
    pub excluded: Box<[Excluded]>,
    /// What responses follow that are made here while no instance may serve.
    pub policies_of_excluded: Option<Arc<Policies>>,
    /// What its limits count; where a target has any. Outlives tables.
    pub limits: Option<Arc<RouteLimits>>,
    /// What it knows of the cookies that keep clients with instances; where a target wants them.
    pub sticky: Option<Box<StickyRoute>>,
    /// What it has of the service that serves while none of its instances may; where its tags name
    /// one.
    pub fallback: Option<Fallback>,
    /// Services that get copies of its requests.
    pub mirrors: Box<[RouteMirror]>,
    /// What it wants of a request beside its place.
    pub matchers: Option<Arc<Matchers>>,
    /// The other routes of its place, in no order; only the one that stands in the table has them.
    pub beside: Box<[Arc<Route>]>,
}

/// The targets of a route: a single one, as most have in a large table, lies in the route itself.
pub type Targets = SmallVec<[Target; 1]>;

impl Route {
    /// A route at `key` that has no target yet.
    #[must_use]
    pub fn without_targets(key: RouteKey) -> Self {
        Self {
            strategy: Strategy::P2c,
            even: true,
            tcp: false,
            conditional: false,
            targets: Targets::default(),
            ring: Box::default(),
            rotation: Rotation::default(),
            id: 0,
            key,
            excluded: Box::default(),
            policies_of_excluded: None,
            limits: None,
            sticky: None,
            fallback: None,
            mirrors: Box::default(),
            matchers: None,
            beside: Box::default(),
        }
    }

    /// Where among its targets this one of them stands.
    #[must_use]
    pub fn index_of(&self, target: &Target) -> Option<usize> {
        // Of thousands, too, it is found at once.
        let offset = std::ptr::from_ref(target)
            .addr()
            .wrapping_sub(self.targets.as_ptr().addr());
        let at = offset / size_of::<Target>();
        let found = self.targets.get(at)?;
        std::ptr::eq(found, target).then_some(at)
    }

    /// All routes of its place, this one included.
    pub fn with_beside(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::once(self).chain(&self.beside)
    }

    /// How many routes it has beside it.
    pub(super) fn beside_count(route: Option<&Arc<Self>>) -> usize {
        route.map_or(0, |route| route.beside.len())
    }

    /// Whether TLS with its host as the server name is passed on to its targets, and not ended by
    /// us where both may be. For a route whose instances are all out it is not: then we respond.
    #[must_use]
    pub fn is_passed_through(&self) -> bool {
        !self.targets.is_empty()
            && self
                .targets
                .iter()
                .all(|target| target.options.proto == Proto::Tcp)
    }

    /// How many of the targets are ejected at `now_ms` of the process clock, for the cap of
    /// [`TargetState::record_failure`](super::TargetState::record_failure).
    #[must_use]
    pub fn ejected_count(&self, now_ms: u64) -> usize {
        self.targets
            .iter()
            .filter(|target| target.state.is_ejected(now_ms))
            .count()
    }
}

/// A registered instance that gets no traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// Which service.
    pub service: ServiceName,
    /// Which instance.
    pub id: InstanceId,
    /// Why, in words for the operator.
    pub reason: Arc<str>,
}
