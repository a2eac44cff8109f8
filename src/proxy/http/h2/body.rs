//! What comes in on a stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http_body::Frame;

use super::promised_length;
use super::pump::Upload;

/// The body of a message on a stream. Its sender may send on as it is read.
#[derive(Debug)]
pub struct StreamBody {
    stream: RecvStream,
    /// Bytes that are still to come, as far as the header said.
    left: Option<u64>,
    data_ended: bool,
    /// What still goes the other way on this stream; it ends with this body.
    upload: Option<Upload>,
}

/// Why one broke off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StreamBodyError(#[from] h2::Error);

impl StreamBody {
    /// The body behind a head with `headers`. `upload`: what goes the other way.
    #[must_use]
    pub fn new(stream: RecvStream, headers: &HeaderMap, upload: Option<Upload>) -> Self {
        Self { stream, left: promised_length(headers), data_ended: false, upload }
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
    /// The stream was reset, or its connection ended. Only a server that ends an upload by a reset without an error (RFC 9113
    /// section 8.1) has said all it wanted, as far as nothing is missing that was promised.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamBodyError>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // Fails only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.is_missed(error).map(Err)),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => self.is_missed(error).map(Err),
        })
    }

    fn is_missed(&mut self, error: h2::Error) -> Option<StreamBodyError> {
        // Behind a whole upload a stream that has ended cannot be reset any more.
        let uploading = self.upload.as_ref().is_some_and(|upload| !upload.is_through());
        let whole = uploading && error.reason() == Some(Reason::NO_ERROR) && self.left.is_none_or(|left| left == 0);
        self.data_ended = true;
        (!whole).then_some(StreamBodyError(error))
    }
}
