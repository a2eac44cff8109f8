//! What can go wrong between here and Consul.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use rustls::AlertDescription;

/// A failure, with where it happened and what to do. Cheap enough to share among all requests that
/// waited for the same connection; holds no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsulError {
    /// A file of `[consul]` cannot be used.
    #[error("consul.{key}: {}: {reason}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value of `[consul]` cannot be used.
    #[error("consul.{key} `{value}`: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it says (never a token).
        value: String,
        /// Why it is wrong.
        reason: String,
    },
    /// The agent's host name has no address.
    #[error("{agent}: cannot resolve the name: {reason}")]
    Resolve {
        /// The agent, as configured.
        agent: String,
        /// The resolver's words.
        reason: String,
    },
    /// Not dialled: this process or machine has no descriptor, port or memory left. Says nothing
    /// about the agent.
    #[error("{agent}: not dialled, this side has nothing left to connect with: {reason}")]
    Exhausted {
        /// The agent, as configured.
        agent: String,
        /// The system's words.
        reason: String,
    },
    /// No connection.
    #[error("{agent}: cannot connect: {reason}")]
    Connect {
        /// The agent, as configured.
        agent: String,
        /// The system's words.
        reason: String,
    },
    /// The TLS handshake failed.
    #[error("{agent}: TLS handshake failed: {reason}")]
    Tls {
        /// The agent, as configured.
        agent: String,
        /// What failed.
        reason: String,
        /// The alert that the agent sent, if it did.
        alert: Option<AlertDescription>,
    },
    /// Nothing came in time.
    #[error("{what}: no response within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The connection broke.
    #[error("{agent}: connection lost: {reason}")]
    Transport {
        /// The agent, as configured.
        agent: String,
        /// What happened.
        reason: String,
        /// The TLS alert that ended it, if one did: with TLS 1.3 a refused client certificate is
        /// seen only here.
        alert: Option<AlertDescription>,
    },
    /// A response that is not 200.
    #[error("{agent}: {request}: status {code}: {text}")]
    Status {
        /// The agent, as configured.
        agent: String,
        /// Method and path of the request.
        request: String,
        /// HTTP status.
        code: u16,
        /// Beginning of the body.
        text: String,
        /// How long the agent wants no requests.
        retry_after: Option<Duration>,
    },
    /// A 200 whose body makes no sense.
    #[error("GET {path}: cannot understand the response: {reason}")]
    Decode {
        /// Path of the request.
        path: String,
        /// Where reading it failed.
        reason: String,
    },
    /// A 200 that shows too little for the token to have rights.
    #[error(
        "the token may not read {what}; what was known is kept. It needs service_prefix and node_prefix read"
    )]
    Rights {
        /// What is missing.
        what: String,
    },
    /// Keys that were there and that the token may not read any more.
    #[error(
        "the token may not read the keys at {path} any more; what was known is kept. It needs key_prefix read"
    )]
    KeyRights {
        /// Where.
        path: String,
    },
    /// A service that cannot be read.
    #[error(
        "service {name:?} cannot be read, as agents redirect requests for it: register it under a name without empty, \
         `.` and `..` segments; it is left out"
    )]
    Name {
        /// Its name.
        name: String,
    },
    /// A response that is not believed at once could not be confirmed.
    #[error("{what} could not be confirmed; what was known is kept: {reason}")]
    Unconfirmed {
        /// What the response said.
        what: String,
        /// Why the second read failed.
        reason: String,
    },
}

/// All that [`ConsulError::kind`] says.
pub(super) const KINDS: [&str; 12] = [
    "config",
    "resolve",
    "exhausted",
    "connect",
    "tls",
    "timeout",
    "transport",
    "refused",
    "token",
    "status",
    "decode",
    "unconfirmed",
];

impl ConsulError {
    /// Kind for `lb_registry_errors_total`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Value { .. } => "config",
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::Exhausted { .. } => "exhausted",
            Self::Tls { .. } | Self::Transport { alert: Some(_), .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Transport { .. } => "transport",
            Self::Status {
                code: 401 | 403, ..
            }
            | Self::Rights { .. }
            | Self::KeyRights { .. } => "token",
            Self::Status { .. } => "status",
            Self::Decode { .. } => "decode",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Name { .. } => "name",
        }
    }

    /// Whether an agent may have closed the connection because it grants no more of them: without a
    /// word (Consul up to 1.8), or with a 429 that says so.
    pub(super) fn is_refused_connection(&self) -> bool {
        match self {
            Self::Transport { alert: None, .. } => true,
            Self::Status {
                code: 429, text, ..
            } => text.contains("connections"),
            _ => false,
        }
    }

    /// The same for a connection that broke before it could carry a request: there is no
    /// connection, which is what counts.
    pub(super) fn of_dial(self) -> Self {
        match self {
            Self::Transport {
                agent,
                reason,
                alert: None,
            } => Self::Connect { agent, reason },
            Self::Transport {
                agent,
                reason,
                alert,
            } => Self::Tls {
                agent,
                reason,
                alert,
            },
            other => other,
        }
    }

    /// Whether no connection could be made, which the pool paces for all requests.
    #[must_use]
    pub fn is_dial(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. } | Self::Connect { .. } | Self::Exhausted { .. } | Self::Tls { .. }
        )
    }

    /// How long the agent wants no requests.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// An error and all its causes in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// The TLS alert that the other side sent, somewhere among the causes.
pub(super) fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An `io::Error` made of another error shows that one's source as its own, so the inner one
        // is looked at first.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let rustls = inner
            .and_then(|inner| inner.downcast_ref())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = rustls {
            return Some(*alert);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_found_inside_an_io_error() {
        let refused = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, refused);
        assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired));
        assert_eq!(alert(&std::io::Error::other("x")), None);
        assert!(chain(&error).contains("CertificateRequired"));
    }

    #[test]
    fn kinds_are_few_and_fixed() {
        let status = |code| ConsulError::Status {
            agent: String::new(),
            request: String::new(),
            code,
            text: String::new(),
            retry_after: Some(Duration::from_secs(3)),
        };
        let transport = |alert| ConsulError::Transport {
            agent: String::new(),
            reason: String::new(),
            alert,
        };
        for error in [
            status(403),
            status(500),
            transport(None),
            transport(Some(AlertDescription::UnknownCA)),
        ] {
            assert!(KINDS.contains(&error.kind()), "{error}");
        }
        assert_eq!(status(403).kind(), "token");
        assert_eq!(status(500).kind(), "status");
        assert_eq!(status(429).retry_after(), Some(Duration::from_secs(3)));
        assert!(!status(500).is_dial());
    }
}
