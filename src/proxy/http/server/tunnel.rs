//! After a 101 (Switching Protocols): bytes both ways, until one side has had enough.

use std::rc::Rc;
use std::sync::Arc;

use super::downstream::Downstream;
use crate::metrics::ServiceMetrics;
use crate::metrics::observer::OpenUpgrade;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::client_io::ClientStream;
use crate::proxy::http::prefixed::Prefixed;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::session::{Tunnelled, pump_until_cut};
use crate::proxy::worker::Worker;
use crate::table::{Target, TargetState};

/// A tunnel that waits for its client side. The request ends (is counted and logged) with the
/// tunnel.
#[derive(Debug)]
pub struct Tunnel {
    upstream: Prefixed<UpstreamStream>,
    /// What the client sent behind its request.
    ahead: Vec<u8>,
    state: Arc<TargetState>,
    service: Arc<ServiceMetrics>,
    finish: Box<RequestRecord>,
    _open: Option<OpenUpgrade>,
}

impl Tunnel {
    /// A tunnel to `target`, which sent `early` behind its 101; `ahead` is what the client sent
    /// behind its request.
    #[must_use]
    pub fn new(
        downstream: &Rc<Downstream>,
        target: &Target,
        upstream: UpstreamStream,
        early: Vec<u8>,
        ahead: Vec<u8>,
        finish: Box<RequestRecord>,
    ) -> Self {
        Self {
            upstream: Prefixed::new(early, upstream),
            ahead,
            state: Arc::clone(&target.state),
            service: Arc::clone(&target.service),
            finish,
            _open: downstream.listener.observer.as_ref().map(OpenUpgrade::new),
        }
    }

    /// Runs to the end of both sides.
    pub async fn run(mut self, worker: &Rc<Worker>, client: ClientStream) {
        let idle = worker.settings().proxy.tcp_idle_timeout;
        // The observer is told of the bytes of TCP alone.
        let to = Tunnelled {
            state: &self.state,
            service: &self.service,
            observer: None,
        };
        let client = Prefixed::new(self.ahead, client);
        let pumped = pump_until_cut(worker, client, self.upstream, to, idle).await;
        self.finish.tunnelled(pumped.bytes_out);
    }
}
