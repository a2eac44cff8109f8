//! Whole lines into a descriptor: what it takes, what it refuses, and how many lines were lost.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

/// Standard output or standard error without the standard library's buffer and lock: another thread
/// with that lock cannot hold up this writer, and the other way round.
#[derive(Debug)]
pub(super) struct Descriptor(File);

impl Descriptor {
    /// The stream that `of` is.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn of(of: impl AsFd) -> io::Result<Self> {
        Ok(Self(of.as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Another process that shares the stream made it non-blocking (open(2), O_NONBLOCK
                // is of the description).
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, and remembers whether the last one was torn by an error (a full disk takes the
/// first half).
#[derive(Debug)]
pub(super) struct Lines<W> {
    sink: W,
    torn: bool,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, torn: false }
    }

    /// Writes `lines`, each of which ends with a line break; waits as long as the sink does.
    /// Returns how many were not written as a whole.
    pub(super) fn put(&mut self, lines: &[u8]) -> u64 {
        if self.torn {
            match self.sink.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(_) => return breaks(lines),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(taken) if taken > 0 => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if !rest.is_empty() {
            let written = &lines[..lines.len() - rest.len()];
            self.torn = written.last().is_some_and(|&byte| byte != b'\n');
            return breaks(rest);
        }
        if self.sink.flush().is_err() {
            breaks(lines)
        } else {
            0
        }
    }
}

fn breaks(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use super::*;

    /// Takes so many bytes, then none.
    struct Disk {
        room: usize,
        holds: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_it_did_not_take_and_no_others() {
        let mut lines = Lines::new(Disk {
            room: 6,
            holds: Vec::new(),
        });
        assert_eq!(
            lines.put(b"one\ntwo\nthree\n"),
            2,
            "`one` was written, `two` was torn"
        );
        assert_eq!(lines.put(b"four\n"), 1);
        lines.sink.room = 100;
        assert_eq!(lines.put(b"five\n"), 0);
        assert_eq!(
            String::from_utf8_lossy(&lines.sink.holds),
            "one\ntw\nfive\n"
        );
    }

    #[test]
    fn a_stream_that_another_process_made_non_blocking_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut lines = Lines::new(Descriptor::of(&writer).unwrap());
        drop(OwnedFd::from(writer));
        let many = b"0123456789abcde\n".repeat(16 << 10);
        let sent = many.clone();
        let writing = std::thread::spawn(move || lines.put(&sent));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(writing.join().unwrap(), 0);
        assert!(read == many, "{} of {} bytes", read.len(), many.len());
    }

    #[test]
    fn a_pipe_without_a_reader_loses_everything_and_says_how_much() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(
            Lines::new(Descriptor::of(&writer).unwrap()).put(b"one\ntwo\n"),
            2
        );
    }
}
