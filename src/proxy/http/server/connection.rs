//! One client connection: what it speaks, its deadlines, its end.
//!
//! ```text
//! accept ─► PROXY header? ─► TLS? ─► HTTP/2 preface or ALPN? ─┬─► strict guard ─► hyper HTTP/1
//!                                                             └─► hyper HTTP/2
//! ```
//! Beside the protocol run the drain signal and a watchdog for clients that do not do their part: that send a head
//! too slowly, idle too long, stop in a body, or do not read.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::config::ListenerProtocol;
use crate::log::AccessRecord;
use crate::metrics::{CLIENT_FAULTS, ClientFault};
use crate::proxy::drain::{LocalPhase, Phase};
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::clear;
use crate::proxy::http::client_io::{Activity, ClientIo, ClientStream};
use crate::proxy::http::direct;
use crate::proxy::http::exchange::exchange;
use crate::proxy::http::guarded_io::{ExchangeMark, GuardHandle, GuardedIo};
use crate::proxy::http::headers::{ClientContext, TlsDetails, without_port};
use crate::proxy::http::interim::Interim;
use crate::proxy::http::prefixed::Prefixed;
use crate::proxy::http::request_deadline::Limited;
use crate::proxy::http::source::Source;
use crate::proxy::http::strict::{Limits, Violation};
use crate::proxy::http::upgrade::Tunnel;
use crate::proxy::listener::{ClientLimits, Listener};
use crate::proxy::proxy_protocol::Addresses;
use crate::proxy::session::receive_proxy_header;
use crate::proxy::settings::Settings;
use crate::proxy::splice::Stream;
use crate::proxy::tls;
use crate::proxy::worker::{Worker, ms};
use crate::table::Scheme;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client that was active when the drain began may take to send one more request.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);
/// How long a client that has sent FIN may wait for an answer in silence before it counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// How long a client gets to read the last answer and close its side, once ours is closed.
const LINGER: Duration = Duration::from_secs(2);
/// Most bytes read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long an answer that is overdue may take to end by itself: that of a client which takes nothing does not.
const OVERDUE_MAX: Duration = Duration::from_secs(1);
pub(crate) const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

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
    /// The name that the client's TLS asked for, where others with other names are passed on unopened
    /// (`https+tcp+sni`).
    pub server_name: Option<Box<str>>,
    /// Its state, for the watchdog.
    pub watch: Watch,
    /// Made by the first request that needs it.
    interim: OnceCell<Arc<Interim>>,
    /// Set by a request that was answered with 101: what to do with the connection once that is written.
    pub tunnel: Cell<Option<Box<Tunnel>>>,
}

impl std::fmt::Debug for Downstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downstream").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Downstream {
    /// TLS version for the log.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        self.client.tls().map(TlsDetails::version_name)
    }

    /// Whether a request for `host` (as received) asks on this connection for another host than its TLS did, on a
    /// listener that passes some of them on: such a host may be none of ours to answer for.
    #[must_use]
    pub fn is_elsewhere(&self, host: &[u8]) -> bool {
        self.server_name.as_deref().is_some_and(|name| !name.as_bytes().eq_ignore_ascii_case(without_port(host)))
    }

    /// Interim answers for the client, where it can take them.
    #[must_use]
    pub fn interim(&self) -> &Arc<Interim> {
        self.interim.get_or_init(Arc::default)
    }
}

/// What the watchdog looks at.
#[derive(Debug)]
pub struct Watch {
    activity: Rc<Activity>,
    guard: RefCell<Option<GuardHandle>>,
    exchanges: Cell<usize>,
    /// Requests that began, ever.
    begun: Cell<u64>,
    told_to_rest: Cell<bool>,
    /// Made by the first request that needs it.
    limited: OnceCell<Box<Limited>>,
}

impl Watch {
    /// A request begins; it ends when both results are dropped or [`Watch::end`] is called.
    pub fn begin(&self) -> Option<ExchangeMark> {
        self.exchanges.set(self.exchanges.get() + 1);
        self.begun.set(self.begun.get().wrapping_add(1));
        self.guard().as_ref().map(GuardHandle::exchange)
    }

    /// The client has sent its last byte, as far as was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.guard.borrow().as_ref().is_some_and(GuardHandle::has_ended)
    }

    /// What is known of the bytes of the client, where they are HTTP/1.
    #[must_use]
    pub fn guard(&self) -> Option<GuardHandle> {
        self.guard.borrow().clone()
    }

    /// A guard for a connection of which nothing was read, or all was answered; its reader says so to the result.
    #[must_use]
    pub fn new_guard(&self) -> GuardHandle {
        let guard = GuardHandle::alone();
        if self.begun.get() > 0 {
            // It is not a client any more that has yet to send its first.
            guard.note_head();
        }
        self.set_guard(guard.clone());
        guard
    }

    /// From now on this one knows.
    pub fn set_guard(&self, guard: GuardHandle) {
        *self.guard.borrow_mut() = Some(guard);
    }

    /// Requests that have to be over at some time.
    #[must_use]
    pub fn limited(&self) -> &Limited {
        self.limited.get_or_init(Box::default)
    }

    /// Nobody reads until the next byte comes; who does then makes a new one.
    pub fn forget_guard(&self) {
        self.guard.take();
    }

    /// When the client did what.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Nothing is being answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchanges.get() == 0
    }

    /// Since when (ms) nothing was asked after an answer; none: a request is being answered or read, or is the first.
    #[must_use]
    pub fn rests_since_ms(&self) -> Option<u64> {
        let guard = self.guard.borrow();
        let rests = guard.as_ref().is_some_and(|guard| guard.is_between_requests() && guard.heads() > 0);
        (rests && self.is_idle()).then(|| self.activity.last_ms())
    }

    /// The connection may give up what it has for serving, the next time it looks ([`Self::is_told_to_rest`]).
    pub fn tell_to_rest(&self) {
        self.told_to_rest.set(true);
    }

    /// Whether it was told so, since this was asked last.
    #[must_use]
    pub fn is_told_to_rest(&self) -> bool {
        self.told_to_rest.take()
    }

    /// A request ended.
    pub fn end(&self) {
        self.exchanges.set(self.exchanges.get().saturating_sub(1));
    }

    /// The connection is to end with RST: what was sent must not look complete.
    pub fn reset_at_end(&self) {
        self.activity.reset_at_end();
    }

    /// Waits until the client has sent FIN and has not been written to for a while although it has a request open.
    /// Half-closed or vanished look the same from here; nothing was seen that speaks for the former.
    ///
    /// Has no waker for the FIN: who polls this polls it once [`Self::has_ended`], too.
    async fn gone(&self) {
        poll_fn(|_| if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }).await;
        loop {
            let quiet_ms = self.activity.now_ms().saturating_sub(self.activity.last_ms());
            let left_ms = ms(GONE_AFTER).saturating_sub(quiet_ms);
            if left_ms == 0 && self.exchanges.get() > 0 && self.activity.write_waits_since_ms().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left_ms.max(100))).await;
        }
    }

    /// Hands interim answers to the client's stream; whether they are all written.
    pub fn send_interim(&self, heads: &[u8]) -> bool {
        let Some(guard) = self.guard() else { return true };
        guard.send_interim(heads);
        !guard.has_interim()
    }

    /// From now on the bytes of this connection are not HTTP.
    pub fn pass_through(&self) {
        if let Some(guard) = self.guard() {
            guard.pass_through();
        }
    }
}

/// Finds out what an accepted connection speaks. `phase` is its listener's. None: it left, or is not understood.
pub async fn begin(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Greeted> {
    listener.accepted();
    let mut io = ClientIo::new(stream, worker.clock);
    let seen = Addresses { source: peer, destination: listener.config.address };
    match receive_proxy_header(&listener, &mut io, seen).await {
        Ok(ends) => greeted(worker, listener, phase, io, ends.source).await,
        Err(error) => {
            listener.client_fault(peer, ClientFault::ProxyHeader, &error);
            None
        }
    }
}

/// A client of whom it is known what it speaks.
#[derive(Debug)]
pub enum Greeted {
    /// In the clear.
    Plain(Begun<ClientIo>),
    /// Inside TLS.
    Tls(Begun<Box<TlsStream<ClientIo>>>),
}

impl Greeted {
    /// Serves it to its end.
    pub async fn drive(&mut self) {
        match self {
            Self::Plain(begun) => drive(begun).await,
            Self::Tls(begun) => drive(begun).await,
        }
    }
}

/// What a connection has as long as it lives.
#[derive(Debug)]
pub struct Begun<T> {
    place: Place,
    /// None: it was given away, to whoever serves the rest of the connection.
    io: Option<T>,
    h2: bool,
}

/// How a client begins where TLS is spoken.
enum Handshake {
    Done(Box<TlsStream<ClientIo>>),
    /// With a request in the clear.
    InTheClear(ClientIo),
}

/// Ends TLS, where it is to be ended, and finds out what the client speaks. None: it left, or is not understood.
/// What was peeked at is read again.
pub(crate) async fn greeted(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    mut io: ClientIo,
    peer: SocketAddr,
) -> Option<Greeted> {
    let settings = worker.settings();
    let header_timeout = listener.limits(&settings.proxy).header;
    let activity = Rc::clone(io.activity());
    let Some(certificates) = &listener.certificates else {
        let speaks = tokio::time::timeout(header_timeout, speaks_h2(&mut io));
        // Whoever has not said a word when the last call is over loses nothing.
        let speaks = tokio::select! {
            biased;
            speaks = speaks => speaks,
            () = last_call(&phase, &activity) => return None,
        };
        let h2 = match speaks {
            Ok(Ok(h2)) => h2,
            failed => {
                let refusal = match failed {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Some(Refusal::MALFORMED),
                    // Of a client that said nothing nothing is known, and the rest has left.
                    Err(_elapsed) if !io.peeked().is_empty() => Some(Refusal::HEAD_TOO_SLOW),
                    _ => None,
                };
                if let Some(refusal) = refusal {
                    let downstream = downstream(&listener, phase, peer, None, None, activity);
                    refused(&worker, &downstream, refusal, &"the first line is not one of HTTP");
                }
                return None;
            }
        };
        let downstream = downstream(&listener, phase, peer, None, None, activity);
        return Some(Greeted::Plain(Begun { place: Place { worker, settings, downstream }, io: Some(io), h2 }));
    };
    let used = listener.server_use();
    // Boxed: who comes without TLS does not need the room.
    let handshake = Box::pin(async {
        match clear::begins(&mut io).await? {
            true => Ok(Handshake::InTheClear(io)),
            false => Ok::<_, io::Error>(Handshake::Done(Box::new(tls::accept(certificates, &used, io).await?))),
        }
    });
    let handshake = tokio::time::timeout(header_timeout, handshake);
    let handshake = tokio::select! {
        biased;
        handshake = handshake => handshake,
        () = last_call(&phase, &activity) => return None,
    };
    match handshake {
        Ok(Ok(Handshake::InTheClear(io))) => {
            let answer = clear::answer(io.peeked());
            let downstream = downstream(&listener, phase, peer, None, None, activity);
            let refusal = Refusal { fault: ClientFault::Tls, ..Refusal::MALFORMED };
            refused(&worker, &downstream, refusal, &"plain HTTP where TLS is spoken");
            farewell(io, &answer).await;
        }
        Ok(Ok(Handshake::Done(stream))) => {
            let tls = stream.get_ref().1;
            let h2 = tls.alpn_protocol() == Some(b"h2");
            let passes_some_on = listener.config.protocol == ListenerProtocol::HttpsTcpSni;
            let name = tls.server_name().filter(|_| passes_some_on).map(Box::from);
            let downstream = downstream(&listener, phase, peer, Some(tls::details(tls)), name, activity);
            let place = Place { worker, settings, downstream };
            return Some(Greeted::Tls(Begun { place, io: Some(stream), h2 }));
        }
        Ok(Err(error)) => listener.client_fault(peer, ClientFault::Tls, &error),
        Err(elapsed) => listener.client_fault(peer, ClientFault::Tls, &elapsed),
    }
    None
}

/// Completes when no more is expected of the client: its listener stops, and it has been silent for a moment before
/// that or after it. Who spoke just now may be about to speak again, and a connection that is closed while a request is
/// on its way to it is a failed request; answers that are sent meanwhile say that the connection ends with them.
pub(crate) async fn last_call(phase: &LocalPhase, activity: &Activity) {
    phase.reached(Phase::Draining).await;
    tokio::time::sleep(LAST_CALL.saturating_sub(activity.silent())).await;
}

/// Whether the client opens with the HTTP/2 preface (RFC 9113 section 3.4). What was read is read again.
///
/// # Errors
/// Those of the socket; and a first line of another protocol, which would not understand an answer in HTTP.
async fn speaks_h2(io: &mut ClientIo) -> io::Result<bool> {
    loop {
        let seen = io.peeked();
        let length = seen.len().min(H2_PREFACE.len());
        if seen[..length] != H2_PREFACE[..length] {
            return if is_foreign(seen) { Err(io::ErrorKind::InvalidData.into()) } else { Ok(false) };
        }
        if length == H2_PREFACE.len() {
            return Ok(true);
        }
        if !io.peek_more(H2_PREFACE.len()).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether a whole first line is there that has the form of a request and names another protocol than HTTP.
fn is_foreign(seen: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', seen) else { return false };
    let mut words = seen[..end].trim_ascii().split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(protocol), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return false;
    };
    !protocol.starts_with(b"HTTP/")
}

pub(crate) fn downstream(
    listener: &Rc<Listener>,
    phase: Rc<LocalPhase>,
    peer: SocketAddr,
    tls: Option<TlsDetails>,
    server_name: Option<Box<str>>,
    activity: Rc<Activity>,
) -> Rc<Downstream> {
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    Rc::new(Downstream {
        client: ClientContext::new(peer.ip(), tls),
        port: peer.port(),
        listener: Rc::clone(listener),
        phase,
        scheme,
        server_name,
        watch: Watch {
            activity,
            guard: RefCell::default(),
            exchanges: Cell::new(0),
            begun: Cell::new(0),
            told_to_rest: Cell::new(false),
            limited: OnceCell::new(),
        },
        interim: OnceCell::new(),
        tunnel: Cell::new(None),
    })
}

/// Where a connection belongs.
#[derive(Debug)]
pub(crate) struct Place {
    /// This worker.
    pub(crate) worker: Rc<Worker>,
    /// The settings it began with.
    pub(crate) settings: Arc<Settings>,
    /// What its requests share.
    pub(crate) downstream: Rc<Downstream>,
}

/// Small, because it lives as long as the connection does: whatever is needed to serve is boxed.
async fn drive<T>(begun: &mut Begun<T>)
where
    T: ClientStream + 'static,
{
    let Place { worker, settings, downstream } = &begun.place;
    let ahead =
        match begun.io.as_mut().filter(|_| !begun.h2 && direct::may_drive(worker, &downstream.listener, settings)) {
            Some(io) => match direct::drive(&begun.place, io).await {
                None => return,
                ahead => ahead,
            },
            None => None,
        };
    if let Some(rest) = rest(begun, ahead) {
        rest.await;
    }
}

/// What the direct exchange does not carry of a connection, `ahead` first. None: the stream is gone.
fn rest<T>(begun: &mut Begun<T>, ahead: Option<Vec<u8>>) -> Option<LocalBoxFuture<'_, ()>>
where
    T: ClientStream + 'static,
{
    let io = begun.io.take()?;
    let Place { worker, settings, downstream } = &begun.place;
    let (worker, downstream) = (Rc::clone(worker), Rc::clone(downstream));
    Some(match ahead {
        _ if begun.h2 => Box::pin(crate::proxy::http::server::h2::drive(worker, settings, downstream, io)),
        None => Box::pin(drive_h1(worker, settings, downstream, io)),
        Some(ahead) => Box::pin(drive_h1(worker, settings, downstream, Prefixed::new(ahead, io))),
    })
}

async fn drive_h1<T>(worker: Rc<Worker>, settings: &Settings, downstream: Rc<Downstream>, io: T)
where
    T: Stream + 'static,
{
    let (io, guard) = GuardedIo::new(io, Limits::new(&settings.proxy, false));
    downstream.watch.set_guard(guard);
    let service = {
        let (worker, downstream) = (Rc::clone(&worker), Rc::clone(&downstream));
        // Boxed: `poll_without_shutdown` below wants a future that may be moved.
        service_fn(move |request: Request<Incoming>| {
            let (worker, downstream) = (Rc::clone(&worker), Rc::clone(&downstream));
            let request = request.map(Source::Hyper);
            Box::pin(async move {
                let answered = exchange(worker, Rc::clone(&downstream), request).await;
                answered.map(|response| last_answer(&downstream, response))
            })
        })
    };
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        // The guard has the exact limits; these only must not be narrower.
        .max_headers(settings.proxy.max_headers + 1)
        .max_buf_size(settings.proxy.max_header_bytes.max(64 << 10) + (64 << 10))
        .serve_connection(TokioIo::new(io), service);
    let watchdog = watchdog(&worker, downstream.listener.limits(&settings.proxy), &downstream.watch);
    tokio::pin!(watchdog);
    let last_call = last_call(&downstream.phase, &downstream.watch.activity);
    tokio::pin!(last_call);
    // The tunnel's record holds the downstream that holds the tunnel: whoever leaves here must take it.
    let _cycle = LeaveNoTunnel(&downstream);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            // Not hyper's own upgrade: that one wants streams that can change threads.
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                // The library takes what the guard withholds for an end in good order, unless it was inside a request.
                if let Some(violation) = violation(&downstream) {
                    let refusal = Refusal { status: violation.status, ..Refusal::MALFORMED };
                    refused(&worker, &downstream, refusal, &violation);
                }
                if let Err(error) = ended {
                    tracing::trace!(%error, "client connection ended");
                    if violation(&downstream).is_none() && error.is_parse() {
                        let refusal = Refusal { status: status_of_parse_error(&error), ..Refusal::MALFORMED };
                        refused(&worker, &downstream, refusal, &error);
                    }
                    downstream.tunnel.take();
                    if downstream.watch.activity.resets_at_end() {
                        return;
                    }
                }
                break;
            }
            verdict = &mut watchdog => {
                if verdict == Verdict::HeadTooSlow {
                    refused(&worker, &downstream, Refusal::HEAD_TOO_SLOW, &HEAD_TOO_SLOW);
                    farewell(connection.into_parts().io.into_inner().into_inner(), TOO_SLOW).await;
                }
                return;
            }
            () = &mut last_call, if !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = worker.phase.reached(Phase::Cut) => return,
        }
    }
    let parts = connection.into_parts();
    match downstream.tunnel.take() {
        Some(tunnel) => tunnel.run(&worker, parts.io.into_inner().into_inner(), parts.read_buf).await,
        None => farewell(parts.io.into_inner().into_inner(), b"").await,
    }
}

/// Why the head of a request is not waited for any longer.
pub(crate) const HEAD_TOO_SLOW: &str = "the head did not come to its end in time";

/// How a request is refused that never became one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// What the client did.
    pub(crate) fault: ClientFault,
    /// The status that it was told, or would have been.
    pub(crate) status: u16,
    /// What it spoke.
    pub(crate) version: Version,
}

impl Refusal {
    /// Bytes that are no request of HTTP/1.
    pub(crate) const MALFORMED: Self = Self { fault: ClientFault::Malformed, status: 400, version: Version::HTTP_11 };
    /// A head of HTTP/1 that takes too long.
    pub(crate) const HEAD_TOO_SLOW: Self = Self { fault: ClientFault::TooSlow, status: 408, version: Version::HTTP_11 };
}

/// Counts a refusal with its listener and among the errors of the proxy, and logs it as far as it is known.
pub(crate) fn refused(worker: &Worker, downstream: &Downstream, refusal: Refusal, reason: &dyn fmt::Display) {
    let remote = downstream.client.ip();
    let error = CLIENT_FAULTS[refusal.fault as usize];
    downstream.listener.client_fault(SocketAddr::new(remote, downstream.port), refusal.fault, reason);
    worker.metrics.unrouted().record_error(error);
    worker.access.log(&AccessRecord {
        time: SystemTime::now(),
        remote,
        method: "-",
        host: "",
        uri: "-",
        version: refusal.version,
        status: refusal.status,
        bytes_out: 0,
        duration: Duration::ZERO,
        service: None,
        instance: None,
        upstream: None,
        attempts: 0,
        upstream_duration: None,
        route: None,
        error: Some(error),
        request_id: None,
        user_agent: None,
        referer: None,
        tls: downstream.tls_version(),
        grpc_status: None,
        tcp: None,
        more: None,
    });
}

/// What the guard found in the client's bytes.
fn violation(downstream: &Downstream) -> Option<Violation> {
    downstream.watch.guard().and_then(|guard| guard.violation())
}

/// The status that the library has answered with.
fn status_of_parse_error(error: &hyper::Error) -> u16 {
    if error.is_parse_too_large() { 431 } else { 400 }
}

/// While the listener stops, each answer tells its client not to send another request here.
fn last_answer(downstream: &Downstream, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if downstream.phase.get() >= Phase::Draining && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct LeaveNoTunnel<'a>(&'a Downstream);

impl Drop for LeaveNoTunnel<'_> {
    fn drop(&mut self) {
        self.0.tunnel.take();
    }
}

/// Last bytes, then the orderly end of the stream (for TLS: its closing alert). What the client still sends is read
/// and thrown away for a while: closing a socket with unread bytes makes a RST, which can overtake the answer
/// (RFC 9112 section 9.6).
pub(crate) async fn farewell<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, last: &[u8]) {
    let said = async {
        io.write_all(last).await?;
        io.shutdown().await?;
        let mut rest = vec![0; 16 << 10];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match io.read(&mut rest).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    tokio::time::timeout(LINGER, said).await.ok();
}

/// What the watchdog found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was asked for too long.
    Idle,
    /// A request's head did not come to its end.
    HeadTooSlow,
    /// The client neither sends what it announced nor reads what it asked for.
    Stalled,
    /// The client left while its request was running.
    Gone,
}

/// Looks at the connection now and then; a verdict comes up to one look after its limit.
pub(crate) async fn watchdog(worker: &Worker, limits: ClientLimits, watch: &Watch) -> Verdict {
    let shortest = limits.header.min(limits.idle).min(limits.body).min(limits.request.unwrap_or(Duration::MAX));
    let look_every = (shortest / 2).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut head = HeadClock::new(worker.clock.now_ms());
    let mut quiet = QuietClock { since_ms: worker.clock.now_ms(), begun: 0, busy: false };
    loop {
        tokio::select! {
            () = tokio::time::sleep(look_every) => {}
            () = watch.gone() => return Verdict::Gone,
        }
        let now_ms = worker.clock.now_ms();
        let passed = |since: u64, limit: Duration| now_ms.saturating_sub(since) >= ms(limit);
        if watch.activity.write_waits_since_ms().is_some_and(|since| passed(since, limits.body)) {
            return Verdict::Stalled;
        }
        let overdue = watch.limited.get().and_then(|limited| limited.all_overdue_since_ms(watch.exchanges.get()));
        if overdue.is_some_and(|since| passed(since, OVERDUE_MAX)) {
            return Verdict::Stalled;
        }
        let Some(guard) = watch.guard() else {
            // HTTP/2: pings are answered for ever and are no sign of use.
            if passed(quiet.since(now_ms, watch), limits.idle) {
                return Verdict::Idle;
            }
            continue;
        };
        let between = guard.is_between_requests();
        if watch.exchanges.get() > 0 {
            head.reset();
            let stuck = watch.activity.read_waits_since_ms().is_some_and(|since| passed(since, limits.body));
            if stuck && !between {
                return Verdict::Stalled;
            }
            continue;
        }
        if between {
            let limit = if guard.heads() == 0 { limits.header.min(limits.idle) } else { limits.idle };
            head.reset();
            if passed(watch.activity.last_ms(), limit) {
                return Verdict::Idle;
            }
        } else if passed(head.since(now_ms), limits.header) {
            return Verdict::HeadTooSlow;
        }
    }
}

/// Since when nothing was asked on an HTTP/2 connection.
struct QuietClock {
    since_ms: u64,
    begun: u64,
    busy: bool,
}

impl QuietClock {
    fn since(&mut self, now_ms: u64, watch: &Watch) -> u64 {
        // What was busy at the last look may have become quiet just now.
        let busy = watch.exchanges.get() > 0;
        if busy || self.busy || watch.begun.get() != self.begun {
            self.begun = watch.begun.get();
            self.since_ms = now_ms;
        }
        self.busy = busy;
        self.since_ms
    }
}

/// Since when a head has been coming in. The first head counts from the accept, so that drip-feeding the first byte
/// gains nothing.
struct HeadClock {
    since_ms: Option<u64>,
}

impl HeadClock {
    fn new(accepted_ms: u64) -> Self {
        Self { since_ms: Some(accepted_ms) }
    }

    fn since(&mut self, now_ms: u64) -> u64 {
        *self.since_ms.get_or_insert(now_ms)
    }

    fn reset(&mut self) {
        self.since_ms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are thousands of them. With 32 bytes more this is the task, and one of up to 408 takes 512 bytes of memory: the
    /// next larger one takes 768, because tasks are aligned.
    #[test]
    fn an_idle_connection_is_small() {
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        let task = size_of::<Greeted>() + size(|greeted: &'static mut Greeted| greeted.drive());
        assert!(task <= 376, "{task}");
        assert!(size_of::<Downstream>() <= 176, "{}", size_of::<Downstream>());
    }

    #[test]
    fn only_a_whole_line_that_names_another_protocol_is_foreign() {
        let foreign: [&[u8]; 2] = [b"INVALID CONNECTION PREFACE\r\n\r\n", b"OPTIONS rtsp://a RTSP/1.0\n"];
        let others: [&[u8]; 7] =
            [b"", b"GET / FTP", b"GET / HTTP/1.1\r\n", b"GET / HTTP/9\n", b"GET /\r\n", b"a b c d\r\n", b"\r\n"];
        assert!(foreign.iter().all(|seen| is_foreign(seen)));
        assert!(!others.iter().any(|seen| is_foreign(seen)));
    }
}
