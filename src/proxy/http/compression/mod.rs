//! Compression of responses: which ones, and what their heads say then.
//!
//! ```text
//! response head ─► may it, does its type match? ─no──► passes as it is
//!                          │ yes: Vary
//!                          ▼
//!                  does the client take it? ─► is there memory? ─► head edited, body through an encoder
//! ```
//! Where this departs from Fabio, on purpose: weights in `Accept-Encoding` count (`gzip;q=0` is a
//! no), what forbids it is left alone (`Cache-Control: no-transform`, parts, digests of the body),
//! and `Vary` goes with what could be compressed, not with every image.

mod accept;
mod body;
mod encoder;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::body::Frame;

pub(crate) use accept::preferred;
pub use body::{Compressed, Failed};
use encoder::Encoder;
pub use encoder::Memory;

use crate::config::{Coding, CompressionConfig, ContentTypes};

/// What a digest of the body is told in (RFC 9530, and what came before it): it would be wrong
/// afterwards.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// `[proxy.compression]` where it is on.
#[derive(Debug)]
pub struct Compression {
    content_types: ContentTypes,
    algorithms: Vec<Coding>,
    min_bytes: u64,
    memory_max: usize,
}

impl Compression {
    /// The rules of a configuration; none: nothing is compressed.
    #[must_use]
    pub fn new(config: &CompressionConfig) -> Option<Box<Self>> {
        Some(Box::new(Self {
            content_types: config.content_types.clone()?,
            algorithms: config.algorithms.clone(),
            min_bytes: config.min_bytes,
            memory_max: config.max_memory_mib << 20,
        }))
    }

    /// Whether an encoding may have something to do for such a response.
    #[must_use]
    pub fn may_concern(&self, status: u16, content_type: Option<&[u8]>) -> bool {
        let kind = content_type
            .and_then(|kind| std::str::from_utf8(kind).ok())
            .unwrap_or_default();
        status == StatusCode::NOT_MODIFIED.as_u16() || self.content_types.hold(kind)
    }

    /// Decides, and edits the response's head. `request` is that of the client. A response to HEAD
    /// gets the head of the response to GET; there is nothing to be encoded then.
    pub(crate) fn prepare(
        &self,
        request: &HeaderMap,
        status: StatusCode,
        answer: &mut HeaderMap,
        memory: &Memory,
    ) -> Option<Compressing> {
        // RFC 9110 section 15.4.5: it says what the whole response would say, and does not tell its
        // type.
        if status == StatusCode::NOT_MODIFIED && !answer.contains_key(CONTENT_TYPE) {
            vary(answer);
            return None;
        }
        if !self.may(status, answer) || forbids(request) {
            return None;
        }
        vary(answer);
        let wants_events = request
            .get_all(ACCEPT)
            .iter()
            .any(|value| contains(value, "text/event-stream"));
        if wants_events || self.is_short(answer) {
            return None;
        }
        let coding = preferred(request, &self.algorithms)?;
        let encoder = Encoder::new(coding, memory, self.memory_max)?;
        answer.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        answer.remove(CONTENT_LENGTH);
        // Parts would be parts of the compressed response, of which we have none to give.
        answer.remove(ACCEPT_RANGES);
        weaken(answer);
        Some(Compressing(encoder))
    }

    /// Whether such a response could be compressed, whatever the request.
    fn may(&self, status: StatusCode, answer: &HeaderMap) -> bool {
        let empty = status.is_informational()
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
            );
        let is_part = status == StatusCode::PARTIAL_CONTENT || answer.contains_key(CONTENT_RANGE);
        let kind = answer
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        !empty
            && !is_part
            && self.content_types.hold(kind)
            && !kind.starts_with("application/grpc")
            && answer
                .get(CONTENT_ENCODING)
                .is_none_or(HeaderValue::is_empty)
            && !forbids(answer)
            && !DIGESTS.iter().any(|name| answer.contains_key(name))
    }

    /// Whether its length is known, and not worth it. An empty response never is.
    fn is_short(&self, answer: &HeaderMap) -> bool {
        let length = answer
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        length.is_some_and(|length| length < self.min_bytes.max(1))
    }
}

/// A response whose head says that it is compressed.
#[derive(Debug)]
pub(crate) struct Compressing(Encoder);

impl Compressing {
    pub(crate) fn body<B>(self, first: Option<Frame<bytes::Bytes>>, source: B) -> Box<Compressed<B>>
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Unpin,
    {
        Box::new(Compressed::new(first, source, self.0))
    }
}

/// RFC 9111 sections 5.2.1.6 and 5.2.2.6.
fn forbids(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|value| contains(value, "no-transform"))
}

/// Caches have to keep responses for clients that take a coding apart from those for others.
fn vary(answer: &mut HeaderMap) {
    let told = answer
        .get_all(VARY)
        .iter()
        .any(|value| contains(value, ACCEPT_ENCODING.as_str()) || value == "*");
    if !told {
        answer.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// RFC 9110 section 8.8.1: a strong validator stands for these very bytes, which are others now.
fn weaken(answer: &mut HeaderMap) {
    if let Some(strong) = answer
        .get(ETAG)
        .filter(|value| value.as_bytes().starts_with(b"\""))
    {
        let weak =
            HeaderValue::from_maybe_shared(bytes::Bytes::from([b"W/", strong.as_bytes()].concat()));
        match weak {
            Ok(weak) => answer.insert(ETAG, weak),
            Err(_) => answer.remove(ETAG),
        };
    }
}

/// Whether a list holds an element that begins with `word`, whatever its case.
fn contains(value: &HeaderValue, word: &str) -> bool {
    let elements = value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii);
    elements.into_iter().any(|it| {
        it.get(..word.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(min_bytes: u64) -> Box<Compression> {
        Compression::new(&CompressionConfig {
            content_types: Some(ContentTypes::new("^text/|grpc").unwrap()),
            algorithms: vec![Coding::Brotli, Coding::Gzip],
            min_bytes,
            max_memory_mib: 16,
        })
        .unwrap()
    }

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    /// What becomes of a response: its head, if it is compressed or not.
    fn prepared(
        rules: &Compression,
        request: &[(&'static str, &'static str)],
        status: u16,
        answer: &[(&'static str, &'static str)],
    ) -> (bool, HeaderMap) {
        let mut head = fields(answer);
        let status = StatusCode::from_u16(status).unwrap();
        let done = rules.prepare(&fields(request), status, &mut head, &Memory::default());
        (done.is_some(), head)
    }

    const GZIP: (&str, &str) = ("accept-encoding", "gzip");
    const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

    #[test]
    fn the_head_says_what_the_body_is() {
        let answer = [
            TEXT,
            ("content-length", "5000"),
            ("etag", "\"a\""),
            ("accept-ranges", "bytes"),
            ("vary", "Origin"),
        ];
        let (done, head) = prepared(&rules(1024), &[GZIP], 200, &answer);
        assert!(done);
        let mut expected = fields(&[
            TEXT,
            ("content-encoding", "gzip"),
            ("etag", "W/\"a\""),
            ("vary", "Origin"),
        ]);
        expected.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        assert_eq!(head, expected);
        let (_, head) = prepared(
            &rules(1),
            &[GZIP],
            404,
            &[TEXT, ("etag", "W/\"a\""), ("vary", "accept-encoding")],
        );
        assert_eq!(
            head,
            fields(&[
                TEXT,
                ("etag", "W/\"a\""),
                ("vary", "accept-encoding"),
                ("content-encoding", "gzip")
            ])
        );
        let (_, head) = prepared(&rules(1), &[("accept-encoding", "br, gzip")], 200, &[TEXT]);
        assert_eq!(head[CONTENT_ENCODING], "br");
    }

    #[test]
    fn what_must_not_change_does_not() {
        let cases: &[(u16, (&'static str, &'static str))] = &[
            (200, ("content-encoding", "br")),
            (200, ("cache-control", "max-age=1, No-Transform")),
            (200, ("content-range", "bytes 0-1/2")),
            (200, ("content-digest", "sha-256=:x:")),
            (204, ("x", "y")),
            (206, ("x", "y")),
            (101, ("x", "y")),
        ];
        for (status, field) in cases {
            let answer = [TEXT, *field];
            assert_eq!(
                prepared(&rules(0), &[GZIP], *status, &answer),
                (false, fields(&answer)),
                "{status} {field:?}"
            );
        }
        for kind in ["image/png", "application/grpc", "application/grpc+proto"] {
            let answer = [("content-type", kind)];
            assert_eq!(
                prepared(&rules(0), &[GZIP], 200, &answer),
                (false, fields(&answer)),
                "{kind}"
            );
        }
        let (done, head) = prepared(
            &rules(0),
            &[GZIP, ("cache-control", "no-transform")],
            200,
            &[TEXT],
        );
        assert!(!done && head == fields(&[TEXT]));
    }

    #[test]
    fn what_could_be_compressed_varies_whatever_the_request() {
        let varied = |request: &[(&'static str, &'static str)],
                      answer: &[(&'static str, &'static str)]| {
            let (done, head) = prepared(&rules(1024), request, 200, answer);
            !done
                && head
                    .get(VARY)
                    .is_some_and(|value| value == "Accept-Encoding")
                && !head.contains_key(CONTENT_ENCODING)
        };
        assert!(varied(&[], &[TEXT]));
        assert!(varied(&[("accept-encoding", "gzip;q=0")], &[TEXT]));
        assert!(varied(&[GZIP], &[TEXT, ("content-length", "1023")]));
        assert!(varied(
            &[GZIP, ("accept", "text/html, text/event-stream")],
            &[TEXT]
        ));
        let (done, head) = prepared(&rules(0), &[GZIP], 304, &[("etag", "\"a\"")]);
        assert!(!done && head[VARY] == "Accept-Encoding" && head[ETAG] == "\"a\"");
        assert!(!prepared(&rules(0), &[GZIP], 200, &[TEXT, ("content-length", "0")]).0);
        assert!(prepared(&rules(0), &[GZIP], 200, &[TEXT, ("content-length", "1")]).0);
    }

    #[test]
    fn without_memory_answers_pass_as_they_are() {
        let (rules, memory) = (rules(0), Memory::default());
        let mut kept = Vec::new();
        while let Some(one) = rules.prepare(
            &fields(&[GZIP]),
            StatusCode::OK,
            &mut fields(&[TEXT]),
            &memory,
        ) {
            kept.push(one);
        }
        assert!(
            kept.len() > 10 && memory.bytes() <= 16 << 20,
            "{} {}",
            kept.len(),
            memory.bytes()
        );
        let mut head = fields(&[TEXT]);
        assert!(
            rules
                .prepare(&fields(&[GZIP]), StatusCode::OK, &mut head, &memory)
                .is_none()
        );
        assert_eq!(head, fields(&[TEXT, ("vary", "Accept-Encoding")]));
    }
}
