//! Heads as they are sent on: to the upstream, and to the client.
//!
//! Usually a head is its lines as they came, without those of the hop, and with ours behind them. Where fields decide
//! about others (a chain of proxies before us, `Connection` that names fields), the same functions as on hyper's way do
//! it, on a map of the fields; so both ways cannot differ in what they say, only in how they spell names.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, DATE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Version};

use crate::catalog::options::HostRewrite;
use crate::proxy::http::h1::request_head::RequestHead;
use crate::proxy::http::h1::response_head::{AnswerHead, Framing};
use crate::proxy::http::h1::scan::{Field, Kind};
use crate::proxy::http::headers::{self, ClientContext, RequestContext, port_of};
use crate::proxy::http::path::{self, NormalPath, PathEdit};
use crate::proxy::http::upstream::forward::expects_content;
use crate::proxy::settings::Settings;
use crate::table::Target;

/// A request as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its bytes, from the first of its head on.
    pub bytes: &'a [u8],
    /// Its head.
    pub head: &'a RequestHead,
    /// Where the fields lie.
    pub fields: &'a [Field],
    /// Its path, decoded.
    pub path: &'a NormalPath<'a>,
    /// Its id, if one is configured.
    pub id: Option<&'a HeaderValue>,
}

impl<'a> Received<'a> {
    /// The body, which lies behind the head.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.head.length..self.head.length + self.head.body]
    }

    /// The fields, as a map.
    #[must_use]
    pub fn map(&self) -> HeaderMap {
        map(self.bytes, self.fields)
    }

    /// The value of Host.
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        self.head.host.of(self.bytes)
    }

    fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        self.fields.iter().map(move |field| field.name.of(bytes))
    }
}

/// The fields that pass, as a map.
#[must_use]
pub fn map(bytes: &[u8], fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len() + 8);
    for field in fields.iter().filter(|field| field.kind != Kind::Dropped) {
        // Both were looked at when the head was: names are tokens, values hold no control bytes.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.of(bytes)), HeaderValue::from_bytes(field.value.of(bytes)))
        {
            map.append(name, value);
        }
    }
    map
}

/// The fields of an answer, as a map for the header rules: with `Connection`, if it names fields that they have to take away.
#[must_use]
pub fn answer_map(bytes: &[u8], head: &AnswerHead, fields: &[Field]) -> HeaderMap {
    let mut map = map(bytes, fields);
    let is_connection = |field: &&Field| field.name.of(bytes).eq_ignore_ascii_case(b"connection");
    for field in fields.iter().filter(|_| head.mapped).filter(is_connection) {
        if let Ok(value) = HeaderValue::from_bytes(field.value.of(bytes)) {
            map.append(http::header::CONNECTION, value);
        }
    }
    map
}

fn put_map(out: &mut Vec<u8>, map: &HeaderMap) {
    for (name, value) in map {
        put(out, name.as_str(), value.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The lines that every request of a client connection gets, as long as the settings stay the same.
#[derive(Debug)]
pub struct ClientLines {
    settings: Arc<Settings>,
    lines: Vec<u8>,
}

impl ClientLines {
    /// Those for a client that speaks `version`.
    #[must_use]
    pub fn new(settings: &Arc<Settings>, client: &ClientContext, version: Version) -> Self {
        let mut map = HeaderMap::new();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let context = RequestContext { version, ..context(settings, client, None, None, &HostRewrite::Keep, nowhere) };
        headers::prepare_request(&mut map, &context);
        // What the request's own host decides.
        map.remove(http::header::HOST);
        map.remove("x-forwarded-port");
        let mut lines = Vec::with_capacity(256);
        put_map(&mut lines, &map);
        lines.shrink_to_fit();
        Self { settings: Arc::clone(settings), lines }
    }

    /// Whether they were made from these settings.
    #[must_use]
    pub fn are_of(&self, settings: &Arc<Settings>) -> bool {
        Arc::ptr_eq(&self.settings, settings)
    }
}

fn context<'a>(
    settings: &'a Settings,
    client: &'a ClientContext,
    host: Option<&'a HeaderValue>,
    strip: Option<&'a str>,
    rewrite: &'a HostRewrite,
    target: SocketAddr,
) -> RequestContext<'a> {
    RequestContext {
        client,
        rules: &settings.header_rules,
        host,
        version: Version::HTTP_11,
        upgrade: None,
        strip,
        rewrite,
        target,
        upstream_h2: false,
    }
}

/// Writes the head as `target` gets it.
///
/// # Errors
/// A request target that the route's options make impossible; what it was.
pub fn put_request(
    out: &mut Vec<u8>,
    received: &Received<'_>,
    settings: &Settings,
    client: &ClientContext,
    lines: &ClientLines,
    target: &Target,
) -> Result<(), String> {
    let options = &*target.options;
    out.extend_from_slice(received.head.method.as_str().as_bytes());
    out.push(b' ');
    put_target(out, received, target)?;
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let rules = &settings.header_rules;
    if received.head.mapped || rules.follow_the_rewrite(&options.host) || rules.overwrite_any(received.names()) {
        let mut map = received.map();
        let host = HeaderValue::from_bytes(received.host()).ok();
        let strip = options.strip.as_deref();
        if let (Some(name), Some(id)) = (&rules.request_id_header, received.id) {
            map.insert(name.clone(), id.clone());
        }
        let context = context(settings, client, host.as_ref(), strip, &options.host, target.state.addr);
        headers::prepare_request(&mut map, &context);
        put_map(out, &map);
    } else {
        let rewritten = options.host != HostRewrite::Keep;
        put_lines(out, received.bytes, received.fields, |kind| {
            matches!(kind, Kind::Hop | Kind::Connection | Kind::Dropped) || (rewritten && kind == Kind::Host)
        });
        match &options.host {
            HostRewrite::Keep => {}
            HostRewrite::Name(_) | HostRewrite::Target => {
                let context = context(settings, client, None, None, &options.host, target.state.addr);
                put(out, "host", headers::upstream_host(&context).as_bytes());
            }
        }
        put_ours(out, lines, received.host(), client, settings, target, received.id);
    }
    let says_length = received.fields.iter().any(|field| field.kind == Kind::ContentLength);
    put_no_content(out, &received.head.method, says_length);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// What every request gets behind its own fields.
fn put_ours(
    out: &mut Vec<u8>,
    lines: &ClientLines,
    host: &[u8],
    client: &ClientContext,
    settings: &Settings,
    target: &Target,
    id: Option<&HeaderValue>,
) {
    out.extend_from_slice(&lines.lines);
    let default: &[u8] = if client.is_tls() { b"443" } else { b"80" };
    put(out, "x-forwarded-port", port_of(host).unwrap_or(default));
    put(out, "x-forwarded-host", host);
    if let Some(strip) = &target.options.strip
        && HeaderValue::from_str(strip).is_ok()
    {
        put(out, "x-forwarded-prefix", strip.as_bytes());
    }
    if let (Some(name), Some(id)) = (&settings.header_rules.request_id_header, id) {
        put(out, name.as_str(), id.as_bytes());
    }
}

/// See [`expects_content`].
fn put_no_content(out: &mut Vec<u8>, method: &Method, says_length: bool) {
    if !says_length && expects_content(method) {
        put(out, CONTENT_LENGTH.as_str(), b"0");
    }
}

/// A request without a body that was read by the library.
#[derive(Clone, Copy, Debug)]
pub struct Bodiless<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Path and query as the upstream gets them.
    pub target: &'a PathAndQuery,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// The host it asks for.
    pub host: &'a HeaderValue,
    /// Its id, if one is configured.
    pub id: Option<&'a HeaderValue>,
}

/// Writes the head of a request whose fields pass as they came, as `target` gets it. False, and nothing is written, if some
/// of them decide about others, or are written by us.
pub fn put_as_it_came(
    out: &mut Vec<u8>,
    request: &Bodiless<'_>,
    settings: &Settings,
    client: &ClientContext,
    lines: &ClientLines,
    target: &Target,
) -> bool {
    let (rules, rewrite) = (&settings.header_rules, &target.options.host);
    let names = request.headers.keys().map(|name| name.as_str().as_bytes());
    if !headers::pass_as_they_came(request.headers) || rules.follow_the_rewrite(rewrite) || rules.overwrite_any(names) {
        return false;
    }
    put_request_line(out, request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != HOST) {
        put(out, name.as_str(), value.as_bytes());
    }
    let context = context(settings, client, Some(request.host), None, rewrite, target.state.addr);
    put(out, HOST.as_str(), headers::upstream_host(&context).as_bytes());
    put_ours(out, lines, request.host.as_bytes(), client, settings, target, request.id);
    put_no_content(out, request.method, request.headers.contains_key(CONTENT_LENGTH));
    out.extend_from_slice(b"\r\n");
    true
}

fn put_request_line(out: &mut Vec<u8>, method: &Method, target: &PathAndQuery) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes the head of a request that was made for its upstream, on whatever way it came.
pub fn put_made<B>(out: &mut Vec<u8>, request: &Request<B>) {
    static ROOT: PathAndQuery = PathAndQuery::from_static("/");
    put_request_line(out, request.method(), request.uri().path_and_query().unwrap_or(&ROOT));
    put_map(out, request.headers());
    out.extend_from_slice(b"\r\n");
}

/// Lines one behind another are copied in one piece.
fn put_lines(out: &mut Vec<u8>, bytes: &[u8], fields: &[Field], skip: impl Fn(Kind) -> bool) {
    let mut run: Option<(usize, usize)> = None;
    for field in fields {
        let keep = !skip(field.kind);
        run = match run {
            Some((start, _)) if keep => Some((start, field.line.end())),
            None if keep => Some((field.line.start(), field.line.end())),
            Some((start, end)) => {
                out.extend_from_slice(&bytes[start..end]);
                None
            }
            None => None,
        };
    }
    if let Some((start, end)) = run {
        out.extend_from_slice(&bytes[start..end]);
    }
}

fn put_target(out: &mut Vec<u8>, received: &Received<'_>, target: &Target) -> Result<(), String> {
    let options = &*target.options;
    let edit = PathEdit {
        strip: options.strip.as_deref(),
        prepend: options.prepend.as_deref(),
        query: target.query.as_deref(),
    };
    let same = |path: &str| *path.as_bytes() == *received.head.path.of(received.bytes);
    if edit == PathEdit::default() && (received.path.is_as_it_came() || same(&received.path.wire)) {
        out.extend_from_slice(received.head.target.of(received.bytes));
        return Ok(());
    }
    let text = received.head.target.text(received.bytes);
    let parsed = PathAndQuery::try_from(text).map_err(|error| format!("{text:?}: {error}"))?;
    let rewritten = path::rewrite(&parsed, received.path, &edit).map_err(|error| error.to_string())?;
    out.extend_from_slice(rewritten.as_str().as_bytes());
    Ok(())
}

/// What a client is told beside what the upstream said.
#[derive(Clone, Copy, Debug)]
pub struct Telling<'a> {
    /// Who it is told.
    pub client: &'a ClientContext,
    /// Header rules.
    pub settings: &'a Settings,
    /// The time, for an answer that has none, in the form of RFC 9110 section 5.6.7.
    pub date: &'a str,
    /// The connection ends with this answer.
    pub close: bool,
}

/// Writes the head of an upstream's answer as the client gets it.
pub fn put_answer(out: &mut Vec<u8>, bytes: &[u8], head: &AnswerHead, fields: &[Field], telling: &Telling<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, head.status);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    let sts = headers::strict_transport_security_for(telling.client, &telling.settings.header_rules);
    if head.mapped {
        let mut map = answer_map(bytes, head, fields);
        headers::prepare_response(&mut map, telling.client, &telling.settings.header_rules, false);
        put_map(out, &map);
    } else {
        put_lines_lenient(out, bytes, fields, |kind| {
            matches!(kind, Kind::Hop | Kind::Dropped) || (kind == Kind::StrictTransportSecurity && sts.is_some())
        });
        if let Some(value) = sts {
            put(out, "strict-transport-security", value.as_bytes());
        }
    }
    if !head.dated {
        put(out, DATE.as_str(), telling.date.as_bytes());
    }
    if matches!(head.framing, Framing::Chunked | Framing::UntilClose) {
        put(out, TRANSFER_ENCODING.as_str(), b"chunked");
    }
    if telling.close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// As [`put_lines`], and every line ends with CRLF whatever it ended with.
fn put_lines_lenient(out: &mut Vec<u8>, bytes: &[u8], fields: &[Field], skip: impl Fn(Kind) -> bool) {
    let usual = fields.iter().all(|field| field.line.of(bytes).ends_with(b"\r\n"));
    if usual {
        return put_lines(out, bytes, fields, skip);
    }
    for field in fields.iter().filter(|field| !skip(field.kind)) {
        out.extend_from_slice(field.name.of(bytes));
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value.of(bytes));
        out.extend_from_slice(b"\r\n");
    }
}

/// An interim answer as the client gets it; nothing of `100 Continue`, which nobody waits for here.
pub fn put_interim(out: &mut Vec<u8>, bytes: &[u8], head: &AnswerHead, fields: &[Field]) {
    if head.status == 100 {
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, head.status);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    put_lines_lenient(out, bytes, fields, |kind| matches!(kind, Kind::Hop | Kind::Dropped | Kind::ContentLength));
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer made here, body and all.
pub fn put_own(out: &mut Vec<u8>, response: &http::Response<bytes::Bytes>, head_only: bool, date: &str, close: bool) {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, status.as_u16());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    put_map(out, response.headers());
    put(out, CONTENT_LENGTH.as_str(), response.body().len().to_string().as_bytes());
    put(out, DATE.as_str(), date.as_bytes());
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(response.body());
    }
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    let digit = |number: u16| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
}
