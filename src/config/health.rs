//! `[health]`: what traffic itself says about instances.

use std::time::Duration;

use super::declare::{Checked, section};
use super::key::{DAY, HOUR};
use super::reader::Reader;
use super::words::words;
use crate::table::ErrorStatus;
use crate::table::health::HealthConfig;

section! {
    /// What traffic itself says about an instance: one that fails again and again is left out for a
    /// while, whatever Consul says.
    pub struct HealthSettings is Once "health" {
        /// Failures in a row that eject an instance. 0: never.
        eject_after: u32 = "5" in (0, 10_000);

        /// Length of the first ejection; it doubles with each one that follows.
        eject_base: Duration = "5s" in (100, HOUR);

        /// Longest ejection.
        eject_max: Duration = "1m" in (100, DAY);

        /// Largest share of a service's instances ejected at the same time, in percent.
        eject_max_percent: u32 = "50" in (0, 100);

        /// Responses that count as failures of their instance while other instances do better: off,
        /// gateway (502, 503, 504; of gRPC, UNAVAILABLE in place of a response) or 5xx (all of
        /// them). A status that all instances respond with ejects none.
        error_status: ErrorStatus = "gateway";

        /// An instance that owes a response for so long, and responds to none of the further
        /// requests it is given while other instances do, is frozen: it is ejected, and GETs and
        /// HEADs that wait for it are sent to another instance too, as far as the retry budget's
        /// share of recent requests goes. A slow request is sent once. 0s: never.
        frozen_after: Duration = "2s" in (0, HOUR);

        /// How long a new or returning instance takes to its full share of traffic. 0s: at once.
        slow_start: Duration = "0s" in (0, HOUR);
    }
}

words! {
    for ErrorStatus {
        Off = "off",
        Gateway = "gateway",
        All = "5xx",
    }
}

impl Checked for HealthSettings {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if self.eject_max < self.eject_base {
            reader.wrong(
                "eject_max",
                "is shorter than eject_base",
                "make it at least as long",
            );
        }
    }
}

impl HealthSettings {
    /// The rules, as the table follows them.
    #[must_use]
    pub fn rules(&self) -> HealthConfig {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        HealthConfig {
            eject_after: self.eject_after,
            eject_base_ms: millis(self.eject_base),
            eject_max_ms: millis(self.eject_max),
            eject_max_percent: self.eject_max_percent,
            slow_start_ms: millis(self.slow_start),
            error_status: self.error_status,
            frozen_after_ms: millis(self.frozen_after),
        }
    }
}
