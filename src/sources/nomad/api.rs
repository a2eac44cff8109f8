//! Nomad's HTTP API: one agent, with its certificates and its token as read last.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::error::NomadError;
use crate::config::{NomadAddress, NomadConfig};
use crate::http_client::trust::Trust;
use crate::http_client::{Client, Limits, OpenResponse, Request, shown};

/// Largest response, in bytes: a list of some ten thousand services has a few megabytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Longest error of Nomad that is shown, in characters.
const TEXT_MAX: usize = 200;
const TOKEN: HeaderName = HeaderName::from_static("x-nomad-token");
const INDEX: HeaderName = HeaderName::from_static("x-nomad-index");
/// The host that is sent over a socket, which has none.
const SOCKET_HOST: &str = "http://localhost";

/// What needs no encoding in a part of a path or a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// How to talk to the agent.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    base: String,
    region: Option<String>,
    token: Option<HeaderValue>,
}

/// A response that could be read.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// `X-Nomad-Index`.
    pub index: Option<u64>,
    pub body: T,
}

/// A part of a path.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, PLAIN).to_string()
}

impl Api {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(super) fn load(config: &NomadConfig) -> Result<Self, NomadError> {
        let (client, base) = match config.place() {
            NomadAddress::Socket(path) => (Client::over_socket(path)?, SOCKET_HOST.to_owned()),
            NomadAddress::Url(url) if url.starts_with("http://") => {
                (Client::without_tls()?, url.to_owned())
            }
            NomadAddress::Url(url) => {
                let pair = config.cert_file.as_deref().zip(config.key_file.as_deref());
                let trust = Trust {
                    ca_file: config.ca_file.as_deref(),
                    pair,
                    ..Trust::default()
                };
                let client = Client::new(&*trust.client_config()?, config.server_name.clone())?;
                (client, url.to_owned())
            }
        };
        Ok(Self {
            client,
            base,
            region: config.region.clone(),
            token: token(config)?,
        })
    }

    /// Reads JSON. `path` begins with a slash and is encoded; the values of `query` are not.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        time: Duration,
    ) -> Result<Answer<T>, NomadError> {
        let request = self.request(path, query)?;
        let url = shown(&request.url);
        let limits = Limits {
            time,
            bytes: BODY_BYTES_MAX,
        };
        let response = self.client.send_once(request, limits).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(url, response.status(), response.body()));
        }
        let index = response.headers().get(INDEX);
        let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
        match serde_json::from_slice(response.body()) {
            Ok(body) => Ok(Answer { index, body }),
            Err(error) => Err(NomadError::Body {
                url,
                reason: error.to_string(),
            }),
        }
    }

    /// Opens a response that does not end.
    pub(super) async fn open(
        &self,
        path: &str,
        query: &[(&str, &str)],
        time: Duration,
    ) -> Result<OpenResponse, NomadError> {
        let mut response = self.client.open(&self.request(path, query)?, time).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let text = tokio::time::timeout(time, response.chunk()).await;
        let text = text.ok().and_then(Result::ok).flatten().unwrap_or_default();
        Err(refusal(response.url().to_owned(), response.status(), &text))
    }

    fn request(&self, path: &str, query: &[(&str, &str)]) -> Result<Request, NomadError> {
        let mut url = format!("{}{path}", self.base);
        let region = self.region.as_deref().map(|region| ("region", region));
        for (at, (name, value)) in query.iter().copied().chain(region).enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.push_str(&encoded(value));
        }
        let url: Uri = url.parse().map_err(|_| NomadError::Body {
            url: path.to_owned(),
            reason: "the name cannot stand in a URL".to_owned(),
        })?;
        let mut request = Request::get(url);
        request
            .headers
            .extend(self.token.iter().map(|token| (TOKEN, token.clone())));
        Ok(request)
    }
}

fn refusal(url: String, status: StatusCode, body: &Bytes) -> NomadError {
    let text = String::from_utf8_lossy(body);
    let line = text.trim().lines().next().unwrap_or_default();
    let text = line.chars().take(TEXT_MAX).collect::<String>();
    let text = text.escape_debug().to_string();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            NomadError::Denied { url, status, text }
        }
        _ => NomadError::Status { url, status, text },
    }
}

fn token(config: &NomadConfig) -> Result<Option<HeaderValue>, NomadError> {
    let wrong = |reason: String| NomadError::Token {
        path: config.token_file.as_ref().map_or_else(
            || "nomad.token".to_owned(),
            |path| path.display().to_string(),
        ),
        reason,
    };
    let text = match (&config.token_file, &config.token) {
        (Some(path), _) => fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?,
        (None, Some(token)) => token.reveal().to_owned(),
        (None, None) => return Ok(None),
    };
    if text.trim().is_empty() {
        return Err(wrong("is empty; write the token into it".to_owned()));
    }
    let mut value = HeaderValue::from_str(text.trim())
        .map_err(|_| wrong("holds what cannot be sent as a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
