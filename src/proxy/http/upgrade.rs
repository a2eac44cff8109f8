//! After a 101: bytes both ways, until one side has had enough.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::ResponseBody;
use super::connection::Downstream;
use super::record::Finish;
use crate::proxy::session::pump_until_cut;
use crate::proxy::worker::Worker;
use crate::table::Target;

/// Passes the 101 on and starts the tunnel behind it. The request ends (is counted and logged) with the tunnel.
pub fn tunnel(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    target: &Target,
    client: OnUpgrade,
    mut response: Response<Incoming>,
    mut finish: Box<Finish>,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    // What the client sends from now on is not HTTP any more.
    downstream.watch.pass_through();
    let worker = Rc::clone(worker);
    let state = Arc::clone(&target.state);
    let service = Arc::clone(&target.service);
    tokio::task::spawn_local(async move {
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade broke off");
                return;
            }
        };
        let bytes_out =
            pump_until_cut(&worker, TokioIo::new(client), TokioIo::new(upstream), &state, &service).await;
        finish.tunnelled(bytes_out);
    });
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, ResponseBody::Own { data: Bytes::new(), finish: None })
}
