//! The routing table: immutable, shared by all workers, replaced whole.

pub mod balancer;
pub mod health;
pub mod publish;
pub mod route;
pub mod target;

use std::net::SocketAddr;
use std::sync::Arc;

pub use publish::{SharedTable, TableReader};
pub use route::{Excluded, Route};
pub use target::{Target, TargetState};

/// How request paths are compared with route paths (`proxy.matcher`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matcher {
    /// The path starts with the route's path, as text.
    #[default]
    Prefix,
    /// The same, ignoring case.
    IPrefix,
    /// The whole path against a glob.
    Glob,
}

/// Which default port is cut from the host before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain listener: `:80` is cut.
    Http,
    /// TLS listener: `:443` is cut.
    Https,
}

/// An immutable table. A clone is a few pointers; the next table shares all that did not change.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {}

impl RouteTable {
    /// The route for a request: hosts by Fabio's precedence, then the longest path.
    ///
    /// `host` as received (any case, maybe with port), `path` normalised. `accept` can refuse a candidate (a
    /// redirect to itself), and the next host is tried.
    pub fn lookup(
        &self,
        scheme: Scheme,
        host: &str,
        path: &str,
        accept: impl FnMut(&Route) -> bool,
    ) -> Option<&Arc<Route>> {
        let _ = (scheme, host, path, accept);
        None
    }

    /// The route of a TCP listener: `IP:PORT` before `:PORT`.
    #[must_use]
    pub fn lookup_tcp(&self, local: SocketAddr) -> Option<&Arc<Route>> {
        let _ = local;
        None
    }
}
