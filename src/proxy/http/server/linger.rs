//! The orderly end of a connection whose client may still be sending.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::proxy::drain::{LocalPhase, Phase};

/// How long a client gets to read the last response and close its side, once ours is closed.
const LINGER: Duration = Duration::from_secs(30);
/// The same of a client that sends nothing any more, or while the process drains.
const LINGER_SILENT: Duration = Duration::from_secs(2);
/// Most bytes read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// Last bytes, then the orderly end of the stream (for TLS: its closing alert). What the client
/// still sends is read and thrown away for a while: closing a socket with unread bytes makes a RST,
/// which can overtake the response (RFC 9112 section 9.6).
pub(crate) async fn lingering_close<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
    last: &[u8],
    phase: &LocalPhase,
) {
    let end = Instant::now() + LINGER;
    let says = async {
        io.write_all(last).await?;
        io.shutdown().await
    };
    if !matches!(timeout(LINGER_SILENT, says).await, Ok(Ok(()))) {
        return;
    }
    let reads = async {
        let mut rest = vec![0; 16 << 10];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match timeout(LINGER_SILENT, io.read(&mut rest)).await {
                Ok(Ok(1..)) if Instant::now() < end => left = left.saturating_sub(rest.len()),
                _ => break,
            }
        }
    };
    let drains = async {
        phase.reached(Phase::Draining).await;
        tokio::time::sleep(LINGER_SILENT).await;
    };
    tokio::select! {
        _ = timeout_at(end, reads) => {}
        () = drains => {}
    }
}
