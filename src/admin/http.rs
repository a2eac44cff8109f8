//! One request to the admin listener of a running `lb`, in plain HTTP or over TLS.

use std::path::PathBuf;
use std::time::Duration;

use http::{StatusCode, Uri};
use serde::Deserialize;

use crate::http_client::trust::{Trust, TrustError};
use crate::http_client::{Client, HttpError, Limits, Request, TlsFault};

use super::tabular::printable;

/// Where `lb` listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:9998";

/// Its port: also that of an address without one, because an admin listener on port 80 would be
/// unusual.
const DEFAULT_PORT: u16 = 9998;

/// Bounds of a request; the body is that of a table of some 100,000 routes.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(30),
    bytes: 256 << 20,
};

/// How a running `lb` is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Its admin listener; what stands behind the host is `admin.path` there.
    pub url: String,
    /// CAs to trust with `https`; none: the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate to present; its key is in the same file unless `key` names another.
    pub cert: Option<PathBuf>,
    /// Key of the client certificate.
    pub key: Option<PathBuf>,
}

/// Why a running `lb` sent no usable response.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// The address makes no sense.
    #[error("admin address `{address}`: {reason}; it looks like {DEFAULT_ADMIN}")]
    Address {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file that was named for TLS.
    #[error(transparent)]
    File(#[from] TrustError),
    /// No TLS, or none that is trusted.
    #[error("TLS with {address}: {reason}{hint}")]
    Tls {
        /// Host and port.
        address: String,
        /// What the TLS library said.
        reason: String,
        /// What to do; empty, or behind a semicolon.
        hint: &'static str,
    },
    /// Nothing is there.
    #[error(
        "nothing listens on {address}: is lb running? (`--admin` says where its admin listener is)"
    )]
    Refused {
        /// Host and port.
        address: String,
    },
    /// The exchange failed.
    #[error("request to lb at {address} failed: {reason}")]
    Exchange {
        /// Host and port.
        address: String,
        /// What failed.
        reason: String,
    },
    /// It took too long.
    #[error("lb at {address} did not respond within {} s", LIMITS.time.as_secs())]
    Timeout {
        /// Host and port.
        address: String,
    },
    /// The response is an error.
    #[error("lb at {address} responded {status}: {message}")]
    Response {
        /// Host and port.
        address: String,
        /// Status of the response.
        status: StatusCode,
        /// Text of the response, control characters made visible.
        message: String,
    },
}

/// An address that was understood.
pub(super) struct Admin {
    client: Client,
    /// `host:port`, brackets around IPv6.
    address: String,
    /// What URLs begin with there: scheme, address and `admin.path`, without a slash at its end.
    base: String,
}

impl Admin {
    pub(super) fn new(access: &Access) -> Result<Self, AdminClientError> {
        let given = &access.url;
        let wrong = |reason| AdminClientError::Address {
            address: given.to_owned(),
            reason,
        };
        let text = if given.contains("://") {
            given.to_owned()
        } else {
            format!("http://{given}")
        };
        let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user name is not used there"));
        }
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            _ => return Err(wrong("only http and https are spoken there")),
        };
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        let address = format!("{}:{port}", authority.host());
        let base = format!("{scheme}://{address}{}", uri.path().trim_end_matches('/'));
        let client = match scheme {
            "https" => Client::new(&*trust(access).client_config()?, None),
            _ => Client::without_tls(),
        };
        let client = client.map_err(|error| AdminClientError::Exchange {
            address: address.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            client,
            address,
            base,
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<String, AdminClientError> {
        let url = format!("{}{path}", self.base).parse::<Uri>();
        let url = url.map_err(|error| self.failed(error.to_string()))?;
        let response = self.client.send_once(Request::get(url), LIMITS).await;
        let response = response.map_err(|error| self.no_response(error))?;
        let body = String::from_utf8_lossy(response.body());
        match response.status() {
            status if status.is_success() => Ok(body.into_owned()),
            status => Err(self.refused(status, &body)),
        }
    }

    fn refused(&self, status: StatusCode, body: &str) -> AdminClientError {
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let message = serde_json::from_str::<Problem>(body).map_or_else(
            |_| body.trim().chars().take(200).collect(),
            |problem| problem.error,
        );
        AdminClientError::Response {
            address: self.address.clone(),
            status,
            message: printable(&message),
        }
    }

    fn no_response(&self, error: HttpError) -> AdminClientError {
        let address = self.address.clone();
        match error {
            HttpError::Connect { refused: true, .. } => AdminClientError::Refused { address },
            HttpError::Timeout { .. } => AdminClientError::Timeout { address },
            HttpError::Tls { reason, fault, .. } => AdminClientError::Tls {
                address,
                reason,
                hint: match fault {
                    TlsFault::Certificate => "; --admin-ca names the CA to trust",
                    TlsFault::NotTls => "; is it plain http?",
                    TlsFault::Other => "",
                },
            },
            HttpError::Connect { reason, .. } | HttpError::Exchange { reason, .. } => {
                self.failed(reason)
            }
            other => self.failed(other.to_string()),
        }
    }

    fn failed(&self, reason: String) -> AdminClientError {
        AdminClientError::Exchange {
            address: self.address.clone(),
            reason,
        }
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(
        &self,
        text: &str,
    ) -> Result<T, AdminClientError> {
        serde_json::from_str(text).map_err(|error| AdminClientError::Exchange {
            address: self.address.clone(),
            reason: format!("the response is not lb's ({error})"),
        })
    }
}

/// What `https` needs.
fn trust(access: &Access) -> Trust<'_> {
    let cert = access.cert.as_deref();
    Trust {
        ca_file: access.ca.as_deref(),
        pair: cert.map(|cert| (cert, access.key.as_deref().unwrap_or(cert))),
        ..Trust::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(url: &str) -> Result<Admin, AdminClientError> {
        Admin::new(&Access {
            url: url.to_owned(),
            ..Access::default()
        })
    }

    #[test]
    fn addresses() {
        for (given, address) in [
            (DEFAULT_ADMIN, "127.0.0.1:9998"),
            ("localhost:1", "localhost:1"),
            ("http://[::1]:9998/", "[::1]:9998"),
            ("http://lb.example", "lb.example:9998"),
            ("lb.example", "lb.example:9998"),
            ("http://lb.example:80/", "lb.example:80"),
            ("lb.example:80/lb/", "lb.example:80/lb"),
            ("https://[::1]:1", "[::1]:1"),
        ] {
            let found = admin(given).unwrap();
            let scheme = given.split_once("://").map_or("http", |(scheme, _)| scheme);
            assert_eq!(found.base, format!("{scheme}://{address}"));
        }
        for bad in ["http://", "unix:///x", "a b", "http://u:p@x:1", ""] {
            let error = admin(bad)
                .map(|admin| admin.address)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("it looks like http://127.0.0.1:9998"),
                "{error}"
            );
        }
    }
}
