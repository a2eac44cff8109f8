//! Fields that decide something here and are not lists: a request that repeats one of them means
//! two things.
//!
//! Pure. RFC 9110 section 5.3 forbids senders to repeat such a field, and says nothing of which one
//! counts; we would look at the first and the instance maybe at the last. Such a request is refused
//! with 400, but only where the field decides: others have always passed, and do no harm.
//!
//! | field | decides |
//! |---|---|
//! | `Host` | always; see [`received_host`](crate::proxy::http::headers::received_host) |
//! | `Content-Length` | always: it frames the message (in HTTP/1 the guard refuses it) |
//! | `Content-Type` | where one of them says gRPC: how refusals are told, and which limits hold |
//! | `Authorization` | where the route has `auth=` |
//! | `X-Forwarded-Proto` | where a route with `redirect=` is met: whether it leads to itself |
//! | `dsthost` | on gRPC listeners: it is the host |

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};

/// Whether a field is there more than once.
#[must_use]
pub fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// Whether a value of Content-Type says gRPC.
#[must_use]
pub fn is_grpc(value: &[u8]) -> bool {
    value.starts_with(b"application/grpc")
}

/// What a request repeats that decides whatever its route is; in words.
#[must_use]
pub fn repeated_anywhere(headers: &HeaderMap) -> Option<&'static str> {
    if is_repeated(headers, &CONTENT_LENGTH) {
        return Some("more than one Content-Length field");
    }
    let unclear = is_repeated(headers, &CONTENT_TYPE)
        && headers
            .get_all(CONTENT_TYPE)
            .iter()
            .any(|value| is_grpc(value.as_bytes()));
    unclear.then_some("more than one Content-Type field")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_decides_is_refused_when_repeated() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            repeated_anywhere(&headers)
        };
        assert_eq!(
            of(&[
                ("content-length", "1"),
                ("content-type", "application/grpc"),
                ("accept", "a")
            ]),
            None
        );
        assert!(of(&[("content-length", "1"), ("content-length", "1")]).is_some());
        assert!(of(&[("content-length", "1"), ("content-length", "2")]).is_some());
        assert_eq!(
            of(&[
                ("content-type", "a/b"),
                ("content-type", "a/c"),
                ("accept", "a"),
                ("accept", "b")
            ]),
            None
        );
        for other in ["text/plain", "application/grpc"] {
            assert!(
                of(&[
                    ("content-type", "application/grpc+proto"),
                    ("content-type", other)
                ])
                .is_some()
            );
            assert!(
                of(&[
                    ("content-type", other),
                    ("content-type", "application/grpc+proto")
                ])
                .is_some()
            );
        }
    }
}
