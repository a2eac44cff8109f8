//! A request on its way into an upstream connection. An answer may begin before it is through.

use std::io::{self, IoSlice};
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
    /// A request of which nothing was sent yet. `body` goes out with `head` from where it lies, as far as the socket takes
    /// it at once; the rest is copied, for [`Self::poll`].
    #[must_use]
    pub fn new(head: Vec<u8>, body: &[u8], stream: &UpstreamStream) -> Self {
        let mut request = head;
        let taken = if body.is_empty() { 0 } else { take_at_once(&request, body, stream) };
        let written = taken.min(request.len());
        request.extend_from_slice(&body[taken - written..]);
        let flushed = taken > 0 && written == request.len();
        Self { request, written, flushed, deaf: false }
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

    /// Takes the room of what was sent: nothing can be sent any more.
    #[must_use]
    pub fn take_room(&mut self) -> Vec<u8> {
        self.deaf = true;
        std::mem::take(&mut self.request)
    }
}

/// Writes both in one call to a socket in clear; how many bytes it took. Nothing where it takes none, or fails: whoever
/// polls meets the same again.
fn take_at_once(head: &[u8], body: &[u8], stream: &UpstreamStream) -> usize {
    let UpstreamStream::Plain(socket) = stream else { return 0 };
    socket.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (UpstreamStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (UpstreamStream::Plain(near.unwrap()), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_socket_takes_at_once_is_not_copied() {
        let (mut near, mut far) = pair().await;
        let mut outgoing = Outgoing::new(b"head ".to_vec(), b"body", &near);
        assert!(outgoing.is_through() && !outgoing.is_unsent(&near));
        outgoing.poll(&mut near, &mut Context::from_waker(std::task::Waker::noop()));
        assert_eq!(outgoing.take_room(), b"head ");
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"head body");
    }

    #[tokio::test]
    async fn what_it_does_not_take_follows() {
        let (mut near, mut far) = pair().await;
        // More than any socket buffers, and no byte like its neighbours.
        let body: Vec<u8> = (0..32u32 << 20).map(|n| (n % 251) as u8).collect();
        let mut outgoing = Outgoing::new(b"head ".to_vec(), &body, &near);
        assert!(!outgoing.is_through() && !outgoing.is_unsent(&near));
        let mut got = Vec::new();
        let sends = poll_fn(|cx| {
            outgoing.poll(&mut near, cx);
            if outgoing.is_through() { Poll::Ready(()) } else { Poll::Pending }
        });
        let reads = async {
            let mut room = vec![0; 1 << 20];
            while got.len() < 5 + body.len() {
                let read = far.read(&mut room).await.unwrap();
                assert!(read > 0);
                got.extend_from_slice(&room[..read]);
            }
        };
        tokio::join!(sends, reads);
        assert!(got[..5] == *b"head " && got[5..] == *body);
    }

    #[tokio::test]
    async fn nothing_is_sent_before_its_time() {
        let (near, _far) = pair().await;
        let mut outgoing = Outgoing::new(b"head".to_vec(), b"", &near);
        assert!(outgoing.is_unsent(&near) && !outgoing.is_through());
        assert_eq!(outgoing.take_room(), b"head");
    }
}
