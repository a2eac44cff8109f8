//! Requests of the direct exchange: what it carries, the strict guard lets pass as one message with the same body, in the
//! form in which the client sent it and in the one that the upstream gets; and a head that is not whole yet is told from
//! one that is none.

#[path = "../../../benches/shared/exchange.rs"]
mod exchange;

use std::sync::{Arc, LazyLock};

use lb::proxy::http::direct::request_head::{Parsed, RequestHead, parse};
use lb::proxy::http::direct::scan::Field;
use lb::proxy::http::direct::wire::{ClientLines, Received, put_request};
use lb::proxy::http::path::normalise;
use lb::proxy::http::strict::{Guard, Limits};
use lb::proxy::settings::Settings;
use lb::table::Target;

use super::number;

const LIMITS: Limits = Limits { head_bytes_max: 1024, fields_max: 16, h2_preface: false };
/// What is sent on has fields of ours as well.
const WIDER: Limits = Limits { head_bytes_max: 1 << 20, fields_max: 64, h2_preface: false };

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
    check(&[b"POST /a?b HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n\r\n"].concat(), cut);
}

fn check(bytes: &[u8], cut: usize) {
    let mut fields = Vec::new();
    let Parsed::Whole(head) = parse(bytes, LIMITS, &mut fields) else { return };
    let mut message = bytes[..head.length].to_vec();
    message.resize(head.length + head.body, b'x');
    is_one(LIMITS, &message, head.length, head.body);
    is_one_sent_on(&message, &head, &fields);
    let cut = cut % head.length;
    assert!(matches!(parse(&bytes[..cut], LIMITS, &mut fields), Parsed::Partial), "cut at {cut}");
}

/// The guard sees one head of this length, and the end of the message behind a body of this length.
fn is_one(limits: Limits, message: &[u8], head: usize, body: usize) {
    let shown = String::from_utf8_lossy(message);
    let mut guard = Guard::new(limits);
    assert_eq!(guard.feed(&message[..head]), Ok(()), "{shown}");
    assert_eq!((guard.heads(), guard.is_between_requests()), (1, body == 0), "{shown}");
    assert_eq!(guard.feed(&message[head..]), Ok(()), "{shown}");
    assert_eq!((guard.heads(), guard.is_between_requests()), (1, true), "{shown}");
}

fn is_one_sent_on(message: &[u8], head: &RequestHead, fields: &[Field]) {
    // A path that makes no sense is handed over.
    let Ok(path) = normalise(head.path.text(message), false) else { return };
    let received = Received { bytes: message, head, fields, path: &path, id: None };
    let client = exchange::client();
    let lines = ClientLines::new(&SETTINGS, &client, http::Version::HTTP_11);
    let mut out = Vec::new();
    if put_request(&mut out, &received, &SETTINGS, &client, &lines, &TARGET).is_ok() {
        // The head alone: the body goes its own way.
        let length = out.len();
        out.resize(length + head.body, b'x');
        is_one(WIDER, &out, length, head.body);
    }
}
