//! One route: a place, and the targets that serve it.

use std::sync::Arc;

use super::Target;
use crate::catalog::options::Strategy;
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName};

/// A route of the table.
#[derive(Debug)]
pub struct Route {
    /// Where it stands.
    pub key: RouteKey,
    /// Targets that may get traffic. Empty while every instance is out: the answer is then 503.
    pub targets: Box<[Target]>,
    /// Instances that are registered for the route but get nothing, and why.
    pub excluded: Box<[Excluded]>,
    /// How to pick among the targets.
    pub strategy: Strategy,
    /// Whether the shares of the targets differ: then `ring` is laid out.
    pub ring: Box<[u32]>,
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
