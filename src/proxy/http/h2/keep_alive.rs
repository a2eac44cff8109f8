//! Finds out whether the other side of a silent connection still lives (RFC 9113 section 6.7).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Silence after which it is asked, at first.
const SILENT: Duration = Duration::from_secs(20);
/// Questions of that kind in a row.
const EARLY: u32 = 3;
/// Silence after which it is asked later on. Servers of gRPC hang up on whoever asks a silent stream more often than every
/// five minutes, from the third time on.
const SILENT_LATER: Duration = Duration::from_secs(305);

/// How long to wait for silence before it is asked once more, having asked so many times since it last spoke.
fn pause(asked: u32) -> Duration {
    if asked < EARLY { SILENT } else { SILENT_LATER }
}

/// Returns when the other side did not answer within `limit`. `spoke` tells, once for each call, whether it was heard since
/// the call before, or need not be asked.
pub async fn lost(mut ping_pong: PingPong, limit: Duration, mut spoke: impl FnMut() -> bool) {
    let mut asked = 0;
    loop {
        tokio::time::sleep(pause(asked)).await;
        if spoke() {
            asked = 0;
            continue;
        }
        asked += 1;
        match tokio::time::timeout(limit, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection ends by itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_elapsed) => return,
        }
        // The answer is no word of its own.
        spoke();
    }
}

/// A connection that tells whether anything was heard on it.
#[derive(Debug)]
pub struct Heard<T> {
    io: T,
    heard: Rc<Cell<bool>>,
}

impl<T> Heard<T> {
    /// Sets `heard` with everything that is read.
    #[must_use]
    pub fn new(io: T, heard: &Rc<Cell<bool>>) -> Self {
        Self { io, heard: Rc::clone(heard) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.heard.set(true);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    const PONG_MAX: Duration = Duration::from_secs(10);

    #[test]
    fn a_server_that_counts_pings_does_not_hang_up() {
        // gRPC's rule: of pings on a silent stream less than five minutes after the one before, two are let pass.
        let strikes = (1..100).filter(|asked| pause(*asked) < Duration::from_secs(300)).count();
        assert_eq!(strikes, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_lost() {
        let (here, _there) = duplex(1 << 16);
        let (_sender, mut connection) = h2::client::handshake(here).await.unwrap();
        let ping_pong = connection.ping_pong().unwrap();
        let begun = Instant::now();
        tokio::select! {
            ended = connection => panic!("{ended:?}"),
            () = lost(ping_pong, PONG_MAX, || false) => {}
        }
        assert_eq!(begun.elapsed().as_secs(), (SILENT + PONG_MAX).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_or_speaks_is_kept() {
        for speaks in [false, true] {
            let (here, there) = duplex(1 << 16);
            let (client, server) = tokio::join!(h2::client::handshake(here), h2::server::handshake(there));
            let (sender, mut connection): (h2::client::SendRequest<Bytes>, _) = client.unwrap();
            let mut server = server.unwrap();
            let ping_pong = connection.ping_pong().unwrap();
            tokio::select! {
                ended = connection => panic!("{ended:?}"),
                asked = server.accept() => panic!("{}", asked.is_some()),
                () = lost(ping_pong, PONG_MAX, || speaks) => panic!("lost"),
                () = tokio::time::sleep(Duration::from_secs(3600)) => drop(sender),
            }
        }
    }

    #[tokio::test]
    async fn what_is_read_is_heard() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (here, mut there) = duplex(64);
        let heard = Rc::new(Cell::new(false));
        let mut here = Heard::new(here, &heard);
        here.write_all(b"question").await.unwrap();
        assert!(!heard.get());
        there.write_all(b"a").await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), b'a');
        assert!(heard.get());
    }
}
