//! The control loop: takes updates of all sources, decides which instances may serve, builds
//! tables, publishes them.

mod change;
mod handle;
mod run;
mod service;
mod tags;
mod teller;
mod transitions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::catalog::allowed_options::AllowedOptions;
use crate::catalog::eligibility::Rules;
use crate::catalog::options::Strategy;
use crate::catalog::policies::NamedPolicies;
use crate::catalog::source::SourceName;
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName};
use crate::table::Matcher;
use crate::table::sticky::StickyKey;

pub use handle::ControlHandle;
pub use run::Control;

/// What the control loop has to know of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlSettings {
    /// What routing tags start with (`routing.tag_prefix`).
    pub tag_prefix: String,
    /// The same for sources that have one of their own (`nomad.tag_prefix`).
    pub tag_prefixes: BTreeMap<SourceName, String>,
    /// Which instances may serve.
    pub rules: Rules,
    /// Path matcher (`proxy.matcher`).
    pub matcher: Matcher,
    /// Strategy of routes that name none (`proxy.strategy`).
    pub strategy: Strategy,
    /// A route whose instances are all out counts as not there (`proxy.fall_through`).
    pub fall_through: bool,
    /// Hosts of routes are patterns (`proxy.host_patterns`).
    pub host_patterns: bool,
    /// What `$DC` in a tag stands for; without it, the datacenter that the service's source tells.
    pub datacenter: Option<String>,
    /// Failures in a row after which an instance counts as dead, and is not held
    /// (`health.eject_after`); 0: never.
    pub eject_after: u32,
    /// Authentication schemes that there are (`[auth.NAME]`): routes that name others let no
    /// request in.
    pub auth: BTreeSet<String>,
    /// Options that tags may carry (`tags.allow`).
    pub allowed: AllowedOptions,
    /// Policies that there are (`[policy.NAME]`); routes that name others are closed.
    pub policies: NamedPolicies,
    /// The key of cookies that keep clients with instances, where a file names it
    /// (`proxy.sticky_key_file`).
    pub sticky_key: Option<StickyKey>,
    /// Sources of certificates that there are (`[certificates.NAME]`): routes whose `cert=` names
    /// others are closed.
    pub certificates: BTreeSet<String>,
}

impl ControlSettings {
    /// What routing tags of this source start with.
    #[must_use]
    pub fn tag_prefix_of(&self, source: SourceName) -> &str {
        self.tag_prefixes.get(source).unwrap_or(&self.tag_prefix)
    }
}

/// What is known of one service: for `/api/services`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// Which source told of it.
    pub source: SourceName,
    /// When the last response of its watch came.
    pub last_success: Option<SystemTime>,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
    /// Tags that could not be understood, each with the reason.
    pub rejected: Vec<(String, String)>,
    /// Options in tags that are unknown (kept, without effect), and other warnings about tags, each
    /// as `TAG: WARNING`.
    pub unknown_options: Vec<String>,
    /// Why instances are kept that are critical or not confirmed, if some are.
    pub held: Option<String>,
}

/// One instance of it.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStatus {
    /// Identity.
    pub id: InstanceId,
    /// `address:port`.
    pub address: String,
    /// `healthy`, `held` (gets traffic although its checks fail), `held, not confirmed` (gets
    /// traffic although its source shows it no longer), `ejected` or `excluded`.
    pub state: &'static str,
    /// Why it gets no traffic, or is held.
    pub reason: Option<String>,
    /// Tags as registered.
    pub tags: Vec<String>,
    /// Requests in flight.
    pub in_flight: u32,
    /// Failures in a row.
    pub failures: u32,
}

/// A tag or a line of route commands that makes no route, and the place it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedPlace {
    /// The service, or the source of the commands.
    pub service: ServiceName,
    /// As written.
    pub text: String,
    /// Why it makes no route.
    pub reason: String,
    /// The place that it names.
    pub key: RouteKey,
}

/// Why `/ready` would say 503, in words; empty: ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Sources that have not synced yet.
    pub waiting_for: Vec<String>,
    /// SIGTERM was received.
    pub draining: bool,
}

impl Readiness {
    /// Whether traffic may be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waiting_for.is_empty() && !self.draining
    }
}
