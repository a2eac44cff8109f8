//! A body that is compressed as it passes.
//!
//! Nothing is gathered beyond what the encoder needs: a piece is taken from the instance only when
//! the client's side wants one, and when the instance pauses, all it has sent so far goes out. A
//! pause is one turn of the event loop in which nothing came: pieces that follow each other at once
//! are compressed as one.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame};

use crate::proxy::http::compression::encoder::Encoder;

/// Compressed without looking up.
const PIECE_BYTES: usize = 16 << 10;
/// Compressed before other connections of the worker get a turn: about half a millisecond.
const TURN_BYTES: usize = 32 << 10;

/// Why such a body broke off.
#[derive(Debug)]
pub enum Failed<E> {
    /// Its source did.
    Source(E),
    /// It could not be compressed.
    Encoder(io::Error),
}

/// The next frame, if there is one.
type Polled<E> = Poll<Option<Result<Frame<Bytes>, Failed<E>>>>;

/// A body whose data is compressed when it is polled.
#[derive(Debug)]
pub struct Compressed<B> {
    first: Option<Frame<Bytes>>,
    source: B,
    encoder: Encoder,
    /// Taken from the source and not yet compressed.
    rest: Bytes,
    trailers: Option<HeaderMap>,
    state: CompressionState,
    /// Something was compressed that the encoder may hold back.
    held: bool,
    /// The source had nothing at the last look.
    paused: bool,
    /// Compressed since others had a turn.
    turn_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CompressionState {
    /// More may come.
    Open,
    /// All of the source is there.
    Ended,
    /// All of it was passed on, but for trailers.
    Finished,
}

impl<B> Compressed<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Compresses `first`, and then `source`.
    pub(crate) fn new(first: Option<Frame<Bytes>>, source: B, encoder: Encoder) -> Self {
        Self {
            first,
            source,
            encoder,
            rest: Bytes::new(),
            trailers: None,
            state: CompressionState::Open,
            held: false,
            paused: false,
            turn_bytes: 0,
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.rest = data,
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                self.state = CompressionState::Ended;
            }
        }
        // The end of a body of known length is not polled for.
        if self.source.is_end_stream() {
            self.state = CompressionState::Ended;
        }
    }

    /// Compresses what was taken, until something comes out or its turn is over.
    fn compress(&mut self) -> io::Result<Bytes> {
        while self.rest.has_remaining() && self.turn_bytes < TURN_BYTES {
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            self.turn_bytes += piece.len();
            self.encoder.write(&piece)?;
            self.held = true;
            let out = self.encoder.take();
            if !out.is_empty() {
                return Ok(out);
            }
        }
        Ok(Bytes::new())
    }

    /// The next frame; none: it is over.
    ///
    /// # Errors
    /// The source broke off, or the encoder failed; nothing comes after that.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled<B::Error> {
        loop {
            let out = match self.compress() {
                Ok(out) => out,
                Err(error) => return Poll::Ready(Some(Err(Failed::Encoder(error)))),
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            if self.rest.has_remaining() {
                self.turn_bytes = 0;
                yield_to_io(cx);
                return Poll::Pending;
            }
            match self.state {
                CompressionState::Open => {}
                CompressionState::Ended => {
                    self.state = CompressionState::Finished;
                    match self.encoder.finish() {
                        Ok(last) if last.is_empty() => continue,
                        Ok(last) => return Poll::Ready(Some(Ok(Frame::data(last)))),
                        Err(error) => return Poll::Ready(Some(Err(Failed::Encoder(error)))),
                    }
                }
                CompressionState::Finished => {
                    return Poll::Ready(
                        self.trailers
                            .take()
                            .map(|trailers| Ok(Frame::trailers(trailers))),
                    );
                }
            }
            let polled = match self.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None => Pin::new(&mut self.source).poll_frame(cx),
            };
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    self.paused = false;
                    self.take(frame);
                }
                Poll::Ready(None) => self.state = CompressionState::Ended,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Failed::Source(error))));
                }
                Poll::Pending => {
                    self.turn_bytes = 0;
                    if !self.held {
                        return Poll::Pending;
                    }
                    if !std::mem::replace(&mut self.paused, true) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    (self.held, self.paused) = (false, false);
                    if let Err(error) = self.encoder.flush() {
                        return Poll::Ready(Some(Err(Failed::Encoder(error))));
                    }
                    let out = self.encoder.take();
                    return match out.is_empty() {
                        true => Poll::Pending,
                        false => Poll::Ready(Some(Ok(Frame::data(out)))),
                    };
                }
            }
        }
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.state == CompressionState::Finished && self.trailers.is_none()
    }
}

/// Has the task woken after the runtime has looked for what came in from the network. One that
/// wakes itself goes first: the runtime looks at the network only once in dozens of such turns.
fn yield_to_io(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;

    use super::super::encoder::Memory;
    use super::super::encoder::tests::unpacked;
    use super::*;
    use crate::config::Coding;

    /// Yields these; none is a pause.
    struct Scripted(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Scripted {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn data(text: &str) -> Option<Frame<Bytes>> {
        Some(Frame::data(Bytes::from(text.to_owned())))
    }

    fn body(
        coding: Coding,
        frames: impl IntoIterator<Item = Option<Frame<Bytes>>>,
    ) -> Compressed<Scripted> {
        let encoder = Encoder::new(coding, &Memory::default(), usize::MAX).unwrap();
        Compressed::new(None, Scripted(frames.into_iter().collect()), encoder)
    }

    fn poll(body: &mut Compressed<Scripted>) -> Poll<Option<Frame<Bytes>>> {
        body.poll_next(&mut Context::from_waker(Waker::noop()))
            .map(|next| next.map(|frame| frame.unwrap()))
    }

    #[test]
    fn all_of_it_arrives_with_its_trailers() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let long = "0123456789".repeat(60_000);
            let trailers =
                HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
            let mut body = body(
                coding,
                [
                    data("one"),
                    data(""),
                    data(&long),
                    Some(Frame::trailers(trailers.clone())),
                ],
            );
            let (mut packed, mut turns, mut last) = (Vec::new(), 0, None);
            loop {
                match poll(&mut body) {
                    Poll::Pending => turns += 1,
                    Poll::Ready(None) => break,
                    Poll::Ready(Some(frame)) => match frame.into_data() {
                        Ok(data) => packed.extend_from_slice(&data),
                        Err(frame) => last = frame.into_trailers().ok(),
                    },
                }
            }
            assert!(
                unpacked(coding, &packed) == format!("one{long}").into_bytes(),
                "{coding:?}"
            );
            assert_eq!(last, Some(trailers));
            assert!(
                turns >= 600_000 / TURN_BYTES - 1,
                "{coding:?}: others got {turns} turns"
            );
            assert!(body.is_over());
        }
    }

    #[test]
    fn a_pause_sends_what_is_there_and_a_moment_does_not() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            // A moment, then a pause: two turns without anything.
            let mut body = body(
                coding,
                [
                    data("data: 1\n\n"),
                    None,
                    data("data: 2\n\n"),
                    None,
                    None,
                    None,
                    data("end"),
                ],
            );
            let mut packed = Vec::new();
            let mut grow = |polled: Poll<Option<Frame<Bytes>>>| match polled {
                Poll::Ready(Some(frame)) => {
                    packed.extend_from_slice(frame.data_ref().unwrap());
                    Some(packed.clone())
                }
                _ => None,
            };
            // Some encoders begin with a header of their own.
            let mut pending = 0;
            let flushed = loop {
                match grow(poll(&mut body)) {
                    Some(bytes) if bytes.len() > 12 => break bytes,
                    Some(_) => {}
                    None => pending += 1,
                }
            };
            assert_eq!(
                pending, 2,
                "{coding:?}: one for the moment, one for the first turn of the pause"
            );
            let mut decoded = [0; 18];
            use std::io::Read as _;
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&*flushed)
                    .read_exact(&mut decoded)
                    .unwrap(),
                Coding::Brotli => brotli::Decompressor::new(&*flushed, 64)
                    .read_exact(&mut decoded)
                    .unwrap(),
                Coding::Zstd => zstd::Decoder::new(&*flushed)
                    .unwrap()
                    .read_exact(&mut decoded)
                    .unwrap(),
            }
            assert_eq!(&decoded, b"data: 1\n\ndata: 2\n\n", "{coding:?}");
            assert!(
                poll(&mut body).is_pending(),
                "nothing is sent again for the same pause"
            );
        }
    }
}
