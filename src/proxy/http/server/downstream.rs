//! What all requests of a client connection share, and what its watchdog looks at.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::proxy::drain::LocalPhase;
use crate::proxy::http::client_io::Activity;
use crate::proxy::http::headers::{ClientContext, TlsDetails, without_port};
use crate::proxy::http::request_deadline::OpenDeadlines;
use crate::proxy::listener::Listener;
use crate::table::Scheme;
use crate::table::clock::ms;

/// How long a client that has sent FIN may wait for a response in silence before it counts as gone.
/// It may have closed one direction only (RFC 9112 section 9.6) and be waiting; but most that send
/// FIN have left, and their request costs an instance work as long as it goes on.
const GONE_AFTER: Duration = Duration::from_secs(7);

/// What all requests of a client connection share.
pub struct Downstream {
    /// The client, as header fields show it.
    pub client: ClientContext,
    /// Its port, for the log.
    pub port: u16,
    /// The listener it came to.
    pub listener: Rc<Listener>,
    /// Whether that listener still takes connections.
    pub phase: Rc<LocalPhase>,
    /// Which default port a Host may carry.
    pub scheme: Scheme,
    /// The server name of the client's TLS, where others with other names are passed on unopened
    /// (`https+tcp+sni`).
    pub server_name: Option<Box<str>>,
    /// Its state, for the watchdog.
    pub watch: Watch,
    /// Interim responses (1xx, RFC 9110 section 15.2) that wait for the client, as it gets them.
    pub interim: RefCell<Vec<u8>>,
}

impl std::fmt::Debug for Downstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downstream")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Downstream {
    /// TLS version for the log.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        self.client.tls().map(TlsDetails::version_name)
    }

    /// Whether a request for `host` (as received) is for another host than the TLS of its
    /// connection, on a listener that passes some of them on: such a host may not be ours to serve.
    #[must_use]
    pub fn is_elsewhere(&self, host: &[u8]) -> bool {
        self.server_name
            .as_deref()
            .is_some_and(|name| !name.as_bytes().eq_ignore_ascii_case(without_port(host)))
    }
}

/// What the watchdog looks at.
#[derive(Debug)]
pub struct Watch {
    activity: Rc<Activity>,
    /// The client speaks HTTP/1: one request at a time, whose bytes are followed.
    is_h1: Cell<bool>,
    /// Nothing of a next request was read yet.
    between: Cell<bool>,
    /// The client has sent its last byte, as far as was read.
    ended: Cell<bool>,
    exchanges: Cell<u32>,
    /// Requests that began, ever.
    begun: Cell<u64>,
    told_to_park: Cell<bool>,
    /// Made by the first request that needs it.
    deadlines: OnceCell<Rc<OpenDeadlines>>,
}

impl Watch {
    /// A request begins; it ends with [`Watch::end`].
    pub fn begin(&self) {
        self.exchanges.set(self.exchanges.get() + 1);
        self.begun.set(self.begun.get().wrapping_add(1));
    }

    /// A request ended.
    pub fn end(&self) {
        self.exchanges.set(self.exchanges.get().saturating_sub(1));
    }

    /// A reader of HTTP/1 begins: nothing was read yet, or all that was read has got its response.
    pub fn reads_h1(&self) {
        self.is_h1.set(true);
        self.between.set(true);
        self.ended.set(false);
    }

    /// Whether the client speaks HTTP/1.
    #[must_use]
    pub fn is_h1(&self) -> bool {
        self.is_h1.get()
    }

    /// Whether nothing of a next request was read yet (also before the first).
    pub fn set_between(&self, between: bool) {
        self.between.set(between);
    }

    /// Nothing of a next request was read yet.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        self.between.get()
    }

    /// The client has sent its last byte.
    pub fn set_ended(&self) {
        self.ended.set(true);
    }

    /// The client has sent its last byte, as far as was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Requests that began, ever.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Requests without their whole response.
    #[must_use]
    pub fn exchanges(&self) -> u32 {
        self.exchanges.get()
    }

    /// No request is without its whole response.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchanges.get() == 0
    }

    /// Requests that have to be over at some time.
    #[must_use]
    pub fn deadlines(&self) -> &Rc<OpenDeadlines> {
        self.deadlines.get_or_init(Rc::default)
    }

    /// Since when (ms) all requests that run should have been over; none: one of them may go on.
    #[must_use]
    pub fn overdue_since_ms(&self) -> Option<u64> {
        self.deadlines
            .get()?
            .all_overdue_since_ms(self.exchanges.get() as usize)
    }

    /// When the client did what.
    #[must_use]
    pub fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// Since when (ms) the client has sent no request after a response; none: a request is being
    /// served or read, or is the first.
    #[must_use]
    pub fn quiet_since_ms(&self) -> Option<u64> {
        (self.between.get() && self.begun.get() > 0 && self.is_idle())
            .then(|| self.activity.last_ms())
    }

    /// The connection may give up what it has for serving, the next time it looks
    /// ([`Self::is_told_to_park`]).
    pub fn tell_to_park(&self) {
        self.told_to_park.set(true);
    }

    /// Whether it was told so, since the last call.
    #[must_use]
    pub fn is_told_to_park(&self) -> bool {
        self.told_to_park.take()
    }

    /// The connection is to end with RST: what was sent must not look complete.
    pub fn reset_at_end(&self) {
        self.activity.reset_at_end();
    }

    /// Waits until the client has sent FIN and has not been written to for a while although it has
    /// a request open. Half-closed or vanished look the same from here, until something is written.
    ///
    /// Has no waker for the FIN: the caller polls this once after [`Self::has_ended`], too.
    pub async fn gone(&self) {
        poll_fn(|_| {
            if self.has_ended() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        loop {
            let quiet_ms = self
                .activity
                .now_ms()
                .saturating_sub(self.activity.last_ms());
            let left_ms = ms(GONE_AFTER).saturating_sub(quiet_ms);
            if left_ms == 0
                && self.exchanges.get() > 0
                && self.activity.write_waits_since_ms().is_none()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left_ms.max(100))).await;
        }
    }
}

/// What the requests of one more connection share.
#[must_use]
pub fn downstream(
    listener: &Rc<Listener>,
    phase: Rc<LocalPhase>,
    peer: SocketAddr,
    tls: Option<TlsDetails>,
    server_name: Option<Box<str>>,
    activity: Rc<Activity>,
) -> Rc<Downstream> {
    let scheme = if tls.is_some() {
        Scheme::Https
    } else {
        Scheme::Http
    };
    Rc::new(Downstream {
        client: ClientContext::new(peer.ip(), tls),
        port: peer.port(),
        listener: Rc::clone(listener),
        phase,
        scheme,
        server_name,
        watch: Watch {
            activity,
            is_h1: Cell::new(false),
            between: Cell::new(true),
            ended: Cell::new(false),
            exchanges: Cell::new(0),
            begun: Cell::new(0),
            told_to_park: Cell::new(false),
            deadlines: OnceCell::new(),
        },
        interim: RefCell::default(),
    })
}
