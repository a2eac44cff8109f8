//! Which connections may stay when there are many: one that waits for its client gives way to a new
//! one.
//!
//! A health check cannot be told from other clients before its request is read, so new connections
//! are always taken: for one too many, that connection goes which has waited for its client for the
//! longest. Where all are busy with a response, a few more are taken that may request what others
//! watch lb by (`/health`, `/ready`, metrics), and nothing else.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most connections at a time that may request everything.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Connections beyond that, for what others watch lb by.
pub(super) const RESERVED: usize = 8;
/// A client that has taken nothing of its response for so long gives way too.
const STALLED: Duration = Duration::from_secs(1);
/// A connection also gives way when the upload or the response of its request takes longer.
const LONG: Duration = Duration::from_secs(10);

/// The connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: RefCell<Vec<Rc<Seat>>>,
}

#[derive(Debug)]
pub(super) struct Seat {
    /// It was taken although all others are busy.
    reserved: bool,
    /// Requests without their whole response: 0 or 1.
    responding: Cell<usize>,
    /// Since when it is doing what it does.
    since: Cell<Instant>,
    /// Since when its client takes nothing.
    stalled: Cell<Option<Instant>>,
    leave: Notify,
}

impl Seats {
    /// A seat for a new connection, for which another may have to leave. None: all are busy, the
    /// reserved ones too.
    pub(super) fn take(&self, now: Instant) -> Option<Rc<Seat>> {
        let mut taken = self.taken.borrow_mut();
        if taken.len() >= CONNECTIONS_MAX {
            dismiss(&mut taken, now);
        }
        if taken.len() >= CONNECTIONS_MAX + RESERVED {
            return None;
        }
        let seat = Rc::new(Seat {
            reserved: taken.len() >= CONNECTIONS_MAX,
            responding: Cell::new(0),
            since: Cell::new(now),
            stalled: Cell::new(None),
            leave: Notify::new(),
        });
        taken.push(Rc::clone(&seat));
        Some(seat)
    }

    /// Has the connection leave that can do so best, for what it holds; false if none can.
    pub(super) fn give_way(&self, now: Instant) -> bool {
        dismiss(&mut self.taken.borrow_mut(), now)
    }

    /// The connection has ended.
    pub(super) fn left(&self, seat: &Rc<Seat>) {
        self.taken
            .borrow_mut()
            .retain(|taken| !Rc::ptr_eq(taken, seat));
    }
}

fn dismiss(taken: &mut Vec<Rc<Seat>>, now: Instant) -> bool {
    let best = (0..taken.len())
        .filter_map(|at| Some((taken[at].dispensable(now)?, at)))
        .min();
    let Some((_, at)) = best else { return false };
    taken.remove(at).leave.notify_one();
    true
}

impl Seat {
    /// How dispensable it is, and since when: the least is the most. None: not at all.
    fn dispensable(&self, now: Instant) -> Option<(u8, Instant)> {
        let before = |limit, since: Instant| {
            (now.saturating_duration_since(since) >= limit).then_some(since)
        };
        match (self.responding.get(), self.stalled.get()) {
            (0, None) => Some((0, self.since.get())),
            (_, Some(stalled)) => before(STALLED, stalled).map(|since| (1, since)),
            (_, None) => before(LONG, self.since.get()).map(|since| (2, since)),
        }
    }

    /// Whether only some requests are served.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }

    /// Waits until it has to leave.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// For how long the client has taken nothing of what it is sent.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        self.stalled
            .get()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The response is under way until the guard is dropped.
    pub(super) fn responding(self: &Rc<Self>) -> Responding {
        self.responding.set(self.responding.get() + 1);
        self.since.set(Instant::now());
        Responding(Rc::clone(self))
    }
}

/// See [`Seat::responding`].
#[derive(Debug)]
pub(super) struct Responding(Rc<Seat>);

impl Drop for Responding {
    fn drop(&mut self) {
        self.0
            .responding
            .set(self.0.responding.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

/// A stream that notes whether its client takes what it is sent.
#[derive(Debug)]
pub(super) struct Noted<S> {
    stream: S,
    seat: Rc<Seat>,
}

impl<S> Noted<S> {
    pub(super) fn new(stream: S, seat: Rc<Seat>) -> Self {
        Self { stream, seat }
    }

    fn note<T>(&self, poll: Poll<T>) -> Poll<T> {
        let since = match (&poll, self.seat.stalled.get()) {
            (Poll::Ready(_), _) => None,
            (Poll::Pending, known) => Some(known.unwrap_or_else(Instant::now)),
        };
        self.seat.stalled.set(since);
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(seat: &Seat) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(seat.told_to_leave())
            .poll(&mut cx)
            .is_ready()
    }

    fn full(now: Instant) -> (Seats, Vec<Rc<Seat>>) {
        let seats = Seats::default();
        let taken = (0..CONNECTIONS_MAX as u64).map(|at| {
            let seat = seats.take(now).unwrap();
            seat.since
                .set(now - Duration::from_secs(1) + Duration::from_millis(at));
            seat
        });
        let taken = taken.collect();
        (seats, taken)
    }

    #[test]
    fn one_that_waits_the_longest_gives_way_and_one_that_is_answered_does_not() {
        let now = Instant::now();
        let (seats, taken) = full(now);
        let busy: Vec<_> = [0, 2].map(|at| taken[at].responding()).into();
        let later = now + Duration::from_secs(5);
        for expected in [1, 3] {
            assert!(!seats.take(later).unwrap().is_reserved());
            assert!(left(&taken[expected]), "{expected}");
        }
        assert!(!left(&taken[0]) && !left(&taken[2]) && !left(&taken[4]));
        // It has got its response, and begins to wait anew.
        drop(busy);
        seats.take(later).unwrap();
        assert!(left(&taken[4]) && !left(&taken[0]));
    }

    #[test]
    fn where_all_are_answered_a_few_are_taken_for_what_must_be_asked() {
        let now = Instant::now();
        let (seats, taken) = full(now);
        let busy: Vec<_> = taken.iter().map(Seat::responding).collect();
        // One that only waits gives way to the next, which may request no more than it.
        let idle = seats.take(now).unwrap();
        let reserved = (0..RESERVED).map(|_| seats.take(now).unwrap());
        let reserved: Vec<_> = reserved
            .map(|seat| (seat.is_reserved(), seat.responding()))
            .collect();
        assert!(
            left(&idle) && idle.is_reserved() && reserved.iter().all(|(reserved, _)| *reserved)
        );
        assert!(seats.take(now).is_none());
        // One takes nothing of its response, which is worse than one that merely takes long.
        taken[7].stalled.set(Some(now));
        assert!(seats.take(now).is_none(), "it has only just begun");
        let later = Instant::now() + LONG;
        assert!(seats.take(later).is_some() && left(&taken[7]));
        seats.left(&taken[0]);
        drop(busy);
        assert!(seats.give_way(later));
    }
}
