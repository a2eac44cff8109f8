//! The requests of a connection of HTTP/1, one behind another: no panic, and one verdict however
//! the bytes are cut.

use lb::proxy::http::h1::chunked::Chunks;
use lb::proxy::http::h1::request_head::{BodyFraming, Parsed, parse};
use lb::proxy::http::h1::syntax::{Limits, Violation};

use super::number;

const LIMITS: Limits = Limits {
    head_bytes_max: 1024,
    fields_max: 16,
};

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
    let mut whole = Connection::default();
    let mut cut = Connection::default();
    let verdict = whole.read(bytes);
    let cut_verdict = bytes
        .chunks(width.max(1))
        .try_for_each(|piece| cut.read(piece));
    let shown = String::from_utf8_lossy(bytes);
    assert_eq!(
        verdict.map_err(|it| it.status),
        cut_verdict.map_err(|it| it.status),
        "{shown}"
    );
    assert_eq!((whole.heads, whole.data), (cut.heads, cut.data), "{shown}");
}

/// A reader of requests.
#[derive(Default)]
struct Connection {
    unread: Vec<u8>,
    body: Option<Body>,
    blank: bool,
    heads: usize,
    /// Bytes of bodies.
    data: u64,
}

enum Body {
    Length(u64),
    Chunked(Chunks),
}

impl Connection {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.unread.extend_from_slice(bytes);
        while self.step()? {}
        Ok(())
    }

    /// Takes a head, or a piece of a body; false: more bytes are needed.
    fn step(&mut self) -> Result<bool, Violation> {
        let used = match &mut self.body {
            Some(Body::Length(0)) => {
                self.body = None;
                return Ok(true);
            }
            Some(Body::Length(left)) => {
                let here = self
                    .unread
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                self.data += here as u64;
                here
            }
            Some(Body::Chunked(chunks)) => {
                let (skipped, data) = chunks.unwrap(&self.unread)?;
                self.data += data as u64;
                if chunks.is_done() {
                    chunks.trailers()?;
                    self.body = None;
                }
                skipped + data
            }
            None => return self.head(),
        };
        self.unread.drain(..used);
        Ok(used > 0)
    }

    fn head(&mut self) -> Result<bool, Violation> {
        let used = match parse(&self.unread, LIMITS, &mut Vec::new()) {
            Parsed::Partial => return Ok(false),
            Parsed::Bad(violation) => return Err(violation),
            Parsed::Blank if self.blank => return Err(Violation::bad("two empty lines")),
            Parsed::Blank => {
                self.blank = true;
                2
            }
            Parsed::Whole(head) => {
                (self.blank, self.heads) = (false, self.heads + 1);
                self.body = Some(match head.body {
                    BodyFraming::Length(length) => Body::Length(length),
                    BodyFraming::Chunked => Body::Chunked(Chunks::of_request(LIMITS)),
                });
                head.length
            }
        };
        self.unread.drain(..used);
        Ok(true)
    }
}
