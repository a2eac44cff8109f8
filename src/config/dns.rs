//! `[dns]`: how names are resolved.

use std::net::SocketAddr;
use std::time::Duration;

use super::declare::{Checked, section};
use super::key::{DAY, MINUTE, SECOND};
use super::reader::Reader;

section! {
    /// Resolving of names in static routes, and of registrations that carry a name instead of an
    /// address.
    pub struct DnsConfig is Once "dns" [restart] {
        /// Servers to use. Empty: the system's, with its search list (/etc/resolv.conf). /etc/hosts
        /// comes before either. Both files are read again when they change.
        servers: Vec<SocketAddr> = "";

        /// A response is kept at least this long.
        min_ttl: Duration = "1s" in (100, DAY);

        /// A response is kept at most this long.
        max_ttl: Duration = "5m" in (SECOND, DAY);

        /// Limit for one query.
        timeout: Duration = "2s" in (10, MINUTE);
    }
}

impl Checked for DnsConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if self.max_ttl < self.min_ttl {
            reader.wrong(
                "max_ttl",
                "is shorter than min_ttl",
                "make it at least as long",
            );
        }
    }
}
