//! `[routing]`: which tags are routes, and which instances get traffic.

use std::time::Duration;

use super::declare::{Checked, section};
use super::key::HOUR;
use super::reader::Reader;
use super::words::words;
use crate::catalog::CheckStatus;
use crate::catalog::eligibility::Rules;

section! {
    /// Which tags are routes, and which instances get traffic: rules for what every source of
    /// services tells. These keys are also taken in [consul], where they were at first.
    pub struct RoutingConfig is Once "routing" {
        /// Tags that start with this are routes.
        tag_prefix: String = "urlprefix-";

        /// Check states that count as healthy: passing, warning, critical.
        accept_status: Vec<AcceptedStatus> = "passing";

        /// Whether every check of an instance has to be in such a state, or one is enough.
        checks_required: ChecksRequired = "all";

        /// An instance without any check of its own never gets traffic. Else it does, after
        /// check_grace.
        require_check: bool = "false";

        /// Which critical checks of a node take its instances out: all of them, or serfHealth
        /// alone.
        node_checks: NodeChecks = "all";

        /// Instances get traffic in proportion to their weights in Consul. false: these weights say
        /// nothing.
        weights: bool = "true";

        /// How long a new instance without checks of its own waits for one before it gets traffic:
        /// Nomad registers services a moment before their checks.
        check_grace: Duration = "2s" in (0, HOUR);

        /// When all known-good instances of a service turn critical in one step (an agent restart),
        /// they are kept this long while they can be reached.
        critical_hold: Duration = "10s" in (0, HOUR);
    }
}

words! {
    /// A check state that may count as healthy.
    pub enum AcceptedStatus {
        /// All is well.
        Passing = "passing",
        /// Degraded.
        Warning = "warning",
        /// Failed, or not yet run.
        Critical = "critical",
    }
}

words! {
    /// How many checks of an instance have to be in such a state.
    pub enum ChecksRequired {
        /// Every one.
        All = "all",
        /// One is enough.
        One = "one",
    }
}

words! {
    /// Which checks of a node count for its instances.
    pub enum NodeChecks {
        /// Every one.
        All = "all",
        /// The one that Consul itself keeps.
        Serf = "serf",
    }
}

impl Checked for RoutingConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if self.tag_prefix.is_empty() {
            reader.wrong(
                "tag_prefix",
                "is empty, so that every tag would be a route",
                "write \"urlprefix-\"",
            );
        }
    }
}

impl RoutingConfig {
    /// Which instances may serve.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let status = |status: &AcceptedStatus| match status {
            AcceptedStatus::Passing => CheckStatus::Passing,
            AcceptedStatus::Warning => CheckStatus::Warning,
            AcceptedStatus::Critical => CheckStatus::Critical,
        };
        Rules {
            accept_status: self.accept_status.iter().map(status).collect(),
            checks_required_all: self.checks_required == ChecksRequired::All,
            require_check: self.require_check,
            node_checks_all: self.node_checks == NodeChecks::All,
            weights: self.weights,
            check_grace: self.check_grace,
            critical_hold: self.critical_hold,
        }
    }
}
