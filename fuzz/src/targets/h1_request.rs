//! Requests of HTTP/1: what an instance gets is one head again, with a body framed as the client's;
//! and a head that is not whole yet is told from one that is none.

#[path = "../../../benches/shared/exchange.rs"]
mod exchange;

use std::sync::{Arc, LazyLock};

use lb::proxy::http::h1::request_head::{BodyFraming, Parsed, RequestHead, parse};
use lb::proxy::http::h1::scan::Field;
use lb::proxy::http::h1::syntax::Limits;
use lb::proxy::http::h1::write_head::{ClientLines, Outbound, put_request};
use lb::proxy::http::head::{Content, Head};
use lb::proxy::http::path::normalise;
use lb::proxy::settings::Settings;
use lb::table::Target;

use super::number;

const LIMITS: Limits = Limits {
    head_bytes_max: 1024,
    fields_max: 16,
};
/// What is sent on has fields of ours as well.
const WIDER: Limits = Limits {
    head_bytes_max: 1 << 20,
    fields_max: 64,
};

/// Longest body that is sent from memory here.
const CONTENT_MAX: u64 = 64;

static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(|| Arc::new(exchange::settings()));
static TARGET: LazyLock<Target> = LazyLock::new(exchange::target);

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"\x05GET /a/b?c=d HTTP/1.1\r\nHost: example.com:80\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
    b"\x20POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\n",
    b"\x09X-Forwarded-For: 1.1.1.1\r\nCookie: a=b; c=d\r\nTE: trailers",
    b"\x01HEAD /%2e%2e/a//b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
];

/// Where the head is cut, and what a client sends.
pub fn run(input: &[u8]) {
    let (cut, bytes) = number(input);
    check(bytes, cut);
    // Where the line is a usual one, the fields are what there is to find out.
    check(
        &[b"POST /a?b HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n\r\n"].concat(),
        cut,
    );
}

fn check(bytes: &[u8], cut: usize) {
    let mut fields = Vec::new();
    let Parsed::Whole(head) = parse(bytes, LIMITS, &mut fields) else {
        return;
    };
    is_one_sent_on(&bytes[..head.length], &head, &fields);
    let cut = cut % head.length;
    assert!(
        matches!(parse(&bytes[..cut], LIMITS, &mut fields), Parsed::Partial),
        "cut at {cut}"
    );
}

/// What an instance gets is one head, with a body framed as this one's.
fn is_one_sent_on(bytes: &[u8], head: &RequestHead, fields: &[Field]) {
    let content = match head.body {
        BodyFraming::Length(length @ ..=CONTENT_MAX) => {
            Content::Whole(&[b'x'; CONTENT_MAX as usize][..length as usize])
        }
        BodyFraming::Length(length) => Content::Streamed(Some(length)),
        BodyFraming::Chunked => Content::Streamed(None),
    };
    let seen = Head::of_lines(bytes, head, fields, content);
    // A path that makes no sense is answered here.
    let Ok(path) = normalise(seen.path(), false) else {
        return;
    };
    let request = Outbound {
        head: &seen,
        path: &path,
        id: None,
        granted: None,
    };
    let client = exchange::client();
    let lines = ClientLines::new(&SETTINGS, &client, head.version);
    let mut out = Vec::new();
    if put_request(&mut out, &request, &SETTINGS, &client, &lines, &TARGET).is_err() {
        return;
    }
    let shown = String::from_utf8_lossy(&out).into_owned();
    let Parsed::Whole(sent) = parse(&out, WIDER, &mut Vec::new()) else {
        panic!("no head: {shown}")
    };
    assert_eq!((sent.length, sent.body), (out.len(), head.body), "{shown}");
    assert_eq!(sent.method, head.method, "{shown}");
}
