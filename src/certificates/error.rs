//! Why a source could not be read.

use crate::http_client::HttpError;
use crate::http_client::trust::TrustError;
use crate::sources::consul::ConsulError;

/// A failure. Holds no token and no password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// No response.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that is none.
    #[error("{url}: the server answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Its status.
        status: http::StatusCode,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    Content {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Consul could not be read.
    #[error(transparent)]
    Consul(#[from] ConsulError),
    /// Settings of TLS that cannot be used.
    #[error("vault: {0}")]
    Trust(String),
    /// There is no token.
    #[error("vault: no token: {0}")]
    Token(String),
    /// Vault says no.
    #[error("vault: {path}: {status}: {errors}{hint}")]
    Vault {
        /// What was asked for.
        path: String,
        /// Its status.
        status: http::StatusCode,
        /// Its words.
        errors: String,
        /// What to do.
        hint: &'static str,
    },
    /// A certificate for a name could not be had.
    #[error("no certificate for {name}: {reason}")]
    Issue {
        /// The server name.
        name: String,
        /// Why.
        reason: String,
    },
}

impl From<TrustError> for SourceError {
    fn from(error: TrustError) -> Self {
        Self::Trust(error.to_string())
    }
}
