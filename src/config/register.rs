//! `[consul.register]`: how lb registers itself in Consul.

use std::net::SocketAddr;
use std::time::Duration;

use super::declare::{Checked, section};
use super::key::HOUR;
use super::reader::Reader;

section! {
    /// Registration of lb itself as a service in Consul, with checks: of /health by HTTP, and one
    /// that fails when lb does not report for 15s. It is put back when the agent forgets it, and
    /// removed at the beginning of a drain, before drain.grace. The token needs service:write for
    /// each name.
    pub struct RegisterConfig is Once "consul.register" {
        /// Whether lb registers itself under its name.
        enabled: bool = "false";

        /// Whether it also registers under each NAME that a route names by register=NAME, as long
        /// as such a route has a target. Programs that may write tags choose these names; the
        /// rights of the token bound them.
        aliases: bool = "false";

        /// Name of the service. Its id is NAME-HOSTNAME-PORT.
        name: String = "lb";

        /// Address under which the admin listener is registered and checked. Unset: admin.address.
        /// In place of 0.0.0.0 or [::]: the first global address of this machine.
        address: Option<SocketAddr> = unset "10.0.0.1:9998";

        /// Tags of the service.
        tags: Vec<String> = "";

        /// How often the agent checks /health.
        check_interval: Duration = "1s" in (100, HOUR);

        /// Limit for such a check.
        check_timeout: Duration = "3s" in (100, HOUR);

        /// Whether the check accepts any certificate, where the admin listener speaks TLS.
        check_skip_verify: bool = "false";
    }
}

impl Checked for RegisterConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if self.name.is_empty() {
            reader.wrong("name", "is empty", "name the service, as in name = \"lb\"");
        }
    }
}
