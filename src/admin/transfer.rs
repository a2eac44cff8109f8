//! How responses travel: compressed where the client takes it (RFC 9110, section 12.5.3), and not
//! at all where it has them already (`ETag` and `If-None-Match`, section 13.1.2).

use std::hash::BuildHasher as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use foldhash::fast::FixedState;
use http::header::{
    CONTENT_ENCODING, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, VARY,
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use super::body::AdminBody;
use super::response::{AdminResponse, off_thread};
use crate::accept_encoding::coding_weight;

/// Smaller bodies gain nothing.
const BYTES_MIN: usize = 1024;

/// Compresses the response, if it is worth it and the client takes it.
pub(super) async fn compressed(answer: AdminResponse, takes_gzip: bool) -> AdminResponse {
    let (mut head, body) = answer.into_parts();
    let AdminBody::Whole(body) = body else {
        return Response::from_parts(head, body);
    };
    // A whole body is there at once.
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let whole = |body: Bytes| AdminBody::Whole(Full::new(body));
    if body.len() < BYTES_MIN || head.headers.contains_key(CONTENT_ENCODING) {
        return Response::from_parts(head, whole(body));
    }
    head.headers
        .append(VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip {
        return Response::from_parts(head, whole(body));
    }
    let plain = body.clone();
    // Large ones would hold up the control loop.
    let packed = off_thread(move || gzip(&plain)).await.flatten();
    match packed {
        Some(packed) => {
            head.headers
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Response::from_parts(head, whole(packed.into()))
        }
        None => Response::from_parts(head, whole(body)),
    }
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Whether the client takes `gzip`.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    coding_weight(headers, "gzip") > 0
}

/// The tag of what is made from these.
pub(super) fn tag(of: &impl std::hash::Hash) -> HeaderValue {
    let digest = FixedState::with_seed(0x6574_6167).hash_one(of);
    // Weak: the same content may travel compressed or not.
    HeaderValue::try_from(format!("W/\"{digest:016x}\""))
        .unwrap_or(HeaderValue::from_static("W/\"0\""))
}

/// The response for a client that has what this tag stands for already; none for all others.
pub(super) fn not_modified(headers: &HeaderMap, tag: &HeaderValue) -> Option<AdminResponse> {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let ours = opaque(tag.to_str().ok()?);
    let values = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let known = values
        .flat_map(|value| value.split(','))
        .any(|known| known.trim() == "*" || opaque(known) == ours);
    known.then(|| {
        let mut answer =
            super::response::with_body(StatusCode::NOT_MODIFIED, super::response::PLAIN, "");
        answer.headers_mut().remove(http::header::CONTENT_TYPE);
        answer.headers_mut().insert(ETAG, tag.clone());
        answer
    })
}

pub(super) fn tagged(mut answer: AdminResponse, tag: HeaderValue) -> AdminResponse {
    answer.headers_mut().insert(ETAG, tag);
    answer
}

/// How many there are in all, of which a response shows a part.
pub(super) static TOTAL: HeaderName = HeaderName::from_static("x-total-count");

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http::header::ACCEPT_ENCODING;

    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_for_clients_that_take_it() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("x-gzip", true),
            ("br, *;q=0", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("gzip;q=0.0", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&accepting(value)), expected, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
        let text = "route ".repeat(1000);
        let packed = gzip(text.as_bytes()).unwrap();
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_string(&mut unpacked)
            .unwrap();
        assert!(packed.len() < 100 && unpacked == text);
    }

    #[test]
    fn a_client_that_has_it_already_gets_nothing() {
        let tag = tag(&("a", 1));
        let has = |value: String| {
            let headers =
                HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::try_from(value).unwrap())]);
            not_modified(&headers, &tag).is_some_and(|answer| answer.status() == 304)
        };
        let text = tag.to_str().unwrap();
        assert!(has(text.to_owned()) && has(format!("\"x\", {text}")) && has("*".to_owned()));
        assert!(has(text.trim_start_matches("W/").to_owned()));
        assert!(!has("\"x\"".to_owned()) && not_modified(&HeaderMap::new(), &tag).is_none());
        assert_ne!(super::tag(&("a", 2)), tag);
    }
}
