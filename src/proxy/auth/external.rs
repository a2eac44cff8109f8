//! A service that decides about each request: it lets it in, maybe with a few header fields, or its
//! response goes to the client.
//!
//! It gets `GET` of one fixed URL without a body, with the client's fields; what it is told of
//! where the request came from and what it wants (`X-Forwarded-*`, `X-Real-Ip`, `Forwarded`) is
//! written by the proxy alone, see [`tell_decider`](crate::proxy::http::headers::tell_decider). Any
//! 2xx lets the request in. Any other response goes to the client (a redirect to a login page, a
//! challenge); without a response in time every request is refused.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{StatusCode, Uri};

use crate::config::ExternalAuth;
use crate::http_client::{Client, Limits, Request};
use crate::proxy::auth::admission::{Admission, Denied, Granted};
use crate::proxy::auth::error::AuthError;
use crate::proxy::tls::UpstreamTls;
use crate::proxy::tls::upstream::Inside;

/// Largest response that is passed on.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Connections kept for all workers together.
const IDLE_MAX: usize = 256;

/// Fields that are not sent: they tell of the connection, of a body that is not there, or of a
/// version of what the client wants to have, which the service does not have (it could respond with
/// 304, for the instance).
const NOT_TOLD: [HeaderName; 14] = [
    HOST,
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    CONTENT_LENGTH,
    EXPECT,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    IF_RANGE,
    RANGE,
];

#[derive(Debug)]
pub(super) struct External {
    name: String,
    config: ExternalAuth,
    endpoint: Uri,
    client: Client,
    /// It gave no response to the last request.
    lost: AtomicBool,
}

impl External {
    /// Sends requests to the endpoint, whose certificate has to come from the CAs for upstreams.
    ///
    /// # Errors
    /// An endpoint that is not a URL.
    pub(super) fn new(
        name: &str,
        config: &ExternalAuth,
        tls: &UpstreamTls,
    ) -> Result<Self, AuthError> {
        let endpoint = config
            .endpoint
            .reveal()
            .parse()
            .map_err(|_| AuthError::Endpoint {
                name: name.to_owned(),
            })?;
        let client = Client::keeping(tls.config(false, Inside::Http1), None, IDLE_MAX).map_err(
            |source| AuthError::Client {
                name: name.to_owned(),
                source,
            },
        )?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            endpoint,
            client,
            lost: AtomicBool::new(false),
        })
    }

    /// Decides about a request with these fields. Cancel safe.
    pub(super) async fn admit(&self, mut fields: HeaderMap) -> Admission {
        for name in NOT_TOLD {
            fields.remove(name);
        }
        let mut request = Request::get(self.endpoint.clone());
        request.headers = fields
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let limits = Limits {
            time: self.config.timeout,
            bytes: ANSWER_BYTES_MAX,
        };
        match self.client.send_once(request, limits).await {
            Ok(answer) if answer.status().is_success() => {
                self.note_reached();
                Admission::Granted(Some(Box::new(Granted::of(&self.config, answer.headers()))))
            }
            // The request to it has no upgrade that it could switch protocols for.
            Ok(answer) if answer.status().is_informational() => Admission::Unavailable,
            Ok(answer) => {
                self.note_reached();
                let (parts, body) = answer.into_parts();
                let mut denied = Denied {
                    status: parts.status,
                    headers: parts.headers,
                    body,
                };
                self.challenge(&mut denied);
                Admission::Denied(Box::new(denied))
            }
            Err(error) => {
                if !self.lost.swap(true, Relaxed) {
                    tracing::warn!(scheme = self.name, %error, "the authentication service does not respond: requests are refused until it does");
                }
                Admission::Unavailable
            }
        }
    }

    /// Its silence is told once, and so is its end.
    fn note_reached(&self) {
        if self.lost.load(Relaxed) && self.lost.swap(false, Relaxed) {
            tracing::info!(
                scheme = self.name,
                "the authentication service responds again"
            );
        }
    }

    /// A 401 has to name a scheme (RFC 9110 section 15.5.2). This one is known to no client, so
    /// that no browser prompts its user for a password that would not help.
    fn challenge(&self, denied: &mut Denied) {
        if denied.status == StatusCode::UNAUTHORIZED
            && !denied.headers.contains_key(WWW_AUTHENTICATE)
        {
            denied
                .headers
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("External"));
        }
    }
}
