//! Encryption of a backup with a passphrase: scrypt makes the key, AES-256-GCM seals the content in
//! chunks.
//!
//! ```text
//!   "LBBACKUP"  version  log2(N)  salt (16)      authenticated with every chunk
//!   tag of an empty text, nonce 0                tells a wrong passphrase from damage
//!   chunk 1 … n: at most 64 KiB and a tag        nonce: number of the chunk, and whether it is the last
//! ```
//!
//! The salt is fresh for each file, so that no key seals twice and the nonces may be counted. Chunks
//! cannot change places, and a file that was cut off has no last one. (The construction is STREAM,
//! <https://eprint.iacr.org/2015/189>.)

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;

use crate::bootstrap::security::pki;
use crate::bootstrap::security::secrets::Secret;

const MAGIC: &[u8; 8] = b"LBBACKUP";
const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + 2 + SALT_LEN;
const TAG_LEN: usize = 16;
/// Content of all chunks but the last, in bytes.
const CHUNK: usize = 64 << 10;
/// log2 of scrypt's N: 128 MiB and about half a second (what OWASP recommends, with r = 8, p = 1).
const COST: u8 = 17;
/// A file may require no more: 1 GiB of memory.
const COST_MAX: u8 = 20;

/// Why a file cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvelopeError {
    /// It begins otherwise.
    #[error("is not a backup of lb")]
    NotABackup,
    /// It is of another form.
    #[error("has format {0}, this lb knows {VERSION}: a newer lb wrote it; use that one")]
    Newer(u8),
    /// The key does not fit, or the header was changed.
    #[error(
        "cannot be opened: wrong passphrase (from --passphrase-file or LB_BOOTSTRAP_PASSPHRASE), or its beginning is damaged"
    )]
    WrongPassphrase,
    /// A chunk was changed, or is missing.
    #[error("is damaged or cut off, in the 64 KiB from byte {0} on: take another backup")]
    Damaged(u64),
    /// No key can be made.
    #[error("no key can be derived from the passphrase")]
    NoKey,
}

impl From<EnvelopeError> for io::Error {
    fn from(error: EnvelopeError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What seals and opens the chunks of one file.
struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER_LEN],
    /// Of the chunk that is next.
    number: u64,
}

impl Sealer {
    fn new(header: [u8; HEADER_LEN], passphrase: &Secret) -> Result<Self, EnvelopeError> {
        let [cost, salt @ ..] = &header[MAGIC.len() + 1..] else {
            return Err(EnvelopeError::NotABackup);
        };
        if *cost > COST_MAX {
            return Err(EnvelopeError::WrongPassphrase);
        }
        let no_key = |_| EnvelopeError::NoKey;
        let params =
            scrypt::Params::new(*cost, 8, 1).map_err(|_| EnvelopeError::WrongPassphrase)?;
        let mut key = [0; 32];
        scrypt::scrypt(passphrase.reveal().as_bytes(), salt, &params, &mut key)
            .map_err(|_| EnvelopeError::NoKey)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(no_key)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            header,
            number: 0,
        })
    }

    fn nonce(&mut self, last: bool) -> Nonce {
        let mut bytes = [0; 12];
        bytes[3..11].copy_from_slice(&self.number.to_be_bytes());
        bytes[11] = u8::from(last);
        self.number += 1;
        Nonce::assume_unique_for_key(bytes)
    }

    /// Seals in place.
    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), Unspecified> {
        let nonce = self.nonce(last);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&self.header), chunk)
    }

    /// Opens in place.
    fn open(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), Unspecified> {
        let nonce = self.nonce(last);
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(&self.header), chunk)?;
        let length = plain.len();
        chunk.truncate(length);
        Ok(())
    }
}

fn sealing_failed(_: Unspecified) -> io::Error {
    io::Error::other("cannot be encrypted")
}

/// Seals what is written to it. Without [`EnvelopeWriter::finish`] the file has no end, and cannot be
/// opened.
pub(super) struct EnvelopeWriter<W> {
    inner: W,
    sealer: Sealer,
    /// Not sealed yet: whether a chunk is the last is known only with the next byte.
    pending: Vec<u8>,
}

impl<W: Write> EnvelopeWriter<W> {
    /// Writes the beginning.
    ///
    /// # Errors
    /// When it cannot be written, or there is no randomness.
    pub(super) fn create(inner: W, passphrase: &Secret) -> anyhow::Result<Self> {
        Self::create_at(inner, passphrase, COST)
    }

    fn create_at(mut inner: W, passphrase: &Secret, cost: u8) -> anyhow::Result<Self> {
        let mut header = [0; HEADER_LEN];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()] = VERSION;
        header[MAGIC.len() + 1] = cost;
        pki::random(&mut header[MAGIC.len() + 2..])?;
        let mut sealer = Sealer::new(header, passphrase)?;
        let mut check = Vec::new();
        sealer.seal(&mut check, false).map_err(sealing_failed)?;
        inner.write_all(&header)?;
        inner.write_all(&check)?;
        Ok(Self {
            inner,
            sealer,
            pending: Vec::with_capacity(CHUNK + TAG_LEN),
        })
    }

    /// Writes the last chunk, and gives back what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        Ok(self.inner)
    }

    fn put(&mut self, last: bool) -> io::Result<()> {
        self.sealer
            .seal(&mut self.pending, last)
            .map_err(sealing_failed)?;
        self.inner.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for EnvelopeWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() == CHUNK && !bytes.is_empty() {
            self.put(false)?;
        }
        let count = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Opens what an [`EnvelopeWriter`] wrote. Every byte that it gives is authentic; that none is missing
/// at the end is known when it gives no more.
pub(super) struct EnvelopeReader<R> {
    inner: R,
    sealer: Sealer,
    chunk: Vec<u8>,
    given: usize,
    /// What was read of the next chunk to see whether there is one.
    ahead: Vec<u8>,
    is_last: bool,
    /// Where the next chunk begins in the file.
    place: u64,
}

impl<R: Read> EnvelopeReader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// When it is not a backup, or the passphrase is wrong.
    pub(super) fn open(mut inner: R, passphrase: &Secret) -> io::Result<Self> {
        let mut header = [0; HEADER_LEN];
        let begins_so = |got: usize, header: &[u8]| got >= MAGIC.len() && header.starts_with(MAGIC);
        let got = fill(&mut inner, &mut header)?;
        if !begins_so(got, &header) {
            return Err(EnvelopeError::NotABackup.into());
        }
        if got > MAGIC.len() && header[MAGIC.len()] != VERSION {
            return Err(EnvelopeError::Newer(header[MAGIC.len()]).into());
        }
        let mut check = vec![0; TAG_LEN];
        if got < HEADER_LEN || fill(&mut inner, &mut check)? < TAG_LEN {
            return Err(EnvelopeError::Damaged(0).into());
        }
        let mut sealer = Sealer::new(header, passphrase)?;
        sealer
            .open(&mut check, false)
            .map_err(|_| EnvelopeError::WrongPassphrase)?;
        Ok(Self {
            inner,
            sealer,
            chunk: Vec::new(),
            given: 0,
            ahead: Vec::new(),
            is_last: false,
            place: (HEADER_LEN + TAG_LEN) as u64,
        })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut sealed = vec![0; CHUNK + TAG_LEN + 1];
        let before = self.ahead.len();
        sealed[..before].copy_from_slice(&self.ahead);
        let got = before + fill(&mut self.inner, &mut sealed[before..])?;
        self.is_last = got <= CHUNK + TAG_LEN;
        self.ahead.clear();
        if !self.is_last {
            self.ahead.push(sealed[CHUNK + TAG_LEN]);
        }
        sealed.truncate(got.min(CHUNK + TAG_LEN));
        let damaged = EnvelopeError::Damaged(self.place);
        self.place += sealed.len() as u64;
        self.sealer
            .open(&mut sealed, self.is_last)
            .map_err(|_| damaged)?;
        (self.chunk, self.given) = (sealed, 0);
        Ok(())
    }
}

impl<R: Read> Read for EnvelopeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunk.len() {
            if self.is_last || buffer.is_empty() {
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let count = buffer.len().min(self.chunk.len() - self.given);
        buffer[..count].copy_from_slice(&self.chunk[self.given..][..count]);
        self.given += count;
        Ok(count)
    }
}

/// Reads until the buffer is full or nothing comes any more; how much came.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap, so that a table can be tried.
    const CHEAP: u8 = 4;

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut writer =
            EnvelopeWriter::create_at(Vec::new(), &Secret::new("right"), CHEAP).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn opened(sealed: &[u8], passphrase: &str) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        EnvelopeReader::open(sealed, &Secret::new(passphrase))
            .and_then(|mut reader| reader.read_to_end(&mut plain))
            .map(|_| plain)
            .map_err(|error| error.to_string())
    }

    fn example(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn what_was_sealed_is_opened() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7] {
            let plain = example(length);
            let file = sealed(&plain);
            assert!(
                opened(&file, "right").unwrap() == plain,
                "{length} bytes come back otherwise"
            );
            assert_ne!(file, sealed(&plain), "no salt is used twice");
        }
        let file = sealed(&example(99));
        assert!(
            !file
                .windows(8)
                .any(|some| example(99).windows(8).any(|it| it == some))
        );
    }

    #[test]
    fn a_change_of_any_part_is_seen() {
        let file = sealed(&example(2 * CHUNK + 9));
        let first = HEADER_LEN + TAG_LEN;
        let second = first + CHUNK + TAG_LEN;
        let last = second + CHUNK + TAG_LEN;
        for (at, expected) in [
            (0, "is not a backup"),
            (MAGIC.len() - 1, "is not a backup"),
            (MAGIC.len(), "has format"),
            (MAGIC.len() + 1, "wrong passphrase"),
            (MAGIC.len() + 2, "wrong passphrase"),
            (HEADER_LEN - 1, "wrong passphrase"),
            (HEADER_LEN, "wrong passphrase"),
            (first - 1, "wrong passphrase"),
            (first, "from byte 42 on"),
            (second - 1, "from byte 42 on"),
            (second, &format!("from byte {second} on")),
            (last - TAG_LEN, &format!("from byte {second} on")),
            (last, &format!("from byte {last} on")),
            (file.len() - 1, &format!("from byte {last} on")),
        ] {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let error = opened(&changed, "right").unwrap_err();
            assert!(error.contains(expected), "byte {at}: {error}");
        }
        // Chunks that change places, and one that is there twice.
        let part = |from: usize, to: usize| file[from..to].to_vec();
        for changed in [
            [
                part(0, first),
                part(second, last),
                part(first, second),
                part(last, file.len()),
            ]
            .concat(),
            [
                part(0, second),
                part(first, second),
                part(second, file.len()),
            ]
            .concat(),
            [part(0, first), part(second, file.len())].concat(),
            [file.clone(), vec![0]].concat(),
        ] {
            assert!(opened(&changed, "right").unwrap_err().contains("damaged"));
        }
    }

    #[test]
    fn a_file_that_was_cut_off_is_not_opened() {
        let file = sealed(&example(2 * CHUNK));
        let first = HEADER_LEN + TAG_LEN;
        for length in [
            0,
            3,
            MAGIC.len(),
            MAGIC.len() + 1,
            HEADER_LEN,
            first - 1,
            first,
            first + 5,
            first + CHUNK + TAG_LEN,
            first + CHUNK + TAG_LEN + 1,
            file.len() - 1,
        ] {
            let error = opened(&file[..length], "right").unwrap_err();
            let expected = ["is not a backup", "damaged or cut off"];
            assert!(
                expected.iter().any(|text| error.contains(text)),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn another_passphrase_opens_nothing() {
        let file = sealed(b"x");
        for passphrase in ["", "Right", "right "] {
            let error = opened(&file, passphrase).unwrap_err();
            assert!(error.contains("wrong passphrase"), "{error}");
        }
        // A file cannot make lb use more memory than there may be.
        let mut dear = file;
        dear[MAGIC.len() + 1] = 63;
        assert!(
            opened(&dear, "right")
                .unwrap_err()
                .contains("wrong passphrase")
        );
    }
}
