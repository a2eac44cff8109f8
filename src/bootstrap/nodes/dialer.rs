//! A byte stream to an address as seen from a node.
//!
//! Behind ssh it is the standard input and output of `ssh -W`. Whether the address accepted is
//! known to that ssh alone, which says so on its standard error; a stream that ends before its
//! first byte therefore ends in an error with those words.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// Longest complaint of ssh that is kept.
const COMPLAINT_BYTES_MAX: usize = 4096;

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
pub struct Tunnel {
    pub(super) arguments: Vec<String>,
    pub(super) destination: String,
}

/// An open byte stream.
pub enum Stream {
    /// A connection of this machine.
    Tcp(TcpStream),
    /// A connection of the node.
    Ssh(Box<Tunnelled>),
}

/// Standard input and output of an `ssh -W`, which ends with it.
pub struct Tunnelled {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
    complaint: Vec<u8>,
    /// Whether anything came back: then the address had accepted.
    answered: bool,
    _child: Child,
}

impl Dialer {
    /// Opens a stream. Through ssh, a refusal shows at the first read or write.
    ///
    /// # Errors
    /// Those of connect(2), or that ssh cannot be started.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        match self {
            Self::Direct => {
                let tcp = TcpStream::connect(addr).await?;
                tcp.set_nodelay(true)?;
                Ok(Stream::Tcp(tcp))
            }
            Self::Ssh(tunnel) => tunnel
                .open(addr)
                .map(|tunnelled| Stream::Ssh(Box::new(tunnelled))),
        }
    }
}

impl Tunnel {
    fn open(&self, addr: SocketAddr) -> io::Result<Tunnelled> {
        let mut command = Command::new("ssh");
        command
            .args(["-W", &addr.to_string()])
            .args(&self.arguments)
            .arg("--")
            .arg(&self.destination);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok(Tunnelled {
                stdin,
                stdout,
                stderr,
                complaint: Vec::new(),
                answered: false,
                _child: child,
            }),
            _ => Err(io::Error::other("ssh has no standard input and output")),
        }
    }
}

impl Tunnelled {
    /// Reads what ssh has to say, to its end, as an error.
    fn poll_complaint(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let mut bytes = [0; 512];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stderr).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(refusal(&String::from_utf8_lossy(&self.complaint)));
            }
            let room = COMPLAINT_BYTES_MAX - self.complaint.len();
            self.complaint.extend(buf.filled().iter().take(room));
        }
    }
}

/// What ssh says about an address that cannot be reached, as the error that connect(2) would have
/// given.
fn refusal(complaint: &str) -> io::Error {
    let kind = if complaint.contains("Connection refused") {
        io::ErrorKind::ConnectionRefused
    } else if complaint.contains("timed out") {
        io::ErrorKind::TimedOut
    } else if complaint.contains("No route to host") || complaint.contains("unreachable") {
        io::ErrorKind::HostUnreachable
    } else {
        io::ErrorKind::UnexpectedEof
    };
    let said = complaint.trim();
    io::Error::new(
        kind,
        if said.is_empty() {
            "closed before the first byte"
        } else {
            said
        }
        .to_owned(),
    )
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stdout).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            this.answered = true;
        } else if !this.answered && buf.remaining() > 0 {
            return Poll::Ready(Err(ready!(this.poll_complaint(cx))));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.stdin).poll_write(cx, buf)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !this.answered => {
                Poll::Ready(Err(ready!(this.poll_complaint(cx))))
            }
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stdin).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stdin).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Ssh(ssh) => Pin::new(ssh.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Ssh(ssh) => Pin::new(ssh.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Ssh(ssh) => Pin::new(ssh.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Ssh(ssh) => Pin::new(ssh.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_ssh_becomes_the_error_of_connect() {
        for (complaint, kind) in [
            (
                "channel 0: open failed: connect failed: Connection refused\n",
                io::ErrorKind::ConnectionRefused,
            ),
            (
                "channel 0: open failed: connect failed: Connection timed out",
                io::ErrorKind::TimedOut,
            ),
            (
                "connect failed: No route to host",
                io::ErrorKind::HostUnreachable,
            ),
            ("", io::ErrorKind::UnexpectedEof),
        ] {
            let error = refusal(complaint);
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
