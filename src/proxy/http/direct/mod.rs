//! The HTTP/1.1-to-HTTP/1.1 exchange byte by byte, for the usual request; everything else is hyper's.
//!
//! ```text
//!             ┌─────────────────────────── next request ◄──────────────────────────┐
//!             ▼                                                                     │
//!  client ─► head ─► plan (route, target) ─► attempt ─► head of the answer ─► body ─┘
//!             │ unusual   │ not carried        │ fails, or is late
//!             ▼           ▼                    ▼
//!          hyper, for the rest of the connection       others are asked (ask)
//! ```
//!
//! What holds here:
//! - **It decides nothing that hyper's way decides otherwise.** Routing, picking, retries, records, metrics and header
//!   rules are the same functions. A request that might need another answer than an upstream's (no route, a redirect,
//!   credentials, access rules with a chain of proxies) is handed over before anything was done for it.
//! - **Narrow in.** A request is carried only if its head is one that the strict guard lets pass ([`request_head`] is
//!   never wider than [`strict`](crate::proxy::http::strict)), in origin form, HTTP/1.1, with one host and a body of known length that
//!   lies whole in memory. So nothing of a request that is not carried is ever sent, and its bytes are handed over as
//!   they came.
//! - **One message, one end.** The end of an answer is known before its first byte is passed on: by its length, by its
//!   chunks, which are followed ([`chunks`]), or by the end of its connection, which is turned into chunks. What comes
//!   behind that end is never passed on, and its connection never used again.
//! - **A client that sees an answer end sees it whole.** Where the upstream breaks off, the client's connection ends
//!   before the length, or the last chunk, that was promised.
//! - **Idle costs little but the socket.** No buffer is held while nothing lies in it ([`buffer`]). A connection between
//!   requests that has been quiet for a while *rests* ([`awake`], [`resting`]): all that serving takes is given up, and a
//!   small future waits for the next byte, the idle limit and the drain. It rests only where nothing is held for it: every
//!   request that was read is answered and written, and all that could be read was read, so that there is no byte of the
//!   client, in the clear or decrypted, that no socket would tell of.
//! - **No allocation in steady state.** Buffers, heads and lists of fields go back to the worker's [`Shelf`]; to wake up
//!   costs some, which is why nobody rests between requests that follow each other.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::net::TcpStream;

use crate::config::ListenerProtocol;
use crate::proxy::drain::Phase;
use crate::proxy::http::client_io::ClientStream;
use crate::proxy::http::h1::buffer::Buffers;
use crate::proxy::http::h1::client_lines::Lines;
use crate::proxy::http::h1::date::Date;
use crate::proxy::http::server::active::Awake;
use crate::proxy::http::server::connection::{
    HEAD_TOO_SLOW, Place, Refusal, TOO_SLOW, Verdict, farewell, last_call, refused, watchdog,
};
use crate::proxy::http::server::h1::{Client, End};
use crate::proxy::http::server::parked::Resting;
use crate::proxy::listener::Listener;
use crate::proxy::poll_when_woken::Beside;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;

/// What the exchanges of a worker share.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Idle buffers.
    pub buffers: Buffers,
    /// The time in letters.
    pub date: Date,
    /// Lines of clients that were here a moment ago.
    pub lines: Lines,
    /// Connections that are not resting.
    pub awake: Awake,
}

/// Whether requests of this listener are carried at all. Limits for whole requests, compression, and access logs in a form
/// of one's own are hyper's.
#[must_use]
pub fn may_drive(worker: &Worker, listener: &Listener, settings: &Settings) -> bool {
    settings.proxy.direct
        && settings.compression.is_none()
        && listener.limits(&settings.proxy).request.is_none()
        && worker.access.custom().is_none()
        && listener.config.protocol != ListenerProtocol::Prometheus
        && !listener.is_grpc()
}

/// Serves requests as long as they are usual. Some: the rest of the connection is for others, from these bytes on, the
/// first of which begins the request that is not.
pub(crate) async fn drive<T: ClientStream>(place: &Place, io: &mut T) -> Option<Vec<u8>> {
    let over = loop {
        // Boxed, so that it is there only while the connection is awake.
        let end = Box::pin(watched(place, io)).await;
        if let Some(over) = Over::of(end, io) {
            break over;
        }
        rests(place);
        let end = Resting::new(place, io).await;
        if let Some(over) = Over::of(end, io) {
            break over;
        }
    };
    let last = match over {
        Over::Left(ahead) => return Some(ahead),
        Over::Closed => return None,
        Over::Said(last) => last,
    };
    Box::pin(farewell(io, last)).await;
    None
}

/// What is left to do with a connection.
enum Over {
    /// For others, who read these bytes first.
    Left(Vec<u8>),
    /// To say these.
    Said(&'static [u8]),
    /// Nothing.
    Closed,
}

impl Over {
    /// None: it goes on. By a function, so that nothing of the end takes room in a connection that rests.
    fn of<T: ClientStream>(end: End, io: &T) -> Option<Self> {
        Some(match end {
            End::Rest => return None,
            End::HandOver(ahead) => Self::Left(ahead),
            // With nothing unread a plain socket closes with a FIN by itself; TLS has to say its farewell.
            End::Done if io.plain().is_some_and(is_silent) => Self::Closed,
            End::Done => Self::Said(b""),
            End::Orderly(last) => Self::Said(last),
            End::Abrupt => Self::Closed,
        })
    }
}

fn rests(place: &Place) {
    let downstream = &place.downstream;
    tracing::trace!(client = %downstream.client.ip(), port = downstream.port, "connection rests");
}

async fn watched<T: ClientStream>(place: &Place, io: &mut T) -> End {
    let Place { worker, settings, downstream } = place;
    let mut client = Client::new(worker, downstream, io);
    let mut serving = pin!(client.serve());
    let mut watchdog = pin!(watchdog(worker, downstream.listener.limits(&settings.proxy), &downstream.watch));
    let mut last_call = pin!(last_call(&downstream.phase, downstream.watch.activity()));
    let mut cut = pin!(worker.phase.reached(Phase::Cut));
    let mut draining = false;
    let mut signals = pin!(Beside::new(poll_fn(|cx| {
        if let Poll::Ready(verdict) = watchdog.as_mut().poll(cx) {
            return Poll::Ready(Signal::Verdict(verdict));
        }
        if !draining && last_call.as_mut().poll(cx).is_ready() {
            draining = true;
            return Poll::Ready(Signal::LastCall);
        }
        cut.as_mut().poll(cx).map(|()| Signal::Cut)
    })));
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(end) = serving.as_mut().poll(cx) {
                return Poll::Ready(Err(end));
            }
            // The end of the client is seen by whoever reads, and told by nobody.
            signals.as_mut().poll(downstream.watch.has_ended(), cx).map(Ok)
        });
        match next.await {
            Err(end) => return end,
            Ok(Signal::Verdict(Verdict::HeadTooSlow)) => {
                refused(worker, downstream, Refusal::HEAD_TOO_SLOW, &HEAD_TOO_SLOW);
                return End::Orderly(TOO_SLOW);
            }
            Ok(Signal::Verdict(_) | Signal::Cut) => return End::Abrupt,
            // Whoever is being answered is told with the answer.
            Ok(Signal::LastCall) if downstream.watch.is_idle() => return End::Orderly(b""),
            Ok(Signal::LastCall) => {}
        }
    }
}

/// What ends a connection beside its requests.
enum Signal {
    Verdict(Verdict),
    LastCall,
    Cut,
}

/// Whether the client has said nothing more.
fn is_silent(socket: &TcpStream) -> bool {
    match socket.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
