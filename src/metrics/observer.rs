//! Where something else counts the traffic a second time, in a way of its own.
//!
//! The data path tells an observer what happens and does not know how it counts. Handles of targets
//! are found when a table is built, so a request only follows a pointer; without an observer it
//! looks at an empty option.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a connection or a request is, by the listener it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// HTTP.
    Http,
    /// TCP by port.
    Tcp,
    /// TLS by server name.
    Sni,
    /// gRPC.
    Grpc,
}

/// A target of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetLabels {
    /// Its service.
    pub service: Arc<str>,
    /// Host of the route; may be empty.
    pub host: Arc<str>,
    /// Path of the route; empty for TCP.
    pub path: Arc<str>,
    /// The target as a URL.
    pub target: Arc<str>,
}

/// Counts what happens to connections and requests. Called by all workers: nothing may block.
pub trait TrafficObserver: fmt::Debug + Send + Sync {
    /// The handle of a target, made at first use.
    fn target(&self, labels: TargetLabels) -> Arc<dyn TargetObserver>;
    /// These targets left the table. Called when the table without them is live.
    fn remove_targets(&self, gone: &HashSet<TargetLabels>);
    /// This service left the table.
    fn remove_service(&self, name: &str);
    /// A connection came in.
    fn connection(&self, traffic: Traffic);
    /// No target could be reached, or the client did not name one.
    fn failure(&self, traffic: Traffic);
    /// There was no route.
    fn no_route(&self, traffic: Traffic);
    /// A request got a redirect.
    fn redirect(&self, code: u16);
    /// A gRPC call is over, with this status (none: the server sent none).
    fn call(&self, status: Option<usize>, took: Duration);
    /// A connection was upgraded to another protocol.
    fn upgrade_opened(&self);
    /// An upgraded connection ended.
    fn upgrade_closed(&self);
}

/// Counts what happens at one target of a route.
pub trait TargetObserver: fmt::Debug + Send + Sync {
    /// An HTTP request that was forwarded here is over. Without a code: it ended as a tunnel, not
    /// with a response.
    fn request(&self, code: Option<u16>, took: Duration);
    /// A gRPC call that was forwarded here is over.
    fn call(&self, took: Duration);
    /// Bytes of a TCP connection: from the client, and to it.
    fn bytes(&self, from_client: u64, to_client: u64);
}

/// One upgraded connection, which is observed while it lives.
#[derive(Debug)]
pub struct OpenUpgrade(Arc<dyn TrafficObserver>);

impl OpenUpgrade {
    /// Tells the observer that it opened.
    #[must_use]
    pub fn new(observer: &Arc<dyn TrafficObserver>) -> Self {
        observer.upgrade_opened();
        Self(Arc::clone(observer))
    }
}

impl Drop for OpenUpgrade {
    fn drop(&mut self) {
        self.0.upgrade_closed();
    }
}
