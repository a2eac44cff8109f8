//! Copies of requests for another service (`mirror=`). Nothing about them is worth a delay of the
//! request that is copied, a retry, or a word to its client.
//!
//! A copy is made once an instance has responded: then all limits of the route have let the request
//! pass, and its body, if that is short, has gone through. From there on a task of its own sends it
//! and throws the response away. How many there are at once, and how much they hold, is bounded for
//! each worker; what does not fit is dropped and counted.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Body as _;
use tokio::time::timeout;

use super::head::Content;
use super::request_body::{RequestBody, Upload};
use super::upstream::exchange::Exchange;
use super::upstream::h1::{H1Connection, PendingResponse};
use super::upstream::h1_send::RequestWriter;
use super::upstream::response::{H2Response, UpstreamResponse};
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::{InFlight, RouteMirror, Target};

/// How long one may take, connect and response included.
const COPY_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a response that are read, so that its connection can be used again.
const RESPONSE_MAX: u64 = 1 << 20;

/// A request that may be copied: its body from its beginning, where that is still coming.
#[derive(Debug)]
pub struct Original(Option<Upload>);

impl Original {
    /// What a copy of this exchange, which is about to send `body`, will need; none where its route
    /// has no mirrors.
    #[must_use]
    pub fn of(exchange: &Exchange<'_>, body: &RequestBody) -> Option<Self> {
        if exchange.forward.route.mirrors.is_empty() {
            return None;
        }
        Some(Self(match body {
            RequestBody::AtHand => None,
            RequestBody::Streamed(upload) => upload.rewound(),
        }))
    }

    /// Sends a copy to the mirror of `target`, which has responded, if it has one and it is this
    /// request's turn.
    #[cold]
    pub fn copy(self, exchange: &Exchange<'_>, target: &Target) {
        let incoming = exchange.incoming;
        let mirrors = &exchange.forward.route.mirrors;
        let Some(mirror) = mirrors.iter().find(|mirror| mirror.is_of(target)) else {
            return;
        };
        // A tunnel is not a request with a response.
        if incoming.head.upgrade.is_some() || !mirror.takes_next() {
            return;
        }
        mirror.service.mirrored.fetch_add(1, Relaxed);
        match self.sending(exchange, mirror) {
            Ok(sending) => drop(tokio::task::spawn_local(Box::pin(sending))),
            Err(why) => dropped(mirror, &why),
        }
    }

    /// What sends the copy.
    fn sending(
        self,
        exchange: &Exchange<'_>,
        mirror: &RouteMirror,
    ) -> Result<impl Future<Output = ()> + use<>, String> {
        let incoming = exchange.incoming;
        let worker = incoming.worker;
        let target = mirror.next(worker.clock.now_ms());
        let target = target.ok_or("none of its instances may serve")?.clone();
        let body = self.body(incoming.head.content);
        let body = body.ok_or("the body is longer than 64 KiB, or had not come to its end")?;
        let message = if target.options.proto.is_h2() {
            let request = exchange.h2_request(&target);
            Message::H2(Box::new(request.map_err(|error| error.to_string())?), body)
        } else {
            let mut bytes = exchange.h1_head(&target)?;
            put_body(&mut bytes, incoming.head.content, &body);
            Message::H1(bytes, incoming.head.method.clone())
        };
        let place = worker.copies.enter(message.length());
        let place = place.ok_or("too many copies are under way")?;
        let (worker, settings) = (Rc::clone(worker), Arc::clone(incoming.settings));
        Ok(async move {
            let _place = place;
            let sent = timeout(COPY_TIME_MAX, message.send(&worker, &settings, &target)).await;
            let why = match sent {
                Ok(Ok(())) => return,
                Ok(Err(why)) => why,
                Err(_) => "it did not respond in time".to_owned(),
            };
            target.service.mirror_dropped.fetch_add(1, Relaxed);
            tracing::debug!(service = %target.service.name(), why, "a copy of a request was dropped");
        })
    }

    /// All of the body; none if it is too long, or is not all there.
    fn body(&self, content: Content<'_>) -> Option<Bytes> {
        match content {
            Content::Whole(content) => Some(Bytes::copy_from_slice(content)),
            Content::Streamed(_) => self.0.as_ref()?.whole(),
        }
    }
}

fn dropped(mirror: &RouteMirror, why: &str) {
    mirror.service.mirror_dropped.fetch_add(1, Relaxed);
    tracing::debug!(service = %mirror.service.name(), why, "a copy of a request was dropped");
}

/// Puts the body behind its head, which announces it as the instance was told.
fn put_body(out: &mut Vec<u8>, content: Content<'_>, body: &[u8]) {
    if content != Content::Streamed(None) {
        out.extend_from_slice(body);
        return;
    }
    if !body.is_empty() {
        super::h1::chunked::put_size(out, body.len());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

/// A copy, as it is sent.
enum Message {
    /// Head and body.
    H1(Vec<u8>, Method),
    /// The same apart.
    H2(Box<Request<()>>, Bytes),
}

impl Message {
    fn length(&self) -> usize {
        match self {
            Self::H1(bytes, _) => bytes.len(),
            Self::H2(request, body) => {
                let fields = request.headers().iter();
                let fields: usize = fields
                    .map(|(name, value)| name.as_str().len() + value.len() + 32)
                    .sum();
                fields + body.len()
            }
        }
    }

    /// Sends it, and reads what comes back to its end.
    async fn send(
        self,
        worker: &Rc<Worker>,
        settings: &Settings,
        target: &Target,
    ) -> Result<(), String> {
        let response = match self {
            Self::H1(bytes, method) => {
                let to = H1Connection::to(target, worker, settings, false, true).await;
                let connection = to.map_err(|error| error.to_string())?;
                let outgoing =
                    RequestWriter::new(bytes, b"", RequestBody::AtHand, &connection.stream);
                let pending =
                    PendingResponse::new(worker, connection, outgoing, method, false, target, None);
                let response = pending.response().await;
                UpstreamResponse::H1(response.map_err(|error| error.to_string())?)
            }
            Self::H2(request, body) => {
                let response = send_h2(*request, body, worker, settings, target).await?;
                UpstreamResponse::H2(Box::new(response))
            }
        };
        discard(response, worker, target).await;
        Ok(())
    }
}

async fn send_h2(
    request: Request<()>,
    body: Bytes,
    worker: &Rc<Worker>,
    settings: &Settings,
    target: &Target,
) -> Result<H2Response, String> {
    let key = PoolKey::of(target, &settings.client_certificates);
    let now_ms = worker.clock.now_ms();
    let in_flight = InFlight::new(Arc::clone(&target.state));
    let (shared, stream) = match worker.pool.checkout_h2(&key, now_ms) {
        Some(connection) => connection,
        None => {
            let opened = Box::pin(worker.pool.open_h2(&key, target, settings, now_ms)).await;
            opened.map_err(|error| error.to_string())?
        }
    };
    let sent = shared.send(request, body, RequestBody::AtHand).await;
    let response = sent.map_err(|error| format!("{error:?}"))?;
    Ok(H2Response {
        response,
        first: None,
        stream,
        in_flight,
        took: Duration::ZERO,
    })
}

/// Reads a response to its end, so that its connection can be used again; one that is long is cut.
async fn discard(response: UpstreamResponse, worker: &Rc<Worker>, target: &Target) {
    let streamed = response.into_streamed(worker, &target.state);
    let mut body = pin!(streamed.response.into_body());
    let mut left = RESPONSE_MAX;
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_framed_as_their_heads_say() {
        for (content, body, expected) in [
            (Content::Whole(b"ab"), "ab", "ab"),
            (Content::Streamed(Some(2)), "ab", "ab"),
            (Content::Streamed(None), "ab", "2\r\nab\r\n0\r\n\r\n"),
            (Content::Streamed(None), "", "0\r\n\r\n"),
        ] {
            let mut out = Vec::new();
            put_body(&mut out, content, body.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
