//! The framing guard: no panic, and one verdict however the bytes are cut.

use lb::proxy::http::strict::{Guard, Limits};

use super::number;

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"\x01GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x05POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x03POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"\x07GET / HTTP/1.0\r\nConnection: close\r\n\r\n",
];

/// The width of the pieces, and what a client sends.
pub fn run(input: &[u8]) {
    let (width, bytes) = number(input);
    let limits = Limits { head_bytes_max: 1024, fields_max: 16, h2_preface: false };
    let whole = Guard::new(limits).feed(bytes);
    let mut guard = Guard::new(limits);
    let cut = bytes.chunks(width.max(1)).try_for_each(|piece| guard.feed(piece));
    assert_eq!(whole, cut);
}
