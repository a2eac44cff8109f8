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
        /// Name of the scheme: `NAME` of `[auth.NAME]`.
        name: String,
        /// The file as configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its endpoint cannot be reached.
    #[error("auth.{name}: its endpoint or jwks_url is not a URL")]
    Endpoint {
        /// Name of the scheme: `NAME` of `[auth.NAME]`.
        name: String,
    },
    /// Nothing can be sent to its endpoint.
    #[error("auth.{name}: {source}")]
    Client {
        /// Name of the scheme: `NAME` of `[auth.NAME]`.
        name: String,
        /// What the HTTP client said.
        source: HttpError,
    },
    /// Its file of keys cannot be read, or holds none.
    #[error("auth.{name}.keys_file: {}: {problem}", path.display())]
    Keys {
        /// Name of the scheme: `NAME` of `[auth.NAME]`.
        name: String,
        /// The file as configured.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The CAs of its URL cannot be read.
    #[error("auth.{name}.ca_file: {problem}")]
    Authorities {
        /// Name of the scheme: `NAME` of `[auth.NAME]`.
        name: String,
        /// What is wrong with them.
        problem: String,
    },
}
