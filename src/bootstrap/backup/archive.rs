//! Many files in one stream, each of a length that is not known before it ends.
//!
//! ```text
//!   entry   length of the name (2 bytes, more than 0)  name  block …  0 (4 bytes)
//!   block   length (4 bytes, more than 0)  content
//!   end     0 (2 bytes)
//! ```
//! Numbers are big-endian. Nothing is checked here but the form: damage is the envelope's business.

use std::io::{self, Read, Write};

/// Longest block, in bytes.
const BLOCK_MAX: usize = 1 << 20;

/// Writes entries one after the other.
pub(super) struct ArchiveWriter<W> {
    inner: W,
}

impl<W: Write> ArchiveWriter<W> {
    /// Writes to `inner`.
    pub(super) fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Begins an entry.
    ///
    /// # Errors
    /// When it cannot be written, or the name is empty or too long.
    pub(super) fn begin(&mut self, name: &str) -> io::Result<()> {
        let length = u16::try_from(name.len()).ok().filter(|&length| length > 0);
        let Some(length) = length else {
            return Err(io::Error::other(format!(
                "a backup cannot hold a file of this name: `{name}`"
            )));
        };
        self.inner.write_all(&length.to_be_bytes())?;
        self.inner.write_all(name.as_bytes())
    }

    /// Adds to the entry that was begun.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, content: &[u8]) -> io::Result<()> {
        for block in content.chunks(BLOCK_MAX) {
            let length = u32::try_from(block.len()).map_err(io::Error::other)?;
            self.inner.write_all(&length.to_be_bytes())?;
            self.inner.write_all(block)?;
        }
        Ok(())
    }

    /// Ends the entry that was begun.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.inner.write_all(&0u32.to_be_bytes())
    }

    /// A whole entry.
    ///
    /// # Errors
    /// As of its parts.
    pub(super) fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.begin(name)?;
        self.add(content)?;
        self.end()
    }

    /// Writes the end, and gives back what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&0u16.to_be_bytes())?;
        Ok(self.inner)
    }
}

/// Reads entries one after the other.
pub(super) struct ArchiveReader<R> {
    inner: R,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads from `inner`.
    pub(super) fn new(inner: R) -> Self {
        Self { inner }
    }

    /// Name of the next entry; None at the end. The one before has to be read to its own end.
    ///
    /// # Errors
    /// When it cannot be read, or there is something behind the end.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<String>> {
        let mut length = [0; 2];
        self.inner.read_exact(&mut length)?;
        let mut name = vec![0; u16::from_be_bytes(length).into()];
        if name.is_empty() {
            return match self.inner.read(&mut [0])? {
                0 => Ok(None),
                _ => Err(malformed()),
            };
        }
        self.inner.read_exact(&mut name)?;
        String::from_utf8(name).map(Some).map_err(|_| malformed())
    }

    /// The next block of the entry; None at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn next_block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        self.inner.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| malformed())?;
        match length {
            0 => return Ok(None),
            1..=BLOCK_MAX => {}
            _ => return Err(malformed()),
        }
        let mut block = vec![0; length];
        self.inner.read_exact(&mut block)?;
        Ok(Some(block))
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "is damaged: its content is not a backup's",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut reader = ArchiveReader::new(bytes);
        let mut found = Vec::new();
        while let Some(name) = reader.next_entry()? {
            let mut content = Vec::new();
            while let Some(block) = reader.next_block()? {
                content.extend(block);
            }
            found.push((name, content));
        }
        Ok(found)
    }

    #[test]
    fn entries_come_back_in_order() {
        let mut writer = ArchiveWriter::new(Vec::new());
        let large = vec![7; BLOCK_MAX + 3];
        writer.put("a", b"").unwrap();
        writer.put("b/c", &large).unwrap();
        writer.begin("d").unwrap();
        writer.add(b"x").unwrap();
        writer.add(b"").unwrap();
        writer.add(b"y").unwrap();
        writer.end().unwrap();
        assert!(writer.begin("").is_err() && writer.begin(&"n".repeat(1 << 16)).is_err());
        let bytes = writer.finish().unwrap();
        let expected = [
            ("a".to_owned(), Vec::new()),
            ("b/c".to_owned(), large),
            ("d".to_owned(), b"xy".to_vec()),
        ];
        assert_eq!(read(&bytes).unwrap(), expected);
        assert!(read(&[&bytes[..], b"z"].concat()).is_err());
        for length in [0, 1, 2, 3, 8, bytes.len() - 1] {
            assert!(read(&bytes[..length]).is_err(), "{length}");
        }
        assert!(read(b"\x00\x01a\xff\xff\xff\xff").is_err());
        assert!(read(b"\x00\x01\xff\x00\x00\x00\x00\x00\x00").is_err());
    }
}
