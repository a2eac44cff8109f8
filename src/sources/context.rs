//! What a source may use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::dns::Dns;
use super::update::Update;
use crate::catalog::ServiceName;
use crate::journal::Journal;
use crate::metrics::Metrics;

/// A page for requests without a route; none: there is no such page.
pub type Page = Option<Bytes>;

/// What a source gets when it is started. It may keep clones of all of it.
#[derive(Clone)]
pub struct Context {
    /// Where it tells what it knows. Bounded: a full channel holds the source back. Closed once the
    /// control loop has ended: a source has nothing left to do then.
    pub updates: mpsc::Sender<Update>,
    /// Resolves names that the source itself dials. Names in updates are resolved behind it.
    pub dns: Arc<Dns>,
    /// Its counters; and the journal, see [`Context::journal`].
    pub metrics: Metrics,
    /// Where it puts the page for requests without a route, if it has one.
    pub no_route_page: watch::Sender<Page>,
    /// Services that tags and route commands, of whatever source, name beside their own (`fallback=`,
    /// `mirror=`): wanted although they may have no tag.
    pub named_services: watch::Receiver<Arc<BTreeSet<ServiceName>>>,
    /// What time it is: what `seen_at` of an update is measured with.
    pub now: fn() -> Instant,
}

impl Context {
    /// Where it says how fresh its knowledge is, and what went wrong.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        self.metrics.journal()
    }
}

#[cfg(test)]
impl Context {
    /// One for tests of a source.
    pub(crate) fn telling(updates: mpsc::Sender<Update>, metrics: Metrics) -> Self {
        Self {
            updates,
            dns: Arc::new(Dns::new(&crate::config::DnsConfig::default())),
            metrics,
            no_route_page: watch::Sender::new(None),
            named_services: watch::Sender::default().subscribe(),
            now: Instant::now,
        }
    }
}
