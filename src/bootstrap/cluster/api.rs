//! One node's HTTP API, of Consul or of Nomad: HTTP/1.1 over TLS with the operator's certificate.
//!
//! A connection per request: there are few of them, and a fresh handshake is itself a test of the
//! certificates. How the bytes get there (straight, or through `ssh`) is the business of the
//! [`Connect`] that it is given; which node a request goes to, and what to make of the response,
//! that of the callers.

mod stream;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bootstrap::security::secrets::{Pair, Secret};
use crate::trust::AcceptAny;

/// Limit for most requests: a server without a leader may hang for many seconds, and that is a
/// result as well.
pub const LIMIT: Duration = Duration::from_secs(3);
/// Longest response that is read, in bytes.
const BODY_MAX: usize = 32 << 20;
/// How much of a response an error shows, in characters.
const SHOWN_MAX: usize = 400;

/// A connection, whatever carries it.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A boxed connection.
pub type BoxedStream = Box<dyn ByteStream>;

/// Opens a connection to an address of the cluster.
pub type Connect =
    Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<BoxedStream>> + Send + Sync>;

/// Connects straight from this machine.
#[must_use]
pub fn direct() -> Connect {
    Arc::new(|address| {
        async move {
            let stream: BoxedStream = Box::new(TcpStream::connect(address).await?);
            Ok(stream)
        }
        .boxed()
    })
}

/// How to speak TLS with the agents of a program: trust in the bundle (one CA, or two while it
/// changes), and the operator's pair.
///
/// # Errors
/// When the PEM texts cannot be read, or the pair does not fit together.
pub fn tls_config(ca_bundle: &str, operator: &Pair) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle.as_bytes()) {
        roots
            .add(certificate.context("the CA bundle")?)
            .context("the CA bundle")?;
    }
    anyhow::ensure!(!roots.is_empty(), "the CA bundle holds no certificate");
    let chain = CertificateDer::pem_slice_iter(operator.cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("the operator's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(operator.key.reveal().as_bytes())
        .context("the operator's key")?;
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .context("the operator's certificate and key")?;
    Ok(Arc::new(config))
}

/// Why there is no good response.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing listens there.
    #[error("https://{0}: connection refused")]
    Refused(SocketAddr),
    /// It hangs, or cannot be reached.
    #[error("https://{address}{path}: no response within {limit:?}")]
    Timeout {
        /// Where the request went.
        address: SocketAddr,
        /// For what.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
    /// One side does not accept the other's certificate, or there is no TLS at all.
    #[error("https://{address}: TLS: {text}")]
    Tls {
        /// Where the connection went.
        address: SocketAddr,
        /// The alert, or what is wrong with the certificate.
        text: String,
    },
    /// A response, but not a good one.
    #[error("https://{address}{path}: {status}: {body}")]
    Status {
        /// Where the request went.
        address: SocketAddr,
        /// For what.
        path: String,
        /// Status.
        status: StatusCode,
        /// Beginning of the text.
        body: String,
    },
    /// A response that is not what it should be.
    #[error("https://{address}{path}: response not understood: {text}")]
    Content {
        /// Where the request went.
        address: SocketAddr,
        /// For what.
        path: String,
        /// What is wrong with it.
        text: String,
    },
    /// The connection failed in another way.
    #[error("https://{address}: {text}")]
    Connection {
        /// Where the connection went.
        address: SocketAddr,
        /// The system's error.
        text: String,
    },
}

impl ApiError {
    /// The status, if there was a response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A response of whatever status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Content.
    pub body: Bytes,
    /// How new the state is that it is taken from; 0: the server has none yet. None: not told.
    pub index: Option<u64>,
    address: SocketAddr,
    path: String,
}

impl Reply {
    /// The content as text, without blanks around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// Itself if the status is 2xx.
    ///
    /// # Errors
    /// [`ApiError::Status`] for any other.
    pub fn good(self) -> Result<Self, ApiError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let body = self.text().chars().take(SHOWN_MAX).collect();
        Err(ApiError::Status {
            address: self.address,
            path: self.path,
            status: self.status,
            body,
        })
    }

    /// The content of a 2xx.
    ///
    /// # Errors
    /// [`ApiError::Status`] for any other status, [`ApiError::Content`] if the JSON is not a `T`.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        self.good()?.json_whatever_the_status()
    }

    /// The content, for the few endpoints that tell their news by a status and give the content
    /// nevertheless.
    ///
    /// # Errors
    /// [`ApiError::Content`] if the JSON is not a `T`.
    pub fn json_whatever_the_status<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| ApiError::Content {
            address: self.address,
            path: self.path,
            text: error.to_string(),
        })
    }
}

/// The API of one agent.
#[derive(Clone)]
pub struct Api {
    connect: Connect,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: Option<Secret>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Api({})", self.address)
    }
}

impl Api {
    /// The agent at `address`, with this token in each request.
    #[must_use]
    pub fn new(
        connect: Connect,
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        token: Option<Secret>,
    ) -> Self {
        Self {
            connect,
            address,
            tls,
            token,
        }
    }

    /// The same agent, with another token.
    #[must_use]
    pub fn with_token(&self, token: Option<Secret>) -> Self {
        Self {
            token,
            ..self.clone()
        }
    }

    /// Whether requests carry a token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no response; any status is one.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<Reply, ApiError> {
        self.request(Method::GET, path, None, limit).await
    }

    /// PUT.
    ///
    /// # Errors
    /// When there is no response; any status is one.
    pub async fn put(
        &self,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Reply, ApiError> {
        self.request(Method::PUT, path, body, limit).await
    }

    /// POST.
    ///
    /// # Errors
    /// When there is no response; any status is one.
    pub async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Reply, ApiError> {
        self.request(Method::POST, path, body, limit).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// When there is no response; any status is one.
    pub async fn delete(
        &self,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Reply, ApiError> {
        self.request(Method::DELETE, path, body, limit).await
    }

    /// The certificate that the agent presents (DER), even if it has expired or is of another CA.
    /// Nothing is sent on the connection.
    ///
    /// # Errors
    /// When no handshake comes about.
    pub async fn served_certificate(
        &self,
        limit: Duration,
    ) -> Result<CertificateDer<'static>, ApiError> {
        let mut config = (*self.tls).clone();
        let provider = config.crypto_provider().clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(AcceptAny::new(provider)));
        let stream = self
            .within("", limit, self.handshake(Arc::new(config)))
            .await?;
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .cloned();
        leaf.ok_or_else(|| self.tls_error("the agent presents no certificate".to_owned()))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Reply, ApiError> {
        self.within(path, limit, self.exchange(method, path, body))
            .await
    }

    async fn within<T>(
        &self,
        path: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::Timeout {
                address: self.address,
                path: without_query(path),
                limit,
            }),
        }
    }

    async fn handshake(&self, tls: Arc<ClientConfig>) -> Result<TlsStream<BoxedStream>, ApiError> {
        let socket = (self.connect)(self.address)
            .await
            .map_err(|error| self.io_error(&error))?;
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(tls)
            .connect(name, socket)
            .await
            .map_err(|error| self.io_error(&error))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, ApiError> {
        let stream = self.handshake(self.tls.clone()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.hyper_error(error))?;
        let request = self.assemble(method, path, body)?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| self.hyper_error(error))?;
            let status = response.status();
            let index = index_of(response.headers());
            let body = Limited::new(response.into_body(), BODY_MAX)
                .collect()
                .await
                .map_err(|error| {
                    let text = error.to_string();
                    ApiError::Content {
                        address: self.address,
                        path: without_query(path),
                        text,
                    }
                })?;
            Ok(Reply {
                status,
                body: body.to_bytes(),
                index,
                address: self.address,
                path: without_query(path),
            })
        };
        tokio::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            // It may end before the last bytes of the response have been taken over, which is not a
            // mistake.
            end = connection => exchange.await.map_err(|error| end.err().map_or(error, |end| self.hyper_error(end))),
        }
    }

    fn assemble(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        if let Some(token) = &self.token {
            // Each product reads its own field, and a token is sent only to the one that it belongs
            // to.
            if let Ok(mut value) = HeaderValue::from_str(token.reveal()) {
                value.set_sensitive(true);
                request = request
                    .header("x-consul-token", value.clone())
                    .header("x-nomad-token", value);
            }
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(bytes))
            .map_err(|error| ApiError::Content {
                address: self.address,
                path: without_query(path),
                text: format!("not a path: {error}"),
            })
    }

    fn tls_error(&self, text: String) -> ApiError {
        ApiError::Tls {
            address: self.address,
            text,
        }
    }

    fn io_error(&self, error: &io::Error) -> ApiError {
        if let Some(tls) = tls_cause(error) {
            return self.tls_error(tls);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ApiError::Refused(self.address),
            _ => ApiError::Connection {
                address: self.address,
                text: error.to_string(),
            },
        }
    }

    fn hyper_error(&self, error: hyper::Error) -> ApiError {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                return self.io_error(io);
            }
            source = cause.source();
        }
        ApiError::Connection {
            address: self.address,
            text: error.to_string(),
        }
    }
}

/// In TLS 1.3 the peer's alert about our certificate comes with the first read, wrapped by all
/// layers in between.
fn tls_cause(error: &io::Error) -> Option<String> {
    error
        .get_ref()?
        .downcast_ref::<rustls::Error>()
        .map(ToString::to_string)
}

fn index_of(headers: &HeaderMap) -> Option<u64> {
    let names = ["x-nomad-index", "x-consul-index"];
    let value = names.iter().find_map(|name| headers.get(*name))?;
    value.to_str().ok()?.parse().ok()
}

fn without_query(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}
