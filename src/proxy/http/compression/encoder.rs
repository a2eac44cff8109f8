//! The encoder of one response: bytes in, compressed bytes out, all three codings behind one face.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::rc::Rc;

use bytes::Bytes;
use flate2::write::GzEncoder;

use crate::config::Coding;

/// Levels for responses that are made for one client each: the last few percent cost several times
/// the time.
const GZIP_LEVEL: u32 = 5;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Brotli and Zstandard look back this far (2^18 bytes): more helps few responses and costs memory
/// with every one.
const WINDOW_LOG: u32 = 18;
/// What Brotli gathers before it passes something on.
const BROTLI_BUFFER_BYTES: usize = 16 << 10;

/// About what an encoder holds in memory, in bytes, as measured after a megabyte had gone through.
const fn memory_of(coding: Coding) -> usize {
    match coding {
        Coding::Gzip => 384 << 10,
        Coding::Brotli => 4 << 20,
        Coding::Zstd => 1 << 20,
    }
}

/// What the encoders of a worker hold together.
#[derive(Clone, Debug, Default)]
pub struct Memory(Rc<Cell<usize>>);

impl Memory {
    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.get()
    }

    /// Room for one encoder, if there is any below `most` bytes.
    fn take(&self, coding: Coding, most: usize) -> Option<Taken> {
        let after = self.0.get() + memory_of(coding);
        (after <= most).then(|| {
            self.0.set(after);
            Taken {
                of: self.clone(),
                bytes: memory_of(coding),
            }
        })
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Taken {
    of: Memory,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.0.set(self.of.0.get() - self.bytes);
    }
}

/// The encoder of one response.
pub(crate) struct Encoder {
    kind: Kind,
    _taken: Taken,
}

enum Kind {
    Gzip(GzEncoder<Vec<u8>>),
    /// None after its end.
    Brotli(Option<Box<brotli::CompressorWriter<Vec<u8>>>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// Makes one, if the worker may still take the memory for it: `most` bytes for all of them.
    pub(crate) fn new(coding: Coding, memory: &Memory, most: usize) -> Option<Self> {
        let taken = memory.take(coding, most)?;
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(GzEncoder::new(
                Vec::new(),
                flate2::Compression::new(GZIP_LEVEL),
            )),
            Coding::Brotli => Kind::Brotli(Some(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_BYTES,
                BROTLI_LEVEL,
                WINDOW_LOG,
            )))),
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?;
                encoder.window_log(WINDOW_LOG).ok()?;
                Kind::Zstd(encoder)
            }
        };
        Some(Self {
            kind,
            _taken: taken,
        })
    }

    /// Takes a piece. What comes of it may be held back.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder.write_all(piece),
            Kind::Brotli(encoder) => encoder
                .as_mut()
                .map_or(Ok(()), |encoder| encoder.write_all(piece)),
            Kind::Zstd(encoder) => encoder.write_all(piece),
        }
    }

    /// Holds nothing back any more: the client can unpack all that was written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder.flush(),
            Kind::Brotli(encoder) => encoder.as_mut().map_or(Ok(()), |encoder| encoder.flush()),
            Kind::Zstd(encoder) => encoder.flush(),
        }
    }

    /// Writes the end; what comes out then is the last.
    pub(crate) fn finish(&mut self) -> io::Result<Bytes> {
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder.try_finish()?,
            Kind::Brotli(encoder) => {
                // Its end is written where it is given up.
                let rest = encoder.take().map(|encoder| encoder.into_inner());
                return Ok(rest.unwrap_or_default().into());
            }
            Kind::Zstd(encoder) => encoder.do_finish()?,
        }
        Ok(self.take())
    }

    /// What came out since the last time; may be empty.
    pub(crate) fn take(&mut self) -> Bytes {
        let out = match &mut self.kind {
            Kind::Gzip(encoder) => encoder.get_mut(),
            Kind::Brotli(Some(encoder)) => encoder.get_mut(),
            Kind::Brotli(None) => return Bytes::new(),
            Kind::Zstd(encoder) => encoder.get_mut(),
        };
        std::mem::take(out).into()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read as _;

    use super::*;

    pub(in super::super) fn unpacked(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
            Coding::Zstd => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut plain),
        }
        .unwrap();
        plain
    }

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    #[test]
    fn what_goes_in_comes_out() {
        let text: Vec<u8> = (0..50_000_u32)
            .flat_map(|number| number.to_string().into_bytes())
            .collect();
        for coding in ALL {
            let memory = Memory::default();
            let mut encoder = Encoder::new(coding, &memory, usize::MAX).unwrap();
            let mut packed = Vec::new();
            for piece in text.chunks(10_007) {
                encoder.write(piece).unwrap();
                packed.extend_from_slice(&encoder.take());
            }
            packed.extend_from_slice(&encoder.finish().unwrap());
            assert!(
                packed.len() < text.len() / 2,
                "{coding:?}: {}",
                packed.len()
            );
            assert!(unpacked(coding, &packed) == text, "{coding:?}");
        }
    }

    #[test]
    fn a_flush_holds_nothing_back() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding, &Memory::default(), usize::MAX).unwrap();
            encoder.write(b"data: 1\n\n").unwrap();
            encoder.flush().unwrap();
            let first = encoder.take();
            let mut plain = [0; 9];
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&*first)
                    .read_exact(&mut plain)
                    .unwrap(),
                Coding::Brotli => brotli::Decompressor::new(&*first, 4096)
                    .read_exact(&mut plain)
                    .unwrap(),
                Coding::Zstd => zstd::Decoder::new(&*first)
                    .unwrap()
                    .read_exact(&mut plain)
                    .unwrap(),
            }
            assert_eq!(&plain, b"data: 1\n\n", "{coding:?}");
        }
    }

    #[test]
    fn memory_is_counted_bounded_and_given_back() {
        let memory = Memory::default();
        let most = 2 * memory_of(Coding::Gzip) + 1;
        let one = Encoder::new(Coding::Gzip, &memory, most).unwrap();
        let two = Encoder::new(Coding::Gzip, &memory, most).unwrap();
        assert!(Encoder::new(Coding::Gzip, &memory, most).is_none());
        drop(one);
        assert!(Encoder::new(Coding::Gzip, &memory, most).is_some());
        drop(two);
        assert_eq!(memory.bytes(), 0);
    }
}
