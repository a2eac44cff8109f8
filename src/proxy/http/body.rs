//! Bodies as they pass through: no boxing, no buffering beyond a first piece; back-pressure is that of the two connections.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::error::ProxyError;
use crate::proxy::http::compression::{Broken, Compressed};
use crate::proxy::http::record::Finish;
use crate::proxy::http::source::{Source, SourceError};

/// How far the upload of a request body is; shared between the body and the exchange that watches the clock.
#[derive(Debug, Default)]
pub struct UploadProgress {
    /// Process clock (ms) of the last frame taken from the client.
    pub last_ms: Cell<u64>,
    /// The whole body was taken.
    pub done: Cell<bool>,
    /// The client broke off inside the body.
    pub broken: Cell<bool>,
    /// The upstream would take more, but the client has not sent it yet.
    pub waits_for_client: Cell<bool>,
    /// Bytes so far.
    pub bytes: Cell<u64>,
}

/// The body of a request on its way to the upstream.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// None: can be made again at will, which is what makes a retry possible.
    #[default]
    Empty,
    /// The client's.
    Incoming {
        /// What the client sends.
        body: Source,
        /// Noted for deadlines and metrics.
        progress: Rc<UploadProgress>,
        /// Present time; read once per frame.
        clock: crate::table::clock::Clock,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Self::Incoming { body, progress, clock } = self.get_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        progress.waits_for_client.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                progress.last_ms.set(clock.now_ms());
                if let Some(data) = frame.data_ref() {
                    progress.bytes.set(progress.bytes.get() + data.len() as u64);
                }
                // Of a body of known length nobody asks for the end.
                if body.is_end_stream() {
                    progress.done.set(true);
                }
            }
            Poll::Ready(None) => progress.done.set(true),
            Poll::Ready(Some(Err(_))) => {
                progress.done.set(true);
                progress.broken.set(true);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming { body, .. } => body.size_hint(),
        }
    }
}

/// The body of an answer on its way to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// Made here: an error text, a page, nothing.
    Own {
        /// Taken at the first poll.
        data: Bytes,
        /// Ends the request's record; none when it is ended already.
        finish: Option<Box<Finish>>,
    },
    /// The upstream's.
    Upstream {
        /// What was taken of it before.
        first: Option<Frame<Bytes>>,
        /// What the upstream sends.
        body: Source,
        /// Gives the connection back, counts and logs: at the end of the body, or when it is dropped before.
        finish: Box<Finish>,
    },
    /// The upstream's, compressed.
    Compressed {
        /// What comes of it.
        body: Box<Compressed<Source>>,
        /// As above.
        finish: Box<Finish>,
    },
}

impl ResponseBody {
    /// Ends the record of an answer whose body, made here, is not wanted.
    pub fn leave_out(self) {
        if let Self::Own { finish: Some(mut finish), .. } = self {
            finish.complete();
        }
    }
}

/// Why the body of an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream did.
    #[error("the upstream broke off: {0}")]
    Upstream(#[from] SourceError),
    /// It could not be compressed.
    #[error("cannot compress: {0}")]
    Encoder(io::Error),
    /// It took too long.
    #[error("{0}")]
    Overdue(ProxyError),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if let Self::Upstream { finish, .. } | Self::Compressed { finish, .. } = this
            && finish.is_overdue(cx)
        {
            let error = BodyError::Overdue(ProxyError::RequestTimeout);
            finish.broke(ProxyError::RequestTimeout.class(), &error);
            return Poll::Ready(Some(Err(error)));
        }
        match this {
            Self::Own { data, finish } => {
                let frame = std::mem::take(data);
                if let Some(finish) = finish.as_mut() {
                    finish.add_bytes(frame.len());
                    finish.complete();
                }
                Poll::Ready((!frame.is_empty()).then(|| Ok(Frame::data(frame))))
            }
            Self::Upstream { first, body, finish } => {
                let polled = match first.take() {
                    Some(first) => Poll::Ready(Some(Ok(first))),
                    None => Pin::new(&mut *body).poll_frame(cx),
                };
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(data) = frame.data_ref() {
                            finish.add_bytes(data.len());
                        } else if let Some(trailers) = frame.trailers_ref() {
                            finish.metadata(trailers);
                        }
                        if body.is_end_stream() {
                            finish.complete();
                        }
                    }
                    Poll::Ready(None) => finish.complete(),
                    Poll::Ready(Some(Err(error))) => finish.broke("upstream_body", error),
                    Poll::Pending => {}
                }
                polled.map_err(BodyError::Upstream)
            }
            Self::Compressed { body, finish } => poll_compressed(body, finish, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { data, .. } => data.is_empty(),
            Self::Upstream { first, body, .. } => first.is_none() && body.is_end_stream(),
            Self::Compressed { body, .. } => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { data, .. } => SizeHint::with_exact(data.len() as u64),
            Self::Upstream { first, body, .. } => {
                let taken = first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
                let rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + taken);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + taken);
                }
                hint
            }
            Self::Compressed { .. } => SizeHint::new(),
        }
    }
}

fn poll_compressed(
    body: &mut Compressed<Source>,
    finish: &mut Finish,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = body.poll_next(cx).map_err(|broken| match broken {
        Broken::Source(error) => BodyError::Upstream(error),
        Broken::Encoder(error) => BodyError::Encoder(error),
    });
    match &polled {
        Poll::Ready(Some(Ok(frame))) => {
            if let Some(data) = frame.data_ref() {
                finish.add_bytes(data.len());
            }
            if body.is_over() {
                finish.complete();
            }
        }
        Poll::Ready(None) => finish.complete(),
        Poll::Ready(Some(Err(error))) => finish.broke("upstream_body", error),
        Poll::Pending => {}
    }
    polled
}
