//! Chunked bodies (RFC 9112 section 7.1): where they end, what of them is data, and whether they
//! are ones.

use std::io::Write as _;

use http::HeaderMap;

use super::syntax::{Limits, Violation};
use crate::proxy::http::trailers;

/// Most bytes of a chunk's extensions in a request. Clients do not need them; slow streams of them
/// are an attack.
const CHUNK_LINE_MAX: usize = 256;
/// Most bytes of chunk extensions of a response, and of its trailers, each.
const EXTRA_MAX: usize = 64 << 10;
/// Most fields behind a response.
const TRAILERS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// In the digits of a size.
    Size {
        digits: u8,
    },
    /// Behind them, up to the line end.
    Extension,
    /// The LF of a size line.
    SizeEnd,
    /// In the data of a chunk.
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line of the trailers.
    Line,
    Trailer,
    TrailerEnd,
    /// The LF of the last, empty line.
    LastLf,
    Done,
}

/// Where in a body the last byte was.
#[derive(Clone, Debug)]
pub struct Chunks {
    state: ChunkState,
    left: u64,
    bounds: Bounds,
    /// Bytes of extensions (of a request: of this size line) or of trailers so far.
    extra: usize,
    /// The trailer section, as far as it was read.
    trailers: Vec<u8>,
}

/// What is taken for a chunked body.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Blanks behind a size are allowed, as RFC 9112 section 7.1.1 lets a recipient.
    lenient: bool,
    /// Most bytes of an extension.
    line_max: usize,
    /// Most bytes of the trailer section.
    trailers_max: usize,
    fields_max: usize,
}

/// What a piece of a body was, where its chunks pass as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of it that belong to the body; fewer than given: it ended there.
    pub length: usize,
    /// Those of them that pass as they came; behind them is the trailer section.
    pub passes: usize,
    /// Those of them that are data.
    pub data: u64,
}

impl Chunks {
    /// Of a request: as strict as its head.
    #[must_use]
    pub fn of_request(limits: Limits) -> Self {
        Self::new(Bounds {
            lenient: false,
            line_max: CHUNK_LINE_MAX,
            trailers_max: limits.head_bytes_max,
            fields_max: limits.fields_max,
        })
    }

    /// Of a response.
    #[must_use]
    pub fn of_response() -> Self {
        Self::new(Bounds {
            lenient: true,
            line_max: EXTRA_MAX,
            trailers_max: EXTRA_MAX,
            fields_max: TRAILERS_MAX,
        })
    }

    fn new(bounds: Bounds) -> Self {
        Self {
            state: ChunkState::Size { digits: 0 },
            left: 0,
            bounds,
            extra: 0,
            trailers: Vec::new(),
        }
    }

    /// The body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Whether a trailer section was read, as far as it was.
    #[must_use]
    pub fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }

    /// The fields behind a body that has ended, but for those that may not stand there; none: there
    /// are none.
    ///
    /// # Errors
    /// Lines that are not fields, or too many.
    pub fn trailers(&self) -> Result<Option<HeaderMap>, Violation> {
        if self.trailers.is_empty() {
            Ok(None)
        } else {
            trailers::map(&self.trailers, self.bounds.fields_max)
        }
    }

    /// Writes the same as lines, and the empty one behind them.
    ///
    /// # Errors
    /// As [`Self::trailers`].
    pub fn put_trailers(&self, out: &mut Vec<u8>) -> Result<(), Violation> {
        if !self.trailers.is_empty() {
            for field in trailers::parse(&self.trailers, self.bounds.fields_max)? {
                out.extend_from_slice(field.line.of(&self.trailers));
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Takes the next bytes of a body whose chunks pass as they came.
    ///
    /// # Errors
    /// Bytes that are not a chunked body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Piece, Violation> {
        let (mut at, mut passes, mut data) = (0, 0, 0);
        while at < bytes.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let here = self.run_of_data(bytes.len() - at);
                at += here;
                data += here as u64;
                passes = at;
            } else {
                let in_trailers = self.is_in_trailers();
                self.step(bytes[at])?;
                at += 1;
                if !in_trailers {
                    passes = at;
                }
            }
        }
        Ok(Piece {
            length: at,
            passes,
            data,
        })
    }

    /// Takes the next bytes up to the end of one run of data: how many are none, and how many of
    /// data come behind them.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn unwrap(&mut self, bytes: &[u8]) -> Result<(usize, usize), Violation> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, ChunkState::Data | ChunkState::Done) {
            self.step(bytes[at])?;
            at += 1;
        }
        let here = if self.state == ChunkState::Data {
            self.run_of_data(bytes.len() - at)
        } else {
            0
        };
        Ok((at, here))
    }

    fn run_of_data(&mut self, most: usize) -> usize {
        let here = most.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= here as u64;
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
        here
    }

    fn is_in_trailers(&self) -> bool {
        matches!(
            self.state,
            ChunkState::Line | ChunkState::Trailer | ChunkState::TrailerEnd | ChunkState::LastLf
        )
    }

    /// Takes one byte that is not data; those of the trailer section are kept, unless it is empty.
    fn step(&mut self, byte: u8) -> Result<(), Violation> {
        let kept = match self.state {
            ChunkState::Line => byte != b'\r' || !self.trailers.is_empty(),
            ChunkState::Trailer | ChunkState::TrailerEnd => true,
            ChunkState::LastLf => !self.trailers.is_empty(),
            _ => false,
        };
        self.state = self.next(byte)?;
        if kept {
            if self.trailers.len() >= self.bounds.trailers_max {
                return Err(Violation {
                    status: 431,
                    reason: "trailers larger than proxy.max_header_bytes",
                });
            }
            self.trailers.push(byte);
        }
        Ok(())
    }

    fn next(&mut self, byte: u8) -> Result<ChunkState, Violation> {
        match (self.state, byte) {
            (ChunkState::Size { digits }, byte) if byte.is_ascii_hexdigit() => {
                // Fifteen digits are an exabyte, and far from any overflow.
                if digits == 15 {
                    return Err(Violation::bad("chunk size too large"));
                }
                self.left = self.left * 16 + u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                Ok(ChunkState::Size { digits: digits + 1 })
            }
            (ChunkState::Size { digits: 1.. }, b'\r') => Ok(ChunkState::SizeEnd),
            (ChunkState::Size { digits: 1.. }, b';') => Ok(ChunkState::Extension),
            (ChunkState::Size { digits: 1.. }, b' ' | b'\t') if self.bounds.lenient => {
                Ok(ChunkState::Extension)
            }
            (ChunkState::Extension, b'\r') => Ok(ChunkState::SizeEnd),
            (ChunkState::Extension, byte) if is_text(byte) => self.spend(),
            (ChunkState::SizeEnd, b'\n') if self.left == 0 => Ok(ChunkState::Line),
            (ChunkState::SizeEnd, b'\n') => Ok(ChunkState::Data),
            (ChunkState::DataCr, b'\r') => Ok(ChunkState::DataLf),
            (ChunkState::DataLf, b'\n') => {
                if !self.bounds.lenient {
                    self.extra = 0;
                }
                Ok(ChunkState::Size { digits: 0 })
            }
            (ChunkState::Line, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::Trailer, b'\r') => Ok(ChunkState::TrailerEnd),
            (ChunkState::Line | ChunkState::Trailer, byte) if is_text(byte) => {
                Ok(ChunkState::Trailer)
            }
            (ChunkState::TrailerEnd, b'\n') => Ok(ChunkState::Line),
            (ChunkState::LastLf, b'\n') => Ok(ChunkState::Done),
            _ => Err(Violation::bad("malformed chunked body")),
        }
    }

    fn spend(&mut self) -> Result<ChunkState, Violation> {
        self.extra += 1;
        if self.extra > self.bounds.line_max {
            return Err(Violation::bad("chunk extensions too long"));
        }
        Ok(ChunkState::Extension)
    }
}

fn is_text(byte: u8) -> bool {
    byte >= 0x20 && byte != 0x7f || byte == b'\t'
}

/// Writes the size line of a chunk.
pub fn put_size(out: &mut Vec<u8>, length: usize) {
    // Writing into memory cannot fail.
    let _ = write!(out, "{length:x}\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\n1A;a=b\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n";

    #[test]
    fn finds_the_end_and_counts_the_data() {
        let mut chunks = Chunks::of_response();
        let more = [BODY, b"HTTP/1.1"].concat();
        assert_eq!(
            chunks.feed(&more),
            Ok(Piece {
                length: BODY.len(),
                passes: BODY.len() - 8,
                data: 31
            })
        );
        assert!(chunks.is_done());
        let mut chunks = Chunks::of_response();
        assert_eq!(
            chunks.feed(b"0\r\n\r\n"),
            Ok(Piece {
                length: 5,
                passes: 3,
                data: 0
            })
        );
        assert!(chunks.is_done());
    }

    #[test]
    fn what_is_no_body_is_told() {
        let bad: [&[u8]; 9] = [
            b"\r\n",
            b"x\r\n",
            b"5\nhello",
            b"5\r\nhello5",
            b"5\r\nhello\n",
            b"-1\r\n",
            b"5;\x01\r\n",
            b"1234567890123456\r\n",
            b"0\r\nX: y\n\r\n",
        ];
        for body in bad {
            assert!(Chunks::of_response().feed(body).is_err(), "{body:?}");
        }
        assert!(
            Chunks::of_response()
                .feed(&[b"1;", &b"a".repeat(EXTRA_MAX + 1)[..]].concat())
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn unwraps_what_was_wrapped(cuts in prop::collection::vec(0..BODY.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, BODY.len()]);
            cuts.sort_unstable();
            let (mut chunks, mut data) = (Chunks::of_response(), Vec::new());
            for pair in cuts.windows(2) {
                let mut piece = &BODY[pair[0]..pair[1]];
                while !piece.is_empty() {
                    let (skipped, length) = chunks.unwrap(piece).unwrap();
                    data.extend_from_slice(&piece[skipped..skipped + length]);
                    piece = &piece[skipped + length..];
                }
            }
            prop_assert!(chunks.is_done());
            prop_assert_eq!(&data[..], b"helloabcdefghijklmnopqrstuvwxyz");
            let mut trailers = Vec::new();
            chunks.put_trailers(&mut trailers).unwrap();
            prop_assert_eq!(&trailers[..], b"X: y\r\n\r\n");
        }

        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(0..BODY.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, BODY.len()]);
            cuts.sort_unstable();
            let mut chunks = Chunks::of_response();
            let mut data = 0;
            for pair in cuts.windows(2) {
                let piece = chunks.feed(&BODY[pair[0]..pair[1]]).unwrap();
                prop_assert_eq!(piece.length, pair[1] - pair[0]);
                data += piece.data;
            }
            prop_assert!(chunks.is_done());
            prop_assert_eq!(data, 31);
        }
    }
}
