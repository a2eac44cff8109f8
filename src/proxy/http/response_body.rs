//! Bodies of responses on their way to clients.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use hyper::body::{Body, Frame, SizeHint};

use super::compression::{Compressed, Failed};
use super::h2::pump::ResetReason;
use super::h2::stream_body::{StreamBody, StreamBodyError};
use super::record::RequestRecord;
use super::upstream::h1_body::{H1ResponseBody, H1ResponseBodyError};
use super::upstream::quiet::{FELL_SILENT, QuietClock};
use crate::proxy::error::ProxyError;

/// What an instance sends behind the head of a response.
#[derive(Debug)]
pub struct UpstreamBody {
    source: Source,
    /// None: it may pause without end.
    quiet: Option<QuietClock>,
}

#[derive(Debug)]
enum Source {
    /// In HTTP/1.
    H1(Box<H1ResponseBody>),
    /// On a stream of HTTP/2.
    Stream(StreamBody),
}

impl UpstreamBody {
    /// One in HTTP/1 whose instance may pause for `quiet_max` (none: without end).
    #[must_use]
    pub fn h1(body: Box<H1ResponseBody>, quiet_max: Option<Duration>) -> Self {
        Self {
            source: Source::H1(body),
            quiet: quiet_max.map(QuietClock::new),
        }
    }

    /// Whether its connection can be used again only when all of it is read.
    #[must_use]
    pub fn keeps_connection(&self) -> bool {
        matches!(self.source, Source::H1(_))
    }

    /// The same on a stream of HTTP/2.
    #[must_use]
    pub fn stream(body: StreamBody, quiet_max: Option<Duration>) -> Self {
        Self {
            source: Source::Stream(body),
            quiet: quiet_max.map(QuietClock::new),
        }
    }
}

/// Why it broke off.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamBodyError {
    /// In HTTP/1.
    #[error(transparent)]
    H1(#[from] H1ResponseBodyError),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamBodyError),
    /// Neither data nor an end came.
    #[error("{FELL_SILENT}")]
    Silent,
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let Self { source, quiet } = self.get_mut();
        let (polled, (uploads, sent)) = match source {
            Source::H1(body) => (
                body.poll_next(cx).map_err(UpstreamBodyError::H1),
                body.uploads(),
            ),
            Source::Stream(body) => (
                body.poll_next(cx).map_err(UpstreamBodyError::Stream),
                (body.uploads(), 0),
            ),
        };
        let Some(quiet) = quiet else { return polled };
        if polled.is_ready() || uploads {
            quiet.stop();
            return polled;
        }
        quiet
            .poll_waiting(sent, cx)
            .map(|()| Some(Err(UpstreamBodyError::Silent)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::H1(body) => body.is_over(),
            Source::Stream(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.source {
            Source::H1(body) => body.left(),
            Source::Stream(body) => body.left(),
        };
        left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// Made here: an error text, a page, nothing.
    Own {
        /// Taken at the first poll.
        data: Bytes,
        /// Ends the request's record; none when it is ended already.
        finish: Option<Box<RequestRecord>>,
    },
    /// The upstream's.
    Upstream {
        /// What was taken of it before.
        first: Option<Frame<Bytes>>,
        /// What the upstream sends.
        body: UpstreamBody,
        /// Gives the connection back, counts and logs: at the end of the body, or when it is
        /// dropped before.
        finish: Box<RequestRecord>,
    },
    /// The upstream's, compressed.
    Compressed {
        /// What comes of it.
        body: Box<Compressed<UpstreamBody>>,
        /// As above.
        finish: Box<RequestRecord>,
    },
}

impl ResponseBody {
    /// Ends the record of a response that its client does not take, or in the middle of whose
    /// upload it has stopped.
    pub fn stalled(self) {
        let finish = match self {
            Self::Own { finish, .. } => finish,
            Self::Upstream { finish, .. } | Self::Compressed { finish, .. } => Some(finish),
        };
        if let Some(mut finish) = finish {
            finish.abort(
                ProxyError::ClientStalled.class(),
                &ProxyError::ClientStalled,
            );
        }
    }

    /// Ends the record of a response whose body is not wanted.
    pub fn leave_out(self) {
        let finish = match self {
            Self::Own { finish, .. } => finish,
            Self::Upstream { finish, .. } | Self::Compressed { finish, .. } => Some(finish),
        };
        if let Some(mut finish) = finish {
            finish.complete();
        }
    }
}

/// Why the body of a response broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream did.
    #[error("the upstream broke off: {0}")]
    Upstream(#[from] UpstreamBodyError),
    /// It could not be compressed.
    #[error("cannot compress: {0}")]
    Encoder(io::Error),
    /// It took too long.
    #[error("{0}")]
    Overdue(ProxyError),
    /// The client left.
    #[error("the client left")]
    ClientGone,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if let Self::Upstream { finish, .. } | Self::Compressed { finish, .. } = this
            && finish.is_overdue(cx)
        {
            let error = BodyError::Overdue(ProxyError::RequestTimeout);
            finish.abort(ProxyError::RequestTimeout.class(), &error);
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
            Self::Upstream {
                first,
                body,
                finish,
            } => {
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
                    Poll::Ready(Some(Err(error))) => finish.abort("upstream_body", error),
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
                let taken = first
                    .as_ref()
                    .and_then(Frame::data_ref)
                    .map_or(0, Bytes::len) as u64;
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
    body: &mut Compressed<UpstreamBody>,
    finish: &mut RequestRecord,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = body.poll_next(cx).map_err(|broken| match broken {
        Failed::Source(error) => BodyError::Upstream(error),
        Failed::Encoder(error) => BodyError::Encoder(error),
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
        Poll::Ready(Some(Err(error))) => finish.abort("upstream_body", error),
        Poll::Pending => {}
    }
    polled
}

impl ResetReason for UpstreamBodyError {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Stream(error) => error.reason().filter(|reason| *reason != Reason::NO_ERROR),
            Self::H1(_) | Self::Silent => None,
        }
    }
}

impl ResetReason for BodyError {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Upstream(error) => error.reason(),
            Self::Encoder(_) | Self::Overdue(_) | Self::ClientGone => None,
        }
    }
}
