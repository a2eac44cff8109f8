//! What comes in on a stream.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use hyper::body::Frame;

use crate::proxy::http::trailers::keep_trailing;

use crate::proxy::http::h2::keep_alive::Liveness;
use crate::proxy::http::h2::promised_length;
use crate::proxy::http::h2::pump::Upload;
use crate::proxy::http::h2::slots::StreamSlot;

/// The body of a message on a stream. Its sender may send on as it is read.
#[derive(Debug)]
pub struct StreamBody {
    stream: RecvStream,
    /// Bytes that are still to come, as far as the header said.
    left: Option<u64>,
    data_ended: bool,
    /// Of an upstream's response.
    resources: Option<ResponseResources>,
}

/// What an upstream's response holds to its end.
#[derive(Debug)]
pub struct ResponseResources {
    /// What still goes the other way on this stream; it ends with the response.
    pub upload: Option<Upload>,
    /// Noted with what comes in.
    pub liveness: Rc<Liveness>,
    /// Among the streams of the connection.
    pub place: StreamSlot,
}

/// Why one broke off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StreamBodyError(#[from] h2::Error);

impl StreamBodyError {
    /// What the other side was told, or told us.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.0.reason()
    }
}

impl StreamBody {
    /// The body behind a head with `headers`.
    #[must_use]
    pub fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        resources: Option<ResponseResources>,
    ) -> Self {
        Self {
            stream,
            left: promised_length(headers),
            data_ended: false,
            resources,
        }
    }

    /// Whether the request's body is still on its way, so that the instance may wait for that.
    #[must_use]
    pub fn uploads(&self) -> bool {
        self.resources
            .as_ref()
            .and_then(|resources| resources.upload.as_ref())
            .is_some_and(Upload::goes_on)
    }

    /// Whether nothing comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Bytes that are still to come, if the header said how many.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next frame.
    ///
    /// # Errors
    /// The stream was reset before its end, whatever the reset says, or its connection ended.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamBodyError>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)).transpose()? {
                Some(data) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    if let Some(resources) = &self.resources {
                        resources.liveness.answered.set(true);
                    }
                    // Fails only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => self.data_ended = true,
            }
        }
        let mut trailers = ready!(self.stream.poll_trailers(cx))?;
        if let Some(trailers) = &mut trailers {
            keep_trailing(trailers);
        }
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
