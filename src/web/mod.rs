//! HTTP/1.1 towards servers that are not instances: where a file is fetched, an API called, a
//! service asked for consent.
//!
//! Whole requests and whole answers, each with limits for time and size. What streams, or is held
//! for minutes, has clients of its own (the data path, the watches of Consul).

pub mod trust;
mod url;

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use url::{onward, shown};

/// Most redirects that are followed, as many as Go follows.
const REDIRECTS_MAX: usize = 10;
/// Connections kept for the next request.
const IDLE_MAX: usize = 8;

/// Why there is no answer. Messages name the server and the path, never a query, a password or a
/// header.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WebError {
    /// Nothing that can be asked.
    #[error("{0} is no http:// or https:// URL with a host")]
    Url(String),
    /// No connection.
    #[error("{server}: cannot connect: {reason}")]
    Connect {
        /// Host and port.
        server: String,
        /// The system's words.
        reason: String,
    },
    /// No TLS.
    #[error("{server}: TLS handshake failed: {reason}")]
    Tls {
        /// Host and port.
        server: String,
        /// What failed.
        reason: String,
    },
    /// The connection broke, or the answer is none.
    #[error("{url}: {reason}")]
    Exchange {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Nothing came in time.
    #[error("{url}: no answer within {limit:?}")]
    Timeout {
        /// What was asked for.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// More than anybody wants to have.
    #[error("{url}: the answer is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Most bytes taken.
        limit: usize,
    },
    /// It leads elsewhere again and again.
    #[error("{url}: more than {REDIRECTS_MAX} redirects")]
    Redirects {
        /// What was asked for.
        url: String,
    },
    /// It leads to nowhere, or out of TLS.
    #[error("{url}: redirects to {target}, which is not followed: {reason}")]
    Elsewhere {
        /// What was asked for.
        url: String,
        /// Where it leads.
        target: String,
        /// Why not there.
        reason: &'static str,
    },
}

/// Bounds of one request, with all its redirects.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first name to the last byte.
    pub time: Duration,
    /// Of the answer's body, in bytes.
    pub bytes: usize,
}

/// Asks servers.
#[derive(Debug)]
pub struct Client {
    tls: Arc<ClientConfig>,
    /// Name to verify instead of the URL's host.
    server_name: Option<String>,
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
}

/// An open connection that nobody uses.
#[derive(Debug)]
struct Idle {
    origin: String,
    sender: http1::SendRequest<Full<Bytes>>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Where.
    pub url: Uri,
    /// Headers. Redirects take them along to the same host only, unless [`Ask::trusts_redirects`].
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Content.
    pub body: Bytes,
    /// Redirects lead to other servers of the same service: they get the headers too.
    pub trusts_redirects: bool,
}

impl Ask {
    /// A `GET`.
    #[must_use]
    pub fn get(url: Uri) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            trusts_redirects: false,
        }
    }
}

impl Client {
    /// Speaks TLS, where a URL wants it, by `tls`, and verifies `server_name` if that is given.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>, server_name: Option<String>) -> Self {
        Self {
            tls,
            server_name,
            idle: Mutex::default(),
            idle_max: IDLE_MAX,
        }
    }

    /// The same, with more connections kept for the next request.
    #[must_use]
    pub fn keeping(mut self, connections: usize) -> Self {
        self.idle_max = connections;
        self
    }

    /// Asks once and reads the whole answer: a redirect is one like any other.
    ///
    /// Cancel safe: dropping the future ends the request.
    ///
    /// # Errors
    /// When there is no answer within the limits.
    pub async fn ask_once(&self, ask: Ask, limits: Limits) -> Result<Response<Bytes>, WebError> {
        let answered = tokio::time::timeout(limits.time, self.once(&ask, limits.bytes)).await;
        answered.unwrap_or_else(|_| {
            Err(WebError::Timeout {
                url: shown(&ask.url),
                limit: limits.time,
            })
        })
    }

    /// Asks, follows redirects, and reads the whole answer, whatever its status.
    ///
    /// Cancel safe: dropping the future ends the request.
    ///
    /// # Errors
    /// When there is no answer within the limits.
    pub async fn ask(&self, ask: Ask, limits: Limits) -> Result<Response<Bytes>, WebError> {
        let url = shown(&ask.url);
        let answered = tokio::time::timeout(limits.time, self.follow(ask, limits.bytes)).await;
        answered.unwrap_or(Err(WebError::Timeout {
            url,
            limit: limits.time,
        }))
    }

    async fn follow(&self, mut ask: Ask, bytes: usize) -> Result<Response<Bytes>, WebError> {
        let first = shown(&ask.url);
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.once(&ask, bytes).await?;
            let Some(location) = location(&answer) else {
                return Ok(answer);
            };
            let refused = |reason| {
                let target = location.split('?').next().unwrap_or_default().to_owned();
                WebError::Elsewhere {
                    url: shown(&ask.url),
                    target,
                    reason,
                }
            };
            let next = onward(&ask.url, location).ok_or_else(|| refused("it is no URL"))?;
            let same_host =
                next.authority() == ask.url.authority() && next.scheme() == ask.url.scheme();
            let keeps_tls =
                ask.url.scheme_str() != Some("https") || next.scheme_str() == Some("https");
            if !same_host && ask.trusts_redirects && !keeps_tls {
                return Err(refused("it is out of TLS"));
            }
            // A 303 (and by custom a 301 or 302) is to be read; others are to be asked the same.
            let same = matches!(
                answer.status(),
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            );
            if !same && ask.method != Method::HEAD {
                (ask.method, ask.body) = (Method::GET, Bytes::new());
            }
            if !same_host && !ask.trusts_redirects {
                ask.headers.clear();
            }
            ask.url = next;
        }
        Err(WebError::Redirects { url: first })
    }

    /// One exchange. A kept connection that turns out to be closed is replaced by a new one.
    async fn once(&self, ask: &Ask, bytes: usize) -> Result<Response<Bytes>, WebError> {
        let place = url::Place::of(&ask.url).ok_or_else(|| WebError::Url(shown(&ask.url)))?;
        let origin = place.origin();
        let mut kept = self.take(&origin);
        loop {
            let reused = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.connect(&place).await?,
            };
            let request = request(ask, &place)?;
            match exchange(&mut sender, request, &ask.url, bytes).await {
                Ok(answer) => {
                    self.keep(origin, sender);
                    return Ok(answer);
                }
                // Nothing of an answer came: as likely as not the server closed it while nobody
                // looked.
                Err(Failure {
                    error: WebError::Exchange { .. },
                    unanswered: true,
                }) if reused => {}
                Err(failure) => return Err(failure.error),
            }
        }
    }

    fn take(&self, origin: &str) -> Option<http1::SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| !idle.sender.is_closed());
        let at = idle.iter().position(|idle| idle.origin == origin)?;
        Some(idle.swap_remove(at).sender)
    }

    fn keep(&self, origin: String, sender: http1::SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max && !sender.is_closed() {
            idle.push(Idle { origin, sender });
        }
    }

    async fn connect(
        &self,
        place: &url::Place,
    ) -> Result<http1::SendRequest<Full<Bytes>>, WebError> {
        let server = format!("{}:{}", place.host, place.port);
        let failed = |reason: String| WebError::Connect {
            server: server.clone(),
            reason,
        };
        let stream = TcpStream::connect((&*place.host, place.port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).ok();
        if !place.tls {
            return start(stream).await.map_err(failed);
        }
        let failed = |reason: String| WebError::Tls {
            server: server.clone(),
            reason,
        };
        let name = self.server_name.as_ref().unwrap_or(&place.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|_| failed(format!("{name} is no name for TLS")))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| failed(error.to_string()))?;
        start(stream).await.map_err(failed)
    }
}

struct Failure {
    error: WebError,
    unanswered: bool,
}

async fn start<T>(stream: T) -> Result<http1::SendRequest<Full<Bytes>>, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends by itself: when the server closes, or when the sender is gone.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(ask: &Ask, place: &url::Place) -> Result<Request<Full<Bytes>>, WebError> {
    let path = ask.url.path_and_query().map_or("/", |it| it.as_str());
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(path)
        .header(HOST, &place.authority);
    if !ask.headers.iter().any(|(name, _)| name == USER_AGENT) {
        request = request.header(USER_AGENT, "lb");
    }
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    if let Some(credentials) = &place.credentials
        && !ask.headers.iter().any(|(name, _)| name == AUTHORIZATION)
    {
        request = request.header(
            AUTHORIZATION,
            format!("Basic {}", BASE64_STANDARD.encode(credentials)),
        );
    }
    let failed = |error: http::Error| WebError::Exchange {
        url: shown(&ask.url),
        reason: error.to_string(),
    };
    request.body(Full::new(ask.body.clone())).map_err(failed)
}

async fn exchange(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    url: &Uri,
    bytes: usize,
) -> Result<Response<Bytes>, Failure> {
    let failed = |reason: String, unanswered| Failure {
        error: WebError::Exchange {
            url: shown(url),
            reason,
        },
        unanswered,
    };
    sender
        .ready()
        .await
        .map_err(|error| failed(reason(&error), true))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(reason(&error), true))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, bytes).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Failure {
                error: WebError::TooLong {
                    url: shown(url),
                    limit: bytes,
                },
                unanswered: false,
            };
        }
        failed(error.to_string(), false)
    })?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// In TLS 1.3 the server's alert about our certificate comes with the first read, below hyper's own
/// words.
fn reason(error: &hyper::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn location<T>(answer: &Response<T>) -> Option<&str> {
    let redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    header(answer.headers(), LOCATION).filter(|_| redirect)
}

/// A header's value, if it is there and is text.
#[must_use]
pub fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|text| !text.is_empty())
}
