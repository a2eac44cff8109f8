//! Why an attempt at an instance failed, and what that means for the next one.

use std::time::Duration;

use crate::metrics::service::RetryReason;
use crate::proxy::connect::ConnectError;
use crate::proxy::http::request_body::RequestBody;

/// How long the head of a response is held until the first of its body is there. A process that is
/// stopped between writing the two is gone within a millisecond on a quiet machine; on one where an
/// update starts and stops a dozen at once it waits for its turn on a processor, 100 ms and more.
pub(crate) const HEAD_HELD_MAX: Duration = Duration::from_secs(1);

/// An error of whichever way the attempt was made.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError<B = RequestBody> {
    /// No connection: nothing was sent.
    #[error("{source}")]
    Connect {
        /// Why.
        source: ConnectError,
        /// The request's body, untouched.
        body: B,
    },
    /// The connection ended before any byte of a response, or after its head alone.
    #[error("connection closed before a response: {source}")]
    Closed {
        /// What ended it.
        source: BoxError,
        /// It had served requests before: the instance may be well.
        reused: bool,
        /// The request's body, if it was provably not sent.
        unsent: Option<B>,
    },
    /// The response was not HTTP, or broke off inside its head.
    #[error("not a valid response: {0}")]
    Protocol(BoxError),
    /// The request cannot be expressed towards this upstream.
    #[error("cannot build the upstream request: {0}")]
    Request(String),
}

impl<B> AttemptError<B> {
    /// Reason for the retry metric.
    #[must_use]
    pub fn retry_reason(&self) -> RetryReason {
        match self {
            Self::Connect { .. } => RetryReason::Connect,
            _ => RetryReason::Closed,
        }
    }

    /// What this side lacked, if that is why there is no connection.
    #[must_use]
    pub fn exhaustion(&self) -> Option<&ConnectError> {
        match self {
            Self::Connect { source, .. } => Some(source).filter(|source| source.is_exhaustion()),
            _ => None,
        }
    }

    /// Whether the failure speaks against the instance.
    #[must_use]
    pub fn blames_instance(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.blames_instance(),
            Self::Protocol(_) => true,
            Self::Closed { reused, .. } => !reused,
            Self::Request(_) => false,
        }
    }
}
