//! Connections to upstreams that speak HTTP/2, and requests on them.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Connection, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response};

use super::error::BoxError;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::h1::write_head::expects_content;
use crate::proxy::http::h2::keep_alive::{self, ActivityIo, Liveness, Patience};
use crate::proxy::http::h2::pump::{Pump, Upload};
use crate::proxy::http::h2::slots::{Slots, StreamSlot};
use crate::proxy::http::h2::stream_body::{ResponseResources, StreamBody};
use crate::proxy::http::h2::{SEND_BUFFER_BYTES, without_hop};
use crate::proxy::http::request_body::{RequestBody, StreamedRequest};
use crate::proxy::poll_when_woken::PollWhenWoken;

/// Bytes of one response that may wait at the proxy. The connection's window has room for all its
/// streams: clients that do not read their responses must not hold up those that do.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Largest header of a response in bytes: as generous as HTTP/1's.
const HEADER_BYTES_MAX: u32 = 256 << 10;
/// How long to wait for an upstream's first SETTINGS, which most send by themselves, before it gets
/// requests all the same.
const GREETING_MAX: Duration = Duration::from_millis(100);
/// How long an upstream that was silent has to respond to a ping.
const PONG_MAX: Duration = Duration::from_secs(10);

/// A connection that streams share.
#[derive(Clone, Debug)]
pub struct H2Connection {
    sender: SendRequest<Bytes>,
    state: Rc<Slots>,
    liveness: Rc<Liveness>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of the request was sent, or looked at.
    #[error("{source}")]
    Unsent {
        /// The reason.
        source: BoxError,
        /// The body as it was.
        body: RequestBody,
    },
    /// The upstream says that it has not looked at it (RFC 9113 section 8.7).
    #[error("{source}")]
    Refused {
        /// What it said.
        source: BoxError,
        /// The body from its beginning.
        body: RequestBody,
        /// It refused this request, and not all behind one.
        reset: bool,
    },
    /// The request cannot be expressed in HTTP/2.
    #[error("{0}")]
    Impossible(h2::Error),
    /// Something of it was sent.
    #[error("{0}")]
    Lost(h2::Error),
}

impl H2Connection {
    /// Opens HTTP/2 with the upstream; the connection runs by itself until nothing holds it any
    /// more. `most`: how many streams there will be at the same time.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn open(stream: UpstreamStream, most: u32) -> Result<Self, h2::Error> {
        let liveness = Rc::<Liveness>::default();
        let (sender, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(most as usize)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES * most)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .handshake::<_, Bytes>(ActivityIo::new(stream, &liveness))
            .await?;
        let state = Rc::<Slots>::default();
        tokio::task::spawn_local(run(connection, Rc::clone(&liveness), Rc::clone(&state)));
        // Its first frame says how many streams it takes; what is sent beyond that is refused, and
        // lost if it has a body.
        let _ = tokio::time::timeout(GREETING_MAX, liveness.greeted.notified()).await;
        Ok(Self {
            sender,
            state,
            liveness,
        })
    }

    /// Whether it takes no more requests, as far as is known.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// How many streams the upstream takes at the same time.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a request, once the upstream takes one more, and waits for the head of its response.
    /// `content` is the body where it is at hand. Dropping the future, or the response, resets the
    /// stream.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        mut self,
        mut request: Request<()>,
        content: Bytes,
        body: RequestBody,
    ) -> Result<Response<StreamBody>, SendError> {
        // Here and not in the connection: what waits there is lost with it, and sent although its
        // client has left.
        let Some(place) = self.place().await else {
            return Err(SendError::Unsent {
                source: "the connection has ended".into(),
                body,
            });
        };
        if let Err(source) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            self.state.close();
            return Err(SendError::Unsent {
                source: source.into(),
                body,
            });
        }
        without_hop(request.headers_mut());
        let length = match &body {
            RequestBody::AtHand => Some(content.len() as u64),
            RequestBody::Streamed(upload) => upload.length(),
        };
        if let Some(length) =
            length.filter(|length| *length > 0 || expects_content(request.method()))
        {
            request
                .headers_mut()
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(length));
        }
        let over = matches!(body, RequestBody::AtHand) && content.is_empty();
        let (response, stream) = match self.sender.send_request(request, over) {
            Ok(sent) => sent,
            Err(source)
                if source.is_io()
                    || source.is_go_away()
                    || source.is_reset()
                    || source.is_library() =>
            {
                self.state.close();
                return Err(SendError::Unsent {
                    source: source.into(),
                    body,
                });
            }
            Err(source) => return Err(SendError::Impossible(source)),
        };
        // Kept aside: what an upstream has not looked at can be sent again, as long as it is all
        // still there.
        let (again, body) = match body {
            RequestBody::AtHand => (None, StreamedRequest::AtHand(content)),
            RequestBody::Streamed(upload) => (upload.rewound(), StreamedRequest::Upload(upload)),
        };
        let streamed = matches!(body, StreamedRequest::Upload(_));
        let upload = if over {
            None
        } else {
            upload(Pump::of_upload(body, stream)).await
        };
        let response = response.await.map_err(|source| {
            let again = match again {
                Some(upload) => upload.rewound().map(RequestBody::Streamed),
                None => (!streamed).then_some(RequestBody::AtHand),
            };
            match again.filter(|_| is_untouched(&source)) {
                Some(body) => {
                    let reset = source.is_reset();
                    SendError::Refused {
                        source: source.into(),
                        body,
                        reset,
                    }
                }
                None => SendError::Lost(source),
            }
        });
        let (parts, stream) = response?.into_parts();
        self.liveness.answered.set(true);
        let resources = ResponseResources {
            upload,
            liveness: Rc::clone(&self.liveness),
            place,
        };
        let body = StreamBody::new(stream, &parts.headers, Some(resources));
        Ok(Response::from_parts(parts, body))
    }

    /// Waits for one. None: the connection ended.
    async fn place(&self) -> Option<StreamSlot> {
        loop {
            if self.state.closed.get() {
                return None;
            }
            if self.state.open.get() < self.streams_max() {
                self.state.open.set(self.state.open.get() + 1);
                return Some(StreamSlot(Rc::clone(&self.state)));
            }
            self.state.changed.notified().await;
        }
    }
}

/// Whether the upstream says that it has not looked at the request (RFC 9113 section 8.7): a stream
/// behind the last one that a GOAWAY names, or one refused.
fn is_untouched(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// What is there already goes at once; the rest, if any, beside the response.
async fn upload(mut pump: Pump<StreamedRequest>) -> Option<Upload> {
    match poll_fn(|cx| Poll::Ready(pump.poll(cx))).await {
        Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(error)) => {
            // The response tells what becomes of it.
            tracing::debug!(%error, "an upload ended early");
            None
        }
        Poll::Pending => Some(Upload::spawn(pump)),
    }
}

async fn run(
    mut connection: Connection<ActivityIo<UpstreamStream>, Bytes>,
    liveness: Rc<Liveness>,
    state: Rc<Slots>,
) {
    let ping_pong = connection.ping_pong();
    // Without streams nothing waits for it.
    let lost =
        keep_alive::keepalive_expired(ping_pong, Patience::Counts, PONG_MAX, &liveness, || {
            state.open.get() > 0
        });
    let (mut connection, mut lost) = (pin!(connection), pin!(PollWhenWoken::new(lost)));
    let mut streams_max = connection.max_concurrent_send_streams();
    let ended = poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => {
            let now = connection.max_concurrent_send_streams();
            if std::mem::replace(&mut streams_max, now) < now {
                // A request that waits for a slot may have one now.
                state.changed.notify_waiters();
            }
            lost.as_mut().poll(false, cx).map(|()| None)
        }
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "an upstream's connection ended"),
        None => tracing::debug!("an upstream does not respond to pings"),
    }
    state.close();
}
