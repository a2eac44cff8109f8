//! What the cluster says now: services, their instances, and the health of each instance.
//!
//! Plain data and pure rules. Nothing here knows Consul's wire format (that is `sources`), and
//! nothing here knows what a route does with an instance (that is `table`).

pub mod access;
pub mod allowed_options;
pub mod command;
mod command_line;
pub mod command_list;
pub mod cors;
pub mod definitions;
mod destination;
pub mod duration;
pub mod eligibility;
pub mod error_pages;
pub mod field_edits;
pub mod glob;
pub mod matchers;
mod named_services;
pub mod option_text;
pub mod options;
pub mod other_services;
pub mod path_rewrite;
pub mod policies;
mod policy_text;
pub mod source;
pub mod static_route;
pub mod sticky;
pub mod strategy;
pub mod tag;
mod with_policy;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The name under which a service is registered.
pub type ServiceName = Arc<str>;

/// The identity of an instance, apart from its address: two registrations on the same address with
/// another id are two instances, because a dynamic port is soon handed to another job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId {
    /// Name of the node that carries the registration; for static sources the name of the source.
    pub node: Arc<str>,
    /// Service id, unique on its node.
    pub id: Arc<str>,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.id)
    }
}

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Ready to be dialled.
    Addr(SocketAddr),
    /// A name that has to be resolved first (`sources::resolve` does, before anything reaches the
    /// table).
    Name {
        /// DNS name, without port.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
    /// A name that has no address now: nothing to connect to, but a place that is still taken
    /// (`sources::resolve` makes it).
    Unresolved {
        /// DNS name, without port.
        host: Arc<str>,
        /// TCP port.
        port: u16,
        /// Why there is no address, in words for the operator.
        reason: Arc<str>,
    },
}

impl Endpoint {
    /// Why nothing can be dialled here, in words for the operator; none for an address.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        match self {
            Self::Addr(_) => None,
            Self::Name { host, .. } => Some(format!("name {host} is not resolved yet").into()),
            Self::Unresolved { reason, .. } => Some(Arc::clone(reason)),
        }
    }

    /// The address to know the place by: `0.0.0.0:PORT` where there is none.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Addr(addr) => *addr,
            Self::Name { port, .. } | Self::Unresolved { port, .. } => {
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))
            }
        }
    }
}

/// `address:port` or `name:port`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name { host, port } | Self::Unresolved { host, port, .. } => {
                write!(f, "{host}:{port}")
            }
        }
    }
}

/// State of one health check, as Consul names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// Degraded; whether it may serve is the user's choice (`routing.accept_status`).
    Warning,
    /// Failed, or not yet run.
    Critical,
    /// Under maintenance (an API state of its own in some responses).
    Maintenance,
}

/// What a check speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckScope {
    /// A check that belongs to this instance.
    Service,
    /// A check of the node (`serfHealth` and any other node-level check).
    Node,
    /// `_node_maintenance`.
    NodeMaintenance,
    /// `_service_maintenance:ID`.
    ServiceMaintenance,
}

/// One health check of an instance or of its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// Check id, for explanations.
    pub id: Arc<str>,
    /// What the check speaks about.
    pub scope: CheckScope,
    /// State of the check.
    pub status: CheckStatus,
}

/// Consul's service weights: the share an instance takes while passing, and while warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weights {
    /// Weight while every check passes (1 unless set).
    pub passing: u32,
    /// Weight while a check warns (1 unless set).
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

/// What a source says of a registration as such, apart from its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// It is registered, and may be routed to.
    #[default]
    Confirmed,
    /// It was registered; the source shows it no longer, but there is no proof that it was
    /// deregistered.
    Unconfirmed {
        /// Why, in words for the operator.
        reason: Arc<str>,
        /// The rights to see it are known to be lost, so that nothing at all is known of it.
        rights_lost: bool,
    },
    /// It is registered, but a plain request or connection cannot be sent there.
    NotATarget {
        /// Why, in words for the operator.
        reason: Arc<str>,
    },
    /// It is registered, and not known to be up yet: its source registers instances before their
    /// health is known.
    NotAdmitted {
        /// Why, in words for the operator.
        reason: Arc<str>,
    },
}

/// One registered instance of a service, healthy or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Identity that survives updates.
    pub id: InstanceId,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// All tags, as registered, in their order.
    pub tags: Vec<Arc<str>>,
    /// All checks that concern it, sorted by id.
    pub checks: Vec<Check>,
    /// Consul's weights: passing and warning.
    pub weights: Weights,
    /// Whether the registration is certain, and one to route to.
    pub registration: Registration,
}

/// Everything a source knows of one service, at one moment. Order of instances: by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Name of the service.
    pub name: ServiceName,
    /// The datacenter it is registered in, if its source tells: what `$DC` in a tag stands for.
    pub datacenter: Option<Arc<str>>,
    /// All registered instances, healthy or not.
    pub instances: Vec<Instance>,
}
