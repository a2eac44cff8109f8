//! A stream whose first bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::splice::Stream;

/// A stream, and the bytes that are read before anything of it.
#[derive(Debug)]
pub struct Prefixed<T> {
    ahead: Vec<u8>,
    taken: usize,
    io: T,
}

impl<T> Prefixed<T> {
    /// `ahead` is read before anything of `io`.
    #[must_use]
    pub fn new(ahead: Vec<u8>, io: T) -> Self {
        Self {
            ahead,
            taken: 0,
            io,
        }
    }
}

impl<T: Stream> Stream for Prefixed<T> {
    fn plain(&self) -> Option<&TcpStream> {
        if self.ahead.is_empty() {
            self.io.plain()
        } else {
            None
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let ahead = &this.ahead[this.taken..];
        if ahead.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = ahead.len().min(buf.remaining());
        buf.put_slice(&ahead[..count]);
        this.taken += count;
        if this.taken == this.ahead.len() {
            this.ahead = Vec::new();
            this.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first() {
        let (mut peer, io) = duplex(64);
        peer.write_all(b"cd").await.unwrap();
        drop(peer);
        let mut prefixed = Prefixed::new(b"ab".to_vec(), io);
        let mut one = [0];
        prefixed.read_exact(&mut one).await.unwrap();
        assert_eq!(&one, b"a");
        let mut rest = Vec::new();
        prefixed.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bcd");
    }
}
