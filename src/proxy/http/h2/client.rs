//! Connections to upstreams that speak HTTP/2, and requests on them.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;

use super::body::StreamBody;
use super::keep_alive::{self, Heard};
use super::pump::{Pump, Upload};
use super::without_hop;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::body::RequestBody;
use crate::proxy::pool::H2_SEND_BUFFER_BYTES;

/// Bytes of one answer that may wait at the proxy. The connection's window has room for all its streams: clients that
/// do not read their answers must not hold up those that do.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Largest header of an answer in bytes: as generous as HTTP/1's.
const HEADER_BYTES_MAX: u32 = 256 << 10;
/// How long an upstream that was silent has to answer a ping.
const PONG_MAX: Duration = Duration::from_secs(10);

/// A connection that streams share.
#[derive(Clone, Debug)]
pub struct Shared {
    sender: SendRequest<Bytes>,
    closed: Rc<Cell<bool>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct SendError {
    /// The reason.
    pub source: h2::Error,
    /// The body, if nothing of the request was sent.
    pub unsent: Option<RequestBody>,
}

impl Shared {
    /// Greets the upstream; the connection runs by itself until nobody holds it any more. `streams` counts those that are
    /// open, and `most` is how many there will be at the same time.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn open(stream: UpstreamStream, streams: &Rc<Cell<usize>>, most: u32) -> Result<Self, h2::Error> {
        let heard = Rc::new(Cell::new(false));
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(most as usize)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES * most)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(H2_SEND_BUFFER_BYTES)
            .handshake::<_, Bytes>(Heard::new(stream, &heard))
            .await?;
        let closed = Rc::new(Cell::new(false));
        tokio::task::spawn_local(run(connection, heard, Rc::clone(streams), Rc::clone(&closed)));
        Ok(Self { sender, closed })
    }

    /// Whether it takes no more requests, as far as is known.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Sends a request and waits for the head of its answer. Dropping the future, or the answer, resets the stream.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(mut self, request: Request<RequestBody>) -> Result<Response<StreamBody>, SendError> {
        let (mut parts, body) = request.into_parts();
        if let Err(source) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            self.closed.set(true);
            return Err(SendError { source, unsent: Some(body) });
        }
        without_hop(&mut parts.headers);
        if let Some(length) = body.size_hint().exact()
            && (length > 0 || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH))
        {
            parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        let over = body.is_end_stream();
        let (answer, stream) = match self.sender.send_request(Request::from_parts(parts, ()), over) {
            Ok(sent) => sent,
            Err(source) => {
                self.closed.set(true);
                return Err(SendError { source, unsent: Some(body) });
            }
        };
        let upload = if over { None } else { upload(Pump::of_upload(body, stream)).await };
        let (parts, stream) = answer.await.map_err(|source| SendError { source, unsent: None })?.into_parts();
        let body = StreamBody::new(stream, &parts.headers, upload);
        Ok(Response::from_parts(parts, body))
    }
}

/// What is there already goes at once; the rest, if any, beside the answer.
async fn upload(mut pump: Pump<RequestBody>) -> Option<Upload> {
    match poll_fn(|cx| Poll::Ready(pump.poll(cx))).await {
        Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(error)) => {
            // The answer tells what becomes of it.
            tracing::debug!(%error, "an upload ended early");
            None
        }
        Poll::Pending => Some(Upload::spawn(pump)),
    }
}

async fn run(
    mut connection: Connection<Heard<UpstreamStream>, Bytes>,
    heard: Rc<Cell<bool>>,
    streams: Rc<Cell<usize>>,
    closed: Rc<Cell<bool>>,
) {
    let ping_pong = connection.ping_pong();
    let lost = async {
        match ping_pong {
            // Without streams nobody waits for it.
            Some(ping_pong) => {
                keep_alive::lost(ping_pong, PONG_MAX, || heard.replace(false) || streams.get() == 0).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an upstream's connection ended");
            }
        }
        () = lost => tracing::debug!("an upstream does not answer pings"),
    }
    closed.set(true);
}
