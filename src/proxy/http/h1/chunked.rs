//! Follows a chunked body that passes through unchanged (RFC 9112 section 7.1): where it ends, and whether it is one.

/// Most bytes of chunk extensions of a body, and of its trailers, each.
const EXTRA_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
    state: State,
    left: u64,
    extra: usize,
}

/// What a piece of a body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of it that belong to the body; fewer than given: it ended there.
    pub length: usize,
    /// Those of them that are data.
    pub data: u64,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, left: 0, extra: 0 }
    }
}

impl Chunks {
    /// The body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Bytes that are no chunked body; why.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Piece, &'static str> {
        let mut at = 0;
        let mut data = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let here = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                at += here;
                data += here as u64;
                self.left -= here as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.next(bytes[at])?;
                at += 1;
            }
        }
        Ok(Piece { length: at, data })
    }

    /// Takes the next bytes up to the end of one run of data: how many are none, and how many of data come behind them.
    /// Lines of the trailers go to `trailers`, and the empty one behind them, if there are any.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn unwrap(&mut self, bytes: &[u8], trailers: &mut Vec<u8>) -> Result<(usize, usize), &'static str> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Data | State::Done) {
            let byte = bytes[at];
            let in_trailers = match self.state {
                State::Line => byte != b'\r' || !trailers.is_empty(),
                State::Trailer | State::TrailerEnd => true,
                State::LastLf => !trailers.is_empty(),
                _ => false,
            };
            self.state = self.next(byte)?;
            if in_trailers {
                trailers.push(byte);
            }
            at += 1;
        }
        if self.state != State::Data {
            return Ok((at, 0));
        }
        let here = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= here as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        Ok((at, here))
    }

    fn next(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size { digits }, byte) if byte.is_ascii_hexdigit() => {
                // Fifteen digits are an exabyte, and far from any overflow.
                if digits == 15 {
                    return Err("chunk size too large");
                }
                self.left = self.left * 16 + u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                Ok(State::Size { digits: digits + 1 })
            }
            (State::Size { digits: 1.. }, b'\r') => Ok(State::SizeEnd),
            (State::Size { digits: 1.. }, b';' | b' ' | b'\t') => Ok(State::Extension),
            (State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Extension, byte) if is_text(byte) => self.spend(State::Extension),
            (State::SizeEnd, b'\n') if self.left == 0 => {
                self.extra = 0;
                Ok(State::Line)
            }
            (State::SizeEnd, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0 }),
            (State::Line, b'\r') => Ok(State::LastLf),
            (State::Trailer, b'\r') => Ok(State::TrailerEnd),
            (State::Line | State::Trailer, byte) if is_text(byte) => self.spend(State::Trailer),
            (State::TrailerEnd, b'\n') => Ok(State::Line),
            (State::LastLf, b'\n') => Ok(State::Done),
            _ => Err("malformed chunked body"),
        }
    }

    fn spend(&mut self, next: State) -> Result<State, &'static str> {
        self.extra += 1;
        if self.extra > EXTRA_MAX { Err("too much between chunks, or behind them") } else { Ok(next) }
    }
}

fn is_text(byte: u8) -> bool {
    byte >= 0x20 && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\n1A;a=b\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n";

    #[test]
    fn finds_the_end_and_counts_the_data() {
        let mut chunks = Chunks::default();
        let more = [BODY, b"HTTP/1.1"].concat();
        assert_eq!(chunks.feed(&more), Ok(Piece { length: BODY.len(), data: 31 }));
        assert!(chunks.is_done());
        let mut chunks = Chunks::default();
        assert_eq!(chunks.feed(b"0\r\n\r\n"), Ok(Piece { length: 5, data: 0 }));
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
            assert!(Chunks::default().feed(body).is_err(), "{body:?}");
        }
        assert!(Chunks::default().feed(&[b"1;", &b"a".repeat(EXTRA_MAX + 1)[..]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn unwraps_what_was_wrapped(cuts in prop::collection::vec(0..BODY.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, BODY.len()]);
            cuts.sort_unstable();
            let (mut chunks, mut data, mut trailers) = (Chunks::default(), Vec::new(), Vec::new());
            for pair in cuts.windows(2) {
                let mut piece = &BODY[pair[0]..pair[1]];
                while !piece.is_empty() {
                    let (skipped, length) = chunks.unwrap(piece, &mut trailers).unwrap();
                    data.extend_from_slice(&piece[skipped..skipped + length]);
                    piece = &piece[skipped + length..];
                }
            }
            prop_assert!(chunks.is_done());
            prop_assert_eq!(&data[..], b"helloabcdefghijklmnopqrstuvwxyz");
            prop_assert_eq!(&trailers[..], b"X: y\r\n\r\n");
        }

        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(0..BODY.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, BODY.len()]);
            cuts.sort_unstable();
            let mut chunks = Chunks::default();
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
