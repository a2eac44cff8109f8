//! Heads as they are sent on: to the instance, and to the client.
//!
//! Usually a head is its lines as they came, without those of the hop, and with ours behind them.
//! Where fields decide about others (a chain of proxies before us, `Connection` that names fields),
//! the rules of [`headers`] do it, on a map of the fields.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, DATE, HOST, HeaderValue, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

use super::response_head::{Framing, ResponseHead};
use super::scan::{Field, Kind};
use super::spelling::{Spelling, spelled};
use crate::catalog::options::HostRewrite;
use crate::catalog::policies::ResponseEdits;
use crate::proxy::auth::Granted;
use crate::proxy::http::head::{Content, Fields, Head, map_of};
use crate::proxy::http::headers::{self, ClientContext, HeaderRules, RequestContext, port_of};
use crate::proxy::http::path::{self, NormalPath, PathEdit, PathError};
use crate::proxy::http::trailers::may_trail;
use crate::proxy::settings::Settings;
use crate::table::Target;

/// A request on its way to an instance.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// Its head, as it was read.
    pub head: &'a Head<'a>,
    /// Its path, decoded.
    pub path: &'a NormalPath<'a>,
    /// Its id, if one is configured.
    pub id: Option<&'a HeaderValue>,
    /// Fields that the service set which let it in.
    pub granted: Option<&'a Granted>,
}

impl Outbound<'_> {
    /// What the rules for header fields have to know of it, sent to `target`. `host` is that of its
    /// head.
    #[must_use]
    pub fn context<'c>(
        &'c self,
        host: Option<&'c HeaderValue>,
        rules: &'c HeaderRules,
        client: &'c ClientContext,
        target: &'c Target,
    ) -> RequestContext<'c> {
        let options = &*target.options;
        RequestContext {
            client,
            rules,
            host,
            version: self.head.version,
            upgrade: self.head.upgrade.as_ref(),
            strip: options.strip.as_deref(),
            rewrite: &options.host,
            edits: options
                .policies
                .as_ref()
                .map(|policies| &policies.request_fields),
            target: target.state.addr,
            upstream_h2: options.proto.is_h2(),
        }
    }

    /// Its fields as they are sent.
    #[must_use]
    pub fn fields(&self, context: &RequestContext<'_>) -> HeaderMap {
        let mut fields = self.head.fields.map().clone();
        if let (Some(name), Some(id)) = (&context.rules.request_id_header, self.id) {
            fields.insert(name.clone(), id.clone());
        }
        headers::prepare_request(&mut fields, context);
        if let Some(edits) = context.edits {
            for name in edits.names() {
                headers::remove_lookalikes(&mut fields, name);
            }
            edits.apply(&mut fields);
        }
        // Last: no client can name one of these in Connection and so take it away.
        if let Some(granted) = self.granted {
            granted.apply(&mut fields);
        }
        fields
    }

    /// Path and query for `target`.
    ///
    /// # Errors
    /// What its options make of them cannot be sent.
    pub fn target_for(&self, target: &Target) -> Result<Cow<'_, str>, PathError> {
        let options = &*target.options;
        let rewrite = options.policies.as_ref().and_then(|it| it.rewrite.as_ref());
        let made = rewrite.and_then(|rewrite| rewrite.apply(&self.path.wire));
        let edit = PathEdit {
            strip: options.strip.as_deref(),
            prepend: options.prepend.as_deref(),
            query: target.query.as_deref(),
        };
        if let Some(made) = made {
            let path = path::made(&made)?;
            let target = path::rewrite_text(self.head.target, &path, &edit)?;
            return Ok(Cow::Owned(target.into_owned()));
        }
        if edit == PathEdit::default()
            && (self.path.is_as_it_came() || *self.path.wire == *self.head.path())
        {
            return Ok(Cow::Borrowed(self.head.target));
        }
        path::rewrite_text(self.head.target, self.path, &edit)
    }
}

/// The fields of a response, as a map for the header rules: with `Connection`, if it names fields
/// that they have to take away.
#[must_use]
pub fn response_map(bytes: &[u8], head: &ResponseHead, fields: &[Field]) -> HeaderMap {
    let mut map = map_of(bytes, fields);
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

/// The same, with the names spelled as in `fields` of `bytes`.
fn put_map_spelled(out: &mut Vec<u8>, map: &HeaderMap, bytes: &[u8], fields: &[Field]) {
    for (name, value) in map {
        let names = fields.iter().map(|field| field.name.of(bytes));
        put(out, spelled(names, name.as_str()), value.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    out.extend_from_slice(name.as_ref());
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
        let context = RequestContext {
            client,
            rules: &settings.header_rules,
            host: None,
            version,
            upgrade: None,
            strip: None,
            rewrite: &HostRewrite::Keep,
            edits: None,
            target: SocketAddr::from(([0, 0, 0, 0], 0)),
            upstream_h2: false,
        };
        headers::prepare_request(&mut map, &context);
        // What the request's own host decides.
        map.remove(http::header::HOST);
        map.remove("x-forwarded-port");
        let mut lines = Vec::with_capacity(256);
        put_map(&mut lines, &map);
        lines.shrink_to_fit();
        Self {
            settings: Arc::clone(settings),
            lines,
        }
    }

    /// Whether they were made from these settings.
    #[must_use]
    pub fn are_of(&self, settings: &Arc<Settings>) -> bool {
        Arc::ptr_eq(&self.settings, settings)
    }
}

/// Writes the head as `target` gets it.
///
/// # Errors
/// A request target that the route's options make impossible; what it was.
pub fn put_request(
    out: &mut Vec<u8>,
    request: &Outbound<'_>,
    settings: &Settings,
    client: &ClientContext,
    lines: &ClientLines,
    target: &Target,
) -> Result<(), PathError> {
    let head = request.head;
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.target_for(target)?.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let (rules, rewrite) = (&settings.header_rules, &target.options.host);
    let says_length = match &head.fields {
        Fields::Lines { bytes, fields, .. } if passes_as_it_came(request, rules, target) => {
            let kept = *rewrite == HostRewrite::Keep && head.host.is_some();
            put_lines(out, bytes, fields, |kind| {
                matches!(
                    kind,
                    Kind::Hop | Kind::Connection | Kind::Dropped | Kind::TransferEncoding
                ) || (!kept && kind == Kind::Host)
            });
            if !kept {
                let context = request.context(None, rules, client, target);
                put(out, "host", headers::upstream_host(&context).as_bytes());
            }
            put_ours(out, lines, head.host, client, settings, target, request.id);
            fields.iter().any(|field| field.kind == Kind::ContentLength)
        }
        Fields::Map(fields) if passes_as_it_came(request, rules, target) => {
            for (name, value) in fields.iter().filter(|(name, _)| *name != HOST) {
                put(out, name.as_str(), value.as_bytes());
            }
            if let (HostRewrite::Keep, Some(host)) = (rewrite, head.host) {
                put(out, "host", host);
            } else {
                let context = request.context(None, rules, client, target);
                put(out, "host", headers::upstream_host(&context).as_bytes());
            }
            put_ours(out, lines, head.host, client, settings, target, request.id);
            fields.contains_key(CONTENT_LENGTH)
        }
        _ => {
            let host = head.host_value();
            let fields = request.fields(&request.context(host.as_ref(), rules, client, target));
            match &head.fields {
                Fields::Lines {
                    bytes,
                    fields: came,
                    ..
                } => put_map_spelled(out, &fields, bytes, came),
                Fields::Map(_) => put_map(out, &fields),
            }
            fields.contains_key(CONTENT_LENGTH)
        }
    };
    match head.content {
        Content::Whole(content)
            if !says_length && (!content.is_empty() || expects_content(head.method)) =>
        {
            put(
                out,
                CONTENT_LENGTH.as_str(),
                content.len().to_string().as_bytes(),
            );
        }
        Content::Streamed(None) => put(out, TRANSFER_ENCODING.as_str(), b"chunked"),
        Content::Streamed(Some(length)) if !says_length => {
            put(out, CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
        }
        Content::Whole(_) | Content::Streamed(_) => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Whether its fields can be sent as they came, with ours behind them: none of them decides about
/// others.
fn passes_as_it_came(request: &Outbound<'_>, rules: &HeaderRules, target: &Target) -> bool {
    let policies = target.options.policies.as_ref();
    !request.head.mapped
        && request.granted.is_none()
        && policies.is_none_or(|policies| policies.request_fields.is_empty())
        && !rules.follow_the_rewrite(&target.options.host)
        && match &request.head.fields {
            Fields::Lines { bytes, fields, .. } => {
                !rules.overwrite_any(fields.iter().map(|field| field.name.of(bytes)))
            }
            Fields::Map(fields) => {
                !rules.overwrite_any(fields.keys().map(|name| name.as_str().as_bytes()))
            }
        }
}

/// Whether a request without content has to say so: some servers respond with 411 to a POST that
/// does not (RFC 9110 section 8.6).
#[must_use]
pub fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// What every request gets behind its own fields.
fn put_ours(
    out: &mut Vec<u8>,
    lines: &ClientLines,
    host: Option<&[u8]>,
    client: &ClientContext,
    settings: &Settings,
    target: &Target,
    id: Option<&HeaderValue>,
) {
    out.extend_from_slice(&lines.lines);
    let default: &[u8] = if client.is_tls() { b"443" } else { b"80" };
    put(
        out,
        "x-forwarded-port",
        host.and_then(port_of).unwrap_or(default),
    );
    if let Some(host) = host {
        put(out, "x-forwarded-host", host);
    }
    if let Some(strip) = &target.options.strip
        && HeaderValue::from_str(strip).is_ok()
    {
        put(out, "x-forwarded-prefix", strip.as_bytes());
    }
    if let (Some(name), Some(id)) = (&settings.header_rules.request_id_header, id) {
        put(out, name.as_str(), id.as_bytes());
    }
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

/// What a client is told beside what the upstream said.
#[derive(Clone, Copy, Debug)]
pub struct Telling<'a> {
    /// The client that gets it.
    pub client: &'a ClientContext,
    /// Header rules.
    pub settings: &'a Settings,
    /// The time, for a response that has none, in the form of RFC 9110 section 5.6.7.
    pub date: &'a str,
    /// What becomes of the connection behind it.
    pub fate: Fate,
    /// What the route does to fields.
    pub edits: Option<ResponseEdits<'a>>,
    /// A cookie that it sets beside those of the instance.
    pub cookie: Option<&'a HeaderValue>,
}

/// What a client is told of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: it goes on, as is usual in HTTP/1.1.
    Silent,
    /// It goes on, which a client of HTTP/1.0 has requested.
    Keeps,
    /// It ends with this response.
    Closes,
}

fn put_fate(out: &mut Vec<u8>, fate: Fate) {
    match fate {
        Fate::Silent => {}
        Fate::Keeps => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Fate::Closes => out.extend_from_slice(b"connection: close\r\n"),
    }
}

/// Writes the head of an instance's response as the client gets it.
pub fn put_response(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &[Field],
    telling: &Telling<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, head.status);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    let sts =
        headers::strict_transport_security_for(telling.client, &telling.settings.header_rules);
    if head.mapped || telling.edits.is_some() {
        let mut map = response_map(bytes, head, fields);
        headers::prepare_response(
            &mut map,
            telling.client,
            &telling.settings.header_rules,
            false,
        );
        if let Some(edits) = telling.edits {
            edits.apply(&mut map);
        }
        put_map_spelled(out, &map, bytes, fields);
    } else {
        put_lines_lenient(out, bytes, fields, |kind| {
            matches!(kind, Kind::Hop | Kind::Dropped)
                || (kind == Kind::StrictTransportSecurity && sts.is_some())
        });
        if let Some(value) = sts {
            put(out, "strict-transport-security", value.as_bytes());
        }
    }
    if let Some(cookie) = telling.cookie {
        put(out, SET_COOKIE.as_str(), cookie.as_bytes());
    }
    if !head.dated {
        put(out, DATE.as_str(), telling.date.as_bytes());
    }
    if matches!(head.framing, Framing::Chunked | Framing::UntilClose) {
        put(out, TRANSFER_ENCODING.as_str(), b"chunked");
    }
    put_fate(out, telling.fate);
    out.extend_from_slice(b"\r\n");
}

/// As [`put_lines`], and every line ends with CRLF whatever it ended with.
fn put_lines_lenient(
    out: &mut Vec<u8>,
    bytes: &[u8],
    fields: &[Field],
    skip: impl Fn(Kind) -> bool,
) {
    let usual = fields
        .iter()
        .all(|field| field.line.of(bytes).ends_with(b"\r\n"));
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

/// An interim response as the client gets it; nothing of `100 Continue`: the client gets that from
/// here.
pub fn put_interim(out: &mut Vec<u8>, bytes: &[u8], head: &ResponseHead, fields: &[Field]) {
    if head.status == 100 {
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, head.status);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    for field in fields
        .iter()
        .filter(|field| !matches!(field.kind, Kind::Hop | Kind::Dropped | Kind::ContentLength))
    {
        // What may not stand behind a body may not stand before the head either; it says nothing of
        // this hop or this client.
        if may_precede(field.name.of(bytes)) {
            out.extend_from_slice(field.name.of(bytes));
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value.of(bytes));
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields of an interim response that pass: those of RFC 8297, and others that no program takes for
/// those of the response.
fn may_precede(name: &[u8]) -> bool {
    may_trail(name) || name.eq_ignore_ascii_case(b"content-security-policy")
}

/// Writes the lines of a trailer section, and the empty one behind them.
pub fn put_trailers(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    if let Some(trailers) = trailers {
        for (name, value) in trailers
            .iter()
            .filter(|(name, _)| may_trail(name.as_str().as_bytes()))
        {
            put(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// How the body of a response with a map of fields is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// There is none, and nothing says how long it would be but what the fields say.
    Bodiless,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// It ends with the connection, for a client that knows no chunks.
    UntilClose,
}

/// Writes the head of a response with a map of fields; `date` for one that has none, `spelling`
/// where it came in HTTP/1.
pub fn put_made(
    out: &mut Vec<u8>,
    (status, fields): (StatusCode, &HeaderMap),
    framed: Framed,
    date: &str,
    fate: Fate,
    spelling: Option<&Spelling>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_status(out, status.as_u16());
    out.push(b' ');
    let reason = spelling.and_then(|spelling| spelling.reason(status.as_u16()));
    out.extend_from_slice(
        reason.unwrap_or_else(|| status.canonical_reason().unwrap_or("").as_bytes()),
    );
    out.extend_from_slice(b"\r\n");
    let framing = framed != Framed::Bodiless;
    for (name, value) in fields
        .iter()
        .filter(|(name, _)| !framing || *name != CONTENT_LENGTH)
    {
        let name = name.as_str();
        put(
            out,
            spelling.map_or(name.as_bytes(), |spelling| spelling.name(name)),
            value.as_bytes(),
        );
    }
    match framed {
        Framed::Length(length) => put(out, CONTENT_LENGTH.as_str(), length.to_string().as_bytes()),
        Framed::Chunked => put(out, TRANSFER_ENCODING.as_str(), b"chunked"),
        Framed::Bodiless | Framed::UntilClose => {}
    }
    if !fields.contains_key(DATE) {
        put(out, DATE.as_str(), date.as_bytes());
    }
    put_fate(out, fate);
    out.extend_from_slice(b"\r\n");
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    let digit = |number: u16| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
}
