//! Buffers that a connection has only while bytes lie in them.
//!
//! A client that idles and a request that waits for its upstream hold none of the large ones: they
//! wait until the socket can be read, and borrow one then.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::proxy::http::h1::scan::Field;

/// Room for what a client sends: a usual request whole, with a short body. In bytes; it grows for
/// longer ones.
const REQUEST_BYTES: usize = 16 << 10;
/// Room for what an upstream sends, in bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// Least room for one more read of a head, in bytes.
pub const READ_MIN: usize = 4 << 10;
/// Most idle small buffers of a kind that a worker keeps: as many as requests may wait at the same
/// time, usually.
const SMALL_KEPT_MAX: usize = 512;
/// Most idle large ones: they are needed while bytes lie in them alone.
const LARGE_KEPT_MAX: usize = 64;
/// Larger heads written are not kept, in bytes of room.
const HEAD_KEPT_MAX: usize = 16 << 10;

/// Bytes that were read and not yet used.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size],
            start: 0,
            end: 0,
        }
    }

    /// A buffer for what a client sends that holds `bytes`.
    #[must_use]
    pub fn holding(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len().max(REQUEST_BYTES));
        buffer.bytes[..bytes.len()].copy_from_slice(bytes);
        buffer.end = bytes.len();
        buffer
    }

    /// What is in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes `count` bytes from its front.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Puts bytes behind those that are there.
    pub fn append(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Room for `more` bytes behind those that are there.
    pub fn make_room(&mut self, more: usize) {
        if self.bytes.len() - self.end >= more {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.bytes.len() - self.end < more {
            self.bytes.resize(self.end + more, 0);
        }
    }

    /// Reads once, into the room there is; how many bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(io).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }
}

/// The idle buffers of a worker. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    requests: RefCell<Vec<Buffer>>,
    answers: RefCell<Vec<Buffer>>,
    heads: RefCell<Vec<Vec<u8>>>,
    fields: RefCell<Vec<Vec<Field>>>,
}

impl Buffers {
    /// An empty one for what a client sends.
    #[must_use]
    pub fn for_request(&self) -> Buffer {
        self.0
            .requests
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Buffer::new(REQUEST_BYTES))
    }

    /// An empty one for what an upstream sends.
    #[must_use]
    pub fn for_response(&self) -> Buffer {
        self.0
            .answers
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Buffer::new(ANSWER_BYTES))
    }

    /// Room for `more` bytes in `buffer`, behind those that are there: in a large one of those that
    /// idle, if need be.
    pub fn make_room(&self, buffer: &mut Buffer, more: usize) {
        let whole = buffer.filled().len() + more;
        if buffer.bytes.len() < whole && whole <= ANSWER_BYTES {
            let mut large = self.for_response();
            large.append(buffer.filled());
            self.give_back(std::mem::replace(buffer, large));
        } else {
            buffer.make_room(more);
        }
    }

    /// An empty one for a head that is written.
    #[must_use]
    pub fn for_head(&self) -> Vec<u8> {
        self.0.heads.borrow_mut().pop().unwrap_or_default()
    }

    /// An empty list of fields.
    #[must_use]
    pub fn for_fields(&self) -> Vec<Field> {
        self.0.fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes one back. Those that grew go.
    pub fn give_back(&self, mut buffer: Buffer) {
        (buffer.start, buffer.end) = (0, 0);
        match buffer.bytes.len() {
            REQUEST_BYTES => keep(&self.0.requests, SMALL_KEPT_MAX, buffer),
            ANSWER_BYTES => keep(&self.0.answers, LARGE_KEPT_MAX, buffer),
            _ => {}
        }
    }

    /// Takes one back.
    pub fn give_back_head(&self, mut head: Vec<u8>) {
        if head.capacity() <= HEAD_KEPT_MAX {
            head.clear();
            keep(&self.0.heads, SMALL_KEPT_MAX, head);
        }
    }

    /// Takes one back.
    pub fn give_back_fields(&self, fields: Vec<Field>) {
        keep(&self.0.fields, SMALL_KEPT_MAX, fields);
    }
}

fn keep<T>(kept: &RefCell<Vec<T>>, most: usize, one: T) {
    let mut kept = kept.borrow_mut();
    if kept.len() < most {
        kept.push(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_unused_when_it_grows() {
        let mut buffer = Buffer::holding(b"abcdef");
        buffer.consume(2);
        buffer.make_room(REQUEST_BYTES);
        assert_eq!(buffer.filled(), b"cdef");
        buffer.append(b"gh");
        assert_eq!(buffer.filled(), b"cdefgh");
        buffer.consume(100);
        assert_eq!(buffer.filled(), b"");
    }

    #[test]
    fn one_that_has_to_grow_is_exchanged() {
        let buffers = Buffers::default();
        let mut buffer = Buffer::holding(b"abc");
        buffers.make_room(&mut buffer, REQUEST_BYTES - 3);
        assert_eq!(
            (buffer.bytes.len(), buffers.0.requests.borrow().len()),
            (REQUEST_BYTES, 0)
        );
        buffers.make_room(&mut buffer, REQUEST_BYTES);
        assert_eq!(
            (buffer.filled(), buffer.bytes.len()),
            (&b"abc"[..], ANSWER_BYTES)
        );
        assert_eq!(buffers.0.requests.borrow().len(), 1);
        buffers.make_room(&mut buffer, ANSWER_BYTES);
        assert_eq!(
            (buffer.filled(), buffer.bytes.len()),
            (&b"abc"[..], ANSWER_BYTES + 3)
        );
    }

    #[test]
    fn one_that_grew_is_not_kept() {
        let buffers = Buffers::default();
        buffers.give_back(Buffer::holding(&[0; REQUEST_BYTES + 1]));
        assert_eq!(buffers.0.requests.borrow().len(), 0);
        buffers.give_back(Buffer::holding(b"a"));
        assert_eq!(buffers.0.requests.borrow().len(), 1);
        assert!(buffers.for_request().filled().is_empty());
    }
}
