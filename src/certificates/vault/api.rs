//! Vault's HTTP API.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::certificates::error::SourceError;
use crate::config::VaultConfig;
use crate::http_client::trust::Trust;
use crate::http_client::{Client, Limits, Request};

/// Longest response that is read, in bytes.
const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// How much of an error's words is kept.
const WORDS_MAX: usize = 300;
/// What may stand in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The server, without a token.
#[derive(Debug)]
pub(super) struct Base {
    client: Client,
    pub(super) config: VaultConfig,
}

/// The server, and the token that its requests carry.
#[derive(Clone, Debug)]
pub(in crate::certificates) struct Api {
    base: Arc<Base>,
    token: HeaderValue,
}

impl Base {
    pub(super) fn new(config: &VaultConfig) -> Result<Self, SourceError> {
        let trust = Trust {
            ca_file: config.ca_file.as_deref(),
            ca_path: config.ca_path.as_deref(),
            ca_pem: config.ca_pem.as_deref(),
            pair: config.cert_file.as_deref().zip(config.key_file.as_deref()),
            skip_verify: config.skip_verify,
        };
        Ok(Self {
            client: Client::new(&*trust.client_config()?, config.server_name.clone())?,
            config: config.clone(),
        })
    }
}

impl Api {
    pub(super) fn new(base: Arc<Base>, token: HeaderValue) -> Self {
        Self { base, token }
    }

    /// `None` where there is nothing at `path`.
    pub(super) async fn get(&self, path: &str, query: &str) -> Result<Option<Value>, SourceError> {
        match self.request(Method::GET, path, query, None).await {
            Err(SourceError::Vault {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            response => response.map(Some),
        }
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, SourceError> {
        self.request(Method::POST, path, "", body).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<&Value>,
    ) -> Result<Value, SourceError> {
        let config = &self.base.config;
        let url = format!(
            "{}/v1/{}{query}",
            config.address,
            utf8_percent_encode(path, PATH)
        );
        let content = |reason: String| SourceError::Content {
            url: format!("{}/v1/{path}", config.address),
            reason,
        };
        let mut headers = vec![
            (HeaderName::from_static("x-vault-token"), self.token.clone()),
            // Vault refuses requests without it where it is set to do so, against forged ones of
            // browsers.
            (
                HeaderName::from_static("x-vault-request"),
                HeaderValue::from_static("true"),
            ),
        ];
        if let Some(namespace) = config
            .namespace
            .as_deref()
            .and_then(|name| HeaderValue::from_str(name).ok())
        {
            headers.push((HeaderName::from_static("x-vault-namespace"), namespace));
        }
        if body.is_some() {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        let request = Request {
            method,
            url: url
                .parse::<Uri>()
                .map_err(|error| content(error.to_string()))?,
            headers,
            body: body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
            // A server that is not the leader sends its clients there.
            trusts_redirects: true,
        };
        let limits = Limits {
            time: config.timeout,
            bytes: RESPONSE_BYTES_MAX,
        };
        let response = self.base.client.send(request, limits).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(refused(path, status, response.body()));
        }
        if response.body().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(response.body())
            .map_err(|error| content(format!("not understood: {error}")))
    }
}

fn refused(path: &str, status: StatusCode, body: &[u8]) -> SourceError {
    let words = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| {
            let errors = value
                .get("errors")?
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>();
            (!errors.is_empty()).then(|| errors.join("; "))
        });
    let words = words.unwrap_or_else(|| "no reason given".to_owned());
    let errors = words
        .chars()
        .take(WORDS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let hint = match status {
        StatusCode::FORBIDDEN => {
            " (the token has no right to it, or is not valid any more; a wrapped token serves once)"
        }
        StatusCode::SERVICE_UNAVAILABLE => " (sealed, or without a leader)",
        _ => "",
    };
    SourceError::Vault {
        path: path.to_owned(),
        status,
        errors,
        hint,
    }
}
