//! One question to the admin listener of a running `lb`, in plain HTTP or over TLS.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tabular::printable;

/// Where `lb` listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:9998";

/// Its port: also that of an address without one, because nobody keeps the admin listener on port
/// 80.
const DEFAULT_PORT: u16 = 9998;

/// Limit for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer taken, in bytes: a table of some 100,000 routes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How a running `lb` is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Its admin listener; what stands behind the host is `admin.path` there.
    pub url: String,
    /// CAs to trust with `https`; none: the system's.
    pub ca: Option<PathBuf>,
    /// A certificate to show, and its key (the same file, if there is no other).
    pub cert: Option<PathBuf>,
    /// See `cert`.
    pub key: Option<PathBuf>,
}

/// Why a running `lb` could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// The address makes no sense.
    #[error("admin address `{address}`: {reason}; it looks like {DEFAULT_ADMIN}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file that was named for TLS.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// No TLS, or none that is trusted.
    #[error("TLS with {address}: {reason}{hint}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
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
    #[error("asking lb on {address}: {reason}")]
    Exchange {
        /// Host and port.
        address: String,
        /// What failed.
        reason: String,
    },
    /// It took too long.
    #[error("lb on {address} gave no answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Host and port.
        address: String,
    },
    /// The answer is an error.
    #[error("lb on {address} says {status}: {message}")]
    Answer {
        /// Host and port.
        address: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

/// An address that was understood.
pub(super) struct Admin {
    /// `host:port`, brackets around IPv6.
    address: String,
    /// Name to verify and settings, for `https`.
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    /// What paths begin with there (`admin.path`); empty, or without a slash at its end.
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
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let name = authority.host().trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name)
                    .map_err(|_| wrong("no name that a certificate can have"))?;
                Some((name, Arc::new(tls_config(access)?)))
            }
            _ => return Err(wrong("only http and https are spoken there")),
        };
        let address = format!(
            "{}:{}",
            authority.host(),
            authority.port_u16().unwrap_or(DEFAULT_PORT)
        );
        Ok(Self {
            address,
            tls,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<String, AdminClientError> {
        match tokio::time::timeout(TIMEOUT, self.exchange(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(AdminClientError::Timeout {
                address: self.address.clone(),
            }),
        }
    }

    async fn exchange(&self, path: &str) -> Result<String, AdminClientError> {
        let stream =
            TcpStream::connect(&self.address)
                .await
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => AdminClientError::Refused {
                        address: self.address.clone(),
                    },
                    _ => self.failed(&error),
                })?;
        let Some((name, config)) = &self.tls else {
            return self.ask(stream, path).await;
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector
            .connect(name.clone(), stream)
            .await
            .map_err(|error| self.no_tls(&error))?;
        self.ask(stream, path).await
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        path: &str,
    ) -> Result<String, AdminClientError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(&error))?;
        let request = Request::get(format!("{}{path}", self.base))
            .header("host", &self.address)
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.failed(&error))?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| self.failed(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body
                .map_err(|error| self.failed(error.as_ref()))?
                .to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The connection is driven here instead of in a task, so that nothing is left behind.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let (status, body) = tokio::select! {
            biased;
            done = &mut exchange => done?,
            _ = &mut connection => exchange.await?,
        };
        if status.is_success() {
            Ok(body)
        } else {
            Err(self.refused(status, &body))
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
        AdminClientError::Answer {
            address: self.address.clone(),
            status,
            message: printable(&message),
        }
    }

    fn no_tls(&self, error: &std::io::Error) -> AdminClientError {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref());
        let hint = match of_tls {
            Some(rustls::Error::InvalidCertificate(_)) => "; --admin-ca names the CA to trust",
            Some(rustls::Error::InvalidMessage(_)) => "; is it plain http?",
            _ => "",
        };
        AdminClientError::Tls {
            address: self.address.clone(),
            reason: error.to_string(),
            hint,
        }
    }

    fn failed(&self, error: &(impl std::error::Error + ?Sized)) -> AdminClientError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(reason, ": {cause}");
            source = cause.source();
        }
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
            reason: format!("the answer is not lb's ({error})"),
        })
    }
}

fn tls_config(access: &Access) -> Result<ClientConfig, AdminClientError> {
    let mut roots = RootCertStore::empty();
    match &access.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unfit(path, &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(Path::new("TLS"), &error))?
        .with_root_certificates(roots);
    let Some(cert) = &access.cert else {
        return Ok(builder.with_no_client_auth());
    };
    let key = access.key.as_ref().unwrap_or(cert);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unfit(key, &error))?;
    builder
        .with_client_auth_cert(certificates(cert)?, private)
        .map_err(|error| unfit(cert, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AdminClientError> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(unfit(path, &"holds no certificate")),
        found => found.map_err(|error| unfit(path, &error)),
    }
}

fn unfit(path: &Path, reason: &impl ToString) -> AdminClientError {
    AdminClientError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
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
            assert_eq!(found.address + &found.base, address);
            assert_eq!(found.tls.is_some(), given.starts_with("https"));
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
