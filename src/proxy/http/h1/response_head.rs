//! The head of an upstream's response, and how its body is framed (RFC 9112 section 6.3).

use http::Method;

use super::syntax::has_control;
use crate::proxy::http::h1::scan::{self, End, Field, Kind, LineEnd, Span};
use crate::proxy::http::headers::tokens_of;

/// Largest head of a response, in bytes.
pub const HEAD_MAX: usize = 256 << 10;
const FIELDS_MAX: usize = 256;

/// Where the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A whole head that passed all checks.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// Reason phrase, maybe empty.
    pub reason: Span,
    /// Bytes of the head.
    pub length: usize,
    /// How the body is framed.
    pub framing: Framing,
    /// The connection may serve another request.
    pub keep: bool,
    /// For how many seconds the instance keeps the connection open, if it says so (`Keep-Alive:
    /// timeout=5`).
    pub keeps_s: Option<u64>,
    /// It has a Date.
    pub dated: bool,
    /// `Connection` names fields that must not pass.
    pub mapped: bool,
}

impl ResponseHead {
    /// An interim response (RFC 9110 section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// What the bytes read so far are.
#[derive(Debug)]
pub enum Parsed {
    /// A head; fields that do not pass are marked [`Kind::Dropped`] or [`Kind::Hop`].
    Whole(ResponseHead),
    /// The beginning of one.
    Partial,
    /// Not a response in HTTP/1; why.
    Bad(&'static str),
}

/// Looks at the bytes read so far of the response to a request with `method`. The fields found lie
/// in `fields`.
pub fn parse(bytes: &[u8], method: &Method, fields: &mut Vec<Field>) -> Parsed {
    match try_parse(bytes, method, fields) {
        Ok(Some(head)) => Parsed::Whole(head),
        Ok(None) if bytes.len() < HEAD_MAX => Parsed::Partial,
        Ok(None) => Parsed::Bad("head larger than 256 KiB"),
        Err(reason) => Parsed::Bad(reason),
    }
}

fn try_parse(
    bytes: &[u8],
    method: &Method,
    fields: &mut Vec<Field>,
) -> Result<Option<ResponseHead>, &'static str> {
    let Some((line, at)) = scan::first_line(bytes, LineEnd::Lenient)? else {
        return Ok(None);
    };
    let (http11, status, reason) = status_line(line)?;
    let length = match scan::fields(bytes, at, LineEnd::Lenient, FIELDS_MAX, fields) {
        End::At(end) => end,
        End::Partial => return Ok(None),
        End::TooMany => return Err("too many fields"),
        End::Bad(reason) => return Err(reason),
    };
    let mut said = Said {
        keep: http11,
        ..Said::default()
    };
    for field in fields.iter_mut() {
        said.take(field, bytes)?;
    }
    if said.chunked && !http11 {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    let empty = *method == Method::HEAD || matches!(status, 100..=199 | 204 | 304);
    if said.chunked || status == 204 {
        // The coding has framed the body; a length beside it is wrong or an attack.
        drop_kind(fields, Kind::ContentLength);
    }
    let framing = match said.length {
        _ if empty => Framing::Empty,
        _ if said.chunked => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let keep = said.keep && !said.close && framing != Framing::UntilClose;
    Ok(Some(ResponseHead {
        status,
        reason,
        length,
        framing,
        keep,
        keeps_s: said.keeps_s,
        dated: said.dated,
        mapped: said.mapped,
    }))
}

fn drop_kind(fields: &mut [Field], kind: Kind) {
    for field in fields.iter_mut().filter(|field| field.kind == kind) {
        field.kind = Kind::Dropped;
    }
}

#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    keep: bool,
    close: bool,
    dated: bool,
    mapped: bool,
    keeps_s: Option<u64>,
}

impl Said {
    fn take(&mut self, field: &mut Field, bytes: &[u8]) -> Result<(), &'static str> {
        let value = field.value.of(bytes);
        match field.kind {
            Kind::ContentLength => {
                let length = scan::number(value).ok_or("Content-Length is not a number")?;
                if self.length.is_some_and(|other| other != length) {
                    return Err("two Content-Length fields that differ");
                }
                if self.length.replace(length).is_some() {
                    field.kind = Kind::Dropped;
                }
            }
            Kind::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("Transfer-Encoding other than chunked");
                }
                self.chunked = true;
                field.kind = Kind::Dropped;
            }
            Kind::Connection => {
                field.kind = Kind::Dropped;
                for token in tokens_of(value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        // Only HTTP/1.0 needs it, and there it is all it takes.
                        self.keep = true;
                    } else {
                        self.mapped |= !token.eq_ignore_ascii_case(b"upgrade");
                    }
                }
            }
            Kind::Hop
                if self.keeps_s.is_none()
                    && field.name.of(bytes).eq_ignore_ascii_case(b"keep-alive") =>
            {
                let timeout = |parameter: &[u8]| {
                    let (name, value) = parameter.split_at_checked(b"timeout=".len())?;
                    if name.eq_ignore_ascii_case(b"timeout=") {
                        scan::number(value)
                    } else {
                        None
                    }
                };
                self.keeps_s = tokens_of(value).find_map(timeout);
            }
            Kind::Upgrade => field.kind = Kind::Dropped,
            Kind::Date => self.dated = true,
            _ => {}
        }
        Ok(())
    }
}

/// `HTTP/1.x SP STATUS [SP REASON]`.
fn status_line(line: &[u8]) -> Result<(bool, u16, Span), &'static str> {
    const SHORTEST: usize = "HTTP/1.1 200".len();
    let http11 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => true,
        Some(b"HTTP/1.0 ") => false,
        _ => return Err("not a response in HTTP/1"),
    };
    let status = line
        .get(9..SHORTEST)
        .and_then(scan::number)
        .and_then(|status| u16::try_from(status).ok());
    let status = status
        .filter(|status| *status >= 100)
        .ok_or("status is not a number of three digits")?;
    match line.get(SHORTEST) {
        None => Ok((http11, status, Span::new(SHORTEST, SHORTEST))),
        Some(b' ') if !has_control(&line[SHORTEST..]) => {
            Ok((http11, status, Span::new(SHORTEST + 1, line.len())))
        }
        _ => Err("malformed status line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, method: &Method) -> Result<ResponseHead, &'static str> {
        match parse(text.as_bytes(), method, &mut Vec::new()) {
            Parsed::Whole(head) => Ok(head),
            Parsed::Partial => Err("partial"),
            Parsed::Bad(reason) => Err(reason),
        }
    }

    #[test]
    fn framing_by_section_6_3() {
        let cases = [
            ("200 OK", "Content-Length: 5", Framing::Length(5), true),
            ("200 OK", "Content-Length: 0", Framing::Empty, true),
            (
                "200 OK",
                "Transfer-Encoding: Chunked",
                Framing::Chunked,
                true,
            ),
            (
                "200 OK",
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                Framing::Chunked,
                true,
            ),
            (
                "200 OK",
                "Content-Length: 5\r\nContent-Length: 5",
                Framing::Length(5),
                true,
            ),
            ("200 OK", "A: b", Framing::UntilClose, false),
            (
                "200 OK",
                "Content-Length: 5\r\nConnection: close",
                Framing::Length(5),
                false,
            ),
            (
                "200 OK",
                "Content-Length: 5\r\nConnection: close, keep-alive",
                Framing::Length(5),
                false,
            ),
            ("204 No Content", "A: b", Framing::Empty, true),
            (
                "304 Not Modified",
                "Content-Length: 5",
                Framing::Empty,
                true,
            ),
            ("200", "Content-Length: 5", Framing::Length(5), true),
            ("200 ", "Content-Length: 5", Framing::Length(5), true),
        ];
        for (status, field, framing, keep) in cases {
            let head = parsed(
                &format!("HTTP/1.1 {status}\r\n{field}\r\n\r\n"),
                &Method::GET,
            )
            .unwrap();
            assert_eq!(
                (head.framing, head.keep),
                (framing, keep),
                "{status} {field}"
            );
        }
        let head = parsed(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            &Method::HEAD,
        )
        .unwrap();
        assert_eq!(head.framing, Framing::Empty);
        let head = parsed(
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            &Method::GET,
        )
        .unwrap();
        assert!(head.keep);
    }

    #[test]
    fn nonsense_is_no_answer() {
        let bad = [
            "HTTP/2 200 OK\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200OK\r\n\r\n",
            "HTTP/1.1 200 O\x01K\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        ];
        for text in bad {
            assert!(
                parsed(text, &Method::GET).is_err_and(|reason| reason != "partial"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_line_feed_alone_is_enough_of_a_server() {
        assert_eq!(
            parsed("HTTP/1.1 200 OK\nContent-Length: 5\n\n", &Method::GET)
                .unwrap()
                .framing,
            Framing::Length(5)
        );
    }

    #[test]
    fn fields_of_the_hop_are_marked() {
        let text = "HTTP/1.1 200 OK\r\nConnection: x-private\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nX: y\r\n\r\n";
        let mut fields = Vec::new();
        let Parsed::Whole(head) = parse(text.as_bytes(), &Method::GET, &mut fields) else {
            panic!("a head")
        };
        assert!(head.mapped);
        let kinds: Vec<Kind> = fields.iter().map(|field| field.kind).collect();
        assert_eq!(
            kinds,
            [Kind::Dropped, Kind::Dropped, Kind::Hop, Kind::Other]
        );
    }
}
