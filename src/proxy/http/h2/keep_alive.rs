//! Finds out whether the other side of a silent connection still lives (RFC 9113 section 6.7).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often it is looked at, and after what silence it gets a ping.
const LOOK: Duration = Duration::from_secs(20);
/// How long after the last ping a server that counts them gets the next one.
const SELDOM: Duration = Duration::from_secs(305);

/// What is known of the other side.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Something was read since it was looked at last: it lives.
    pub heard: Cell<bool>,
    /// A stream got a head or data since then.
    pub answered: Cell<bool>,
    /// Notified with the first byte that is read.
    pub greeted: Notify,
}

impl Liveness {
    fn read(&self) {
        if !self.heard.replace(true) {
            self.greeted.notify_one();
        }
    }
}

/// How often the other side may get a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As often as it is silent. Clients do not count, and for the boxes on the way to them a ping
    /// is a sign of use.
    Any,
    /// Servers of gRPC hang up on a client that sends pings more often than every five minutes: two
    /// such pings are let pass, until a stream gets a head or data.
    Counts,
}

impl Patience {
    /// Whether to send a ping, after so many since a stream got something, the last so long ago.
    fn permits(self, asked: u32, last: Duration) -> bool {
        self == Self::Any || asked < 3 || last >= SELDOM
    }
}

/// Returns when the other side was silent, and got a ping, and stayed silent for `limit`. `needed`:
/// whether anything waits for it.
pub async fn keepalive_expired(
    ping_pong: Option<PingPong>,
    patience: Patience,
    limit: Duration,
    liveness: &Liveness,
    needed: impl Fn() -> bool,
) {
    // None: pings are sent elsewhere.
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    let (mut asked, mut last) = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        if liveness.answered.replace(false) {
            asked = 0;
        }
        if liveness.heard.replace(false) || !needed() || !patience.permits(asked, last.elapsed()) {
            continue;
        }
        (asked, last) = (asked + 1, Instant::now());
        // Fails only while the ping before is still open: then its response is waited for.
        let _ = ping_pong.send_ping(Ping::opaque());
        match tokio::time::timeout(limit, poll_fn(|cx| ping_pong.poll_pong(cx))).await {
            Ok(Ok(_pong)) => {}
            // The connection ends by itself.
            Ok(Err(_)) => return std::future::pending().await,
            // Behind much data the response takes its time.
            Err(_elapsed) if liveness.heard.get() => {}
            Err(_elapsed) => return,
        }
        // The response to a ping does not count as traffic.
        liveness.heard.set(false);
    }
}

/// A connection that tells whether anything was heard on it.
#[derive(Debug)]
pub struct ActivityIo<T> {
    io: T,
    liveness: Rc<Liveness>,
}

impl<T> ActivityIo<T> {
    /// Notes everything that is read.
    #[must_use]
    pub fn new(io: T, liveness: &Rc<Liveness>) -> Self {
        Self {
            io,
            liveness: Rc::clone(liveness),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ActivityIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.liveness.read();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ActivityIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
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
    use h2::client::SendRequest;
    use tokio::io::duplex;

    use super::*;

    const PONG_MAX: Duration = Duration::from_secs(10);

    /// gRPC's rule: of pings less than five minutes after the one before, two are let pass, and a
    /// head or data sent lets the next one pass as well.
    #[derive(Default)]
    struct Counting {
        last: Option<Duration>,
        strikes: u32,
    }

    impl Counting {
        fn ping(&mut self, at: Duration, answered: bool) {
            let early = self
                .last
                .replace(at)
                .is_some_and(|last| at - last < Duration::from_secs(300));
            self.strikes = if answered {
                0
            } else {
                self.strikes + u32::from(early)
            };
            assert!(self.strikes <= 2, "hangs up after {at:?}");
        }
    }

    #[test]
    fn a_server_that_counts_pings_does_not_hang_up() {
        for (heard_every, answered_every) in [(0, 0), (2, 0), (3, 0), (0, 50), (3, 7), (5, 2)] {
            let mut server = Counting::default();
            let (mut asked, mut last, mut unseen) = (0, Duration::ZERO, false);
            for look in 1..1000_u32 {
                let at = LOOK * look;
                if answered_every != 0 && look % answered_every == 0 {
                    (asked, unseen) = (0, true);
                }
                let heard = heard_every != 0 && look % heard_every == 0;
                if !heard && Patience::Counts.permits(asked, at - last) {
                    server.ping(at, std::mem::take(&mut unseen));
                    (asked, last) = (asked + 1, at);
                }
            }
        }
        assert!(Patience::Any.permits(1000, LOOK));
    }

    async fn pair() -> (
        SendRequest<Bytes>,
        h2::client::Connection<ActivityIo<tokio::io::DuplexStream>>,
        Rc<Liveness>,
        tokio::io::DuplexStream,
    ) {
        let (here, there) = duplex(1 << 16);
        let liveness = Rc::<Liveness>::default();
        let (sender, connection) = h2::client::handshake(ActivityIo::new(here, &liveness))
            .await
            .unwrap();
        (sender, connection, liveness, there)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_respond_is_lost() {
        let (_sender, mut connection, liveness, _there) = pair().await;
        let ping_pong = connection.ping_pong().unwrap();
        let begun = Instant::now();
        tokio::select! {
            ended = connection => panic!("{ended:?}"),
            () = keepalive_expired(Some(ping_pong), Patience::Counts, PONG_MAX, &liveness, || true) => {}
        }
        assert_eq!(begun.elapsed().as_secs(), (LOOK + PONG_MAX).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_responds_or_is_not_needed_is_kept() {
        for needed in [false, true] {
            let (sender, mut connection, liveness, there) = pair().await;
            let serving = async {
                if needed {
                    let mut server = h2::server::handshake(there).await.unwrap();
                    assert!(server.accept().await.is_none());
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let ping_pong = connection.ping_pong().unwrap();
            tokio::select! {
                ended = connection => panic!("{ended:?}"),
                () = serving => panic!("closed"),
                () = keepalive_expired(Some(ping_pong), Patience::Any, PONG_MAX, &liveness, || needed) => panic!("lost"),
                () = tokio::time::sleep(Duration::from_secs(3600)) => drop(sender),
            }
        }
    }

    #[tokio::test]
    async fn what_is_read_is_heard() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (here, mut there) = duplex(64);
        let liveness = Rc::<Liveness>::default();
        let mut here = ActivityIo::new(here, &liveness);
        here.write_all(b"question").await.unwrap();
        assert!(!liveness.heard.get());
        there.write_all(b"a").await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), b'a');
        assert!(liveness.heard.get());
    }
}
