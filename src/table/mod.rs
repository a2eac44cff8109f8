//! The routing table: immutable, shared by all workers, replaced whole.
//!
//! ```text
//! host ─ hosts ─┬ exact names: shards (hash)          path ─ paths ─ trie (longest prefix) ─ Route
//!               ├ globs: trie (literal end, reversed)                                         │
//!               └ any host                                         balancer picks ─ Target ─ TargetState
//! ```
//!
//! `build` makes the next table from the present one and shares all that did not change. Nothing here knows where
//! routes come from, and nothing here does I/O or reads a clock.

pub mod balancer;
pub mod build;
pub mod clock;
pub mod explain;
pub mod health;
mod hosts;
mod listing;
mod overlay;
mod paths;
pub mod publish;
pub mod route;
mod shards;
mod shares;
mod states;
pub mod target;
mod trie;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::catalog::tag::RouteKey;
use hosts::Hosts;

pub use balancer::{PickContext, PickState};
pub use build::{Admission, Contribution, TableBuilder};
pub use clock::Clock;
pub use explain::Explanation;
pub use publish::{SharedTable, TableReader};
pub use route::{Excluded, Route};
pub use target::{InFlight, Target, TargetState};

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
#[derive(Clone, Debug)]
pub struct RouteTable {
    hosts: Hosts,
    /// Few, and changed seldom: copied whole.
    tcp: Arc<HashMap<TcpKey, Arc<Route>, foldhash::fast::FixedState>>,
    len: usize,
}

/// Address (none: any) and port of a TCP route.
type TcpKey = (Option<IpAddr>, u16);

impl Default for RouteTable {
    fn default() -> Self {
        Self::new(Matcher::default())
    }
}

impl RouteTable {
    /// A table without routes.
    #[must_use]
    pub fn new(matcher: Matcher) -> Self {
        Self { hosts: Hosts::new(matcher), tcp: Arc::default(), len: 0 }
    }

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
        self.hosts.lookup(scheme, host, path, accept)
    }

    /// The route of a TCP listener: `IP:PORT` before `:PORT`.
    #[must_use]
    pub fn lookup_tcp(&self, local: SocketAddr) -> Option<&Arc<Route>> {
        // A dual-stack socket reports IPv4 peers' local address as ::ffff:a.b.c.d.
        let ip = local.ip().to_canonical();
        self.tcp.get(&(Some(ip), local.port())).or_else(|| self.tcp.get(&(None, local.port())))
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `route` at its place, or takes away what is there.
    fn set(&mut self, key: &RouteKey, route: Option<Arc<Route>>) {
        let growth = if key.path.is_empty() {
            let Some(tcp_key) = tcp_key(&key.host) else { return };
            let has = isize::from(route.is_some());
            let tcp = Arc::make_mut(&mut self.tcp);
            let old = match route {
                Some(route) => tcp.insert(tcp_key, route),
                None => tcp.remove(&tcp_key),
            };
            has - isize::from(old.is_some())
        } else {
            self.hosts.set(key, route)
        };
        self.len = self.len.saturating_add_signed(growth);
    }
}

fn tcp_key(host: &str) -> Option<TcpKey> {
    match host.strip_prefix(':') {
        Some(port) => Some((None, port.parse().ok()?)),
        None => host.parse().ok().map(|addr: SocketAddr| (Some(addr.ip().to_canonical()), addr.port())),
    }
}
