//! The head of a request, as far as the direct exchange carries it.
//!
//! Not a verdict: what this refuses is handed to the strict guard and hyper, which refuse it, or do better. So it may be
//! as narrow as it likes, and must never be wider than they are.

use http::Method;

use crate::proxy::http::h1::scan::{self, End, Field, Kind, LineEnd, Span};
use crate::proxy::http::headers::{is_host, resembles_ours, tokens_of};
use crate::proxy::http::strict::Limits;

/// Longest body that is read before the request is sent on, in bytes: short bodies come with their head. Longer ones
/// stream, and are left to hyper.
pub const BODY_MAX: u64 = 64 << 10;

/// A head that can be carried.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// One of those that every server knows.
    pub method: Method,
    /// Path and query.
    pub target: Span,
    /// The path alone.
    pub path: Span,
    /// The value of Host.
    pub host: Span,
    /// Bytes of the body behind the head.
    pub body: usize,
    /// Bytes of the head.
    pub length: usize,
    /// The client does not want another answer on this connection.
    pub close: bool,
    /// Its fields cannot be passed line by line: some of them decide about others.
    pub mapped: bool,
}

/// What the bytes read so far are.
#[derive(Debug)]
pub enum Parsed {
    /// A head; its body may not be there yet.
    Whole(RequestHead),
    /// The beginning of one.
    Partial,
    /// Something for others.
    Unusual,
}

/// Looks at the bytes read so far. The fields found lie in `fields`.
pub fn parse(bytes: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Parsed {
    match try_parse(bytes, limits, fields) {
        Some(Some(head)) => Parsed::Whole(head),
        Some(None) if bytes.len() < limits.head_bytes_max => Parsed::Partial,
        _ => Parsed::Unusual,
    }
}

/// None: unusual. Inner none: not whole yet.
fn try_parse(bytes: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Option<Option<RequestHead>> {
    let Some((line, at)) = scan::first_line(bytes, LineEnd::Strict).ok()? else { return Some(None) };
    let (method, target, path) = request_line(line)?;
    let length = match scan::fields(bytes, at, LineEnd::Strict, limits.fields_max, fields) {
        End::At(end) => end,
        End::Partial => return Some(None),
        End::Bad(_) => return None,
    };
    if length > limits.head_bytes_max {
        return None;
    }
    let mut head =
        RequestHead { method, target, path, host: Span::default(), body: 0, length, close: false, mapped: false };
    let mut seen = Seen::default();
    for field in fields.iter() {
        head.take(field, bytes, &mut seen)?;
    }
    seen.host.then_some(Some(head))
}

#[derive(Default)]
struct Seen {
    host: bool,
    length: bool,
    cookie: bool,
}

impl RequestHead {
    fn take(&mut self, field: &Field, bytes: &[u8], seen: &mut Seen) -> Option<()> {
        let value = field.value.of(bytes);
        match field.kind {
            Kind::Host => {
                if std::mem::replace(&mut seen.host, true) || value.is_empty() || !is_host(value) {
                    return None;
                }
                self.host = field.value;
            }
            Kind::ContentLength => {
                let length = scan::number(value).filter(|length| *length <= BODY_MAX)?;
                if std::mem::replace(&mut seen.length, true) {
                    return None;
                }
                self.body = usize::try_from(length).ok()?;
            }
            Kind::Connection => self.connection(value)?,
            Kind::Cookie => self.mapped |= std::mem::replace(&mut seen.cookie, true),
            Kind::Te | Kind::Forwarding => self.mapped = true,
            // Whose errors have a form of their own.
            Kind::ContentType if value.starts_with(b"application/grpc") => return None,
            Kind::TransferEncoding | Kind::Upgrade | Kind::Expect => return None,
            Kind::Other => self.mapped |= resembles_ours(field.name.of(bytes)),
            _ => {}
        }
        Some(())
    }

    fn connection(&mut self, value: &[u8]) -> Option<()> {
        for token in tokens_of(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                return None;
            } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                self.mapped = true;
            }
        }
        Some(())
    }
}

/// `METHOD SP origin-form SP HTTP/1.1`; target and path as spans of the line, which begins the head.
fn request_line(line: &[u8]) -> Option<(Method, Span, Span)> {
    let space = memchr::memchr(b' ', line)?;
    let method = match &line[..space] {
        b"GET" => Method::GET,
        b"HEAD" => Method::HEAD,
        b"POST" => Method::POST,
        b"PUT" => Method::PUT,
        b"PATCH" => Method::PATCH,
        b"DELETE" => Method::DELETE,
        b"OPTIONS" => Method::OPTIONS,
        _ => return None,
    };
    let target = line[space + 1..].strip_suffix(b" HTTP/1.1")?;
    if target.first() != Some(&b'/') || !target.iter().all(|&byte| TARGET[usize::from(byte)]) {
        return None;
    }
    let start = space + 1;
    let path_end = memchr::memchr(b'?', target).unwrap_or(target.len());
    Some((method, Span::new(start, start + target.len()), Span::new(start, start + path_end)))
}

/// Bytes of a path or query (RFC 3986 sections 3.3 and 3.4). Others are seen, and left to hyper's opinion.
static TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'/'
                    | b'?'
                    | b'%'
                    | b'['
                    | b']'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::http::strict::Guard;

    const LIMITS: Limits = Limits { head_bytes_max: 1024, fields_max: 8, h2_preface: false };

    fn head(text: &str) -> Option<RequestHead> {
        match parse(text.as_bytes(), LIMITS, &mut Vec::new()) {
            Parsed::Whole(head) => Some(head),
            _ => None,
        }
    }

    #[test]
    fn a_usual_request() {
        let text = "POST /a/b?c=d HTTP/1.1\r\nHost: x:80\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\n";
        let found = head(text).unwrap();
        let bytes = text.as_bytes();
        assert_eq!(
            (found.method.as_str(), found.target.text(bytes), found.path.text(bytes)),
            ("POST", "/a/b?c=d", "/a/b")
        );
        assert_eq!((found.host.text(bytes), found.body, found.length), ("x:80", 12, text.len()));
        assert_eq!((found.close, found.mapped), (false, false));
    }

    #[test]
    fn fields_that_decide_about_others_are_mapped() {
        for field in [
            "X-Forwarded-For: 1.1.1.1",
            "Forwarded: for=a",
            "TE: trailers",
            "Connection: x-secret",
            "X-Real-Ip: 1",
            "X_Forwarded_For: 1",
            "x.real.ip: 1",
            "Content_Length: 1",
        ] {
            assert!(head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).unwrap().mapped, "{field}");
        }
        let closing = head("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n").unwrap();
        assert!(closing.close && !closing.mapped);
        assert!(head("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n").unwrap().mapped);
    }

    #[test]
    fn the_unusual_is_left_to_others() {
        let fields = [
            "Transfer-Encoding: chunked",
            "Upgrade: websocket",
            "Connection: upgrade",
            "Expect: 100-continue",
            "Content-Length: 65537",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: +1",
            "Host: b",
            "Folded: a\r\n b",
            "Content-Type: application/grpc",
        ];
        for field in fields {
            assert!(head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")).is_none(), "{field}");
        }
        let lines = [
            "GET / HTTP/1.0",
            "CONNECT a:1 HTTP/1.1",
            "GET http://a/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "BREW / HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET  / HTTP/1.1",
            "get / HTTP/1.1",
            "GET /\u{e4} HTTP/1.1",
            "",
        ];
        for line in lines {
            assert!(head(&format!("{line}\r\nHost: a\r\n\r\n")).is_none(), "{line}");
        }
        assert!(head("GET / HTTP/1.1\r\n\r\n").is_none(), "no host");
        assert!(head("GET / HTTP/1.1\nHost: a\n\n").is_none());
    }

    #[test]
    fn heads_are_bounded() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1024));
        for cut in [1023, long.len() - 1, long.len()] {
            let parsed = parse(&long.as_bytes()[..cut], LIMITS, &mut Vec::new());
            assert_eq!(matches!(parsed, Parsed::Partial), cut < 1024, "{cut}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(8));
        assert!(head(&many).is_none());
    }

    proptest! {
        /// Whatever is carried here, the guard lets pass, and it sees the same body.
        #[test]
        fn never_wider_than_the_guard(lines in prop::collection::vec(line(), 1..7)) {
            let text = format!("{}\r\n\r\n", lines.join("\r\n"));
            if let Parsed::Whole(head) = parse(text.as_bytes(), LIMITS, &mut Vec::new()) {
                let mut guard = Guard::new(LIMITS);
                prop_assert_eq!(guard.feed(&text.as_bytes()[..head.length]), Ok(()), "{}", text);
                prop_assert_eq!(guard.heads(), 1);
                prop_assert_eq!(guard.is_between_requests(), head.body == 0);
                prop_assert_eq!(guard.feed(&vec![b'x'; head.body]), Ok(()));
                prop_assert!(guard.is_between_requests());
            }
        }
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => Just("GET / HTTP/1.1".to_owned()),
            6 => Just("Host: a".to_owned()),
            2 => (0u32..70_000).prop_map(|length| format!("Content-Length: {length}")),
            1 => Just("Content-Length: 1, 1".to_owned()),
            1 => Just("Transfer-Encoding: chunked".to_owned()),
            1 => Just("Content-Length:\t5".to_owned()),
            2 => "[A-Za-z-]{1,12}:[ -~\t]{0,12}",
            1 => "[ -~]{0,20}",
            1 => "GET /[!-~]{0,8} HTTP/1\\.1",
        ]
    }
}
