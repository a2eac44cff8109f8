//! `[fleet]`: several lb that serve the same routes.

use super::declare::{Checked, section};
use super::reader::Reader;

section! {
    /// Several lb that serve the same routes, registered in Consul under one name
    /// ([consul.register]).
    pub struct FleetConfig is Once "fleet" {
        /// The service that they are registered as. Without it: consul.register.name.
        name: Option<String> = unset "lb";

        /// Whether rates are divided by the number of those that are healthy: rate and burst (at
        /// least 1) of each are its share. While Consul is away the last share stays. The token
        /// needs service:read for the name.
        share_limits: bool = "false";
    }
}

impl Checked for FleetConfig {}

/// What does not fit the rest of the configuration. `registers`: lb registers itself, under this
/// name; none: there is no Consul.
pub(super) fn check(
    config: &FleetConfig,
    registers: Option<(bool, &str)>,
    reader: &mut Reader<'_>,
) {
    if !config.share_limits {
        return;
    }
    match registers {
        None => reader.wrong(
            "share_limits",
            "needs Consul, which knows the others",
            "add [consul], or take it out",
        ),
        Some((false, name)) if config.name.as_deref().is_none_or(|own| own == name) => reader.warn(
            "share_limits",
            "counts the lb that are registered, and this one is not",
            "add enabled = true to [consul.register], or name the service that it is registered as in fleet.name",
        ),
        Some(_) => {}
    }
}
