//! Bodies of requests on their way to instances: no buffering beyond a first piece; back-pressure
//! is that of the two connections.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame, SizeHint};
use smallvec::SmallVec;

use super::h2::pump::ResetReason;
use super::h2::stream_body::{StreamBody, StreamBodyError};
use super::headers::remove_lookalikes;
use super::server::h1_stream::{Broken, H1Body, Step};
use crate::proxy::error::ProxyError;
use crate::table::clock::Clock;

/// Bytes of an upload that are kept, so that it can be sent again from its beginning.
const KEPT_MAX: usize = 64 << 10;

/// What a client sends behind a head.
#[derive(Debug)]
pub enum IncomingBody {
    /// In HTTP/1.
    H1(H1Body),
    /// On a stream of HTTP/2.
    Stream(StreamBody),
}

/// Why it broke off.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// In HTTP/1.
    #[error(transparent)]
    H1(#[from] Broken),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamBodyError),
    /// It broke off before, and was polled again.
    #[error("the upload broke off")]
    Again,
    /// It is longer than its route takes.
    #[error("the upload is longer than the route takes")]
    TooLong,
}

/// How far the upload of a request body is; shared between the body and the exchange that watches
/// the clock.
#[derive(Debug, Default)]
pub struct UploadProgress {
    /// Process clock (ms) of the last piece taken from the client.
    pub last_ms: Cell<u64>,
    /// The whole body was taken.
    pub done: Cell<bool>,
    /// The client broke off inside the body.
    pub broken: Cell<bool>,
    /// What it sent is not a body; why.
    pub malformed: Cell<Option<&'static str>>,
    /// The upstream would take more, but the client has not sent it yet.
    pub waits_for_client: Cell<bool>,
    /// Bytes taken from the client so far.
    pub bytes: Cell<u64>,
    /// Most bytes that its route takes, if it says so.
    pub bytes_max: Cell<Option<u64>>,
    /// Fields that are told of the client, not by it: they may not stand behind the body either.
    pub withheld: RefCell<Vec<HeaderName>>,
}

impl UploadProgress {
    /// Of a request all of which is there.
    #[must_use]
    pub fn over() -> Self {
        Self {
            done: Cell::new(true),
            ..Self::default()
        }
    }

    /// The error for a client that broke off inside its body, whatever else happened then. None: it
    /// did not.
    #[must_use]
    pub fn client_failure(&self) -> Option<ProxyError> {
        if self.is_too_long() {
            return Some(ProxyError::BodyTooLarge);
        }
        let broken = || {
            self.malformed
                .get()
                .map_or(ProxyError::ClientClosed, ProxyError::BadRequest)
        };
        self.broken.get().then(broken)
    }

    fn is_too_long(&self) -> bool {
        let most = self.bytes_max.get();
        most.is_some_and(|most| self.bytes.get() > most)
    }
}

/// The body of a request on its way to an instance.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// It lies in memory, or there is none: it can be sent as often as wanted, which is what makes
    /// a retry possible.
    #[default]
    AtHand,
    /// It is still coming.
    Streamed(Upload),
}

/// A body that is still coming, from its first byte on.
#[derive(Debug)]
pub struct Upload {
    source: Rc<Source>,
    /// Pieces of those that are kept which were given out.
    position: usize,
    ended: bool,
}

#[derive(Debug)]
struct Source {
    body: RefCell<IncomingBody>,
    kept: RefCell<Kept>,
    /// Its length, if that is known.
    length: Option<u64>,
    progress: Rc<UploadProgress>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: SmallVec<[Bytes; 2]>,
    bytes: usize,
    /// There was more than is kept.
    lost: bool,
    /// All of it is there, with these fields behind it.
    end: Option<Option<HeaderMap>>,
}

impl Upload {
    /// The upload of `body`.
    #[must_use]
    pub fn new(
        body: IncomingBody,
        length: Option<u64>,
        progress: &Rc<UploadProgress>,
        clock: Clock,
    ) -> Self {
        let (body, kept, progress) = (RefCell::new(body), RefCell::default(), Rc::clone(progress));
        Self {
            source: Rc::new(Source {
                body,
                kept,
                length,
                progress,
                clock,
            }),
            position: 0,
            ended: false,
        }
    }

    /// Its length, if that is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.source.length
    }

    /// The same from its beginning; none if that is not kept.
    #[must_use]
    pub fn rewound(&self) -> Option<Self> {
        let can = !self.source.kept.borrow().lost && !self.source.progress.broken.get();
        can.then(|| Self {
            source: Rc::clone(&self.source),
            position: 0,
            ended: false,
        })
    }

    /// All of it, once it has come to its end; none if that is not kept.
    #[must_use]
    pub fn whole(&self) -> Option<Bytes> {
        let kept = self.source.kept.borrow();
        kept.end.as_ref()?;
        match &*kept.pieces {
            _ if kept.lost => None,
            [only] => Some(only.clone()),
            pieces => Some(pieces.concat().into()),
        }
    }

    /// The instance takes no more for now, so that the client is not waited for.
    pub fn pause(&self) {
        self.source.progress.waits_for_client.set(false);
        if let IncomingBody::H1(body) = &*self.source.body.borrow() {
            body.pause();
        }
    }

    /// The next piece of data; none: it is over, and [`Self::trailers`] are what stands behind it.
    ///
    /// # Errors
    /// The client broke off.
    pub fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, IncomingError>>> {
        let Source {
            body,
            kept,
            progress,
            clock,
            ..
        } = &*self.source;
        let mut kept = kept.borrow_mut();
        if let Some(piece) = kept.pieces.get(self.position) {
            self.position += 1;
            return Poll::Ready(Some(Ok(piece.clone())));
        }
        if kept.end.is_some() {
            self.ended = true;
            return Poll::Ready(None);
        }
        if progress.broken.get() {
            return Poll::Ready(Some(Err(IncomingError::Again)));
        }
        let polled = body.borrow_mut().poll_data(cx);
        progress.waits_for_client.set(polled.is_pending());
        match ready!(polled) {
            Ok(Next::Data(data)) => {
                progress.last_ms.set(clock.now_ms());
                progress.bytes.set(progress.bytes.get() + data.len() as u64);
                if progress.is_too_long() {
                    progress.done.set(true);
                    progress.broken.set(true);
                    return Poll::Ready(Some(Err(IncomingError::TooLong)));
                }
                if !kept.lost && kept.bytes + data.len() <= KEPT_MAX {
                    kept.bytes += data.len();
                    kept.pieces.push(data.clone());
                    self.position += 1;
                } else if !kept.lost {
                    // From here on nothing is kept, and positions say nothing.
                    *kept = Kept {
                        lost: true,
                        ..Kept::default()
                    };
                    self.position = 0;
                }
                if body.borrow().is_over() {
                    progress.done.set(true);
                    kept.end = Some(None);
                }
                Poll::Ready(Some(Ok(data)))
            }
            Ok(Next::End(trailers)) => {
                progress.last_ms.set(clock.now_ms());
                progress.done.set(true);
                kept.end = Some(trailers);
                self.ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                if let IncomingError::H1(Broken::Malformed(violation)) = &error {
                    progress.malformed.set(Some(violation.reason));
                }
                progress.done.set(true);
                progress.broken.set(true);
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// Fields behind a body that is over.
    #[must_use]
    pub fn trailers(&self) -> Option<HeaderMap> {
        let mut trailers = self.source.kept.borrow().end.clone().flatten()?;
        for name in &*self.source.progress.withheld.borrow() {
            remove_lookalikes(&mut trailers, name);
            trailers.remove(name);
        }
        (!trailers.is_empty()).then_some(trailers)
    }

    /// Whether all of it was given out, and no trailers are to come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let kept = self.source.kept.borrow();
        self.ended || (kept.end == Some(None) && self.position >= kept.pieces.len())
    }
}

/// What comes next of a body.
enum Next {
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl IncomingBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, IncomingError>> {
        match self {
            Self::H1(body) => {
                let mut data = BytesMut::new();
                Poll::Ready(
                    match ready!(body.poll_into(cx, |bytes| data.extend_from_slice(bytes)))? {
                        Step::Data => Ok(Next::Data(data.freeze())),
                        Step::End(trailers) => Ok(Next::End(trailers)),
                    },
                )
            }
            Self::Stream(body) => loop {
                match ready!(body.poll_next(cx)).transpose()? {
                    None => return Poll::Ready(Ok(Next::End(None))),
                    Some(frame) => match frame.into_data() {
                        Ok(data) if data.is_empty() && !body.is_over() => {}
                        Ok(data) => return Poll::Ready(Ok(Next::Data(data))),
                        Err(frame) => {
                            return Poll::Ready(Ok(Next::End(frame.into_trailers().ok())));
                        }
                    },
                }
            },
        }
    }

    /// Whether nothing comes any more, as far as is known without polling.
    fn is_over(&self) -> bool {
        match self {
            Self::H1(body) => body.is_over(),
            Self::Stream(body) => body.is_over(),
        }
    }
}

/// What goes into a stream of HTTP/2 towards an instance.
#[derive(Debug)]
pub enum StreamedRequest {
    /// All of it, until it is taken.
    AtHand(Bytes),
    /// What is still coming.
    Upload(Upload),
}

impl Body for StreamedRequest {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self.get_mut() {
            Self::AtHand(data) => {
                let data = std::mem::take(data);
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
            Self::Upload(upload) if upload.ended => Poll::Ready(None),
            Self::Upload(upload) => match ready!(upload.poll_data(cx)) {
                Some(data) => Poll::Ready(Some(data.map(Frame::data))),
                None => Poll::Ready(
                    upload
                        .trailers()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                ),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::AtHand(data) => data.is_empty(),
            Self::Upload(upload) => upload.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::AtHand(data) => SizeHint::with_exact(data.len() as u64),
            Self::Upload(upload) => upload
                .length()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

impl ResetReason for IncomingError {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Stream(error) => error.reason().filter(|reason| *reason != Reason::NO_ERROR),
            Self::H1(_) | Self::Again | Self::TooLong => None,
        }
    }
}
