//! Which fields may stand behind a body (RFC 9110 section 6.5.1): none that frames the message,
//! leads it elsewhere, lets it in, or says what its content is. A program that merges trailers into
//! the header would take them for fields that were checked, or written, by us.
//!
//! The same list says what a 103 (Early Hints) may not carry, and which fields `Connection` may not
//! take away.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::alike::alike;
use super::h1::scan::{self, Field, LineEnd};
use super::h1::syntax::Violation;

/// Names that may not be trailers; beginnings of names stand in [`FAMILIES`].
const NAMES: [&str; 39] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-client-ip",
    "x-http-method-override",
    "x-real-ip",
];

/// Beginnings of names under which proxies tell of the original request.
const FAMILIES: [&str; 2] = ["x-forwarded-", "x-original-"];

/// Whether a field of this name may stand behind a body.
#[must_use]
pub fn may_trail(name: &[u8]) -> bool {
    let begins = |family: &str| {
        name.get(..family.len())
            .is_some_and(|start| alike(start, family.as_bytes()))
    };
    !NAMES.iter().any(|known| alike(name, known.as_bytes()))
        && !FAMILIES.iter().any(|family| begins(family))
}

/// Takes away what may not stand behind a body.
pub fn keep_trailing(fields: &mut HeaderMap) {
    if fields
        .keys()
        .all(|name| may_trail(name.as_str().as_bytes()))
    {
        return;
    }
    let names: Vec<HeaderName> = fields
        .keys()
        .filter(|name| !may_trail(name.as_str().as_bytes()))
        .cloned()
        .collect();
    for name in names {
        fields.remove(name);
    }
}

/// A trailer section of HTTP/1: its lines, and the empty one behind them.
///
/// # Errors
/// Lines that are not fields, or more than `fields_max`.
pub fn parse(section: &[u8], fields_max: usize) -> Result<Vec<Field>, Violation> {
    let mut fields = Vec::new();
    match scan::fields(section, 0, LineEnd::Strict, fields_max, &mut fields) {
        scan::End::At(_) => {}
        scan::End::Partial => return Err(Violation::bad("trailers without an end")),
        scan::End::TooMany => {
            return Err(Violation {
                status: 431,
                reason: "more trailer fields than proxy.max_headers",
            });
        }
        scan::End::Bad(reason) => return Err(Violation::bad(reason)),
    }
    fields.retain(|field| may_trail(field.name.of(section)));
    Ok(fields)
}

/// The same as a map; none if nothing is left.
///
/// # Errors
/// As [`parse`].
pub fn map(section: &[u8], fields_max: usize) -> Result<Option<HeaderMap>, Violation> {
    let mut map = HeaderMap::new();
    for field in parse(section, fields_max)? {
        let name = HeaderName::from_bytes(field.name.of(section));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value.of(section))) {
            map.append(name, value);
        }
    }
    Ok(Some(map).filter(|map| !map.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_leads_or_lets_in_is_no_trailer() {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Host",
            "Connection",
            "X-Forwarded-For",
            "X_Forwarded_Host",
            "Forwarded",
            "X-Real-IP",
            "Authorization",
            "Proxy-Authorization",
            "Cookie",
            "Set-Cookie",
            "Content-Type",
            "Content-Encoding",
            "Trailer",
            "TE",
            "Upgrade",
            "Range",
            "Cache-Control",
            "If-Match",
        ] {
            assert!(!may_trail(name.as_bytes()), "{name}");
        }
        for name in [
            "Grpc-Status",
            "grpc-message",
            "X-Checksum",
            "Digest",
            "Content-Digest",
            "Server-Timing",
            "ETag",
        ] {
            assert!(may_trail(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_section_is_read_without_them() {
        let section =
            b"Grpc-Status: 0\r\nContent-Length: 5\r\nX: a\r\nX: b\r\nConnection: x\r\n\r\n";
        let map = map(section, 10).unwrap().unwrap();
        let pairs: Vec<_> = map
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(pairs, [("grpc-status", "0"), ("x", "a"), ("x", "b")]);
        assert_eq!(super::map(b"Host: a\r\n\r\n", 10), Ok(None));
        assert_eq!(super::map(section, 4).unwrap_err().status, 431);
        assert_eq!(super::map(b"no field\r\n\r\n", 10).unwrap_err().status, 400);
        let mut fields = map;
        fields.insert("host", HeaderValue::from_static("a"));
        keep_trailing(&mut fields);
        assert_eq!(fields.len(), 3);
    }
}
