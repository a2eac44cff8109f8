//! Where a request goes, and whether it is carried here at all.

use std::sync::Arc;

use http::HeaderMap;

use crate::catalog::options::{Access, HashKey, Proto, Strategy};
use crate::proxy::http::exchange::hash_of;
use crate::proxy::http::h1::request_head::RequestHead;
use crate::proxy::http::h1::write_head::Received;
use crate::proxy::http::headers::ClientContext;
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::worker::Worker;
use crate::table::{Route, Target};

/// What was found out about a request.
#[derive(Debug)]
pub struct Plan {
    /// Its route.
    pub route: Arc<Route>,
    /// For routes that go by a hash.
    pub hash: u64,
    /// The path was compared as it came: nothing in it is encoded, or was cleaned.
    pub as_it_came: bool,
}

impl Plan {
    /// The plan for a request; none: there is no route for it, or one that may answer by itself.
    #[must_use]
    pub fn of(worker: &Worker, downstream: &Downstream, received: &Received<'_>) -> Option<Self> {
        if downstream.is_elsewhere(received.host()) {
            return None;
        }
        let host = received.head.host.text(received.bytes);
        let mut redirects = false;
        let accept = |route: &Route| {
            // A redirect to itself lets the next host be tried: not decided here.
            redirects |= route.targets.first().is_some_and(|target| target.options.redirect.is_some());
            true
        };
        let route =
            worker.table.borrow_mut().load().lookup(downstream.scheme, host, &received.path.decoded, accept).cloned();
        let route = route.filter(|_| !redirects)?;
        let hash = match &route.strategy {
            Strategy::Hash(HashKey::Header(_) | HashKey::Cookie(_)) => {
                hash_of(&route.strategy, downstream, &received.map(), &received.path.decoded)
            }
            strategy => hash_of(strategy, downstream, &HeaderMap::new(), &received.path.decoded),
        };
        Some(Self { route, hash, as_it_came: received.path.is_as_it_came() })
    }
}

/// Whether a request can be carried to `target`: in HTTP/1, and with nothing to decide but what the client's address
/// decides alone.
#[must_use]
pub fn carries(target: &Target, client: &ClientContext, head: &RequestHead) -> bool {
    let options = &*target.options;
    let open = options.access == Access::Open || (!head.mapped && options.access.permits(client.ip()));
    matches!(options.proto, Proto::Http | Proto::Https) && open && options.auth.is_none() && options.redirect.is_none()
}

/// Whether it can be carried to each of them. Most share their options.
#[must_use]
pub fn all_carried(targets: &[Target], client: &ClientContext, head: &RequestHead) -> bool {
    let mut seen: Option<&Target> = None;
    targets.iter().all(|target| {
        let known = seen.is_some_and(|seen| Arc::ptr_eq(&seen.options, &target.options));
        seen = Some(target);
        known || carries(target, client, head)
    })
}
