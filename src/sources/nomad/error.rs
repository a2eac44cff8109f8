//! Why Nomad could not be read.

use std::time::Duration;

use http::StatusCode;

use crate::http_client::HttpError;
use crate::http_client::trust::TrustError;

/// Why Nomad could not be read. Messages hold no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum NomadError {
    /// No response.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Files for TLS.
    #[error("TLS: {0}")]
    Trust(#[from] TrustError),
    /// The token file.
    #[error("nomad.token_file: {path}: {reason}")]
    Token {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token may not read this.
    #[error(
        "{url}: {status}: {text}; the token needs the capability read-job in this namespace (nomad.token_file)"
    )]
    Denied {
        /// What was read.
        url: String,
        /// 401 or 403.
        status: StatusCode,
        /// Nomad's words.
        text: String,
    },
    /// Another status than 200.
    #[error("{url}: {status}: {text}")]
    Status {
        /// What was read.
        url: String,
        /// The status.
        status: StatusCode,
        /// Nomad's words.
        text: String,
    },
    /// A body that cannot be understood.
    #[error("{url}: not what Nomad responds: {reason}; is this the address of a Nomad agent?")]
    Body {
        /// What was read.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The event stream has ended.
    #[error("{url}: the event stream has ended")]
    Ended {
        /// What was read.
        url: String,
    },
    /// The event stream says nothing, not even that it is alive.
    #[error(
        "{url}: the event stream has been silent for {after:?}; its token may have been deleted"
    )]
    Silent {
        /// What was read.
        url: String,
        /// For how long.
        after: Duration,
    },
}

impl NomadError {
    /// In one word.
    #[must_use]
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Http(HttpError::Timeout { .. }) => "timeout",
            Self::Http(HttpError::Connect { .. }) => "connect",
            Self::Http(HttpError::Tls { .. }) | Self::Trust(_) => "tls",
            Self::Http(_) => "transport",
            Self::Token { .. } | Self::Denied { .. } => "token",
            Self::Status { .. } => "status",
            Self::Body { .. } => "decode",
            Self::Ended { .. } | Self::Silent { .. } => "stream",
        }
    }

    /// The kind in `lb_registry_errors_total`, which Consul's errors share.
    #[must_use]
    pub(super) fn metric(&self) -> &'static str {
        let word = self.kind();
        let known = KINDS.iter().find(|(kind, _)| *kind == word);
        known.map_or("nomad_transport", |(_, metric)| metric)
    }

    /// Whether it is the token's fault.
    #[must_use]
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether there is no such thing.
    #[must_use]
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// All kinds, with their names in metrics.
pub(super) const KINDS: [(&str, &str); 8] = [
    ("timeout", "nomad_timeout"),
    ("connect", "nomad_connect"),
    ("tls", "nomad_tls"),
    ("transport", "nomad_transport"),
    ("token", "nomad_token"),
    ("status", "nomad_status"),
    ("decode", "nomad_decode"),
    ("stream", "nomad_stream"),
];
