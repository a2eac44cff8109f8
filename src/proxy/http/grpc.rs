//! How a call of gRPC went, as its client sees it.
//!
//! Pure. The status stands in `grpc-status`, in the trailers or (where nothing else is sent) in the
//! header of a response whose HTTP status is 200. Without it a client makes one up
//! (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>), and so does this.

use std::time::Duration;

use http::HeaderMap;

const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The status in these fields, if they have one. What is not a number is unknown.
#[must_use]
pub fn status_in(fields: &HeaderMap) -> Option<u32> {
    let value = fields.get("grpc-status")?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// How long a call may take, as its `grpc-timeout` says: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). None: the value is not such
/// a time.
#[must_use]
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The status of a call that is over. `told`: what its fields said; `http`: the status of the
/// response; `error`: why it ended early, in the words of the access log.
#[must_use]
pub fn status_of(told: Option<u32>, http: u16, error: Option<&str>) -> u32 {
    match (told, error) {
        (Some(status), _) => status,
        (None, Some("client_closed")) => CANCELLED,
        (None, Some("request_timeout")) => DEADLINE_EXCEEDED,
        // The client's stream is reset with INTERNAL_ERROR.
        (None, Some("upstream_body")) => INTERNAL,
        (None, _) => match http {
            400 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            429 | 502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        },
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn timeouts_have_a_unit() {
        for (value, wanted) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("10", None),
            ("-1S", None),
            ("123456789S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), wanted, "{value}");
        }
    }

    #[test]
    fn the_status_is_what_the_client_sees() {
        let fields = |value: &'static str| {
            HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static(value),
            )])
        };
        for (value, status) in [
            ("0", 0),
            ("14", 14),
            ("99", 99),
            ("", 2),
            ("x", 2),
            ("-1", 2),
        ] {
            assert_eq!(status_in(&fields(value)), Some(status), "{value}");
        }
        assert_eq!(status_in(&HeaderMap::new()), None);
        for (told, http, error, status) in [
            (Some(0), 200, None, 0),
            (Some(5), 200, Some("client_closed"), 5),
            (None, 200, None, 2),
            (None, 200, Some("client_closed"), 1),
            (None, 499, Some("client_closed"), 1),
            (None, 200, Some("upstream_body"), 13),
            (None, 200, Some("request_timeout"), 4),
            (None, 503, None, 14),
            (None, 404, None, 12),
            (None, 302, None, 2),
        ] {
            assert_eq!(
                status_of(told, http, error),
                status,
                "{told:?} {http} {error:?}"
            );
        }
    }
}
