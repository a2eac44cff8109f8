//! Why a source could not be read.

use crate::http_client::HttpError;
use crate::http_client::trust::TrustError;
use crate::sources::consul::ConsulError;

/// A failure. Holds no token and no password.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// No response.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A response with a status other than success.
    #[error("{url}: the server responded {status}")]
    Status {
        url: String,
        status: http::StatusCode,
    },
    /// A response that cannot be used.
    #[error("{url}: {reason}")]
    Content { url: String, reason: String },
    /// Consul could not be read.
    #[error(transparent)]
    Consul(#[from] ConsulError),
    /// Settings of TLS that cannot be used.
    #[error("vault: {0}")]
    Trust(String),
    /// There is no token.
    #[error("vault: no token: {0}")]
    Token(String),
    /// Vault refuses the request.
    #[error("vault: {path}: {status}: {errors}{hint}")]
    Vault {
        path: String,
        status: http::StatusCode,
        /// Vault's own reasons.
        errors: String,
        /// What to do.
        hint: &'static str,
    },
    /// Certificates cannot be ordered, or the store of those that were cannot be used.
    #[error("{0}")]
    Acme(String),
    /// A certificate for a name could not be had.
    #[error("no certificate for {name}: {reason}")]
    Issue { name: String, reason: String },
}

impl From<TrustError> for SourceError {
    fn from(error: TrustError) -> Self {
        Self::Trust(error.to_string())
    }
}
