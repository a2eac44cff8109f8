//! Bytes that HTTP/1 allows where, the bounds of a head, and how a request is refused that breaks
//! either.
//!
//! Requests are held to the strict form: what two programs could read in two ways is refused before
//! either does, because request smuggling lives from a proxy and the server behind it reading one
//! message differently. RFC 9112 allows a recipient to repair many malformed heads; every repair is
//! a guess that the next parser may make differently.

use crate::config::ProxyConfig;

/// Bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest head (request line, fields and line ends; trailers likewise) in bytes.
    pub head_bytes_max: usize,
    /// Most fields of a head, and of trailers.
    pub fields_max: usize,
}

impl Limits {
    /// Those of the configuration.
    #[must_use]
    pub fn new(config: &ProxyConfig) -> Self {
        Self {
            head_bytes_max: config.max_header_bytes,
            fields_max: config.max_headers,
        }
    }
}

/// Why a connection is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Violation {
    /// Status of the response: 400, 413, 414, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

impl Violation {
    /// A malformed request.
    #[must_use]
    pub const fn bad(reason: &'static str) -> Self {
        Self {
            status: 400,
            reason,
        }
    }

    /// The whole response, ready to be written; the connection is closed after it.
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
/// Every byte of every value is looked at here: in pieces of a width that the compiler turns into a
/// few instructions each, the last of which begins before the end of the one before it.
pub(crate) fn has_control(bytes: &[u8]) -> bool {
    if let Some(last) = bytes.last_chunk::<16>() {
        let (pieces, _) = bytes.as_chunks::<16>();
        return pieces.iter().fold(is_control_in(last), |found, piece| {
            found | is_control_in(piece)
        });
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
    bytes
        .as_ref()
        .iter()
        .fold(false, |found, &byte| found | is_control(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
