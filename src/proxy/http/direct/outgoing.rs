//! A request on its way into an upstream connection. An answer may begin before it is through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite as _;

use crate::proxy::connect::UpstreamStream;

/// What is sent, and how far it is.
#[derive(Debug)]
pub struct Outgoing {
    request: Vec<u8>,
    written: usize,
    flushed: bool,
    /// The upstream takes no more of it.
    deaf: bool,
}

impl Outgoing {
    /// A request, head and body, of which nothing was sent yet.
    #[must_use]
    pub fn new(request: Vec<u8>) -> Self {
        Self { request, written: 0, flushed: false, deaf: false }
    }

    /// Writes on, as far as the upstream takes it; wakes the task when it takes more. An upstream that fails here may have
    /// answered all the same: reading tells.
    pub fn poll(&mut self, stream: &mut UpstreamStream, cx: &mut Context<'_>) {
        if self.deaf || self.flushed {
            return;
        }
        if let Err(error) = self.write_on(stream, cx) {
            tracing::trace!(%error, "writing a request failed");
            self.deaf = true;
        }
    }

    fn write_on(&mut self, stream: &mut UpstreamStream, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.request.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.request[self.written..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.written += written,
                Poll::Pending => return Ok(()),
            }
        }
        // TLS takes bytes before the socket does, and passes the rest on with the next flush alone.
        self.flushed = Pin::new(stream).poll_flush(cx)?.is_ready();
        Ok(())
    }

    /// All of it is with the kernel.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.flushed && !self.deaf
    }

    /// Nothing of it can have reached the upstream. TLS may have sent a part of what it did not take.
    #[must_use]
    pub fn is_unsent(&self, stream: &UpstreamStream) -> bool {
        self.written == 0 && matches!(stream, UpstreamStream::Plain(_))
    }

    /// The room of the request; nothing can be sent any more.
    #[must_use]
    pub fn take_room(&mut self) -> Vec<u8> {
        self.deaf = true;
        std::mem::take(&mut self.request)
    }

    /// The room of the request.
    #[must_use]
    pub fn into_room(self) -> Vec<u8> {
        self.request
    }
}
