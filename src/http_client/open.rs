//! A response whose body is read as it comes.

use bytes::Bytes;
use http::StatusCode;

use super::error::{HttpError, causes};

/// A response of which the body is still coming. Dropped: its connection is closed.
#[derive(Debug)]
pub(crate) struct OpenResponse {
    url: String,
    incoming: reqwest::Response,
}

impl OpenResponse {
    pub(super) fn new(url: String, incoming: reqwest::Response) -> Self {
        Self { url, incoming }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.incoming.status()
    }

    /// The URL of the request, for messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next part of the body; none at its end. Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        self.incoming
            .chunk()
            .await
            .map_err(|error| HttpError::Exchange {
                url: self.url.clone(),
                reason: causes(&error),
            })
    }
}
