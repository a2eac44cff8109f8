//! Responses of HTTP/1: a head says the same of its body when it is read again in the form in which
//! the client gets it, and the end of a chunked body lies where a decoder says that sees it whole,
//! however its bytes are cut.

#[path = "../../../benches/shared/exchange.rs"]
mod exchange;

use std::sync::LazyLock;

use http::Method;
use lb::proxy::http::h1::chunked::Chunks;
use lb::proxy::http::h1::response_head::{Framing, Parsed, parse};
use lb::proxy::http::h1::write_head::{Fate, Telling, put_response};
use lb::proxy::settings::Settings;

use super::number;

static SETTINGS: LazyLock<Settings> = LazyLock::new(exchange::settings);

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"\x00\x00HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    b"\x00\x03\x01\x02\x035\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"\x01\x02\x07\x09Transfer-Encoding: chunked\r\nConnection: close",
    b"\x00\x01\x04HTTP/1.0 204 No Content\r\nConnection: keep-alive\r\n\r\n",
    b"\x00\x00HTTP/1.1 304 Not Modified\r\nConnection: x-private\r\nUpgrade: h2c\r\nDate: x\r\n\r\n",
];

/// Whether the request was HEAD, how many widths of pieces there are, they, and what an instance
/// sends.
pub fn run(input: &[u8]) {
    let (head_only, rest) = number(input);
    let (widths, rest) = number(rest);
    let (cuts, bytes) = rest.split_at(widths.min(rest.len()));
    let method = if head_only % 2 == 1 {
        Method::HEAD
    } else {
        Method::GET
    };
    check_head(bytes, cuts.len(), &method);
    check_head(
        &[b"HTTP/1.1 200 OK\r\n", bytes, b"\r\n\r\n"].concat(),
        cuts.len(),
        &method,
    );
    check_body(bytes, cuts);
    check_body(&encoded(bytes, cuts), cuts);
}

fn check_head(bytes: &[u8], cut: usize, method: &Method) {
    let mut fields = Vec::new();
    let Parsed::Whole(head) = parse(bytes, method, &mut fields) else {
        return;
    };
    assert!(head.length <= bytes.len());
    // Interim responses (1xx) are passed on by other code, and this request asked for no upgrade.
    if head.status >= 200 {
        let client = exchange::client();
        let telling = Telling {
            client: &client,
            settings: &SETTINGS,
            date: "Sun, 06 Nov 1994 08:49:37 GMT",
            fate: Fate::Silent,
            edits: None,
            cookie: None,
        };
        let mut out = Vec::new();
        put_response(&mut out, bytes, &head, &fields, &telling);
        let shown = String::from_utf8_lossy(&out).into_owned();
        let Parsed::Whole(told) = parse(&out, method, &mut Vec::new()) else {
            panic!("no head: {shown}")
        };
        let framing = if head.framing == Framing::UntilClose {
            Framing::Chunked
        } else {
            head.framing
        };
        assert_eq!(
            (told.status, told.framing, told.length),
            (head.status, framing, out.len()),
            "{shown}"
        );
    }
    let cut = cut % head.length;
    assert!(
        matches!(parse(&bytes[..cut], method, &mut fields), Parsed::Partial),
        "cut at {cut}"
    );
}

fn check_body(bytes: &[u8], cuts: &[u8]) {
    let mut chunks = Chunks::of_response();
    let (mut at, mut data, mut bad) = (0, 0, false);
    let mut widths = cuts
        .iter()
        .map(|&width| usize::from(width).max(1))
        .chain(std::iter::repeat(usize::MAX));
    while at < bytes.len() && !chunks.is_done() && !bad {
        let width = widths.next().unwrap_or(usize::MAX).min(bytes.len() - at);
        match chunks.feed(&bytes[at..at + width]) {
            Ok(piece) => {
                assert!(piece.length == width || (piece.length < width && chunks.is_done()));
                at += piece.length;
                data += piece.data;
            }
            Err(_) => bad = true,
        }
    }
    assert!(!chunks.is_done() || !bad);
    assert_eq!(
        chunks.is_done().then_some((at, data)),
        whole(bytes),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
}

/// The length of the chunked body at the start of `bytes`, and the length of its data; `None` if
/// that body is incomplete or malformed (RFC 9112 section 7.1). Written simply, line by line, to be
/// compared with the parser.
fn whole(bytes: &[u8]) -> Option<(usize, u64)> {
    let (mut rest, mut data) = (bytes, 0);
    loop {
        let (size, behind) = line(rest)?;
        let end = size
            .iter()
            .position(|byte| !byte.is_ascii_hexdigit())
            .unwrap_or(size.len());
        let digits = std::str::from_utf8(&size[..end]).ok()?;
        if digits.len() > 15 || !matches!(size.get(end), None | Some(b';' | b' ' | b'\t')) {
            return None;
        }
        let length = u64::from_str_radix(digits, 16).ok()?;
        rest = behind;
        if length == 0 {
            break;
        }
        data += length;
        rest = rest
            .get(usize::try_from(length).ok()?..)?
            .strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, behind) = line(rest)?;
        rest = behind;
        if trailer.is_empty() {
            return Some((bytes.len() - rest.len(), data));
        }
    }
}

/// A line of text without its CRLF, and what stands behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes
        .iter()
        .position(|&byte| byte != b'\t' && (byte < 0x20 || byte == 0x7f))?;
    Some((&bytes[..end], bytes[end..].strip_prefix(b"\r\n")?))
}

/// `data` in chunks, with bytes of another message behind.
fn encoded(mut data: &[u8], sizes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for &size in sizes {
        let (chunk, rest) = data.split_at(data.len().min(size.into()));
        data = rest;
        if !chunk.is_empty() {
            body.extend_from_slice(format!("{:X};a=b\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
    }
    body.extend_from_slice(b"0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n");
    body
}
