//! Bytes from one socket to another without a way through this process (splice(2), Linux).
//!
//! For long transfers between two plain sockets only: a pipe lies between them, which costs two
//! more descriptors while bytes flow, and for short messages saves nothing. Where there is no
//! splice, [`Pipes::take`] has none to give, and transfers go through buffers.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

/// A stream that may be a bare socket.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if what is read and written here is what it carries, and nothing was read ahead.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

/// Most bytes that lie in a pipe.
const PIPE_BYTES: usize = 256 << 10;
/// Most idle pipes a worker keeps.
const POOL_MAX: usize = 32;

/// A worker's pipes. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pipes(Rc<RefCell<Vec<Pipe>>>);

impl Pipes {
    /// An empty one; none if the system has none to give.
    #[must_use]
    pub fn take(&self) -> Option<Pipe> {
        self.0.borrow_mut().pop().or_else(|| Pipe::open().ok())
    }

    /// Takes one back. One that still holds bytes goes.
    pub fn give_back(&self, pipe: Pipe) {
        let mut pipes = self.0.borrow_mut();
        if pipe.held == 0 && pipes.len() < POOL_MAX {
            pipes.push(pipe);
        }
    }
}

/// A pipe, and how many bytes lie in it.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

/// How far a transfer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes were taken by the writer, and more may come.
    Some(usize),
    /// The reader has ended, and the writer took everything.
    End,
}

/// The side that failed, and how.
#[derive(Debug)]
pub enum SpliceError {
    /// The reader.
    Read(io::Error),
    /// The writer.
    Write(io::Error),
}

impl Pipe {
    #[cfg(target_os = "linux")]
    fn open() -> io::Result<Self> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users with many large pipes get smaller ones; those do as well.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Ok(Self { out, into, held: 0 })
    }

    #[cfg(not(target_os = "linux"))]
    fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Nothing lies in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what is there, `most` bytes at most (more than 0). Pending: the reader has nothing, or
    /// the writer takes nothing; [`Self::is_empty`] tells which.
    ///
    /// # Errors
    /// Those of either socket.
    pub fn poll_move(
        &mut self,
        reader: &TcpStream,
        writer: &TcpStream,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Moved, SpliceError>> {
        if self.held == 0 {
            let room = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_BYTES);
            let read = ready!(poll_io(reader, Interest::READABLE, cx, || splice(
                reader, &self.into, room
            )));
            self.held = read.map_err(SpliceError::Read)?;
            if self.held == 0 {
                return Poll::Ready(Ok(Moved::End));
            }
        }
        let written = ready!(poll_io(writer, Interest::WRITABLE, cx, || splice(
            &self.out, writer, self.held
        )));
        let written = written.map_err(SpliceError::Write)?;
        if written == 0 {
            return Poll::Ready(Err(SpliceError::Write(io::ErrorKind::WriteZero.into())));
        }
        self.held -= written.min(self.held);
        Poll::Ready(Ok(Moved::Some(written)))
    }
}

/// Tries `call` whenever the socket is ready for it.
fn poll_io(
    socket: &TcpStream,
    interest: Interest,
    cx: &mut Context<'_>,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        if interest.is_readable() {
            ready!(socket.poll_read_ready(cx))?;
        } else {
            ready!(socket.poll_write_ready(cx))?;
        }
        match socket.try_io(interest, &mut call) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

#[cfg(target_os = "linux")]
fn splice(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;

    Ok(rustix::pipe::splice(
        from,
        None,
        to,
        None,
        most,
        SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn splice(_: impl std::os::fd::AsFd, _: impl std::os::fd::AsFd, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn moves_everything_and_no_more_than_asked() {
        let ((mut source, reader), (writer, mut sink)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        let pipes = Pipes::default();
        let moving = async {
            let mut pipe = pipes.take().unwrap();
            let mut left = 2_000_000u64;
            while left > 0 {
                match poll_fn(|cx| pipe.poll_move(&reader, &writer, left, cx))
                    .await
                    .unwrap()
                {
                    Moved::Some(moved) => left -= moved as u64,
                    Moved::End => panic!("ended with {left} left"),
                }
            }
            pipes.give_back(pipe);
            drop(writer);
            left
        };
        let sending = async {
            source.write_all(&sent).await.unwrap();
        };
        let receiving = async {
            let mut received = Vec::new();
            sink.read_to_end(&mut received).await.unwrap();
            received
        };
        let (left, received, ()) = tokio::join!(moving, receiving, async {
            // The reader keeps its last third: nothing takes it.
            tokio::time::timeout(std::time::Duration::from_secs(1), sending)
                .await
                .ok();
        });
        assert_eq!(left, 0);
        assert!(
            received == sent[..2_000_000],
            "{} bytes came",
            received.len()
        );
        assert!(pipes.take().unwrap().is_empty());
    }

    #[tokio::test]
    async fn tells_the_end_and_which_side_failed() {
        let ((source, reader), (writer, sink)) = (pair().await, pair().await);
        let mut pipe = Pipes::default().take().unwrap();
        drop(source);
        let end = poll_fn(|cx| pipe.poll_move(&reader, &writer, 10, cx)).await;
        assert!(matches!(end, Ok(Moved::End)), "{end:?}");
        let (mut source, reader) = pair().await;
        drop(sink);
        let failed = loop {
            source.write_all(b"x").await.unwrap();
            if let Err(error) = poll_fn(|cx| pipe.poll_move(&reader, &writer, 10, cx)).await {
                break error;
            }
        };
        assert!(matches!(failed, SpliceError::Write(_)), "{failed:?}");
    }
}
