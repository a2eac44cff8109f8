//! One TCP connection through the proxy: route by port (or as [`crate::proxy::sni`] found), pick,
//! connect (elsewhere if that fails), then bytes both ways.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::catalog::options::ProxyHeader;
use crate::metrics::observer::TargetObserver;
use crate::metrics::service::RetryReason;
use crate::metrics::{ClientFault, ServiceMetrics};
use crate::proxy::connect::{ConnectError, UpstreamStream};
use crate::proxy::drain::Phase;
use crate::proxy::http::client_io::ClientIo;
use crate::proxy::listener::Listener;
use crate::proxy::passage::{Ended, Passage};
use crate::proxy::proxy_protocol::{self, Addresses, HEADER_BYTES_MAX, Received};
use crate::proxy::splice::Stream;
use crate::proxy::tcp::{PumpContext, Pumped, Side, pump};
use crate::proxy::tls;
use crate::proxy::worker::Worker;
use crate::table::balancer::PickContext;
use crate::table::limits::RouteSlot;
use crate::table::{InFlight, Route, Target, TargetState};

/// Serves one accepted connection of a `tcp` or `tcp-dynamic` listener to its end.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let local = stream.local_addr().unwrap_or(listener.config.address);
    let mut passage = Passage::new(&worker, &listener, peer);
    let mut io = ClientIo::new(stream, worker.clock);
    let seen = Addresses {
        source: peer,
        destination: local,
    };
    let ends = match receive_proxy_header(&listener, &mut io, seen).await {
        Ok(ends) => ends,
        Err(error) => {
            passage.ends(Ended::ProxyHeader);
            return listener.client_fault(peer, ClientFault::ProxyHeader, &error);
        }
    };
    listener.accepted();
    let peer = ends.source;
    passage.comes_from(peer);
    let Some(certificates) = &listener.certificates else {
        return route(&worker, &listener, io, local, ends, &mut passage).await;
    };
    let settings = worker.settings();
    let limit = listener.limits(&settings.proxy).header;
    let used = listener.server_use();
    let handshake = tls::accept(certificates, &used, &settings.challenges, io);
    let accepted = tokio::time::timeout(limit, handshake).await;
    drop(settings);
    passage.ends(Ended::Tls);
    match accepted {
        Ok(Ok(None)) => passage.ends(Ended::Drain),
        Ok(Ok(Some(stream))) => {
            passage.speaks(tls::details(stream.get_ref().1).version_name());
            passage.set_server_name(stream.get_ref().1.server_name());
            passage.ends(Ended::Drain);
            route(
                &worker,
                &listener,
                Box::new(stream),
                local,
                ends,
                &mut passage,
            )
            .await;
        }
        Ok(Err(error)) => listener.client_fault(peer, ClientFault::Tls, &error),
        Err(elapsed) => listener.client_fault(peer, ClientFault::Tls, &elapsed),
    }
}

/// The two ends of the client's connection: those of the socket, which were `seen`, or those that a
/// PROXY header carries, where the listener takes one.
///
/// # Errors
/// A malformed header, one that stops in its middle for longer than the listener waits, or one from
/// a sender that may not send it.
pub async fn receive_proxy_header(
    listener: &Listener,
    io: &mut ClientIo,
    seen: Addresses,
) -> io::Result<Addresses> {
    let config = &listener.config;
    if !config.takes_proxy_header() {
        return Ok(seen);
    }
    let senders = config.proxy_protocol_from.as_ref();
    let trusted = senders.is_none_or(|senders| senders.contains(seen.source.ip()));
    let receive = async {
        loop {
            match proxy_protocol::parse(io.peeked()).map_err(io::Error::other)? {
                Received::Absent => return Ok(seen),
                Received::Header { .. } if !trusted => {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "a PROXY header from a sender that is not in proxy_protocol_from",
                    ));
                }
                Received::Header { len, addresses } => {
                    io.consume(len);
                    return Ok(addresses.unwrap_or(seen));
                }
                Received::NeedMore => {
                    if !io.peek_more(HEADER_BYTES_MAX).await? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    };
    match tokio::time::timeout(listener.config.proxy_protocol_timeout, receive).await {
        Ok(received) => received,
        // The header is optional: a client that waits for the server to speak first sends nothing
        // at all.
        Err(_elapsed) if io.peeked().is_empty() => Ok(seen),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn route<T>(
    worker: &Rc<Worker>,
    listener: &Listener,
    client: T,
    local: SocketAddr,
    ends: Addresses,
    passage: &mut Passage,
) where
    T: Stream,
{
    // The listener's own port counts, whatever a PROXY header says.
    let local = SocketAddr::new(local.ip(), listener.config.address.port());
    let found = worker.table.borrow_mut().load().lookup_tcp(local).cloned();
    let Some(route) = found else {
        listener.no_route();
        passage.ends(Ended::NoRoute);
        return tracing::debug!(%local, "no route for this port");
    };
    proxy_tcp(
        worker,
        listener,
        &route,
        client,
        Carried {
            ends,
            is_tls: false,
        },
        passage,
    )
    .await;
}

/// What is known of a connection that is proxied.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Its two ends, for the PROXY header of its target.
    pub ends: Addresses,
    /// The bytes are the client's own TLS: they go to the target as they are, also where the route
    /// says `proto=https`.
    pub is_tls: bool,
}

/// Proxies a connection to one of `route`'s targets, to its end.
pub async fn proxy_tcp<T>(
    worker: &Rc<Worker>,
    listener: &Listener,
    route: &Arc<Route>,
    client: T,
    carried: Carried,
    passage: &mut Passage,
) where
    T: Stream,
{
    passage.takes(route);
    let connected = connect_with_failover(worker, listener, route, carried, passage).await;
    let Some((target, mut upstream, _counted)) = connected else {
        return;
    };
    let header = match target.options.proxy_protocol {
        None => Vec::new(),
        Some(ProxyHeader::V1) => proxy_protocol::v1_line(&carried.ends),
        Some(ProxyHeader::V2) => proxy_protocol::v2_header(Some(&carried.ends)),
    };
    if let Err(error) = upstream.write_all(&header).await {
        listener.failed();
        passage.ends(Ended::InstanceReset);
        return tracing::debug!(%error, "cannot send the PROXY header");
    }
    target.service.tcp_connections.fetch_add(1, Relaxed);
    let _open = OpenConnection::new(&target.service);
    let idle = listener.limits(&worker.settings().proxy).tcp_idle;
    let pumped = pump_until_cut(worker, client, upstream, Tunnelled::to(target), idle).await;
    passage.carried(&pumped, worker.phase.get() >= Phase::Cut);
}

/// Where a connection counts while it is open: at its instance, and at its route if that is limited.
type Counted = (InFlight, Option<RouteSlot>);

/// A connection to one of the route's targets: nothing is sent before it stands, so every target
/// may be tried.
async fn connect_with_failover<'r>(
    worker: &Rc<Worker>,
    listener: &Listener,
    route: &'r Arc<Route>,
    carried: Carried,
    passage: &mut Passage,
) -> Option<(&'r Target, UpstreamStream, Counted)> {
    let settings = worker.settings();
    let peer = carried.ends.source;
    let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
    passage.ends(Ended::NoInstance);
    let (mut failed, mut slot) = (0, None);
    while failed < settings.proxy.retry.attempts.max(1) {
        let context = PickContext {
            now_ms: worker.clock.now_ms(),
            tried: &tried,
            hash: hash_of(peer),
            slow_start_ms: settings.health.slow_start_ms,
        };
        let picked = worker.picker.borrow_mut().pick(route, context);
        let Some(target) = picked else { break };
        if !target.options.permit_connection(peer.ip()) {
            tracing::debug!(%peer, service = %target.service.name(), "access denied");
            passage.set_service(target);
            passage.ends(Ended::AccessDenied);
            return None;
        }
        if let Some(policies) = &target.options.policies {
            if let (None, Some(most), Some(limits)) = (&slot, policies.in_flight_max, &route.limits)
            {
                let Some(entered) = RouteSlot::enter(limits, most) else {
                    passage.set_service(target);
                    passage.ends(Ended::RouteBusy);
                    return None;
                };
                slot = Some(entered);
            }
            if policies.retries.is_some_and(|retries| failed > retries) {
                break;
            }
        }
        if failed > 0 {
            target.service.record_retry(RetryReason::Connect);
        }
        passage.attempt_started(target);
        // What ends it while it connects is a cut.
        passage.ends(Ended::Drain);
        let in_flight = InFlight::new(Arc::clone(&target.state));
        let started = std::time::Instant::now();
        let connected = worker.pool.connect(target, &settings, carried.is_tls).await;
        match connected {
            Ok(stream) => {
                let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                target
                    .state
                    .record_success(worker.clock.now_ms(), latency_us);
                return Some((target, stream, (in_flight, slot)));
            }
            Err(error) => {
                tracing::debug!(%error, instance = %target.state.id, "connect failed");
                passage.ends(Ended::ConnectFailed);
                match &error {
                    // It went away meanwhile and is not counted: others come first, and where there
                    // are none it is tried again.
                    ConnectError::Gone => continue,
                    ConnectError::Exhausted(_) => worker.note_exhaustion(&error),
                    _ => worker.note_failure(route, target),
                }
                tried.push(target.state.key);
                failed += 1;
            }
        }
    }
    listener.failed();
    None
}

pub(super) fn hash_of(peer: SocketAddr) -> u64 {
    use std::hash::BuildHasher as _;
    foldhash::quality::FixedState::with_seed(0x6c62).hash_one(peer.ip().to_canonical())
}

/// Where a tunnel leads, and what counts it.
#[derive(Clone, Copy, Debug)]
pub struct Tunnelled<'a> {
    /// The instance.
    pub state: &'a Arc<TargetState>,
    /// Its service.
    pub service: &'a ServiceMetrics,
    /// Is told of its bytes, where that is wanted.
    pub observer: Option<&'a dyn TargetObserver>,
}

impl<'a> Tunnelled<'a> {
    fn to(target: &'a Target) -> Self {
        Self {
            state: &target.state,
            service: &target.service,
            observer: target.observer.as_deref(),
        }
    }
}

/// Moves bytes until both sides are done, or the tunnel is cut: its instance left the table long
/// enough ago, or the drain deadline is over, or nothing moved for `idle` (zero: no limit).
pub async fn pump_until_cut<C, U>(
    worker: &Rc<Worker>,
    mut client: C,
    mut upstream: U,
    to: Tunnelled<'_>,
    idle: Duration,
) -> Pumped
where
    C: Stream,
    U: Stream,
{
    let guard = worker.tunnels.enter(Arc::clone(to.state));
    let context = PumpContext {
        buffers: &worker.buffers,
        pipes: &worker.pipes,
        metrics: to.service,
        observer: to.observer,
        idle,
    };
    let stop = async {
        tokio::select! {
            () = guard.cut() => {}
            () = worker.phase.reached(Phase::Cut) => {}
        }
    };
    let pumped = pump(&mut client, &mut upstream, context, stop).await;
    if pumped.first == Some(Side::Upstream) {
        to.state.note_tunnel_end(worker.clock.now_ms());
    }
    tracing::trace!(end = ?pumped.end, bytes_in = pumped.bytes_in, bytes_out = pumped.bytes_out, "tunnel ended");
    pumped
}

/// Counts an open TCP connection while it lives.
struct OpenConnection<'a>(&'a ServiceMetrics);

impl<'a> OpenConnection<'a> {
    fn new(service: &'a ServiceMetrics) -> Self {
        service.tcp_open.fetch_add(1, Relaxed);
        Self(service)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.tcp_open.fetch_sub(1, Relaxed);
    }
}
