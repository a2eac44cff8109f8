//! Responses of instances whose content a page takes the place of (`error_pages`).

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::Body as _;
use tokio::time::timeout;

use crate::proxy::http::decide::Incoming;
use crate::proxy::http::headers;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::response_body::UpstreamBody;
use crate::proxy::http::upstream::response::{Streamed, UpstreamResponse};
use crate::table::Target;

/// How much of the content that is not wanted is read, and how long that may take, so that its
/// connection can be used again.
const DRAINED_BYTES_MAX: u64 = 64 << 10;
const DRAINED_FOR_MAX: Duration = Duration::from_secs(2);

/// The response without its content, where a page takes its place: it is put in with the rest of
/// what the route does to responses made here. None: the response is passed on as it is.
pub(crate) fn replaced(
    incoming: &Incoming<'_>,
    found: &mut Option<UpstreamResponse>,
    target: &Target,
    finish: &mut RequestRecord,
) -> Option<Response<Bytes>> {
    let status = found.as_ref()?.status();
    finish.page(&incoming.settings.error_pages, status)?;
    let Streamed {
        response,
        stream,
        in_flight,
        took,
        ..
    } = found.take()?.into_streamed(incoming.worker, &target.state);
    finish.set_response(target, status, in_flight, stream, took);
    let (parts, body) = response.into_parts();
    if finish.is_uploaded() {
        leave(body);
    }
    let mut response = Response::new(Bytes::new());
    (*response.status_mut(), *response.headers_mut()) = (parts.status, parts.headers);
    headers::prepare_response(
        response.headers_mut(),
        &incoming.downstream.client,
        &incoming.settings.header_rules,
        false,
    );
    Some(response)
}

/// Reads what is left of a body in the background; its connection is given back at its end. A long
/// one, one that takes long and a stream of HTTP/2 are broken off.
fn leave(mut body: UpstreamBody) {
    let left = body.size_hint().exact();
    if body.is_end_stream() || !body.keeps_connection() || left > Some(DRAINED_BYTES_MAX) {
        return;
    }
    tokio::task::spawn_local(timeout(DRAINED_FOR_MAX, async move {
        let mut read = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > DRAINED_BYTES_MAX || body.is_end_stream() {
                break;
            }
        }
    }));
}
