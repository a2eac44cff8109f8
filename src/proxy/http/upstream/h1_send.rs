//! A request on its way into an upstream connection of HTTP/1. A response may begin before it is
//! through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite as _;

use crate::proxy::connect::UpstreamStream;
use crate::proxy::http::h1::chunked::put_size;
use crate::proxy::http::h1::write_head::put_trailers;
use crate::proxy::http::request_body::{RequestBody, Upload};

/// What is sent, and how far it is.
#[derive(Debug)]
pub struct RequestWriter {
    /// The head, and what was made ready of the body.
    ready: Vec<u8>,
    written: usize,
    /// Bytes written so far.
    sent: u64,
    begun: bool,
    flushed: bool,
    /// The upstream takes no more of it.
    deaf: bool,
    /// The body, if it is still coming when the head is sent.
    upload: Option<Upload>,
    /// All of it is ready.
    ended: bool,
    broken: bool,
}

impl RequestWriter {
    /// A request of which nothing was sent yet. `body` goes out with `head` from where it lies, as
    /// far as the socket takes it at once; the rest is copied, for [`Self::poll`]. What is still
    /// coming is sent in chunks, unless its length is known.
    #[must_use]
    pub fn new(head: Vec<u8>, body: &[u8], upload: RequestBody, stream: &UpstreamStream) -> Self {
        let mut ready = head;
        let taken = if body.is_empty() {
            0
        } else {
            take_at_once(&ready, body, stream)
        };
        let written = taken.min(ready.len());
        ready.extend_from_slice(&body[taken - written..]);
        let upload = match upload {
            RequestBody::AtHand => None,
            RequestBody::Streamed(upload) => Some(upload),
        };
        let ended = upload.is_none();
        let flushed = taken > 0 && written == ready.len() && ended;
        Self {
            ready,
            written,
            sent: taken as u64,
            begun: taken > 0,
            flushed,
            deaf: false,
            upload,
            ended,
            broken: false,
        }
    }

    /// Writes on, as far as the upstream takes it; wakes the task when it takes more. An upstream
    /// that fails here may have responded all the same: reading tells.
    pub fn poll(&mut self, stream: &mut UpstreamStream, cx: &mut Context<'_>) {
        if self.deaf || self.flushed {
            return;
        }
        if !self.begun {
            // What there is of the body goes with the head.
            self.take_more(cx);
        }
        if self.broken {
            return;
        }
        if let Err(error) = self.write_on(stream, cx) {
            tracing::trace!(%error, "writing a request failed");
            self.deaf = true;
        }
    }

    fn write_on(&mut self, stream: &mut UpstreamStream, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            while self.written < self.ready.len() {
                match Pin::new(&mut *stream).poll_write(cx, &self.ready[self.written..])? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => {
                        self.begun = true;
                        self.written += written;
                        self.sent += written as u64;
                    }
                    Poll::Pending => {
                        if let Some(upload) = &self.upload {
                            upload.pause();
                        }
                        return Ok(());
                    }
                }
            }
            if self.ended {
                break;
            }
            self.ready.clear();
            self.written = 0;
            self.take_more(cx);
            if self.ready.is_empty() && !self.ended {
                // The client has to send more first. TLS passes on what it holds with a flush
                // alone.
                let _ = Pin::new(stream).poll_flush(cx)?;
                return Ok(());
            }
        }
        // TLS takes bytes before the socket does, and passes the rest on with the next flush alone.
        self.flushed = !self.broken && Pin::new(stream).poll_flush(cx)?.is_ready();
        Ok(())
    }

    /// Puts the next piece of the upload behind what is ready, framed.
    fn take_more(&mut self, cx: &mut Context<'_>) {
        let Some(upload) = self.upload.as_mut().filter(|_| !self.ended) else {
            return;
        };
        let chunked = upload.length().is_none();
        match upload.poll_data(cx) {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(data))) => {
                if chunked && !data.is_empty() {
                    put_size(&mut self.ready, data.len());
                }
                self.ready.extend_from_slice(&data);
                if chunked && !data.is_empty() {
                    self.ready.extend_from_slice(b"\r\n");
                }
                if upload.is_over() {
                    if chunked {
                        self.ready.extend_from_slice(b"0\r\n\r\n");
                    }
                    self.ended = true;
                }
            }
            Poll::Ready(None) => {
                if chunked {
                    self.ready.extend_from_slice(b"0\r\n");
                    put_trailers(&mut self.ready, upload.trailers().as_ref());
                }
                self.ended = true;
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "an upload ended early");
                (self.ended, self.broken, self.deaf) = (true, true, true);
            }
        }
    }

    /// All of it is with the kernel.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.flushed && !self.deaf
    }

    /// Whether the client is waited for, to send more of its body.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        !self.is_through() && !self.deaf && self.written == self.ready.len()
    }

    /// Bytes of the request that are with the kernel.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the client broke off inside its body: no response is worth waiting for.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether more of the body may come.
    #[must_use]
    pub fn has_upload(&self) -> bool {
        !self.ended
    }

    /// The body, to be sent again, if nothing of the request can have reached the upstream. (TLS
    /// may have sent a part of what it did not take.)
    #[must_use]
    pub fn unsent(&self, stream: &UpstreamStream) -> Option<RequestBody> {
        if self.begun || self.broken || !matches!(stream, UpstreamStream::Plain(_)) {
            return None;
        }
        match &self.upload {
            None => Some(RequestBody::AtHand),
            Some(upload) => upload.rewound().map(RequestBody::Streamed),
        }
    }

    /// Takes the room of what was sent: nothing can be sent any more.
    #[must_use]
    pub fn take_room(&mut self) -> Vec<u8> {
        self.deaf = true;
        std::mem::take(&mut self.ready)
    }
}

/// Writes both in one call to a socket in clear; how many bytes it took. Nothing where it takes
/// none, or fails: the next poll meets the same again.
fn take_at_once(head: &[u8], body: &[u8], stream: &UpstreamStream) -> usize {
    let UpstreamStream::Plain(socket) = stream else {
        return 0;
    };
    socket
        .try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (UpstreamStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (UpstreamStream::Plain(near.unwrap()), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_socket_takes_at_once_is_not_copied() {
        let (mut near, mut far) = pair().await;
        let mut outgoing =
            RequestWriter::new(b"head ".to_vec(), b"body", RequestBody::AtHand, &near);
        assert!(outgoing.is_through() && outgoing.unsent(&near).is_none());
        outgoing.poll(
            &mut near,
            &mut Context::from_waker(std::task::Waker::noop()),
        );
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
        let mut outgoing = RequestWriter::new(b"head ".to_vec(), &body, RequestBody::AtHand, &near);
        assert!(!outgoing.is_through() && outgoing.unsent(&near).is_none());
        let mut got = Vec::new();
        let sends = poll_fn(|cx| {
            outgoing.poll(&mut near, cx);
            if outgoing.is_through() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
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
        let mut outgoing = RequestWriter::new(b"head".to_vec(), b"", RequestBody::AtHand, &near);
        assert!(outgoing.unsent(&near).is_some() && !outgoing.is_through());
        assert_eq!(outgoing.take_room(), b"head");
    }
}
