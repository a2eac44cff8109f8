//! Keep-alive HTTP/1.1 of which one request in so many is another one: what such a request costs those that follow it on
//! its connection is the question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::{self, connect, exchange_for};
use crate::result::Outcome;

/// Connections that ask, as many as in `h1-64`.
const CONNECTIONS: usize = 64;
/// Bytes of an upload.
const UPLOAD: usize = 10_240;
/// Most bytes of a chunk: what many clients take as their buffer.
const CHUNK: usize = 4_096;
/// The path of the route that wants credentials.
pub(crate) const LOCKED: &str = "/locked";
/// The path of the route that sends elsewhere.
pub(crate) const MOVED: &str = "/moved";

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// For 64 bytes.
    Get,
    /// An upload of known length.
    Post,
    /// The same by another method.
    Put,
    /// The same in chunks.
    PutChunked,
    /// For a host that has no route.
    NoRoute,
    /// For the route that sends elsewhere.
    Redirected,
    /// For the route that wants credentials, without any.
    Challenged,
}

impl Request {
    /// The good answer.
    fn status(self) -> &'static str {
        match self {
            Self::Get | Self::Post | Self::Put | Self::PutChunked => "200",
            Self::NoRoute => "404",
            Self::Redirected => "302",
            Self::Challenged => "401",
        }
    }

    /// Whether the good answer is the proxy's own.
    fn is_for_proxy(self) -> bool {
        self.status() != "200"
    }

    /// As it is sent.
    fn bytes(self) -> Vec<u8> {
        let head = |start: &str, host: &str, rest: &str| {
            format!("{start} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n").into_bytes()
        };
        let length = format!("Content-Length: {UPLOAD}\r\n");
        match self {
            Self::Get => head("GET /64", "localhost", ""),
            Self::Post => [head("POST /post", "localhost", &length), vec![b'x'; UPLOAD]].concat(),
            Self::Put => [head("PUT /put", "localhost", &length), vec![b'x'; UPLOAD]].concat(),
            Self::PutChunked => [head("PUT /put", "localhost", "Transfer-Encoding: chunked\r\n"), chunks()].concat(),
            Self::NoRoute => head("GET /64", "nowhere.test", ""),
            Self::Redirected => head(&format!("GET {MOVED}"), "localhost", ""),
            Self::Challenged => head(&format!("GET {LOCKED}"), "localhost", ""),
        }
    }
}

/// An upload in chunks.
fn chunks() -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in vec![b'x'; UPLOAD].chunks(CHUNK) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

/// Asks `usual`, and on each connection `other` once in `every` requests.
pub(crate) fn run(port: u16, usual: Request, other: Request, every: u64, length: Duration) -> Outcome {
    let prepared = Arc::new([usual, other].map(|request| (request, request.bytes())));
    let started = AtomicU64::new(0);
    clients::run(CONNECTIONS, length, move |tally, until| {
        let prepared = Arc::clone(&prepared);
        // Their turns to ask the other one are spread.
        let mut number = started.fetch_add(1, Relaxed);
        async move {
            let mut stream = connect(port).await?;
            let mut buffer = Vec::new();
            while Instant::now() < until {
                number += 1;
                let (request, bytes) = &prepared[usize::from(number.is_multiple_of(every))];
                exchange_for(request.status(), &mut stream, bytes, &mut buffer).await?;
                tally.good.fetch_add(1, Relaxed);
                tally.by_proxy.fetch_add(u64::from(request.is_for_proxy()), Relaxed);
            }
            Ok(())
        }
    })
}
