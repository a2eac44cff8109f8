//! `[routing]`: which tags are routes, and which instances get traffic.

use super::reader::Reader;
use crate::catalog::CheckStatus;
use crate::catalog::eligibility::Rules;

/// Rules for what every source of services tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingConfig {
    /// What routing tags start with (`tag_prefix`).
    pub tag_prefix: String,
    /// Which instances may serve (`accept_status`, `checks_required`, `require_check`,
    /// `node_checks`, `weights`, `check_grace`, `critical_hold`).
    pub rules: Rules,
}

/// Reads the section.
pub(super) fn routing(reader: &mut Reader<'_>) -> RoutingConfig {
    let config = RoutingConfig {
        tag_prefix: reader.text_or_empty("tag_prefix"),
        rules: Rules {
            accept_status: reader
                .list("accept_status")
                .iter()
                .map(|word| match word.as_str() {
                    "warning" => CheckStatus::Warning,
                    "critical" => CheckStatus::Critical,
                    _ => CheckStatus::Passing,
                })
                .collect(),
            checks_required_all: reader.text("checks_required").as_deref() == Some("all"),
            require_check: reader.bool("require_check"),
            node_checks_all: reader.text("node_checks").as_deref() != Some("serf"),
            weights: reader.bool("weights"),
            check_grace: reader.time("check_grace"),
            critical_hold: reader.time("critical_hold"),
        },
    };
    if config.tag_prefix.is_empty() {
        reader.wrong(
            "tag_prefix",
            "is empty, so that every tag would be a route",
            "write \"urlprefix-\"",
        );
    }
    config
}
