//! A connection between requests with nothing in hand. Thousands of them wait at a time, so this is
//! small, and written by hand to stay so.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep, sleep};

use super::conn_context::ConnContext;
use super::end::End;
use super::watchdog::LAST_CALL;
use crate::proxy::drain::Phase;
use crate::proxy::http::client_io::ClientStream;

pin_project! {
    /// Waits for the client. [`End::Park`]: no end; there is something to read.
    #[derive(Debug)]
    pub(crate) struct Parked<'a> {
        place: &'a ConnContext,
        io: &'a ClientStream,
        // One timer, for the idle limit and then for the grace period.
        #[pin]
        timer: Sleep,
        // One phase: it begins to drain before the worker cuts, and one that cuts drops waiting
        // connections.
        #[pin]
        phase_changed: Notified<'a>,
        draining: bool,
    }
}

impl<'a> Parked<'a> {
    /// For a connection on which every request has got its response and everything that came was
    /// read.
    #[must_use]
    pub(crate) fn new(place: &'a ConnContext, io: &'a ClientStream) -> Self {
        let downstream = &place.downstream;
        downstream.client.forget();
        Self {
            place,
            io,
            timer: sleep(idle_left(place)),
            phase_changed: downstream.phase.changed(),
            draining: false,
        }
    }
}

/// How long it may still be idle.
fn idle_left(place: &ConnContext) -> Duration {
    let limit = place.downstream.listener.limits(&place.settings.proxy).idle;
    limit.saturating_sub(place.downstream.watch.activity().silent())
}

impl Future for Parked<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut this = self.project();
        if let Poll::Ready(readable) = this.io.poll_readable(cx) {
            return Poll::Ready(if readable.is_ok() {
                End::Park
            } else {
                End::Abrupt
            });
        }
        let downstream = &this.place.downstream;
        if !*this.draining {
            // Registered before the look: a change in between must not be missed. It changes for a
            // drain only.
            let _ = this.phase_changed.as_mut().poll(cx);
            if downstream.phase.get() >= Phase::Draining {
                *this.draining = true;
                this.timer.as_mut().reset(
                    Instant::now() + LAST_CALL.saturating_sub(downstream.watch.activity().silent()),
                );
            }
        }
        while this.timer.as_mut().poll(cx).is_ready() {
            match (*this.draining, idle_left(this.place)) {
                (true, _) => return Poll::Ready(End::Orderly(b"")),
                (false, Duration::ZERO) => return Poll::Ready(End::Abrupt),
                (false, left) => this.timer.as_mut().reset(Instant::now() + left),
            }
        }
        Poll::Pending
    }
}
