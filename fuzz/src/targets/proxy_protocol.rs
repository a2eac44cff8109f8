//! The PROXY parser: no panic, a verdict within its bound, and a header no longer than the bytes at
//! hand.

use lb::proxy::proxy_protocol::{HEADER_BYTES_MAX, Received, parse};

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY UNKNOWN ffff::1 x\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x27\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\x50\x01\xbb\x04\0\0",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    "PROXY ",
    "TCP4 ",
    "TCP6 ",
    "UNKNOWN",
    "\r\n",
    " ",
    "192.0.2.1",
    "::1",
    "65535",
    "\r\n\r\n\0\r\nQUIT\n",
    "!\u{11}\0\u{c}",
];

/// What a client sends first.
pub fn run(input: &[u8]) {
    match parse(input) {
        Ok(Received::NeedMore) => assert!(input.len() < HEADER_BYTES_MAX),
        Ok(Received::Header { len, .. }) => assert!(len <= input.len()),
        _ => {}
    }
}
