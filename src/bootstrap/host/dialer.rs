//! A byte stream to an address as seen from a node.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How to reach addresses that a node reaches. Cheap to clone.
#[derive(Clone)]
pub enum Dialer {
    /// From this machine.
    Direct,
    /// Through the node's own connection (`ssh -W`).
    Ssh(Tunnel),
}

/// The ssh command that opens a stream.
#[derive(Clone)]
pub struct Tunnel {}

/// An open byte stream.
pub enum Stream {
    /// A connection of this machine.
    Tcp(TcpStream),
}

impl Dialer {
    /// Opens a stream. Through ssh, a refusal shows at the first read.
    ///
    /// # Errors
    /// Those of connect(2), or that ssh cannot be started.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        TcpStream::connect(addr).await.map(Stream::Tcp)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }
}
