//! Why there is no response.

use std::error::Error;
use std::time::Duration;

use http::Uri;

use super::origin::{Origin, shown};

/// Most redirects that are followed, as many as Go follows.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Why there is no response. Messages name the server and the path, never a query, a password or a
/// header.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    /// A URL without scheme or host.
    #[error("{0} is not an http:// or https:// URL with a host")]
    Url(String),
    /// Settings that do not make a client.
    #[error("cannot set up an HTTP client: {reason}")]
    Client {
        /// What is wrong with them.
        reason: String,
    },
    /// The name could not be looked up, or the connection was not accepted.
    #[error("{server}: cannot connect: {reason}")]
    Connect {
        /// Host and port.
        server: String,
        /// The system's words.
        reason: String,
        /// Nothing listens there.
        refused: bool,
    },
    /// The TLS handshake failed.
    #[error("{server}: TLS handshake failed: {reason}")]
    Tls {
        /// Host and port.
        server: String,
        /// What failed.
        reason: String,
        /// Whose fault it seems to be.
        fault: TlsFault,
    },
    /// The connection broke, or what came is not a response.
    #[error("{url}: {reason}")]
    Exchange {
        /// The URL of the request.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The response did not come in time.
    #[error("{url}: no response within {limit:?}")]
    Timeout {
        /// The URL of the request.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The body of the response is larger than the limit.
    #[error("{url}: the response is longer than {limit} bytes")]
    TooLong {
        /// The URL of the request.
        url: String,
        /// Largest body that is taken.
        limit: usize,
    },
    /// Redirects lead on and on.
    #[error("{url}: more than {REDIRECTS_MAX} redirects")]
    Redirects {
        /// The URL of the first request.
        url: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirects to {target}, which is not followed: {reason}")]
    RefusedRedirect {
        /// The URL of the request.
        url: String,
        /// Where it leads.
        target: String,
        /// Why it is not followed.
        reason: &'static str,
    },
}

/// What a failed TLS handshake points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate is not trusted, or not for this name.
    Certificate,
    /// What the server sent is not TLS.
    NotTls,
    /// Anything else.
    Other,
}

impl HttpError {
    pub(super) fn timeout(url: &Uri, limit: Duration) -> Self {
        Self::Timeout {
            url: shown(url),
            limit,
        }
    }
}

/// How an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No response began.
    NoResponse(reqwest::Error),
    /// The response broke off.
    Broken(reqwest::Error),
    /// The body is larger than the limit.
    TooLong,
}

impl Failure {
    /// Whether a connection that was there ended without a response.
    pub(super) fn is_closed_early(&self) -> bool {
        let Self::NoResponse(error) = self else {
            return false;
        };
        let ended = |error: &hyper::Error| {
            error.is_incomplete_message() || error.is_canceled() || error.is_closed()
        };
        let reset = |error: &std::io::Error| {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            matches!(error.kind(), ConnectionReset | BrokenPipe)
        };
        !error.is_connect()
            && chain(error).any(|cause| {
                cause.downcast_ref().is_some_and(ended) || cause.downcast_ref().is_some_and(reset)
            })
    }

    pub(super) fn into_error(self, url: &Uri, origin: &Origin, limit: usize) -> HttpError {
        let url = shown(url);
        let error = match self {
            Self::TooLong => return HttpError::TooLong { url, limit },
            Self::Broken(error) => {
                let reason = causes(&error);
                return HttpError::Exchange { url, reason };
            }
            Self::NoResponse(error) if !error.is_connect() => {
                let reason = causes(&error);
                return HttpError::Exchange { url, reason };
            }
            Self::NoResponse(error) => error,
        };
        let server = origin.server();
        let reason = chain(&error)
            .last()
            .map(ToString::to_string)
            .unwrap_or_default();
        if let Some(error) = chain(&error).find_map(tls_error) {
            let fault = match error {
                rustls::Error::InvalidCertificate(_) => TlsFault::Certificate,
                rustls::Error::InvalidMessage(_) => TlsFault::NotTls,
                _ => TlsFault::Other,
            };
            let reason = error.to_string();
            return HttpError::Tls {
                server,
                reason,
                fault,
            };
        }
        // A server that ends the handshake without a word of TLS is one that was reached.
        let unreached = |cause: &(dyn Error + 'static)| {
            let words = cause.to_string();
            words.starts_with("tcp connect error") || words.starts_with("dns error")
        };
        if origin.tls && !error.is_timeout() && !chain(&error).any(unreached) {
            return HttpError::Tls {
                server,
                reason,
                fault: TlsFault::Other,
            };
        }
        let refused = chain(&error).any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        HttpError::Connect {
            server,
            reason,
            refused,
        }
    }
}

/// An error and what it was caused by, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let present = next?;
        next = present.source();
        Some(present)
    })
}

/// An `io::Error` made of another error shows that one's source as its own, so what is inside is
/// looked at first.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = cause;
    while let Some(inner) = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        cause = inner;
    }
    cause.downcast_ref()
}

/// The causes of an error of the crate in one line: its own words hold the URL, and those of the
/// layer below nothing but that there was an error.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    for cause in chain(error).skip(1) {
        let words = cause.to_string();
        if words.starts_with("client error (") || text.contains(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    if text.is_empty() {
        "the request cannot be sent".clone_into(&mut text);
    }
    text
}
