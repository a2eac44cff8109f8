//! A corpus of shapes that have smuggled requests past one proxy or another, and the proof that cutting the bytes
//! elsewhere changes no verdict.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { head_bytes_max: 512, fields_max: 8, h2_preface: false };

fn verdict(bytes: &[u8]) -> Result<(), u16> {
    Guard::new(LIMITS).feed(bytes).map_err(|violation| violation.status)
}

fn byte_by_byte(bytes: &[u8]) -> Result<(), u16> {
    let mut guard = Guard::new(LIMITS);
    bytes.iter().try_for_each(|byte| guard.feed(&[*byte])).map_err(|violation| violation.status)
}

/// Fields are put between a good request line with host and the end of the head.
fn with_fields(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    [with_fields("Transfer-Encoding: chunked\r\n"), body.as_bytes().to_vec()].concat()
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
        plain("GET / HTTP/1.1\r\nhOST:\t[::1]:80 \r\nX: \t\r\nY: caf\u{e9}\r\n\r\n", Ok(())),
        plain(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\0x{get}"), Ok(())),
        fields("Content-Length: 0\r\n", Ok(())),
        fields("Content-Length: 007\r\n", Ok(())),
        fields("Transfer-Encoding: Chunked\r\n", Ok(())),
        body("3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
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
        plain("GET /\u{e9} HTTP/1.1\r\n", Err(400)),
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
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(600)).into_bytes(), Err(414)),
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
        (with_fields(&format!("X: {}\r\n", "a".repeat(600))), Err(431)),
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
        fields("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Err(400)),
        fields("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        fields("Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n", Err(400)),
        fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Err(400)),
        fields("Transfer-Encoding: identity\r\n", Err(501)),
        fields("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
        fields("Transfer-Encoding: chunked, identity\r\n", Err(501)),
        fields("Transfer-Encoding: xchunked\r\n", Err(501)),
        fields("Transfer-Encoding: \"chunked\"\r\n", Err(501)),
        fields("Transfer-Encoding: chunked;a=b\r\n", Err(501)),
        fields("Transfer-Encoding: ,chunked\r\n", Err(400)),
        fields("Transfer-Encoding:\r\n", Err(400)),
        fields("Transfer-Encoding: \u{b}chunked\r\n", Err(400)),
        plain("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
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
        body("3\rabc", Ok(())),
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
        body("0\r\nContent-Length: 1\r\n", Err(400)),
        body("0\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        body("0\r\nHost: b\r\n", Err(400)),
        body("0\r\nX : b\r\n", Err(400)),
        body("0\r\nX: b\n", Err(400)),
        body("0\r\n\n", Err(400)),
        (chunked(&format!("0\r\n{}", "X: 1\r\n".repeat(9))), Err(431)),
        (chunked(&format!("0\r\nX: {}", "a".repeat(600))), Err(431)),
        // What follows a body is judged again.
        body("0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Err(400)),
        plain("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/3.0\r\n", Err(505)),
    ]
}

#[test]
fn smuggling_shapes() {
    for (bytes, wanted) in corpus() {
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(verdict(&bytes), wanted, "{shown:?}");
        assert_eq!(byte_by_byte(&bytes), wanted, "byte by byte: {shown:?}");
    }
}

#[test]
fn a_violation_stays() {
    let mut guard = Guard::new(LIMITS);
    let first = guard.feed(b"x\n").unwrap_err();
    assert_eq!(guard.feed(b"GET / HTTP/1.0\r\n\r\n"), Err(first));
    assert!(first.response().starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn counts_heads_and_knows_the_gap_between_requests() {
    let mut guard = Guard::new(LIMITS);
    assert!(guard.is_between_requests());
    guard.feed(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n").unwrap();
    assert!(!guard.is_between_requests());
    guard.feed(b"xx").unwrap();
    assert!(guard.is_between_requests());
    guard.feed(b"G").unwrap();
    assert!(!guard.is_between_requests());
    assert_eq!(guard.heads(), 1);
}

#[test]
fn passes_everything_after_an_upgrade() {
    let mut guard = Guard::new(LIMITS);
    guard.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    guard.pass_through();
    assert_eq!(guard.feed(b"\x81\x00\n\n"), Ok(()));
}

#[test]
fn passes_http2_where_it_is_allowed() {
    let mut guard = Guard::new(Limits { h2_preface: true, ..LIMITS });
    assert_eq!(guard.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"), Ok(()));
    let mut guard = Guard::new(Limits { h2_preface: true, ..LIMITS });
    assert!(guard.feed(b"GET / HTTP/1.0\r\n\r\nPRI * HTTP/2.0\r\n").is_err(), "only as the first line");
}

proptest! {
    #[test]
    fn cuts_change_nothing(which in 0..corpus().len(), cuts in prop::collection::vec(0usize..700, 0..6)) {
        let (bytes, wanted) = corpus().swap_remove(which);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut guard = Guard::new(LIMITS);
        let mut from = 0;
        let mut got = Ok(());
        for to in cuts.into_iter().chain([bytes.len()]) {
            got = got.and(guard.feed(&bytes[from..to]));
            from = to;
        }
        prop_assert_eq!(got.map_err(|violation| violation.status), wanted);
    }

    #[test]
    fn noise_gets_one_verdict(parts in prop::collection::vec(prop::sample::select(vec![
        "GET", "POST", " ", "/", "HTTP/1.1", "HTTP/1.0", "\r\n", "\r", "\n", "Host: a", "Content-Length: 2",
        "Transfer-Encoding: chunked", "\r\n\r\n", "2", "0", ";", ":", "\0", "x", "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]), 0..40)) {
        let bytes = parts.concat().into_bytes();
        prop_assert_eq!(verdict(&bytes), byte_by_byte(&bytes));
    }
}

#[test]
fn control_bytes_are_seen_wherever_they_stand() {
    for length in 0..50 {
        let mut bytes = vec![b'\t'; length];
        bytes.iter_mut().step_by(3).for_each(|byte| *byte = 0xff);
        assert!(!has_control(&bytes), "{length}");
        for at in 0..length {
            let good = bytes[at];
            for bad in (0..0x20).filter(|byte| *byte != b'\t').chain([0x7f]) {
                bytes[at] = bad;
                assert!(has_control(&bytes), "{bad:#x} at {at} of {length}");
            }
            bytes[at] = good;
        }
    }
}
