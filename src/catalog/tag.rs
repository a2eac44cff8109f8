//! The grammar of route tags (`urlprefix-host/path opts`).

use super::options::RouteOptions;

/// Where a route stands: an HTTP place, or a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Lower-case host, possibly with port or glob characters; empty for any host. TCP routes: `:PORT` or `IP:PORT`.
    pub host: String,
    /// Path, beginning with `/`; empty for TCP routes.
    pub path: String,
}

/// One parsed route tag.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Where.
    pub key: RouteKey,
    /// What.
    pub options: RouteOptions,
}
