//! What keeps a scheme from being used.

use std::io;
use std::path::PathBuf;

use crate::http_client::HttpError;

/// Why a scheme cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Its file cannot be read.
    #[error("auth.{name}.file: cannot read {}: {source}", path.display())]
    File {
        /// The scheme.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its endpoint cannot be asked.
    #[error("auth.{name}.endpoint is not a URL")]
    Endpoint {
        /// The scheme.
        name: String,
    },
    /// Nothing can be sent to its endpoint.
    #[error("auth.{name}: {source}")]
    Client {
        /// The scheme.
        name: String,
        /// Why.
        source: HttpError,
    },
}
