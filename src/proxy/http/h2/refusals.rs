//! Requests of a client that the library refuses by itself: malformed ones, and those beyond the
//! streams that a connection may have. It does not report them, so the frames that it writes are
//! looked at.
//!
//! Pure but for the stream it wraps. Only frame headers are read (RFC 9113 section 4.1), and the
//! four bytes of RST_STREAM.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const REFUSED_STREAM: u32 = 7;
const HEADER_BYTES: usize = 9;

/// Why the library refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Fields or pseudo fields that no request may have (RFC 9113 section 8.1.1).
    Malformed,
    /// Its header is larger than allowed: the response was 431.
    TooLarge,
    /// More streams than the connection may have.
    TooMany,
}

/// What was refused and not taken note of yet.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The last stream whose request was handed on: what is reset above it never was one.
    accepted: Cell<u32>,
    /// The last stream that was refused.
    refused: Cell<u32>,
    found: RefCell<SmallVec<[Refused; 2]>>,
}

impl Refusals {
    /// The request of this stream was handed on.
    pub fn accepted(&self, stream: u32) {
        self.accepted.set(self.accepted.get().max(stream));
    }

    /// Those since the last call.
    pub fn take(&self) -> SmallVec<[Refused; 2]> {
        if self.found.borrow().is_empty() {
            SmallVec::new()
        } else {
            std::mem::take(&mut self.found.borrow_mut())
        }
    }

    fn note(&self, stream: u32, refused: Refused) {
        // Of a stream that gets a response and is then reset the first frame counts.
        if stream > self.accepted.get() && stream > self.refused.get() {
            self.refused.set(stream);
            self.found.borrow_mut().push(refused);
        }
    }
}

/// Follows frames as they are written, in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES + 4],
    /// Bytes of it that are there.
    have: usize,
    /// Bytes of the present frame that are not looked at.
    skip: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], refusals: &Refusals) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.have >= HEADER_BYTES {
                HEADER_BYTES + 4
            } else {
                HEADER_BYTES
            };
            let taken = (wanted - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == wanted {
                self.whole(refusals);
            }
        }
    }

    /// A header is there, or that of RST_STREAM with what follows it.
    fn whole(&mut self, refusals: &Refusals) {
        let [a, b, c, kind, _flags, rest @ ..] = self.header;
        let [s0, s1, s2, s3, error @ ..] = rest;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        if self.have == HEADER_BYTES {
            if kind == RST_STREAM && length == 4 {
                return;
            }
            if kind == HEADERS {
                refusals.note(stream, Refused::TooLarge);
            }
            self.skip = length;
        } else {
            let too_many = u32::from_be_bytes(error) == REFUSED_STREAM;
            refusals.note(
                stream,
                if too_many {
                    Refused::TooMany
                } else {
                    Refused::Malformed
                },
            );
        }
        self.have = 0;
    }
}

/// A connection whose written frames are looked at.
#[derive(Debug)]
pub struct Watched<T> {
    io: T,
    frames: Frames,
    refusals: Rc<Refusals>,
}

impl<T> Watched<T> {
    /// Notes in `refusals`.
    #[must_use]
    pub fn new(io: T, refusals: &Rc<Refusals>) -> Self {
        Self {
            io,
            frames: Frames::default(),
            refusals: Rc::clone(refusals),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            this.frames.feed(&buf[..*written], &this.refusals);
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = &polled {
            let mut left = *written;
            for buf in bufs {
                let taken = left.min(buf.len());
                this.frames.feed(&buf[..taken], &this.refusals);
                left -= taken;
            }
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn refusals_are_found_however_the_frames_are_cut() {
        let reset = |stream, code: u32| frame(RST_STREAM, stream, &code.to_be_bytes());
        let before = [frame(4, 0, &[0; 18]), reset(1, 1)].concat();
        let behind = [
            frame(HEADERS, 3, b"head"),
            frame(0, 3, &[RST_STREAM; 100]),
            // Of a request that was handed on.
            reset(3, 1),
            reset(5, REFUSED_STREAM),
            frame(HEADERS, 7, b"431"),
            reset(7, 1),
            frame(0, 3, b""),
            reset(9, 1),
        ]
        .concat();
        for step in [1, 2, 3, 8, 9, 13, behind.len()] {
            let (mut frames, refusals) = (Frames::default(), Refusals::default());
            let mut found = Vec::new();
            let mut write = |bytes: &[u8]| {
                for piece in bytes.chunks(step) {
                    frames.feed(piece, &refusals);
                    found.extend(refusals.take());
                }
            };
            write(&before);
            refusals.accepted(3);
            write(&behind);
            assert_eq!(
                found,
                [
                    Refused::Malformed,
                    Refused::TooMany,
                    Refused::TooLarge,
                    Refused::Malformed
                ],
                "{step}"
            );
        }
    }
}
