//! Targets on their way into a route: what instances and route commands say, before shares are
//! given out.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Target, TargetState};
use crate::catalog::options::RouteOptions;
use crate::catalog::source::SourceName;
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName};
use crate::metrics::ServiceMetrics;

/// Whether an instance may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes, with this weight (Consul's; 1 if there is none).
    Eligible {
        /// Part of the traffic, in proportion to those of the other targets; 0 counts as 1.
        weight: u32,
    },
    /// It may not.
    Excluded {
        /// Why, in words for the operator.
        reason: Arc<str>,
    },
}

/// A target that a route command adds.
#[derive(Clone, Debug)]
pub struct CommandTarget {
    /// State of its instance, shared by all routes and workers.
    pub state: Arc<TargetState>,
    /// Why it may not serve, in words for the operator, if it may not.
    pub excluded: Option<Arc<str>>,
    /// Its options.
    pub options: Arc<RouteOptions>,
}

/// One instance at one place: what one route tag of it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// The place.
    pub key: RouteKey,
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub addr: SocketAddr,
    /// Options of the tag.
    pub options: Arc<RouteOptions>,
    /// Plain tags of the instance.
    pub tags: Arc<[Arc<str>]>,
    /// Whether it may serve.
    pub admission: Admission,
}

/// One instance of a service that a route names beside its own.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedInstance {
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub addr: SocketAddr,
    /// Options of its first route tag, if it has any.
    pub own: Option<Arc<RouteOptions>>,
    /// Plain tags of the instance.
    pub tags: Arc<[Arc<str>]>,
    /// Whether it may serve.
    pub admission: Admission,
}

/// A target on its way into a route.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) service: ServiceName,
    pub(super) metrics: Arc<ServiceMetrics>,
    pub(super) state: Arc<TargetState>,
    pub(super) options: Arc<RouteOptions>,
    pub(super) tags: Arc<[Arc<str>]>,
    pub(super) url: Option<Arc<str>>,
    pub(super) query: Option<Arc<str>>,
    pub(super) fixed: Option<f64>,
    pub(super) admission: Admission,
}

impl PartialEq for Draft {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
            && Arc::ptr_eq(&self.metrics, &other.metrics)
            && (Arc::ptr_eq(&self.options, &other.options) || self.options == other.options)
            && self.tags == other.tags
            && self.url == other.url
            && self.query == other.query
            && self.fixed == other.fixed
            && self.admission == other.admission
    }
}

impl Draft {
    pub(super) fn destination(&self) -> String {
        self.target(0.0).destination()
    }

    /// Whether it is of the service (if one is given) and carries all the tags.
    pub(super) fn belongs_to(&self, service: Option<&ServiceName>, tags: &[Arc<str>]) -> bool {
        service.is_none_or(|service| *service == self.service)
            && tags.iter().all(|tag| self.tags.contains(tag))
    }

    pub(super) fn target(&self, share: f64) -> Target {
        Target {
            state: Arc::clone(&self.state),
            options: Arc::clone(&self.options),
            service: Arc::clone(&self.metrics),
            observer: None,
            query: self.query.clone(),
            share,
            fixed: self.fixed,
            tags: Arc::clone(&self.tags),
            url: self.url.clone(),
        }
    }
}

/// Where a command stands among those of all sources: by source, then by its rank there.
pub(super) type Position = ((bool, SourceName), u64);
