//! After a 101: bytes both ways, until one side has had enough.
//!
//! The exchange leaves a [`Tunnel`] with the client's connection and passes the 101 on. When hyper has written it,
//! the connection's driver takes the socket back from hyper and runs the tunnel.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use crate::metrics::ServiceMetrics;
use crate::metrics::fabio::OpenWebsocket;
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::record::Finish;
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::source::Source;
use crate::proxy::session::{Tunnelled, pump_until_cut};
use crate::proxy::splice::Stream;
use crate::proxy::worker::Worker;
use crate::table::{Target, TargetState};

/// A tunnel that waits for its client side.
#[derive(Debug)]
pub struct Tunnel {
    upstream: OnUpgrade,
    state: Arc<TargetState>,
    service: Arc<ServiceMetrics>,
    finish: Box<Finish>,
    _open: Option<OpenWebsocket>,
}

/// Passes the 101 on and leaves the tunnel behind it. The request ends (is counted and logged) with the tunnel.
pub fn switch(
    downstream: &Rc<Downstream>,
    target: &Target,
    mut response: Response<Source>,
    finish: Box<Finish>,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    // What the client sends from now on is not HTTP any more.
    downstream.watch.pass_through();
    let (state, service) = (Arc::clone(&target.state), Arc::clone(&target.service));
    let open = downstream.listener.fabio.as_ref().map(OpenWebsocket::new);
    downstream.tunnel.set(Some(Box::new(Tunnel { upstream, state, service, finish, _open: open })));
    response.map(|_no_body| ResponseBody::Own { data: Bytes::new(), finish: None })
}

impl Tunnel {
    /// Runs to the end of both sides. `ahead` is what the client sent before the stream changed hands.
    pub async fn run<T>(mut self, worker: &Rc<Worker>, client: T, ahead: Bytes)
    where
        T: Stream,
    {
        let upstream = match self.upstream.await {
            Ok(upstream) => upstream,
            Err(error) => return tracing::debug!(%error, "the upstream broke off its upgrade"),
        };
        let mut upstream = TokioIo::new(upstream);
        if let Err(error) = upstream.write_all(&ahead).await {
            return tracing::debug!(%error, "the upstream broke off its upgrade");
        }
        let idle = worker.settings().proxy.tcp_idle_timeout;
        // Fabio counts bytes per target for TCP alone.
        let to = Tunnelled { state: &self.state, service: &self.service, series: None };
        let pumped = pump_until_cut(worker, client, upstream, to, idle).await;
        self.finish.tunnelled(pumped.bytes_out);
    }
}
