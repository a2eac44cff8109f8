//! Strict framing of HTTP/1.x requests: what two programs could read in two ways is refused before either does.
//!
//! [`Guard`] is a pure state machine that follows the bytes of a client connection, head by head and body by body,
//! beside the HTTP library that parses them. It owns no copy of a message: lines are looked at where they lie, and
//! only a line that was split between two reads is kept, in one buffer that is used again. It says nothing about
//! what a request means; [`guarded_io`](crate::proxy::http::guarded_io) puts it in front of the library.
//!
//! ```text
//! Start ─ request line ─► Fields ─ empty line ─┬─ no body ───────────────────────────────► Start
//!                                              ├─ Content-Length ─► Fixed ───────────────► Start
//!                                              └─ chunked ─► ChunkSize ─ 0 ─► Trailers ──► Start
//!                                                             ▲     └─ n ─► ChunkData ─► ChunkEnd ─┐
//!                                                             └──────────────────────────────────┘
//! ```
//!
//! An absolute-form target whose host differs from `Host` passes: RFC 9112 section 3.2.2 says which one counts, and
//! `headers::received_host` does so.

use crate::config::ProxyConfig;

/// Longest chunk-size line with its extensions, in bytes, line end included. Nobody needs extensions; slow streams of
/// them are an attack.
const CHUNK_LINE_MAX: usize = 256;
/// Kept capacity of the line buffer between requests, in bytes.
const PENDING_KEPT_MAX: usize = 1024;
/// What a client that speaks HTTP/2 with prior knowledge says first (RFC 9113 section 3.4).
const H2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0";

/// Bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest head (request line, fields and line ends; trailers likewise) in bytes.
    pub head_bytes_max: usize,
    /// Most fields of a head, and of trailers.
    pub fields_max: usize,
    /// Whether a connection may begin with the HTTP/2 preface; the guard then lets everything pass.
    pub h2_preface: bool,
}

impl Limits {
    /// Those of the configuration.
    #[must_use]
    pub fn new(config: &ProxyConfig, h2_preface: bool) -> Self {
        Self { head_bytes_max: config.max_header_bytes, fields_max: config.max_headers, h2_preface }
    }
}

/// Why a connection is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Violation {
    /// Status of the answer: 400, 413, 414, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

impl Violation {
    /// The whole answer, ready to be written; the connection is closed after it.
    #[must_use]
    pub fn response(&self) -> &'static [u8] {
        match self.status {
            413 => b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            414 => b"HTTP/1.1 414 URI Too Long\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            501 => b"HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            _ => b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        }
    }
}

fn bad<T>(reason: &'static str) -> Result<T, Violation> {
    Err(Violation { status: 400, reason })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; one empty line was seen or not.
    Start {
        blank: bool,
    },
    Fields,
    Fixed(u64),
    ChunkSize,
    ChunkData(u64),
    /// The line end after the data of a chunk; its CR was seen or not.
    ChunkEnd {
        cr: bool,
    },
    Trailers,
    /// Upgraded, or HTTP/2: not ours to judge.
    Pass,
}

/// What the fields of the present head said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    bytes: usize,
    fields: usize,
    http11: bool,
    hosts: u8,
    length: Option<u64>,
    chunked: bool,
}

/// Follows one client connection.
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    state: State,
    head: Head,
    /// Start of a line whose end was not read yet.
    pending: Vec<u8>,
    heads: u64,
    violation: Option<Violation>,
}

impl Guard {
    /// For a fresh connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Start { blank: false },
            head: Head::default(),
            pending: Vec::new(),
            heads: 0,
            violation: None,
        }
    }

    /// Lets everything pass from here on: the connection was upgraded, or speaks HTTP/2.
    pub fn pass_through(&mut self) {
        self.state = State::Pass;
        self.pending = Vec::new();
    }

    /// Complete request heads seen so far.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the connection stands between two requests: nothing of the next one was read.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Start { .. }) && self.pending.is_empty()
    }

    /// Takes the next bytes of the connection. The verdict does not depend on how they are cut.
    ///
    /// # Errors
    /// The first violation, and the same one ever after.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        match self.violation {
            Some(violation) => Err(violation),
            None => self.advance(bytes).inspect_err(|&violation| self.violation = Some(violation)),
        }
    }

    fn advance(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Pass => return Ok(()),
                State::Fixed(left) => self.skip(bytes, left, State::Fixed, State::Start { blank: false }),
                State::ChunkData(left) => self.skip(bytes, left, State::ChunkData, State::ChunkEnd { cr: false }),
                State::ChunkEnd { cr } => {
                    self.chunk_end(cr, bytes[0])?;
                    &bytes[1..]
                }
                State::Start { .. } | State::Fields | State::ChunkSize | State::Trailers => self.line(bytes)?,
            };
        }
        Ok(())
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, more: fn(u64) -> State, done: State) -> &'b [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 { done } else { more(left) };
        &bytes[here..]
    }

    fn chunk_end(&mut self, cr: bool, byte: u8) -> Result<(), Violation> {
        self.state = match (cr, byte) {
            (false, b'\r') => State::ChunkEnd { cr: true },
            (true, b'\n') => State::ChunkSize,
            _ => return bad("chunk data without CRLF after it"),
        };
        Ok(())
    }

    /// Takes one line, or keeps its start; returns what comes after.
    fn line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.check_room(self.pending.len() + bytes.len())?;
            self.pending.extend_from_slice(bytes);
            return Ok(&[]);
        };
        let (line, rest) = bytes.split_at(end + 1);
        self.check_room(self.pending.len() + line.len())?;
        if self.pending.is_empty() {
            self.whole_line(line)?;
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(line);
            let verdict = self.whole_line(&pending);
            pending.clear();
            if pending.capacity() <= PENDING_KEPT_MAX {
                self.pending = pending;
            }
            verdict?;
        }
        Ok(rest)
    }

    /// Whether a line of `len` bytes (so far) fits.
    fn check_room(&self, len: usize) -> Result<(), Violation> {
        let head_left = self.limits.head_bytes_max.saturating_sub(self.head.bytes);
        match self.state {
            State::Start { .. } if len > head_left => {
                Err(Violation { status: 414, reason: "request line longer than proxy.max_header_bytes" })
            }
            State::Fields | State::Trailers if len > head_left => {
                Err(Violation { status: 431, reason: "head larger than proxy.max_header_bytes" })
            }
            State::ChunkSize if len > CHUNK_LINE_MAX => bad("chunk size line too long"),
            _ => Ok(()),
        }
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return bad("line ends with LF alone");
        };
        self.head.bytes += line.len();
        match self.state {
            State::Start { blank } if text.is_empty() => {
                if blank {
                    return bad("more than one empty line before the request line");
                }
                self.state = State::Start { blank: true };
                Ok(())
            }
            State::Start { blank } => self.request_line(text, blank),
            State::Fields if text.is_empty() => self.end_of_head(),
            State::Fields => self.field(text),
            State::ChunkSize => self.chunk_size(text),
            State::Trailers if text.is_empty() => {
                self.next_request();
                Ok(())
            }
            State::Trailers => self.trailer(text),
            State::Fixed(_) | State::ChunkData(_) | State::ChunkEnd { .. } | State::Pass => Ok(()),
        }
    }

    fn next_request(&mut self) {
        self.state = State::Start { blank: false };
        self.head = Head::default();
    }

    fn request_line(&mut self, line: &[u8], blank: bool) -> Result<(), Violation> {
        if line == H2_PREFACE_LINE && self.limits.h2_preface && self.heads == 0 && !blank {
            self.pass_through();
            return Ok(());
        }
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return bad("request line is not `METHOD TARGET VERSION`");
        };
        if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
            return bad("method is not a token");
        }
        check_target(method, target)?;
        self.head.http11 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Violation { status: 505, reason: "HTTP version other than 1.0 and 1.1" });
            }
            _ => return bad("malformed HTTP version"),
        };
        self.state = State::Fields;
        Ok(())
    }

    /// A field line, taken apart: name and value without the blanks around it.
    fn split_field<'l>(&mut self, line: &'l [u8]) -> Result<(&'l [u8], &'l [u8]), Violation> {
        self.head.fields += 1;
        if self.head.fields > self.limits.fields_max {
            return Err(Violation { status: 431, reason: "more fields than proxy.max_headers" });
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return bad("folded field line");
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return bad("field line without colon");
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return bad("field name is not a token");
        }
        if has_control(value) {
            return bad("control byte in a field value");
        }
        Ok((name, value.trim_ascii()))
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = self.split_field(line)?;
        // Lengths first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.head.hosts > 0 {
            return bad("more than one Host field");
        }
        self.head.hosts = 1;
        if crate::proxy::http::headers::is_host(value) { Ok(()) } else { bad("Host holds bytes that no host has") }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.head.length.is_some() {
            return bad("more than one Content-Length field");
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return bad("Content-Length is not a number");
        }
        // A larger number than i64 holds would be negative, or nothing, elsewhere.
        let length = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
        match length.and_then(|length| u64::try_from(length).ok()) {
            Some(length) => {
                self.head.length = Some(length);
                Ok(())
            }
            None => Err(Violation { status: 413, reason: "Content-Length too large" }),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.head.chunked {
            return bad("more than one Transfer-Encoding field");
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.head.chunked = true;
            return Ok(());
        }
        let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        if value.is_empty() || codings.any(<[u8]>::is_empty) {
            return bad("empty Transfer-Encoding");
        }
        Err(Violation { status: 501, reason: "Transfer-Encoding other than chunked" })
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        let head = self.head;
        if head.http11 && head.hosts == 0 {
            return bad("HTTP/1.1 without Host");
        }
        if head.chunked && head.length.is_some() {
            return bad("Transfer-Encoding together with Content-Length");
        }
        if head.chunked && !head.http11 {
            return bad("Transfer-Encoding in HTTP/1.0");
        }
        self.heads += 1;
        self.next_request();
        match head.length {
            _ if head.chunked => self.state = State::ChunkSize,
            Some(length) if length > 0 => self.state = State::Fixed(length),
            _ => {}
        }
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (digits, extension) = match memchr::memchr(b';', line) {
            Some(semicolon) => line.split_at(semicolon),
            None => (line, &[][..]),
        };
        // Fifteen digits are an exabyte, and far from any overflow.
        if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return bad("chunk size is not a hexadecimal number");
        }
        if has_control(extension) {
            return bad("control byte in a chunk extension");
        }
        let size =
            digits.iter().fold(0, |size, &digit| size * 16 + u64::from(char::from(digit).to_digit(16).unwrap_or(0)));
        // Size lines do not count as head: trailers get the whole room.
        self.head = Head::default();
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(())
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Violation> {
        const FORBIDDEN: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"trailer"];
        let (name, _) = self.split_field(line)?;
        if FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            return bad("trailer field that frames or routes the message");
        }
        Ok(())
    }
}

/// RFC 9112 section 3.2: the four forms, in printable ASCII.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Violation> {
    if !target.iter().all(u8::is_ascii_graphic) {
        return bad("control or non-ASCII byte in the request target");
    }
    let fits = match target {
        _ if method == b"CONNECT" => !target.is_empty() && crate::proxy::http::headers::is_host(target),
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => {
            let scheme = target.split(|&byte| byte == b':').next().unwrap_or(&[]);
            (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
                && target[scheme.len()..].starts_with(b"://")
                && !matches!(target.get(scheme.len() + 3), None | Some(b'/' | b'?' | b'#'))
        }
    };
    if fits { Ok(()) } else { bad("request target is neither path, URL, authority nor `*`") }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Every byte of every field name is looked up here.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// Anything below blank but the tab, and DEL.
///
/// Every byte of every value is looked at here: in pieces of a width that the compiler turns into a few instructions each,
/// the last of which begins before the end of the one before it.
pub(crate) fn has_control(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<16>() {
        let (pieces, _) = bytes.as_chunks::<16>();
        return pieces.iter().fold(is_control_in(last), |found, piece| found | is_control_in(piece));
    }
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => is_control_in(first) | is_control_in(last),
        _ => is_control_in(bytes),
    }
}

/// Without early exit.
#[inline]
fn is_control_in<B: AsRef<[u8]> + ?Sized>(bytes: &B) -> bool {
    let is_control = |byte: u8| ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f);
    bytes.as_ref().iter().fold(false, |found, &byte| found | is_control(byte))
}

#[cfg(test)]
mod tests;
