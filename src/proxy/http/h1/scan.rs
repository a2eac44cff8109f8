//! Lines of a message head: where each field's name and value lie, and which of them matter to a
//! proxy.
//!
//! Pure, without copies: spans into the bytes that were read. Nothing here decides what becomes of
//! a message; whatever is out of the ordinary is an error, for which the caller has types of its
//! own.

use super::syntax::{has_control, is_token};
use crate::proxy::http::forwarded::is_forwarding;

/// A piece of a head, as offsets into its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// From `start` up to `end`. Heads are far smaller than 4 GiB: their size is bounded before.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    /// What it points at.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or(&[])
    }

    /// The same as text; empty if it is none.
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or("")
    }

    /// Offset of its first byte.
    #[must_use]
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// Offset behind its last byte.
    #[must_use]
    pub fn end(self) -> usize {
        self.end as usize
    }
}

/// What a field is to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Passes.
    Other,
    /// Passes, and its value matters.
    Host,
    /// Frames the body.
    ContentLength,
    /// Frames the body.
    TransferEncoding,
    /// About this hop; may name others that are.
    Connection,
    /// About this hop alone: never passes.
    Hop,
    /// `Upgrade`.
    Upgrade,
    /// `TE`.
    Te,
    /// `Expect`.
    Expect,
    /// One of those that tell where a request came from.
    Forwarding,
    /// `Authorization`.
    Authorization,
    /// `Cookie`.
    Cookie,
    /// `Content-Type`.
    ContentType,
    /// `Date`.
    Date,
    /// `Strict-Transport-Security`.
    StrictTransportSecurity,
    /// Does not pass, for a reason found later.
    Dropped,
}

/// One field line, as offsets into the bytes of its head.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its whole line, with the line end.
    pub line: Span,
    /// Its name as it was written.
    pub name: Span,
    /// Its value without the blanks around it.
    pub value: Span,
    /// What it is to a proxy.
    pub kind: Kind,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The empty line was found; the head ends here.
    At(usize),
    /// More bytes are needed.
    Partial,
    /// More fields than there may be.
    TooMany,
    /// Not lines of a head.
    Bad(&'static str),
}

/// Which line ends count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// CRLF alone.
    Strict,
    /// LF too (RFC 9112 section 2.2 lets a recipient).
    Lenient,
}

/// Takes the first line of `bytes`, without its end; also where the next one begins. None: not
/// whole yet.
///
/// # Errors
/// A line end that does not count.
pub fn first_line(bytes: &[u8], ends: LineEnd) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some(lf) = memchr::memchr(b'\n', bytes) else {
        return Ok(None);
    };
    match &bytes[..lf] {
        [text @ .., b'\r'] => Ok(Some((text, lf + 1))),
        text if ends == LineEnd::Lenient => Ok(Some((text, lf + 1))),
        _ => Err("line ends with LF alone"),
    }
}

/// Takes field lines from `at` on into `fields`, up to the empty line.
pub fn fields(
    bytes: &[u8],
    mut at: usize,
    ends: LineEnd,
    most: usize,
    fields: &mut Vec<Field>,
) -> End {
    fields.clear();
    loop {
        let rest = &bytes[at..];
        let (line, length) = match first_line(rest, ends) {
            Ok(Some(line)) => line,
            Ok(None) => return End::Partial,
            Err(reason) => return End::Bad(reason),
        };
        if line.is_empty() {
            return End::At(at + length);
        }
        if fields.len() == most {
            return End::TooMany;
        }
        match field(line, at, length) {
            Ok(field) => fields.push(field),
            Err(reason) => return End::Bad(reason),
        }
        at += length;
    }
}

fn field(line: &[u8], at: usize, length: usize) -> Result<Field, &'static str> {
    // Names are so short that looking at each byte of them finds the colon as well.
    let colon = match line.iter().position(|&byte| !is_token(byte)) {
        None => return Err("field line without colon"),
        // A folded line begins with a blank, which is not a token either.
        Some(at) if at == 0 || line[at] != b':' => return Err("field name is not a token"),
        Some(at) => at,
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if has_control(value) {
        return Err("control byte in a field value");
    }
    let trimmed = value.trim_ascii_start();
    let start = at + colon + 1 + (value.len() - trimmed.len());
    Ok(Field {
        line: Span::new(at, at + length),
        name: Span::new(at, at + colon),
        value: Span::new(start, start + trimmed.trim_ascii_end().len()),
        kind: kind(name),
    })
}

/// Lengths first: most names are none of these.
fn kind(name: &[u8]) -> Kind {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is(b"te") => Kind::Te,
        4 if is(b"host") => Kind::Host,
        4 if is(b"date") => Kind::Date,
        6 if is(b"expect") => Kind::Expect,
        6 if is(b"cookie") => Kind::Cookie,
        7 if is(b"upgrade") => Kind::Upgrade,
        9 if is(b"forwarded") || is(b"x-real-ip") => Kind::Forwarding,
        10 if is(b"connection") => Kind::Connection,
        10 if is(b"keep-alive") => Kind::Hop,
        12 if is(b"content-type") => Kind::ContentType,
        13 if is(b"authorization") => Kind::Authorization,
        14 if is(b"content-length") => Kind::ContentLength,
        15 if is(b"x-forwarded-for") => Kind::Forwarding,
        16 if is(b"x-forwarded-host") || is(b"x-forwarded-port") => Kind::Forwarding,
        16 if is(b"proxy-connection") => Kind::Hop,
        17 if is(b"transfer-encoding") => Kind::TransferEncoding,
        17 if is(b"x-forwarded-proto") => Kind::Forwarding,
        18 if is(b"proxy-authenticate") => Kind::Hop,
        18 if is(b"x-forwarded-prefix") => Kind::Forwarding,
        19 if is(b"proxy-authorization") => Kind::Hop,
        25 if is(b"strict-transport-security") => Kind::StrictTransportSecurity,
        13.. if is_forwarding(name) => Kind::Forwarding,
        _ => Kind::Other,
    }
}

/// A number of decimal digits alone, below 10^18.
#[must_use]
pub fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    digits.then(|| {
        value
            .iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str, ends: LineEnd) -> (End, Vec<(String, String, Kind)>) {
        let mut found = Vec::new();
        let end = fields(text.as_bytes(), 0, ends, 4, &mut found);
        let shown = |span: Span| span.text(text.as_bytes()).to_owned();
        (
            end,
            found
                .iter()
                .map(|field| (shown(field.name), shown(field.value), field.kind))
                .collect(),
        )
    }

    #[test]
    fn finds_names_and_values_without_blanks() {
        let (end, found) = scan("Host:a\r\nX:  b \t\r\nE:\r\n\r\nrest", LineEnd::Strict);
        assert_eq!(end, End::At(23));
        let plain = |name: &str, value: &str, kind| (name.to_owned(), value.to_owned(), kind);
        assert_eq!(
            found,
            [
                plain("Host", "a", Kind::Host),
                plain("X", "b", Kind::Other),
                plain("E", "", Kind::Other)
            ]
        );
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for bad in [
            " a: b\r\n",
            "a b: c\r\n",
            "a\r\n",
            ": b\r\n",
            "a: \x01\r\n",
            "a: b\r\r\n",
            "a\0: b\r\n",
            "a : b\r\n",
        ] {
            let (end, _) = scan(&format!("{bad}\r\n"), LineEnd::Strict);
            assert!(matches!(end, End::Bad(_)), "{bad:?}: {end:?}");
        }
        assert_eq!(
            scan("a: b\n\n", LineEnd::Strict).0,
            End::Bad("line ends with LF alone")
        );
        assert_eq!(scan("a: b\n\n", LineEnd::Lenient).0, End::At(6));
        assert_eq!(
            scan(
                "a: b\r\na: b\r\na: b\r\na: b\r\na: b\r\n\r\n",
                LineEnd::Strict
            )
            .0,
            End::TooMany
        );
    }

    #[test]
    fn a_head_is_whole_with_its_empty_line_only() {
        let head = "Host: a\r\nX: b\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(scan(&head[..cut], LineEnd::Strict).0, End::Partial, "{cut}");
        }
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"0012"), Some(12));
        for bad in [
            &b""[..],
            b"+1",
            b"-1",
            b"1 ",
            b"0x1",
            b"1,1",
            b"1234567890123456789",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }
}
