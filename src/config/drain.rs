//! `[drain]`: the orderly end.

use std::time::Duration;

use super::declare::{Checked, section};
use super::key::{DAY, HOUR};

section! {
    /// What happens on SIGTERM. A second SIGTERM ends the process at once.
    pub struct DrainConfig is Once "drain" {
        /// First /ready says 503 while traffic is still served, for this long: the time a balancer
        /// in front needs to notice.
        grace: Duration = "0s" in (0, HOUR);

        /// Then what runs may finish, at most this long.
        timeout: Duration = "30s" in (0, DAY);
    }
}

impl Checked for DrainConfig {}
