//! The head of a request, and how its body is framed (RFC 9112 sections 3 to 6). As strict as
//! [`syntax`](super::syntax) says.
//!
//! An absolute-form target whose host differs from `Host` passes: RFC 9112 section 3.2.2 says which
//! one counts.

use std::borrow::Cow;

use http::{Method, Version};

use super::scan::{self, End, Field, Kind, LineEnd, Span};
use super::syntax::{Limits, Violation, is_token};
use crate::proxy::http::auth_scheme::is_of_connection;
use crate::proxy::http::headers::{is_host, resembles_ours, tokens_of};
use crate::proxy::http::singletons;
use crate::proxy::http::target::{TargetError, legal};

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// So many bytes; 0: there is none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A whole head that passed all checks.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Path and query as received, `*`, or (for CONNECT) the authority.
    target: Span,
    /// The same where some of it had to be written anew.
    legal: Option<Box<str>>,
    /// Bytes of it before the query.
    path: usize,
    /// The host it is for: of the target, where that has one, else of `Host`. None: HTTP/1.0
    /// without.
    pub host: Option<Span>,
    /// How its body is framed.
    pub body: BodyFraming,
    /// Bytes of the head.
    pub length: usize,
    /// The client may send another request on this connection.
    pub keep: bool,
    /// Its fields cannot be passed line by line: some of them decide about others.
    pub mapped: bool,
    /// Fields are there that say which proxies it came through.
    pub forwarded: bool,
    /// It has an `Upgrade` field.
    pub upgrade: bool,
    /// The client waits for 100 (Continue) before it sends the body.
    pub expects: bool,
    /// Its credentials belong to the connection (NTLM, Negotiate).
    pub authenticates_connection: bool,
    /// It is a call of gRPC.
    pub grpc: bool,
    /// More than one Content-Type, one of which says gRPC.
    pub unclear_type: bool,
}

impl RequestHead {
    /// Path and query as they are routed and passed on; `*` and authorities likewise.
    #[must_use]
    pub fn target<'a>(&'a self, bytes: &'a [u8]) -> &'a str {
        match &self.legal {
            Some(legal) => legal,
            None => self.target.text(bytes),
        }
    }

    /// How many bytes of the target are its path.
    #[must_use]
    pub fn path_length(&self) -> usize {
        self.path
    }
}

/// What the bytes read so far are.
#[derive(Debug)]
pub enum Parsed {
    /// A head; its body may not be there yet.
    Whole(RequestHead),
    /// The beginning of one.
    Partial,
    /// An empty line, which may stand once before a head (RFC 9112 section 2.2): take it away and
    /// look again.
    Blank,
    /// Not a request that could be served; why.
    Bad(Violation),
}

/// Looks at the bytes read so far. The fields found lie in `fields`.
pub fn parse(bytes: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Parsed {
    match try_parse(bytes, limits, fields) {
        Ok(parsed) => parsed,
        Err(violation) => Parsed::Bad(violation),
    }
}

fn too_long(reason: &'static str, status: u16) -> Violation {
    Violation { status, reason }
}

const LONG_LINE: &str = "request line longer than proxy.max_header_bytes";
const LARGE_HEAD: &str = "head larger than proxy.max_header_bytes";

fn try_parse(bytes: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Result<Parsed, Violation> {
    let most = limits.head_bytes_max;
    let Some((line, at)) = scan::first_line(bytes, LineEnd::Strict).map_err(Violation::bad)? else {
        return if bytes.len() > most {
            Err(too_long(LONG_LINE, 414))
        } else {
            Ok(Parsed::Partial)
        };
    };
    if line.is_empty() {
        return Ok(Parsed::Blank);
    }
    if at > most {
        return Err(too_long(LONG_LINE, 414));
    }
    let line = request_line(line)?;
    let length = match scan::fields(bytes, at, LineEnd::Strict, limits.fields_max, fields) {
        End::At(end) if end <= most => end,
        End::Partial if bytes.len() <= most => return Ok(Parsed::Partial),
        End::At(_) | End::Partial => return Err(too_long(LARGE_HEAD, 431)),
        End::TooMany => return Err(too_long("more fields than proxy.max_headers", 431)),
        End::Bad(reason) => return Err(Violation::bad(reason)),
    };
    let http11 = line.version == Version::HTTP_11;
    let mut head = RequestHead {
        method: line.method,
        version: line.version,
        target: line.target,
        path: line.path,
        legal: line.legal,
        host: line.authority,
        body: BodyFraming::Length(0),
        length,
        keep: http11,
        mapped: line.authority.is_some(),
        forwarded: false,
        upgrade: false,
        expects: false,
        authenticates_connection: false,
        grpc: false,
        unclear_type: false,
    };
    let mut said = Said::default();
    for field in fields.iter() {
        head.take(field, bytes, &mut said)?;
    }
    head.settle(&said, http11, bytes)?;
    Ok(Parsed::Whole(head))
}

#[derive(Default)]
struct Said {
    host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    cookie: bool,
    close: bool,
    keep_alive: bool,
    content_types: usize,
    grpc: bool,
}

impl RequestHead {
    fn take(&mut self, field: &Field, bytes: &[u8], said: &mut Said) -> Result<(), Violation> {
        let value = field.value.of(bytes);
        match field.kind {
            Kind::Host => {
                if said.host.replace(field.value).is_some() {
                    return Err(Violation::bad("more than one Host field"));
                }
                if !is_host(value) {
                    return Err(Violation::bad("Host holds bytes that no host has"));
                }
            }
            Kind::ContentLength => {
                let length = content_length(value)?;
                if said.length.replace(length).is_some() {
                    return Err(Violation::bad("more than one Content-Length field"));
                }
            }
            Kind::TransferEncoding => {
                if std::mem::replace(&mut said.chunked, true) {
                    return Err(Violation::bad("more than one Transfer-Encoding field"));
                }
                is_chunked(value)?;
            }
            Kind::Connection => self.connection(value, said),
            Kind::Cookie => self.mapped |= std::mem::replace(&mut said.cookie, true),
            Kind::Forwarding => (self.mapped, self.forwarded) = (true, true),
            Kind::Te => self.mapped = true,
            Kind::Upgrade => (self.mapped, self.upgrade) = (true, true),
            Kind::Expect => self.expects |= value.eq_ignore_ascii_case(b"100-continue"),
            Kind::ContentType => {
                let grpc = singletons::is_grpc(value);
                self.grpc |= grpc && said.content_types == 0;
                said.content_types += 1;
                said.grpc |= grpc;
            }
            Kind::Authorization => self.authenticates_connection |= is_of_connection(value),
            Kind::Other => self.mapped |= resembles_ours(field.name.of(bytes)),
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8], said: &mut Said) {
        for token in tokens_of(value) {
            if token.eq_ignore_ascii_case(b"close") {
                said.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                said.keep_alive = true;
            } else {
                self.mapped = true;
            }
        }
    }

    /// What the head as a whole says.
    fn settle(&mut self, said: &Said, http11: bool, bytes: &[u8]) -> Result<(), Violation> {
        if http11 && said.host.is_none() {
            return Err(Violation::bad("HTTP/1.1 without Host"));
        }
        if said.chunked && said.length.is_some() {
            return Err(Violation::bad(
                "Transfer-Encoding together with Content-Length",
            ));
        }
        if said.chunked && !http11 {
            return Err(Violation::bad("Transfer-Encoding in HTTP/1.0"));
        }
        self.body = if said.chunked {
            BodyFraming::Chunked
        } else {
            BodyFraming::Length(said.length.unwrap_or(0))
        };
        self.expects &= http11 && self.body != BodyFraming::Length(0);
        self.unclear_type = said.grpc && said.content_types > 1;
        self.keep = !said.close && (http11 || said.keep_alive);
        self.upgrade &= http11;
        match (self.host, said.host) {
            (None, field) => self.host = field,
            // As the client wrote it in the field, if that says the same.
            (Some(authority), Some(field))
                if authority.of(bytes).eq_ignore_ascii_case(field.of(bytes)) =>
            {
                self.host = Some(field);
            }
            (Some(_), _) => {}
        }
        Ok(())
    }
}

fn content_length(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::bad("Content-Length is not a number"));
    }
    // A larger number than i64 holds would be negative, or nothing, elsewhere.
    let length = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or(Violation {
        status: 413,
        reason: "Content-Length too large",
    })
}

fn is_chunked(value: &[u8]) -> Result<(), Violation> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    if value.is_empty() || tokens_of(value).any(<[u8]>::is_empty) {
        return Err(Violation::bad("empty Transfer-Encoding"));
    }
    Err(Violation {
        status: 501,
        reason: "Transfer-Encoding other than chunked",
    })
}

struct RequestLine {
    method: Method,
    version: Version,
    target: Span,
    legal: Option<Box<str>>,
    /// Bytes before the query.
    path: usize,
    /// Of a target in absolute form.
    authority: Option<Span>,
}

/// `METHOD SP TARGET SP VERSION`; spans of the line, which begins the head.
fn request_line(line: &[u8]) -> Result<RequestLine, Violation> {
    let blanks = |at: usize| memchr::memchr(b' ', &line[at..]).map(|blank| at + blank);
    let both = blanks(0).and_then(|first| Some((first, blanks(first + 1)?)));
    let Some((first, second)) = both.filter(|(_, second)| blanks(second + 1).is_none()) else {
        return Err(Violation::bad(
            "request line is not `METHOD TARGET VERSION`",
        ));
    };
    let method = method(&line[..first])?;
    let (target, version) = (&line[first + 1..second], &line[second + 1..]);
    let start = first + 1;
    let (origin, authority) = match target {
        [b'/', ..] if method != Method::CONNECT => (start, None),
        _ => other_form(&method, target, start)?,
    };
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Violation {
                status: 505,
                reason: "HTTP version other than 1.0 and 1.1",
            });
        }
        _ => return Err(Violation::bad("malformed HTTP version")),
    };
    let origin = Span::new(origin, second);
    let legal = match origin.of(line) {
        _ if method == Method::CONNECT => None,
        // Of an absolute form without a path.
        target @ ([] | [b'?', ..]) => Some(
            legal(&[b"/", target].concat())
                .map_err(illegal)?
                .into_owned(),
        ),
        target => match legal(target).map_err(illegal)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(text),
        },
    };
    let sent = legal.as_ref().map_or(origin.of(line), String::as_bytes);
    let path = memchr::memchr(b'?', sent).unwrap_or(sent.len());
    Ok(RequestLine {
        method,
        version,
        target: origin,
        path,
        legal: legal.map(String::into_boxed_str),
        authority,
    })
}

fn illegal(error: TargetError) -> Violation {
    match error {
        TargetError::TooLong => Violation {
            status: 414,
            reason: "request target too long",
        },
        TargetError::Forbidden(_) => {
            Violation::bad("control byte, blank or # in the request target")
        }
        TargetError::NotAbsolute => {
            Violation::bad("request target is neither path, URL, authority nor `*`")
        }
    }
}

fn method(token: &[u8]) -> Result<Method, Violation> {
    match token {
        b"GET" => Ok(Method::GET),
        b"HEAD" => Ok(Method::HEAD),
        b"POST" => Ok(Method::POST),
        b"PUT" => Ok(Method::PUT),
        b"DELETE" => Ok(Method::DELETE),
        _ if !token.is_empty() && token.iter().all(|&byte| is_token(byte)) => {
            Method::from_bytes(token).map_err(|_| Violation::bad("method is not a token"))
        }
        _ => Err(Violation::bad("method is not a token")),
    }
}

/// The other three forms of RFC 9112 section 3.2: where the path begins, and the authority of
/// absolute form.
fn other_form(
    method: &Method,
    target: &[u8],
    start: usize,
) -> Result<(usize, Option<Span>), Violation> {
    const NONE: Violation =
        Violation::bad("request target is neither path, URL, authority nor `*`");
    if *method == Method::CONNECT {
        return if !target.is_empty() && is_host(target) {
            Ok((start, None))
        } else {
            Err(NONE)
        };
    }
    if target == b"*" {
        return if *method == Method::OPTIONS {
            Ok((start, None))
        } else {
            Err(NONE)
        };
    }
    let scheme = memchr::memchr(b':', target).unwrap_or(target.len());
    let known = target[..scheme].eq_ignore_ascii_case(b"http")
        || target[..scheme].eq_ignore_ascii_case(b"https");
    if !known || !target[scheme..].starts_with(b"://") {
        return Err(NONE);
    }
    let rest = scheme + 3;
    let ends = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    let end = target[rest..]
        .iter()
        .position(ends)
        .map_or(target.len(), |end| rest + end);
    if end == rest {
        return Err(NONE);
    }
    if !is_host(&target[rest..end]) {
        return Err(Violation::bad("the host of the request target is not one"));
    }
    Ok((start + end, Some(Span::new(start + rest, start + end))))
}

#[cfg(test)]
mod tests;
