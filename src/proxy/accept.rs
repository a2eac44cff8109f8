//! Accept loops: connections come out of the kernel's queue and become tasks.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;

use super::drain::{LocalPhase, Phase};
use super::http::server::connection::{self, Negotiated};
use super::listener::Listener;
use super::worker::Worker;
use super::{session, sni};
use crate::config::ListenerProtocol;
use crate::system::lack::{is_exhaustion, is_reserved, none_left};
use crate::system::throttle::Throttle;

/// Connections that a listener for metrics takes above `proxy.max_connections`.
const SCRAPES_EXTRA: usize = 16;
/// Pause after an accept that failed for want of something, which will not be there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `phase` says to stop (the worker drains, or the listener alone was removed); then
/// takes what already waits in the kernel's queue, and closes.
pub async fn accept_loop(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    socket: TcpListener,
) {
    let socket = match Acceptor::new(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(address = %listener.config.address, %error, "cannot use the listening socket");
            return;
        }
    };
    let told = Throttle::default();
    // A metrics scraper must get in when it matters.
    let extra = if listener.config.protocol == ListenerProtocol::Prometheus {
        SCRAPES_EXTRA
    } else {
        0
    };
    while worker.has_room(&phase, extra).await {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = phase.reached(Phase::Draining) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let stream = match is_reserved(&stream) {
                    false => Ok(stream),
                    true => unreserved(&worker, &listener, &phase, stream, &told).await,
                };
                if let Ok(stream) = stream.and_then(|stream| TcpStream::from_std(stream.into())) {
                    spawn(&worker, &listener, &phase, stream, peer);
                }
            }
            Err(error) => accept_failed(&worker, &listener, &error, &told).await,
        }
    }
    // Clients in the queue have a connection already: closing the socket would reset it. `accept`
    // is called directly: the runtime knows only of what came before its last look.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    while let Ok((stream, peer)) = socket.accept() {
        let Ok(stream) = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream))
        else {
            continue;
        };
        spawn(&worker, &listener, &phase, stream, peer);
    }
}

/// A listening socket on which `accept` is called while a client is in its queue, and no more
/// often.
///
/// For every `accept` the kernel makes a socket and a file before it looks into the queue, and
/// throws them away if that is empty: a failed `accept` costs almost as much as a successful one.
/// To look is cheap.
///
/// The runtime's listener cannot be told that the queue is empty, so this is one of its streams:
/// for it a socket like any other.
struct Acceptor(TcpStream);

impl Acceptor {
    fn new(socket: TcpListener) -> io::Result<Self> {
        Ok(Self(TcpStream::from_std(OwnedFd::from(socket).into())?))
    }

    /// The next connection, and the address of its client. Cancel safe.
    async fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        loop {
            // However many are in the queue, clients that are served already get their turns.
            consume_budget().await;
            self.0.readable().await?;
            let accept = || {
                Ok(acceptfrom_with(
                    &self.0,
                    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                )?)
            };
            let (stream, peer) = match self.0.try_io(Interest::READABLE, accept) {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            if self.is_deserted() {
                // Clears what the runtime knows; clients that come from now on are reported.
                let _ = self.0.try_io(Interest::READABLE, || {
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                });
            }
            let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
            return Ok((stream, SocketAddr::try_from(peer)?));
        }
    }

    /// Whether the queue is empty, as far as is known.
    fn is_deserted(&self) -> bool {
        let mut look = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut look, Some(&Timespec::default())) == Ok(0)
    }

    fn into_std(self) -> io::Result<TcpListener> {
        Ok(OwnedFd::from(self.0.into_std()?).into())
    }
}

fn spawn(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    phase: &Rc<LocalPhase>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let permit = worker.admit();
    let (worker, listener, phase) = (Rc::clone(worker), Rc::clone(listener), Rc::clone(phase));
    // Boxed, and outside of the tasks, which would else have room for what is moved into the box:
    // what a connection needs to begin it does not need to go on.
    match listener.config.protocol {
        ListenerProtocol::Tcp | ListenerProtocol::TcpDynamic => {
            let serving = Box::pin(session::serve(worker, listener, stream, peer));
            tokio::task::spawn_local(async move {
                let _permit = permit;
                serving.await;
            });
        }
        ListenerProtocol::TcpSni | ListenerProtocol::HttpsTcpSni => {
            let beginning = Box::pin(sni::serve(worker, listener, phase, stream, peer));
            spawn_negotiated(permit, beginning);
        }
        ListenerProtocol::Http
        | ListenerProtocol::Https
        | ListenerProtocol::Grpc
        | ListenerProtocol::Grpcs
        | ListenerProtocol::Prometheus => {
            let beginning = Box::pin(connection::begin(worker, listener, phase, stream, peer));
            spawn_negotiated(permit, beginning);
        }
    }
}

/// Serves the client that the boxed future has found out about; `permit` is held to the end.
fn spawn_negotiated<P, F>(permit: P, beginning: Pin<Box<F>>)
where
    P: 'static,
    F: Future<Output = Option<Negotiated>> + 'static,
{
    tokio::task::spawn_local(async move {
        let _permit = permit;
        let mut negotiated = beginning.await;
        if let Some(negotiated) = &mut negotiated {
            negotiated.drive().await;
        }
    });
}

/// Waits until there is a descriptor for a connection that was accepted on one of those that are
/// kept for other purposes.
///
/// # Errors
/// The listener is to stop.
async fn unreserved(
    worker: &Worker,
    listener: &Listener,
    phase: &LocalPhase,
    stream: OwnedFd,
    told: &Throttle,
) -> io::Result<OwnedFd> {
    loop {
        worker.pool.shed();
        if let Ok(other) = fcntl_dupfd_cloexec(&stream, 0)
            && !is_reserved(&other)
        {
            return Ok(other);
        }
        let lack = none_left();
        tokio::select! {
            () = accept_failed(worker, listener, &lack, told) => {}
            () = phase.reached(Phase::Draining) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// Ignores connections that were aborted while queued. Out of file descriptors, closes idle
/// connections to instances, backs off, and logs that as often as `told` allows.
async fn accept_failed(worker: &Worker, listener: &Listener, error: &io::Error, told: &Throttle) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => {}
        _ => {
            if is_exhaustion(error) {
                worker.pool.shed();
            }
            if told.is_due(Instant::now()) {
                tracing::warn!(
                    address = %listener.config.address, %error,
                    "cannot accept connections; trying again every {} ms", ACCEPT_PAUSE.as_millis()
                );
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::listener::{Sharing, bind};

    #[tokio::test]
    async fn all_clients_in_the_queue_are_accepted_and_those_that_come_later() {
        let sockets =
            bind("127.0.0.1:0".parse().expect("address"), 1, Sharing::Alone).expect("binds");
        let (address, mut sockets) = (sockets.address, sockets.open().expect("listens"));
        let acceptor = Acceptor::new(sockets.remove(0)).expect("registers");
        for crowd in [3, 1, 2] {
            let clients: Vec<_> = (0..crowd)
                .map(|_| std::net::TcpStream::connect(address).expect("connects"))
                .collect();
            for client in &clients {
                let accepted =
                    tokio::time::timeout(Duration::from_secs(10), acceptor.accept()).await;
                let (_, peer) = accepted
                    .expect("a client is in the queue")
                    .expect("accepts");
                assert_eq!(peer, client.local_addr().expect("address"));
            }
            assert!(acceptor.is_deserted());
            let more = tokio::time::timeout(Duration::from_millis(10), acceptor.accept()).await;
            assert!(more.is_err(), "the queue is empty");
        }
    }

    #[test]
    fn others_get_their_turns_while_the_queue_is_full() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let sockets =
                bind("127.0.0.1:0".parse().expect("address"), 1, Sharing::Alone).expect("binds");
            let (address, mut sockets) = (sockets.address, sockets.open().expect("listens"));
            let acceptor = Acceptor::new(sockets.remove(0)).expect("registers");
            let clients: Vec<_> = (0..400)
                .map(|_| std::net::TcpStream::connect(address).expect("connects"))
                .collect();
            let turns = Rc::new(std::cell::Cell::new(0));
            tokio::task::spawn_local({
                let turns = Rc::clone(&turns);
                async move {
                    loop {
                        turns.set(turns.get() + 1);
                        tokio::task::yield_now().await;
                    }
                }
            });
            let accepting = tokio::task::spawn_local(async move {
                for _ in 0..clients.len() {
                    acceptor.accept().await.expect("accepts");
                }
            });
            accepting.await.expect("ends");
            assert!(turns.get() >= 3, "{}", turns.get());
        });
    }
}
