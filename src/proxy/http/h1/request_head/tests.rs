//! A corpus of shapes that have smuggled requests past one proxy or another, and the proof that
//! cutting the bytes elsewhere changes no verdict.

use proptest::prelude::*;

use super::*;
use crate::proxy::http::h1::chunked::Chunks;

const LIMITS: Limits = Limits {
    head_bytes_max: 512,
    fields_max: 8,
};

/// Follows the requests of a connection; the status of the first that is refused.
fn verdict(mut bytes: &[u8]) -> Result<(), u16> {
    let mut blank = false;
    loop {
        let head = match parse(bytes, LIMITS, &mut Vec::new()) {
            Parsed::Partial => return Ok(()),
            Parsed::Blank if !blank => {
                (blank, bytes) = (true, &bytes[2..]);
                continue;
            }
            Parsed::Blank => return Err(400),
            Parsed::Bad(violation) => return Err(violation.status),
            Parsed::Whole(head) => head,
        };
        (blank, bytes) = (false, &bytes[head.length..]);
        match head.body {
            BodyFraming::Length(length) => match bytes.get(usize::try_from(length).unwrap()..) {
                Some(rest) => bytes = rest,
                None => return Ok(()),
            },
            BodyFraming::Chunked => {
                match behind_chunks(bytes).map_err(|violation| violation.status)? {
                    Some(rest) => bytes = rest,
                    None => return Ok(()),
                }
            }
        }
    }
}

fn behind_chunks(mut bytes: &[u8]) -> Result<Option<&[u8]>, Violation> {
    let mut chunks = Chunks::of_request(LIMITS);
    while !bytes.is_empty() && !chunks.is_done() {
        let (skipped, data) = chunks.unwrap(bytes)?;
        bytes = &bytes[skipped + data..];
    }
    chunks.trailers()?;
    Ok(chunks.is_done().then_some(bytes))
}

/// Fields are put between a good request line with host and the end of the head.
fn with_fields(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    [
        with_fields("Transfer-Encoding: chunked\r\n"),
        body.as_bytes().to_vec(),
    ]
    .concat()
}

fn corpus() -> Vec<(Vec<u8>, Result<(), u16>)> {
    let plain = |text: &str, wanted| (text.as_bytes().to_vec(), wanted);
    let fields = |text: &str, wanted| (with_fields(text), wanted);
    let body = |text: &str, wanted| (chunked(text), wanted);
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    vec![
        // Good ones.
        plain(get, Ok(())),
        plain(&get.repeat(5), Ok(())),
        plain(&format!("\r\n{get}\r\n{get}"), Ok(())),
        plain("GET / HTTP/1.0\r\n\r\n", Ok(())),
        plain("GET http://a/x HTTP/1.1\r\nHost: b\r\n\r\n", Ok(())),
        plain("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
        plain("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Ok(())),
        plain("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(())),
        plain(
            "GET / HTTP/1.1\r\nhOST:\t[::1]:80 \r\nX: \t\r\nY: caf\u{e9}\r\n\r\n",
            Ok(()),
        ),
        plain(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\0x{get}"),
            Ok(()),
        ),
        fields("Content-Length: 0\r\n", Ok(())),
        fields("Content-Length: 007\r\n", Ok(())),
        fields("Transfer-Encoding: Chunked\r\n", Ok(())),
        body(
            "3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Ok(()),
        ),
        body("0\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n", Ok(())),
        // Request line.
        plain("\r\n\r\nGET / HTTP/1.1\r\n", Err(400)),
        plain("\nGET / HTTP/1.1\r\n", Err(400)),
        plain("GET /\r\n", Err(400)),
        plain("GET  / HTTP/1.1\r\n", Err(400)),
        plain("GET /a b HTTP/1.1\r\n", Err(400)),
        plain("GET\t/ HTTP/1.1\r\n", Err(400)),
        plain("GET /\tx HTTP/1.1\r\n", Err(400)),
        plain(" GET / HTTP/1.1\r\n", Err(400)),
        plain("GET / HTTP/1.1 \r\n", Err(400)),
        plain("GET / HTTP/1.1\n", Err(400)),
        plain("GET / HTTP/1.1\rHost: a\r\n", Err(400)),
        plain("GET /\u{e9} HTTP/1.1\r\n", Ok(())),
        plain("GET /a#b HTTP/1.1\r\n", Err(400)),
        plain("GET /\0 HTTP/1.1\r\n", Err(400)),
        plain("G(T / HTTP/1.1\r\n", Err(400)),
        plain("GET / http/1.1\r\n", Err(400)),
        plain("GET / HTTP/1.10\r\n", Err(400)),
        plain("GET / HTTP/1\r\n", Err(400)),
        plain("GET / HTTP/2.0\r\n", Err(505)),
        plain("GET / HTTP/1.2\r\n", Err(505)),
        plain("PRI * HTTP/2.0\r\n", Err(400)),
        plain("GET * HTTP/1.1\r\n", Err(400)),
        plain("GET a HTTP/1.1\r\n", Err(400)),
        plain("GET http:///x HTTP/1.1\r\n", Err(400)),
        plain("GET ftp://a/ HTTP/1.1\r\n", Err(400)),
        plain("CONNECT / HTTP/1.1\r\n", Err(400)),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(600)).into_bytes(),
            Err(414),
        ),
        ("a".repeat(513).into_bytes(), Err(414)),
        ("a".repeat(512).into_bytes(), Ok(())),
        // Host.
        plain("GET / HTTP/1.1\r\n\r\n", Err(400)),
        fields("Host: a\r\n", Err(400)),
        plain("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Err(400)),
        plain("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(400)),
        plain("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(400)),
        plain("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Err(400)),
        // Field lines.
        fields("X : 1\r\n", Err(400)),
        fields("Transfer-Encoding : chunked\r\n", Err(400)),
        fields("Content-Length\t: 1\r\n", Err(400)),
        fields(" X: 1\r\n", Err(400)),
        fields("X: 1\r\n folded\r\n", Err(400)),
        fields("X: 1\r\n\tfolded\r\n", Err(400)),
        fields("X: 1\n", Err(400)),
        fields("X: 1\rY: 2\r\n", Err(400)),
        fields("X: 1\r\r\n", Err(400)),
        fields("X: \0\r\n", Err(400)),
        fields("X: \u{b}chunked\r\n", Err(400)),
        fields("X: \u{7f}\r\n", Err(400)),
        fields("X\u{e9}: 1\r\n", Err(400)),
        fields("X\0: 1\r\n", Err(400)),
        fields("X(: 1\r\n", Err(400)),
        fields(": 1\r\n", Err(400)),
        fields("X\r\n", Err(400)),
        plain("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(400)),
        (
            with_fields(&format!("X: {}\r\n", "a".repeat(600))),
            Err(431),
        ),
        (with_fields(&"X: 1\r\n".repeat(8)), Err(431)),
        (with_fields(&"X: 1\r\n".repeat(7)), Ok(())),
        // Content-Length.
        fields("Content-Length: 1\r\nContent-Length: 1\r\n", Err(400)),
        fields("Content-Length: 1\r\nContent-Length: 2\r\n", Err(400)),
        fields("Content-Length: 1, 1\r\n", Err(400)),
        fields("Content-Length: 1,2\r\n", Err(400)),
        fields("Content-Length: +1\r\n", Err(400)),
        fields("Content-Length: -1\r\n", Err(400)),
        fields("Content-Length: 0x1\r\n", Err(400)),
        fields("Content-Length: 1 1\r\n", Err(400)),
        fields("Content-Length: 1;\r\n", Err(400)),
        fields("Content-Length:\r\n", Err(400)),
        fields("Content-Length: 18446744073709551616\r\n", Err(413)),
        fields("Content-Length: 9223372036854775808\r\n", Err(413)),
        fields("Content-Length: 9223372036854775807\r\n", Ok(())),
        // Transfer-Encoding.
        fields(
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            Err(400),
        ),
        fields(
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            Err(400),
        ),
        fields(
            "Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n",
            Err(400),
        ),
        fields(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Err(400),
        ),
        fields(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            Err(400),
        ),
        fields("Transfer-Encoding: identity\r\n", Err(501)),
        fields("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
        fields("Transfer-Encoding: chunked, identity\r\n", Err(501)),
        fields("Transfer-Encoding: xchunked\r\n", Err(501)),
        fields("Transfer-Encoding: \"chunked\"\r\n", Err(501)),
        fields("Transfer-Encoding: chunked;a=b\r\n", Err(501)),
        fields("Transfer-Encoding: ,chunked\r\n", Err(400)),
        fields("Transfer-Encoding:\r\n", Err(400)),
        fields("Transfer-Encoding: \u{b}chunked\r\n", Err(400)),
        plain(
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(400),
        ),
        // Chunks.
        body("0x3\r\n", Err(400)),
        body("+3\r\n", Err(400)),
        body("-3\r\n", Err(400)),
        body("\r\n", Err(400)),
        body(";x\r\n", Err(400)),
        body("3 \r\n", Err(400)),
        body(" 3\r\n", Err(400)),
        body("g\r\n", Err(400)),
        body("3\n", Err(400)),
        body("3\rabc", Err(400)),
        body("3\rabc\n", Err(400)),
        body("10000000000000003\r\n", Err(400)),
        body("fffffffffffffff\r\n", Ok(())),
        body("3\r\nabcd\r\n", Err(400)),
        body("3\r\nabc\n", Err(400)),
        body("3\r\nabc0\r\n", Err(400)),
        body("3;x\n\r\n", Err(400)),
        body("3;x\0\r\n", Err(400)),
        (chunked(&format!("3;{}\r\n", "a".repeat(300))), Err(400)),
        (chunked(&"1;a=b\r\nx\r\n".repeat(500)), Ok(())),
        body("0\r\nContent-Length: 1\r\n\r\n", Ok(())),
        body("0\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(())),
        body("0\r\nHost: b\r\n\r\n", Ok(())),
        body("0\r\nX : b\r\n\r\n", Err(400)),
        body("0\r\nX: b\n", Err(400)),
        body("0\r\n\n", Err(400)),
        (
            chunked(&format!("0\r\n{}\r\n", "X: 1\r\n".repeat(9))),
            Err(431),
        ),
        (chunked(&format!("0\r\nX: {}", "a".repeat(600))), Err(431)),
        // What follows a body is judged again.
        body(
            "0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Err(400),
        ),
        plain(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/3.0\r\n",
            Err(505),
        ),
    ]
}

#[test]
fn smuggling_shapes() {
    for (bytes, wanted) in corpus() {
        assert_eq!(
            verdict(&bytes),
            wanted,
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// What was read so far is the beginning of a head, or is refused for good.
fn cuts_agree(bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    let mut fields = Vec::new();
    let whole = parse(bytes, LIMITS, &mut fields);
    for end in 0..bytes.len() {
        match (parse(&bytes[..end], LIMITS, &mut fields), &whole) {
            (Parsed::Partial, _) | (Parsed::Blank, Parsed::Blank) => {}
            (Parsed::Bad(here), Parsed::Bad(there)) => {
                assert_eq!(here.status, there.status, "{end}: {shown}")
            }
            (Parsed::Whole(here), Parsed::Whole(there)) => {
                assert_eq!(here.length, there.length, "{end}: {shown}")
            }
            (other, whole) => panic!("{end} of {shown:?}: {other:?}, and as a whole {whole:?}"),
        }
    }
}

#[test]
fn cuts_change_nothing() {
    for (bytes, _) in corpus() {
        cuts_agree(&bytes);
    }
}

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
        (found.method.as_str(), found.target(bytes)),
        ("POST", "/a/b?c=d")
    );
    assert_eq!(
        (found.host.unwrap().text(bytes), found.length),
        ("x:80", text.len())
    );
    assert_eq!(
        (found.body, found.keep, found.mapped),
        (BodyFraming::Length(12), true, false)
    );
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
        "Upgrade: websocket",
        "Cookie: a=b\r\nCookie: c=d",
    ] {
        assert!(
            head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"))
                .unwrap()
                .mapped,
            "{field}"
        );
    }
}

#[test]
fn which_connections_may_carry_another_request() {
    for (version, field, keep) in [
        ("1.1", "A: b", true),
        ("1.1", "Connection: Close", false),
        ("1.1", "Connection: keep-alive, close", false),
        ("1.0", "A: b", false),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: keep-alive, close", false),
    ] {
        let found = head(&format!(
            "GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n\r\n"
        ))
        .unwrap();
        assert_eq!(found.keep, keep, "{version} {field}");
    }
}

#[test]
fn targets_in_every_form() {
    for (line, target, host) in [
        ("GET http://b/x?y", "/x?y", "b"),
        ("GET http://A:80/x", "/x", "a:80"),
        ("GET HTTPS://b", "/", "b"),
        ("GET http://b?q", "/?q", "b"),
        ("OPTIONS *", "*", "a:80"),
        ("GET /<\u{e4}>?\"", "/%3C%C3%A4%3E?%22", "a:80"),
        ("CONNECT b:443", "b:443", "a:80"),
    ] {
        let text = format!("{line} HTTP/1.1\r\nHost: a:80\r\n\r\n");
        let found = head(&text).unwrap_or_else(|| panic!("{line}"));
        let seen = (
            found.target(text.as_bytes()),
            found.host.unwrap().text(text.as_bytes()),
        );
        assert_eq!(seen, (target, host), "{line}");
    }
}

#[test]
fn bodies_and_what_is_expected_of_them() {
    let of = |fields: &str| {
        let found = head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap();
        (found.body, found.expects)
    };
    assert_eq!(of(""), (BodyFraming::Length(0), false));
    assert_eq!(
        of("Transfer-Encoding: chunked\r\n"),
        (BodyFraming::Chunked, false)
    );
    assert_eq!(
        of("Expect: 100-Continue\r\nContent-Length: 3\r\n"),
        (BodyFraming::Length(3), true)
    );
    assert_eq!(
        of("Expect: 100-continue\r\n"),
        (BodyFraming::Length(0), false)
    );
    assert_eq!(
        of("Expect: other\r\nContent-Length: 3\r\n"),
        (BodyFraming::Length(3), false)
    );
}

proptest! {
    #[test]
    fn noise_gets_one_verdict(parts in prop::collection::vec(prop::sample::select(vec![
        "GET", "POST", " ", "/", "HTTP/1.1", "HTTP/1.0", "\r\n", "\r", "\n", "Host: a", "Content-Length: 2",
        "Transfer-Encoding: chunked", "\r\n\r\n", "2", "0", ";", ":", "\0", "x", "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]), 0..40)) {
        let bytes = parts.concat().into_bytes();
        cuts_agree(&bytes);
        // Ends, whatever comes.
        let _ = verdict(&bytes);
    }
}
