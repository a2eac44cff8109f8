//! The client's side of a direct exchange: what it sends is read, now or aside, and what it gets is written.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::proxy::http::client_io::ClientStream;
use crate::proxy::http::guarded_io::GuardHandle;
use crate::proxy::http::h1::buffer::{Buffer, Buffers, READ_MIN};

/// Most bytes of next requests that are read while one is being answered.
const ASIDE_MAX: usize = 64 << 10;

/// The client's stream.
#[derive(Debug)]
pub struct Front<'a, T> {
    io: &'a mut T,
    guard: GuardHandle,
    aside: Vec<u8>,
    ended: bool,
}

impl<'a, T: ClientStream> Front<'a, T> {
    /// A stream whose reading is told to `guard`.
    #[must_use]
    pub fn new(io: &'a mut T, guard: GuardHandle) -> Self {
        Self { io, guard, aside: Vec::new(), ended: false }
    }

    /// What the watchdog is told.
    #[must_use]
    pub fn guard(&self) -> &GuardHandle {
        &self.guard
    }

    /// Reads into `ahead`, once there is something to read: while it is empty, none is borrowed. 0: the client has ended.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill(&mut self, ahead: &mut Option<Buffer>, buffers: &Buffers) -> io::Result<usize> {
        Ok(self.fill_unless(|_| false, ahead, buffers).await?.unwrap_or(0))
    }

    /// As [`Self::fill`], but none is the answer when `given_up`, which is asked while there is nothing in `ahead` and
    /// nothing to read.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill_unless(
        &mut self,
        mut given_up: impl FnMut(&mut Context<'_>) -> bool,
        ahead: &mut Option<Buffer>,
        buffers: &Buffers,
    ) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            loop {
                let Some(present) = ahead else {
                    if self.io.poll_readable(cx)?.is_pending() {
                        break;
                    }
                    *ahead = Some(buffers.for_request());
                    continue;
                };
                let polled = present.poll_read(self.io, cx);
                if polled.is_pending()
                    && present.filled().is_empty()
                    && let Some(empty) = ahead.take()
                {
                    buffers.give_back(empty);
                    break;
                }
                return polled.map_ok(Some);
            }
            if given_up(cx) { Poll::Ready(Ok(None)) } else { Poll::Pending }
        })
        .await
    }

    /// Takes what the client sends while it waits for an answer, so that its end is seen. Ready: it is gone for sure.
    pub fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.aside.len() < ASIDE_MAX {
            if ready!(self.io.poll_readable(cx)).is_err() {
                return Poll::Ready(());
            }
            let before = self.aside.len();
            self.aside.resize(before + READ_MIN, 0);
            let mut room = ReadBuf::new(&mut self.aside[before..]);
            let polled = Pin::new(&mut *self.io).poll_read(cx, &mut room);
            let read = room.filled().len();
            self.aside.truncate(before + read);
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if read == 0 => {
                    // It may have no more to ask and still want the answer (RFC 9112 section 9.6).
                    self.ended = true;
                    self.guard.note_end();
                }
                Poll::Ready(Ok(())) => {}
            }
        }
        Poll::Pending
    }

    /// The client's socket, if bytes can go to it past this process.
    #[must_use]
    pub fn plain(&self) -> Option<&TcpStream> {
        self.io.plain()
    }

    /// Puts what was read aside behind what is there.
    pub fn fetch_aside(&mut self, ahead: &mut Option<Buffer>, buffers: &Buffers) {
        if !self.aside.is_empty() {
            ahead.get_or_insert_with(|| buffers.for_request()).append(&self.aside);
            self.aside = Vec::new();
        }
    }

    /// Writes three pieces one behind another, in one call where the client takes them.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn write(&mut self, pieces: [&[u8]; 3]) -> io::Result<()> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut done = 0;
        poll_fn(|cx| {
            while done < total {
                let mut skip = done;
                let left = pieces.map(|piece| {
                    let skipped = skip.min(piece.len());
                    skip -= skipped;
                    IoSlice::new(&piece[skipped..])
                });
                // Empty slices in front would look like the end to a stream that writes one slice at a time.
                let first = left.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
                let written = ready!(Pin::new(&mut *self.io).poll_write_vectored(cx, &left[first..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                done += written;
            }
            Pin::new(&mut *self.io).poll_flush(cx)
        })
        .await
    }
}
