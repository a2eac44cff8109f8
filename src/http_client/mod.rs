//! HTTP towards servers that are not instances, by `reqwest`: where a file is fetched, an API is
//! called, a service decides about a request.
//!
//! Whole requests and whole responses, each with limits for time and size; and responses that never
//! end, read as they come. The data path, the
//! watches of Consul and the APIs behind `ssh` have clients of their own, see
//! docs/decisions/0016-reqwest.md.

mod error;
mod open;
mod origin;
#[cfg(test)]
mod tests;
pub(crate) mod trust;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderMap, LOCATION};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use error::{Failure, REDIRECTS_MAX};
pub(crate) use error::{HttpError, TlsFault};
pub(crate) use open::OpenResponse;
use origin::Origin;
pub(crate) use origin::{onward, shown};

/// Connections to a server that are kept for later requests.
const IDLE_MAX: usize = 8;
/// How long they are kept: longer than the usual pause between two looks at a server (30 s). What
/// the server closes earlier is noticed.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// Longest wait for a connection, all addresses of a name and TLS included: a silent address gets
/// its share of it, so that the next one is tried.
const CONNECT_TIME: Duration = Duration::from_secs(6);

/// Bounds of one request, with all its redirects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the look-up of the name to the last byte.
    pub time: Duration,
    /// Largest body of a response, in bytes.
    pub bytes: usize,
}

/// Sends requests, and keeps connections for the next ones.
#[derive(Debug)]
pub(crate) struct Client {
    kind: Kind,
    /// A response was had, so that a connection may have been kept.
    used: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    /// Verifies the hosts of URLs.
    Plain(Pair),
    /// Verifies one name, wherever a URL leads; a client for each host of URLs.
    Named {
        name: String,
        tls: Box<ClientConfig>,
        idle_max: usize,
        clients: Mutex<HashMap<String, Pair>>,
    },
}

/// Two clients of the crate with the same settings.
#[derive(Clone, Debug)]
struct Pair {
    /// Keeps connections.
    keeping: reqwest::Client,
    /// Makes a new one for each request.
    fresh: reqwest::Client,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub method: Method,
    /// `http://` or `https://`.
    pub url: Uri,
    /// Redirects take them along to the same host only, unless [`Request::trusts_redirects`].
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// Redirects lead to other servers of the same service: they get the headers too.
    pub trusts_redirects: bool,
}

impl Request {
    /// A `GET` without headers of its own.
    #[must_use]
    pub(crate) fn get(url: Uri) -> Self {
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
    /// Speaks HTTP/1.1, over `tls` where a URL says https. `server_name` is sent and verified
    /// instead of the URL's host, if it is given. Proxies of the environment are not used.
    ///
    /// # Errors
    /// [`HttpError::Client`] where no client can be made of these settings.
    pub(crate) fn new(tls: &ClientConfig, server_name: Option<String>) -> Result<Self, HttpError> {
        Self::keeping(tls, server_name, IDLE_MAX)
    }

    /// Speaks plain HTTP alone, and reads no certificate: of `https` it trusts nothing.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn without_tls() -> Result<Self, HttpError> {
        Self::new(&no_tls()?, None)
    }

    /// The same as [`Client::new`], with so many connections to a server kept for later requests.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn keeping(
        tls: &ClientConfig,
        server_name: Option<String>,
        idle_max: usize,
    ) -> Result<Self, HttpError> {
        let kind = match server_name {
            None => Kind::Plain(Pair::new(tls, idle_max, To::Host)?),
            Some(name) if name.parse::<IpAddr>().is_ok() => {
                return Err(HttpError::Client {
                    reason: format!("server name `{name}` is an address; give a host name"),
                });
            }
            Some(name) => Kind::Named {
                name,
                tls: Box::new(tls.clone()),
                idle_max,
                clients: Mutex::default(),
            },
        };
        Ok(Self {
            kind,
            used: AtomicBool::new(false),
        })
    }

    /// Speaks plain HTTP over a socket in the file system, whatever the host of a URL is.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn over_socket(path: &Path) -> Result<Self, HttpError> {
        let tls = no_tls()?;
        Ok(Self {
            kind: Kind::Plain(Pair::new(&tls, IDLE_MAX, To::Socket(path))?),
            used: AtomicBool::new(false),
        })
    }

    /// Sends a request, and returns once the head of its response is there: the body may never end.
    /// A connection of its own, which is closed when the response is dropped.
    ///
    /// Cancel safe: dropping the future ends the request.
    ///
    /// # Errors
    /// When no response begins in this time.
    pub(crate) async fn open(
        &self,
        request: &Request,
        time: Duration,
    ) -> Result<OpenResponse, HttpError> {
        let origin = Origin::of(&request.url).ok_or_else(|| HttpError::Url(shown(&request.url)))?;
        let Pair { fresh, .. } = self.clients_for(&origin)?;
        let built = self.assemble(&fresh, request, &origin)?;
        let response = timeout(time, fresh.execute(built)).await;
        match response {
            Err(_) => Err(HttpError::timeout(&request.url, time)),
            Ok(Err(error)) => Err(Failure::NoResponse(error).into_error(&request.url, &origin, 0)),
            Ok(Ok(incoming)) => Ok(OpenResponse::new(shown(&request.url), incoming)),
        }
    }

    /// Sends a request and reads the whole response: a redirect is one like any other.
    ///
    /// Cancel safe: dropping the future ends the request.
    ///
    /// # Errors
    /// When there is no response within the limits.
    pub(crate) async fn send_once(
        &self,
        request: Request,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let response = timeout(limits.time, self.exchange(&request, limits.bytes)).await;
        response.unwrap_or_else(|_| Err(HttpError::timeout(&request.url, limits.time)))
    }

    /// Sends a request, follows redirects, and reads the whole response, whatever its status.
    ///
    /// Cancel safe: dropping the future ends the request.
    ///
    /// # Errors
    /// When there is no response within the limits.
    pub(crate) async fn send(
        &self,
        request: Request,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let url = request.url.clone();
        let response = timeout(limits.time, self.follow(request, limits.bytes)).await;
        response.unwrap_or_else(|_| Err(HttpError::timeout(&url, limits.time)))
    }

    async fn follow(
        &self,
        mut request: Request,
        bytes: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let first = shown(&request.url);
        for _ in 0..=REDIRECTS_MAX {
            let response = self.exchange(&request, bytes).await?;
            let Some(location) = location(&response) else {
                return Ok(response);
            };
            request = redirected(request, response.status(), location)?;
        }
        Err(HttpError::Redirects { url: first })
    }

    /// One exchange. A read whose connection ended before any of a response came is sent once more
    /// where a connection may have been kept: as likely as not the server had closed that one.
    async fn exchange(
        &self,
        request: &Request,
        bytes: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let origin = Origin::of(&request.url).ok_or_else(|| HttpError::Url(shown(&request.url)))?;
        let Pair { keeping, fresh } = self.clients_for(&origin)?;
        let may_repeat = self.used.load(Relaxed) && request.method.is_safe();
        let first = self.assemble(&keeping, request, &origin)?;
        let mut result = attempt(&keeping, first, bytes).await;
        if may_repeat && result.as_ref().is_err_and(Failure::is_closed_early) {
            // Others that were kept may have died with it.
            let second = self.assemble(&fresh, request, &origin)?;
            result = attempt(&fresh, second, bytes).await;
        }
        if result.is_ok() {
            self.used.store(true, Relaxed);
        }
        result.map_err(|failure| failure.into_error(&request.url, &origin, bytes))
    }

    fn clients_for(&self, origin: &Origin) -> Result<Pair, HttpError> {
        match &self.kind {
            Kind::Plain(pair) => Ok(pair.clone()),
            Kind::Named {
                tls,
                idle_max,
                clients,
                ..
            } => {
                let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(pair) = clients.get(&origin.host) {
                    return Ok(pair.clone());
                }
                let pair = Pair::new(tls, *idle_max, To::Named(&origin.host))?;
                clients.insert(origin.host.clone(), pair.clone());
                Ok(pair)
            }
        }
    }

    fn assemble(
        &self,
        client: &reqwest::Client,
        request: &Request,
        origin: &Origin,
    ) -> Result<reqwest::Request, HttpError> {
        let name = match &self.kind {
            Kind::Named { name, .. } if origin.tls => Some(name.as_str()),
            _ => None,
        };
        let path = request.url.path_and_query().map_or("/", |it| it.as_str());
        let url = format!("{}{path}", origin.base(name));
        let url: reqwest::Url = url
            .parse()
            .map_err(|_| HttpError::Url(shown(&request.url)))?;
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 2);
        for (field, value) in &request.headers {
            headers.append(field, value.clone());
        }
        if !headers.contains_key(HOST)
            && let Ok(authority) = HeaderValue::from_str(&origin.authority)
        {
            headers.insert(HOST, authority);
        }
        if let Some(credentials) = &origin.credentials
            && !headers.contains_key(AUTHORIZATION)
            && let Ok(mut value) =
                HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(credentials)))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut built = client.request(request.method.clone(), url).headers(headers);
        if !request.body.is_empty()
            || request.method == Method::POST
            || request.method == Method::PUT
        {
            built = built.body(request.body.clone());
        }
        built.build().map_err(|error| HttpError::Exchange {
            url: shown(&request.url),
            reason: error::causes(&error),
        })
    }
}

impl Pair {
    fn new(tls: &ClientConfig, idle_max: usize, to: To<'_>) -> Result<Self, HttpError> {
        Ok(Self {
            keeping: build(tls, idle_max, to)?,
            fresh: build(tls, 0, to)?,
        })
    }
}

/// Where connections go.
#[derive(Clone, Copy, Debug)]
enum To<'a> {
    /// To the host of each URL.
    Host,
    /// To this host, whatever the host of a URL is.
    Named(&'a str),
    /// To this socket in the file system.
    Socket(&'a Path),
}

/// Settings that trust no certificate.
fn no_tls() -> Result<ClientConfig, HttpError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| HttpError::Client {
        reason: error.to_string(),
    })?;
    Ok(builder
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

/// A client of the crate.
fn build(tls: &ClientConfig, idle_max: usize, to: To<'_>) -> Result<reqwest::Client, HttpError> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIME)
        .user_agent("lb")
        .pool_idle_timeout(IDLE_TIME)
        .pool_max_idle_per_host(idle_max);
    builder = match to {
        To::Host => builder,
        To::Named(host) => builder.dns_resolver(Arc::new(AlwaysTo(host.to_owned()))),
        To::Socket(path) => builder.unix_socket(path),
    };
    builder.build().map_err(|error| HttpError::Client {
        reason: error::causes(&error),
    })
}

/// Resolves one host, whatever is looked up.
#[derive(Debug)]
struct AlwaysTo(String);

impl Resolve for AlwaysTo {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port of the URL replaces this one.
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// Sends, and reads the whole response.
async fn attempt(
    client: &reqwest::Client,
    request: reqwest::Request,
    bytes: usize,
) -> Result<Response<Bytes>, Failure> {
    let mut incoming = client.execute(request).await.map_err(Failure::NoResponse)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = incoming.status();
    *response.headers_mut() = std::mem::take(incoming.headers_mut());
    let mut body = BytesMut::new();
    while let Some(chunk) = incoming.chunk().await.map_err(Failure::Broken)? {
        if body.len() + chunk.len() > bytes {
            return Err(Failure::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    *response.body_mut() = body.freeze();
    Ok(response)
}

/// The request that a redirect leads to.
fn redirected(
    mut request: Request,
    status: StatusCode,
    location: &str,
) -> Result<Request, HttpError> {
    let refused = |reason| HttpError::RefusedRedirect {
        url: shown(&request.url),
        target: location.split('?').next().unwrap_or_default().to_owned(),
        reason,
    };
    let next = onward(&request.url, location).ok_or_else(|| refused("it is not a URL"))?;
    let same_host =
        next.authority() == request.url.authority() && next.scheme() == request.url.scheme();
    let keeps_tls = request.url.scheme_str() != Some("https") || next.scheme_str() == Some("https");
    if !same_host && request.trusts_redirects && !keeps_tls {
        return Err(refused("it leaves TLS"));
    }
    // A 303 (and by custom a 301 or 302) is read with GET; others repeat the request.
    let same = matches!(
        status,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    if !same && request.method != Method::HEAD {
        (request.method, request.body) = (Method::GET, Bytes::new());
    }
    if !same_host && !request.trusts_redirects {
        request.headers.clear();
    }
    request.url = next;
    Ok(request)
}

fn location<T>(response: &Response<T>) -> Option<&str> {
    let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    header(response.headers(), LOCATION).filter(|_| redirect)
}

/// A header's value, if it is there and is text.
#[must_use]
pub(crate) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|text| !text.is_empty())
}
