//! The kinds of requests that are mixed: as they are sent, and what the good response is.

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
    /// The good response.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::Get | Self::Post | Self::Put | Self::PutChunked => "200",
            Self::NoRoute => "404",
            Self::Redirected => "302",
            Self::Challenged => "401",
        }
    }

    /// Whether the good response is the proxy's own.
    pub(crate) fn is_for_proxy(self) -> bool {
        self.status() != "200"
    }

    /// As it is sent.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let head = |start: &str, host: &str, rest: &str| {
            format!("{start} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n").into_bytes()
        };
        let length = format!("Content-Length: {UPLOAD}\r\n");
        match self {
            Self::Get => head("GET /64", "localhost", ""),
            Self::Post => [head("POST /post", "localhost", &length), vec![b'x'; UPLOAD]].concat(),
            Self::Put => [head("PUT /put", "localhost", &length), vec![b'x'; UPLOAD]].concat(),
            Self::PutChunked => [
                head("PUT /put", "localhost", "Transfer-Encoding: chunked\r\n"),
                chunks(),
            ]
            .concat(),
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
