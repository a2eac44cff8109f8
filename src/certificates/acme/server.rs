//! Requests to the ACME server, by the HTTP client of the house. A response that refuses becomes a
//! [`Failure`] here, where its status and Retry-After are still known.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use jiff::fmt::rfc2822;

use super::failure::{Failure, Kind};
use crate::config::AcmeConfig;
use crate::http_client::trust::Trust;
use crate::http_client::{Client, Limits, Request};
use crate::system::unix_now;

/// Of one request.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(30),
    bytes: 1 << 20,
};

/// The client, for the crate that speaks ACME.
#[derive(Clone, Debug)]
pub(super) struct Server(Arc<Client>);

impl Server {
    pub(super) fn new(config: &AcmeConfig) -> Result<Self, Failure> {
        let trust = Trust {
            ca_file: config.ca_file.as_deref(),
            ..Trust::default()
        };
        let tls = trust
            .client_config()
            .map_err(|error| Failure::new(Kind::Server, error.to_string()))?;
        let client = Client::new(&tls, None)
            .map_err(|error| Failure::new(Kind::Server, error.to_string()))?;
        Ok(Self(Arc::new(client)))
    }
}

impl HttpClient for Server {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let headers = head
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            let request = Request {
                method: head.method,
                url: head.uri,
                headers,
                body,
                trusts_redirects: false,
            };
            let response = client.send(request, LIMITS).await.map_err(|error| {
                Error::Other(Box::new(Failure::new(Kind::Server, error.to_string())))
            })?;
            match refusal(&response, unix_now()) {
                Some(failure) => Err(Error::Other(Box::new(failure))),
                None => Ok(BytesResponse::from(response.map(Full::new))),
            }
        })
    }
}

/// The failure that a response is. A nonce that was refused is left to the crate, which signs anew.
fn refusal(response: &Response<Bytes>, now: i64) -> Option<Failure> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let retry_at = retry_at(response.headers(), now);
    let Ok(problem) = serde_json::from_slice::<Problem>(response.body()) else {
        let problem = Problem {
            r#type: None,
            detail: Some("without a reason".to_owned()),
            status: None,
            subproblems: Vec::new(),
        };
        let mut failure = Failure::of_problem(&problem, status.as_u16(), retry_at);
        if failure.kind == Kind::Refused {
            // Not the words of an ACME server: something stands before it, or is in its place.
            failure.kind = Kind::Server;
        }
        return Some(failure);
    };
    let is_nonce = problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce");
    (!is_nonce).then(|| Failure::of_problem(&problem, status.as_u16(), retry_at))
}

/// When the server wants to hear of it again (unix time, s): a date, or seconds from now.
fn retry_at(headers: &HeaderMap, now: i64) -> Option<i64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(now.saturating_add(i64::from(seconds))),
        Err(_) => rfc2822::parse(text)
            .ok()
            .map(|at| at.timestamp().as_second()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_at(&headers, 1_000)
        };
        assert_eq!(read("90"), Some(1_090));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(946_684_799));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn responses_that_refuse() {
        let kind = |status: u16, body: &str| {
            let response = Response::builder()
                .status(status)
                .body(Bytes::copy_from_slice(body.as_bytes()))
                .unwrap();
            refusal(&response, 0).map(|failure| failure.kind)
        };
        let problem = |word: &str| format!("{{\"type\":\"urn:ietf:params:acme:error:{word}\"}}");
        assert_eq!(kind(200, "{}"), None);
        assert_eq!(kind(400, &problem("badNonce")), None);
        assert_eq!(kind(400, &problem("malformed")), Some(Kind::Refused));
        assert_eq!(kind(403, "<html>"), Some(Kind::Server));
        assert_eq!(kind(502, ""), Some(Kind::Server));
        assert_eq!(kind(429, ""), Some(Kind::Limited));
    }
}
