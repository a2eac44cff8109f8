//! One attempt: a request to one instance, up to the head of its answer, or, where the request could be asked again, to
//! the first of its body.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body::{Body as _, Frame};
use tokio::time::timeout;

use crate::metrics::service::RetryReason;
use crate::proxy::auth::Granted;
use crate::proxy::connect::ConnectError;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::h1::write_head::{self, Bodiless};
use crate::proxy::http::headers::{self, HeaderRules, RequestContext, Upgrade};
use crate::proxy::http::path::{self, NormalPath, PathEdit};
use crate::proxy::http::record::Lease;
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::source::{Source, SourceError};
use crate::proxy::http::upstream::h1::{Again, Sent, Way};
use crate::proxy::http::upstream::h1_body::DirectBody;
use crate::proxy::http::upstream::h1_send::Outgoing;
use crate::proxy::http::upstream::h2::SendError;
use crate::proxy::pool::{Connection, PoolKey};
use crate::proxy::settings::Settings;
use crate::proxy::worker::{Worker, ms};
use crate::table::{InFlight, Target};

/// How long the head of an answer is held until the first of its body is there. A process that is stopped between
/// writing the two is gone within a millisecond.
pub(crate) const HEAD_HELD_MAX: Duration = Duration::from_millis(100);

/// A request as it came in, kept so that each attempt can be made from it.
#[derive(Debug)]
pub struct Original {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Version the client spoke.
    pub version: Version,
    /// Its header.
    pub headers: HeaderMap,
    /// The host it asks for.
    pub host: Option<HeaderValue>,
    /// The upgrade it asks for.
    pub upgrade: Option<Upgrade>,
    /// Its id, if one is configured.
    pub request_id: Option<HeaderValue>,
    /// Fields that the service set which let it in.
    pub granted: OnceCell<Box<Granted>>,
}

/// An answer's head, and what comes with it.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub response: Response<Source>,
    /// What was taken of its body already.
    pub first: Option<Frame<Bytes>>,
    /// The connection it comes on.
    pub lease: Lease,
    /// The instance's load counter.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head of the answer.
    pub took: Duration,
}

/// An error of whichever way the attempt was made.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError<B = RequestBody> {
    /// No connection: nothing was sent.
    #[error("{source}")]
    Connect {
        /// Why.
        source: ConnectError,
        /// The request's body, untouched.
        body: B,
    },
    /// The connection ended before any byte of an answer, or of one that had a head only.
    #[error("connection closed before an answer: {source}")]
    Closed {
        /// What ended it.
        source: BoxError,
        /// It had served requests before: the instance may be well.
        reused: bool,
        /// The request's body, if it was provably not sent.
        unsent: Option<B>,
    },
    /// The answer was not HTTP, or broke off inside its head.
    #[error("not an answer: {0}")]
    Protocol(BoxError),
    /// The request cannot be expressed towards this upstream.
    #[error("cannot build the upstream request: {0}")]
    Request(String),
}

impl AttemptError<Again> {
    /// The same of a request without a body.
    #[must_use]
    pub fn bodiless(self) -> AttemptError<RequestBody> {
        match self {
            Self::Connect { source, .. } => AttemptError::Connect { source, body: RequestBody::Empty },
            Self::Closed { source, reused, unsent } => {
                AttemptError::Closed { source, reused, unsent: unsent.map(|Again| RequestBody::Empty) }
            }
            Self::Protocol(source) => AttemptError::Protocol(source),
            Self::Request(reason) => AttemptError::Request(reason),
        }
    }
}

impl<B> AttemptError<B> {
    /// Reason for the retry metric.
    #[must_use]
    pub fn retry_reason(&self) -> RetryReason {
        match self {
            Self::Connect { .. } => RetryReason::Connect,
            _ => RetryReason::Closed,
        }
    }

    /// What this side lacked, if that is why there is no connection.
    #[must_use]
    pub fn exhaustion(&self) -> Option<&ConnectError> {
        match self {
            Self::Connect { source, .. } => Some(source).filter(|source| source.is_exhaustion()),
            _ => None,
        }
    }

    /// Whether the failure speaks against the instance.
    #[must_use]
    pub fn blames_instance(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.blames_instance(),
            Self::Protocol(_) => true,
            Self::Closed { reused, .. } => !reused,
            Self::Request(_) => false,
        }
    }
}

/// Sends the request to `target` and waits for the head of the answer. No deadline of its own but the connect one.
/// Dropping the future closes an HTTP/1.1 connection and resets an HTTP/2 stream: nothing leaks.
///
/// # Errors
/// See [`AttemptError`]; its variants say whether anything was sent.
#[expect(clippy::too_many_arguments, reason = "each is a thing of its own; a struct would live for this call alone")]
pub async fn attempt(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    settings: &Settings,
    original: &Original,
    path: &NormalPath<'_>,
    target: &Target,
    body: RequestBody,
    fresh_only: bool,
) -> Result<Answer, AttemptError> {
    let key = PoolKey::of(target);
    let bodiless = matches!(body, RequestBody::Empty);
    let in_flight = InFlight::new(Arc::clone(&target.state));
    let now_ms = worker.clock.now_ms();
    let idle_max_ms = ms(settings.proxy.upstream_idle_timeout);
    let before = target.state.presence();
    let mut warm = if fresh_only { None } else { worker.pool.checkout(&key, now_ms, idle_max_ms) };
    let mut body = body;
    let may_repeat = bodiless && is_idempotent(&original.method);
    loop {
        if warm.is_some() && !may_repeat {
            // The end of an idle connection may lie in the kernel, unread: one turn of the event loop, and it is known
            // before rather than after something was sent that nobody may send twice.
            tokio::task::yield_now().await;
            while warm.as_ref().is_some_and(|connection| !connection.is_ready()) {
                warm = worker.pool.checkout(&key, now_ms, idle_max_ms);
            }
        }
        let reused = warm.is_some();
        let connection = match warm.take() {
            Some(connection) => connection,
            None if target.state.presence() != before => {
                return Err(AttemptError::Connect { source: ConnectError::Gone, body });
            }
            // Boxed: it is rare, and larger than all the rest, which is moved about.
            None => match Box::pin(worker.pool.open(&key, target, settings, now_ms)).await {
                Ok(connection) => connection,
                Err(source) => return Err(AttemptError::Connect { source, body }),
            },
        };
        let sent = target_uri(original, path, target)?;
        let mut request = build(original, sent, &downstream, &settings.header_rules, target, body)?;
        if original.version == Version::HTTP_11 && !key.speaks_h2() {
            downstream.interim().listen(&mut request);
        }
        let sent = Instant::now();
        match send(connection, key.clone(), request).await {
            Ok((mut response, lease)) => {
                let took = sent.elapsed();
                let first = if may_repeat { first_of_body(&mut response).await } else { Ok(None) };
                // Nothing of it was passed on yet, so it can still be had elsewhere.
                let first =
                    first.map_err(|source| AttemptError::Closed { source: source.into(), reused, unsent: None })?;
                return Ok(Answer { response, first, lease, in_flight, took });
            }
            // A pooled connection that had ended unseen took nothing: the next one, or a fresh one, gets it.
            Err(AttemptError::Closed { unsent: Some(unsent), .. }) if reused => {
                body = unsent;
                warm = worker.pool.checkout(&key, now_ms, idle_max_ms);
            }
            Err(AttemptError::Closed { source, unsent, .. }) => {
                return Err(AttemptError::Closed { source, reused, unsent });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a request can be asked for by [`ask_directly`]. Interim answers go to clients of HTTP/1.1 alone, and with upgrades the
/// connection changes hands: those are hyper's.
pub fn may_ask_directly(settings: &Settings, original: &Original, target: &Target, body: &RequestBody) -> bool {
    matches!(body, RequestBody::Empty)
        && original.version == Version::HTTP_2
        && !target.options.proto.is_h2()
        && settings.proxy.direct
}

/// As [`attempt`], of a request without a body, over HTTP/1.1, byte by byte.
///
/// # Errors
/// As [`attempt`].
pub async fn ask_directly(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    settings: &Arc<Settings>,
    original: &Original,
    path: &NormalPath<'_>,
    target: &Target,
    fresh_only: bool,
) -> Result<Answer, AttemptError> {
    let repeatable = is_idempotent(&original.method);
    // What cannot be sent needs no connection.
    let mut head = worker.direct.buffers.for_head();
    put_head(&mut head, worker, downstream, settings, original, path, target)?;
    // As in the exchange of HTTP/1.1: what may not be sent twice is not sent on a connection whose end lies unread.
    let way = Way::to(target, worker, settings, fresh_only, !repeatable).await;
    let way = way.map_err(|source| AttemptError::Connect { source, body: RequestBody::Empty })?;
    let outgoing = Outgoing::new(head, b"", &way.stream);
    let sent = Sent::new(worker, way, outgoing, original.method.clone(), repeatable, target);
    let answer = sent.answer().await.map_err(AttemptError::bodiless)?;
    let opened = DirectBody::open(worker, &target.state, answer);
    Ok(Answer {
        response: opened.response.map(Source::Direct),
        // It lies in the body.
        first: None,
        lease: Lease::Direct,
        in_flight: opened.in_flight,
        took: opened.took,
    })
}

/// Writes the head of a request without a body.
fn put_head(
    out: &mut Vec<u8>,
    worker: &Worker,
    downstream: &Downstream,
    settings: &Arc<Settings>,
    original: &Original,
    path: &NormalPath<'_>,
    target: &Target,
) -> Result<(), AttemptError> {
    let sent = target_uri(original, path, target)?;
    if let (Some(host), None) = (&original.host, original.granted.get()) {
        let Original { method, headers, request_id, version, .. } = original;
        let request = Bodiless { method, target: &sent, headers, host, id: request_id.as_ref() };
        let lines = worker.direct.lines.of(settings, &downstream.client, *version);
        if write_head::put_as_it_came(out, &request, settings, &downstream.client, &lines, target) {
            return Ok(());
        }
    }
    let request = build(original, sent, downstream, &settings.header_rules, target, RequestBody::Empty)?;
    write_head::put_made(out, &request);
    Ok(())
}

/// RFC 9110 section 9.2.2.
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// Whether two instances may be asked the same at the same time, by the method alone. Other safe methods are too rare to
/// take part.
#[must_use]
pub fn may_be_doubled(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a request without content has to say so: some servers answer 411 to a POST that does not (RFC 9110 section 8.6).
#[must_use]
pub fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// The beginning of a body that is known to come. Many servers write the head and the body apart, and one that is
/// stopped at once is stopped, more often than not, in a call between the two. A body of unknown length is not waited
/// for, because of a stream of events the head is news by itself; nor is one whose beginning takes its time.
async fn first_of_body(response: &mut Response<Source>) -> Result<Option<Frame<Bytes>>, SourceError> {
    let body = response.body_mut();
    if body.is_end_stream() || body.size_hint().exact().is_none() {
        return Ok(None);
    }
    // Polling loses nothing when it is given up.
    match timeout(HEAD_HELD_MAX, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await {
        Ok(first) => first.transpose(),
        Err(_) => Ok(None),
    }
}

async fn send(
    connection: Connection,
    key: PoolKey,
    request: Request<RequestBody>,
) -> Result<(Response<Source>, Lease), AttemptError> {
    match connection {
        Connection::H1(mut sender) => match sender.try_send_request(request).await {
            Ok(response) => {
                let mut response = response.map(Source::Hyper);
                // The coding has framed the body; a length beside it is wrong or an attack (RFC 9112 section 6.3).
                if response.headers().contains_key(TRANSFER_ENCODING) {
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                Ok((response, Lease::H1(key, sender)))
            }
            Err(mut error) => Err(classify(error.take_message(), error.into_error())),
        },
        Connection::H2(shared, stream) => match shared.send(request).await {
            Ok(response) => Ok((response.map(Source::Stream), Lease::H2(stream))),
            Err(SendError::Unsent { source, body }) => {
                Err(AttemptError::Closed { source, reused: false, unsent: Some(body) })
            }
            Err(SendError::Lost(source)) => {
                Err(AttemptError::Closed { source: source.into(), reused: false, unsent: None })
            }
            Err(SendError::Impossible(error)) => Err(AttemptError::Request(error.to_string())),
        },
    }
}

fn classify(unsent: Option<Request<RequestBody>>, source: hyper::Error) -> AttemptError {
    if source.is_parse() || source.is_parse_too_large() {
        return AttemptError::Protocol(source.into());
    }
    AttemptError::Closed { source: source.into(), reused: false, unsent: unsent.map(Request::into_body) }
}

/// What the rules for header fields have to know of a request to `target`.
pub(crate) fn context<'a>(
    original: &'a Original,
    downstream: &'a Downstream,
    rules: &'a HeaderRules,
    target: &'a Target,
) -> RequestContext<'a> {
    let options = &*target.options;
    RequestContext {
        client: &downstream.client,
        rules,
        host: original.host.as_ref(),
        version: original.version,
        upgrade: original.upgrade.as_ref(),
        strip: options.strip.as_deref(),
        rewrite: &options.host,
        target: target.state.addr,
        upstream_h2: options.proto.is_h2(),
    }
}

/// Path and query for `target`.
///
/// # Errors
/// What its options make of them cannot be sent.
pub(crate) fn target_uri(
    original: &Original,
    path: &NormalPath<'_>,
    target: &Target,
) -> Result<PathAndQuery, AttemptError> {
    let options = &*target.options;
    let edit = PathEdit {
        strip: options.strip.as_deref(),
        prepend: options.prepend.as_deref(),
        query: target.query.as_deref(),
    };
    let received = original.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    path::rewrite(&received, path, &edit).map_err(|error| AttemptError::Request(error.to_string()))
}

/// Header fields as they are sent.
pub(crate) fn fields(original: &Original, context: &RequestContext<'_>) -> HeaderMap {
    let mut fields = original.headers.clone();
    if let (Some(name), Some(id)) = (&context.rules.request_id_header, &original.request_id) {
        fields.insert(name.clone(), id.clone());
    }
    headers::prepare_request(&mut fields, context);
    // Last: no client can name one of these in Connection and so take it away.
    if let Some(granted) = original.granted.get() {
        granted.apply(&mut fields);
    }
    fields
}

fn build(
    original: &Original,
    rewritten: PathAndQuery,
    downstream: &Downstream,
    rules: &HeaderRules,
    target: &Target,
    body: RequestBody,
) -> Result<Request<RequestBody>, AttemptError> {
    let context = context(original, downstream, rules, target);
    let without_body = matches!(body, RequestBody::Empty);
    let mut request = Request::new(body);
    *request.method_mut() = original.method.clone();
    *request.uri_mut() = if context.upstream_h2 {
        absolute(rewritten, &headers::upstream_host(&context), target.options.proto.is_tls())?
    } else {
        Uri::from(rewritten)
    };
    *request.version_mut() = if context.upstream_h2 { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = fields(original, &context);
    if without_body && expects_content(&original.method) && !context.upstream_h2 {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
    Ok(request)
}

/// HTTP/2 carries scheme and authority as pseudo header fields, which hyper takes from an absolute URI.
fn absolute(path: PathAndQuery, host: &HeaderValue, tls: bool) -> Result<Uri, AttemptError> {
    let authority = Authority::try_from(host.as_bytes())
        .map_err(|error| AttemptError::Request(format!("host {host:?} is no authority: {error}")))?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls { UriScheme::HTTPS } else { UriScheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| AttemptError::Request(error.to_string()))
}
