//! HTTP/2 (RFC 9113) on either side, on the frames and streams of the `h2` crate: no layer between
//! it and the exchange.
//!
//! ```text
//!  client ═► server: a task per connection ─► a task per stream: exchange ─► client: a task per upstream connection ═► upstream
//!                                                      ▲ pump: response            │ pump: upload
//! ```
//! Every stream has one task, on the thread of its connection. It drops what it holds when its
//! client resets the stream, and dropping a response resets the upstream's stream: nothing runs on
//! without a client.

pub mod keep_alive;
pub mod pump;
pub mod refusals;
pub mod slots;
pub mod stream_body;

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};

/// Bytes of one stream that are held ready for a connection that does not take them yet, on either
/// side.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Takes away what HTTP/2 has no place for (RFC 9113 section 8.2.2). The header rules of the proxy
/// have seen to it, and to what `Connection` names, wherever a message passes through them: so
/// there is something only in what was made here.
pub(crate) fn without_hop(headers: &mut HeaderMap) {
    let of_hop = |name: &HeaderName| {
        *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || *name == TE
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
    };
    if !headers.keys().any(of_hop) {
        return;
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
}

/// The length that the header promises; none if it says nothing, or nothing clear.
pub(crate) fn promised_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let length = values.next()?.to_str().ok()?.parse().ok()?;
    values.next().is_none().then_some(length)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn nothing_of_the_hop_is_left() {
        let mut headers = HeaderMap::new();
        for name in [
            "connection",
            "transfer-encoding",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "te",
            "x",
        ] {
            headers.insert(name, HeaderValue::from_static("gzip"));
        }
        without_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x"]);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        without_hop(&mut headers);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_length_that_is_not_clear_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(promised_length(&headers), None);
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert_eq!(promised_length(&headers), Some(5));
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert_eq!(promised_length(&headers), None);
    }
}
