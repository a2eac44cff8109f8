//! Bodies as they come in, from whichever reader: a client's upload, or an upstream's answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::http::h2::stream_body::{StreamBody, StreamBodyError};
use crate::proxy::http::upstream::h1_body::{DirectBody, DirectBodyError};

/// A body that comes in.
#[derive(Debug)]
pub enum Source {
    /// HTTP/1.1, read by hyper.
    Hyper(Incoming),
    /// A stream of HTTP/2.
    Stream(StreamBody),
    /// An upstream's answer in HTTP/1.1, read byte by byte.
    Direct(Box<DirectBody>),
}

/// Why one broke off.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// As hyper tells it.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamBodyError),
    /// A connection read byte by byte.
    #[error(transparent)]
    Direct(#[from] DirectBodyError),
}

impl Body for Source {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(SourceError::Hyper),
            Self::Stream(body) => body.poll_next(cx).map_err(SourceError::Stream),
            Self::Direct(body) => body.poll_next(cx).map_err(SourceError::Direct),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_over(),
            Self::Direct(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            Self::Hyper(body) => return body.size_hint(),
            Self::Stream(body) => body.left(),
            Self::Direct(body) => body.left(),
        };
        left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
