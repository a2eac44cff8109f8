//! Listening sockets: bound once for all workers before anything starts, then one per worker.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::{ListenerConfig, ListenerProtocol, ProxyConfig};
use crate::metrics::observer::{Traffic, TrafficObserver};
use crate::metrics::{ClientFault, ListenerMetrics};
use crate::proxy::sharing;
use crate::proxy::tls::{CertStore, ServerUse};

/// Connections the kernel may hold for one worker before it accepts them.
const BACKLOG: i32 = 4096;

/// One listener of the configuration, as all workers see it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its configuration; the address holds the real port.
    pub config: Arc<ListenerConfig>,
    /// Certificates, where TLS ends here.
    pub certificates: Option<Arc<CertStore>>,
    /// Its counters.
    pub metrics: Arc<ListenerMetrics>,
    /// What counts its traffic a second time, where that is wanted.
    pub observer: Option<Arc<dyn TrafficObserver>>,
}

impl Listener {
    /// Counts a connection that ended because of its client, and logs it for debugging.
    pub fn client_fault(&self, peer: SocketAddr, fault: ClientFault, reason: &dyn fmt::Display) {
        self.metrics.record_client_fault(fault);
        tracing::debug!(listener = %self.config.address, %peer, ?fault, %reason, "client connection refused");
    }

    /// Counts a connection that met no route.
    pub fn no_route(&self) {
        self.metrics.no_route.fetch_add(1, Relaxed);
        if let Some(observer) = &self.observer {
            observer.no_route(self.traffic());
        }
    }

    /// Counts a request that met no route.
    pub fn no_route_of_request(&self) {
        self.metrics.no_route.fetch_add(1, Relaxed);
        if let Some(observer) = &self.observer {
            observer.no_route(if self.is_grpc() {
                Traffic::Grpc
            } else {
                Traffic::Http
            });
        }
    }

    /// Whether its requests are calls of gRPC.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        matches!(
            self.config.protocol,
            ListenerProtocol::Grpc | ListenerProtocol::Grpcs
        )
    }

    /// Tells the observer of an accepted connection.
    pub fn accepted(&self) {
        if let Some(observer) = &self.observer {
            observer.connection(self.traffic());
        }
    }

    /// Tells the observer of a connection that found no target in reach, or did not say which host
    /// it is for.
    pub fn failed(&self) {
        if let Some(observer) = &self.observer {
            observer.failure(self.traffic());
        }
    }

    fn traffic(&self) -> Traffic {
        match self.config.protocol {
            ListenerProtocol::Http | ListenerProtocol::Https | ListenerProtocol::Prometheus => {
                Traffic::Http
            }
            ListenerProtocol::Grpc | ListenerProtocol::Grpcs => Traffic::Grpc,
            ListenerProtocol::Tcp | ListenerProtocol::TcpDynamic => Traffic::Tcp,
            ListenerProtocol::TcpSni | ListenerProtocol::HttpsTcpSni => Traffic::Sni,
        }
    }

    /// What its handshakes offer and demand.
    #[must_use]
    pub fn server_use(&self) -> ServerUse {
        let config = &self.config;
        ServerUse {
            strict: config.strict_sni,
            http: !config.protocol.is_tcp(),
            limits: config.tls(),
        }
    }

    /// How long its clients may take: its own limits, else those of `[proxy]`.
    #[must_use]
    pub fn limits(&self, proxy: &ProxyConfig) -> ClientLimits {
        let config = &self.config;
        ClientLimits {
            header: config.header_timeout.unwrap_or(proxy.header_timeout),
            idle: config.idle_timeout.unwrap_or(proxy.idle_timeout),
            body: config.body_timeout.unwrap_or(proxy.body_timeout),
            request: Some(config.request_timeout.unwrap_or(proxy.request_timeout))
                .filter(|limit| !limit.is_zero()),
            tcp_idle: config
                .idle_timeout
                .filter(|_| config.protocol.is_tcp())
                .unwrap_or(proxy.tcp_idle_timeout),
        }
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// For a request head, a ClientHello or a handshake.
    pub header: Duration,
    /// Without a request, between two of them.
    pub idle: Duration,
    /// Without a byte, inside a body.
    pub body: Duration,
    /// For a request and its response as a whole; none: no limit.
    pub request: Option<Duration>,
    /// Without a byte either way on a connection of TCP; zero: for ever.
    pub tcp_idle: Duration,
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl BindError {
    /// With the process that has the address, where that is the reason.
    fn new(address: SocketAddr, source: io::Error) -> Self {
        if source.kind() != io::ErrorKind::AddrInUse {
            return Self { address, source };
        }
        let holder = sharing::holder(&sharing::others(address, &[], &sharing::listening()));
        let text = format!(
            "address in use by {holder}; stop it, or take over from another lb with --take-over"
        );
        Self {
            address,
            source: io::Error::new(io::ErrorKind::AddrInUse, text),
        }
    }
}

/// Whether other processes may listen on the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// None may: an address that one has is an error.
    Alone,
    /// They may, if they allow it too and are of the same user: the kernel deals connections out to
    /// all.
    WithOthers,
}

/// The sockets of one listener, bound and not listening.
#[derive(Debug)]
pub struct Sockets {
    /// Where; port 0 has become a real one.
    pub address: SocketAddr,
    sharing: Sharing,
    /// One per worker.
    sockets: Vec<Socket>,
    /// Keeps the address from other processes until the sockets listen.
    reservation: Option<Socket>,
}

/// Finds clients that vanished without a word, a minute and three quarters after their last.
const CLIENT_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(3);

/// Binds one socket per worker to `address`. The sockets do not listen yet: until [`Sockets::open`]
/// the kernel sends no connection here, so a predecessor on the same address keeps getting all of
/// them.
///
/// # Errors
/// The address is taken by another process, or not ours to take.
pub fn bind(address: SocketAddr, workers: usize, sharing: Sharing) -> Result<Sockets, BindError> {
    let failed = |source| BindError::new(address, source);
    let reservation = match sharing {
        Sharing::Alone => reserve(address).map_err(failed)?,
        Sharing::WithOthers => None,
    };
    let mut actual = match &reservation {
        Some(socket) => bound_to(socket).map_err(failed)?,
        None => address,
    };
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bind_one(actual).map_err(failed)?;
        // With port 0 the first socket finds the port for all.
        actual = bound_to(&socket).map_err(failed)?;
        sockets.push(socket);
    }
    Ok(Sockets {
        address: actual,
        sharing,
        sockets,
        reservation,
    })
}

/// Finds out whether another process has the address, and keeps it from others where that is
/// possible.
///
/// A socket with neither `SO_REUSEADDR` nor `SO_REUSEPORT` conflicts with every other one that is
/// bound, listening or not. It also conflicts with connections that a predecessor left behind; then
/// only listening sockets can be looked for, and two processes that start at the same instant are
/// told apart in [`Sockets::open`].
fn reserve(address: SocketAddr) -> io::Result<Option<Socket>> {
    let new = || {
        Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )
    };
    let socket = new()?;
    match socket.bind(&SockAddr::from(address)) {
        Ok(()) => {
            // From now on sockets with the same option may be bound beside it: those of the
            // workers.
            socket.set_reuse_port(true)?;
            Ok(Some(socket))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let probe = new()?;
            probe.set_reuse_address(true)?;
            probe.bind(&SockAddr::from(address)).map(|()| None)
        }
        Err(error) => Err(error),
    }
}

fn bound_to(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("no IP address"))
}

fn bind_one(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by accepted sockets on Linux: saves system calls per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&CLIENT_KEEPALIVE)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

impl Sockets {
    /// By which numbers the kernel's tables know them.
    #[must_use]
    pub fn inodes(&self) -> Vec<u64> {
        self.sockets.iter().filter_map(sharing::inode_of).collect()
    }

    /// The same, to listen beside another address of this process that meets theirs.
    #[must_use]
    pub fn with_others(self) -> Self {
        Self {
            sharing: Sharing::WithOthers,
            ..self
        }
    }

    /// Makes them listen.
    ///
    /// # Errors
    /// Another process has taken the address in between.
    pub fn open(self) -> Result<Vec<TcpListener>, BindError> {
        let Self {
            address,
            sharing,
            sockets,
            reservation,
        } = self;
        drop(reservation);
        let mut alone = sharing == Sharing::Alone;
        let open = |socket: Socket| {
            // Without the option to listen is refused while anything else listens there: the kernel
            // decides between two processes that get this far.
            if std::mem::take(&mut alone) {
                socket.set_reuse_port(false)?;
                socket.listen(BACKLOG)?;
                socket.set_reuse_port(true)?;
            } else {
                socket.listen(BACKLOG)?;
            }
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let opened: io::Result<Vec<TcpListener>> = sockets.into_iter().map(open).collect();
        opened.map_err(|source| BindError::new(address, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_is_found_once_for_all_workers() {
        for sharing in [Sharing::Alone, Sharing::WithOthers] {
            let sockets = bind("127.0.0.1:0".parse().expect("address"), 3, sharing).expect("binds");
            let address = sockets.address;
            assert_ne!(address.port(), 0);
            let open = sockets.open().expect("listens");
            assert_eq!(open.len(), 3);
            assert!(
                open.iter()
                    .all(|socket| socket.local_addr().expect("address") == address)
            );
        }
    }

    #[test]
    fn a_bound_socket_takes_no_connection_before_it_is_opened() {
        let sockets =
            bind("127.0.0.1:0".parse().expect("address"), 1, Sharing::Alone).expect("binds");
        let address = sockets.address;
        assert!(std::net::TcpStream::connect(address).is_err());
        let open = sockets.open().expect("listens");
        assert!(std::net::TcpStream::connect(address).is_ok());
        drop(open);
    }

    fn at(ip: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("address"), port)
    }

    #[test]
    fn an_address_is_had_alone_unless_it_is_shared_on_purpose() {
        for (first, second) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("0.0.0.0", "127.0.0.1"),
        ] {
            let ours = bind(at(first, 0), 2, Sharing::Alone).expect("binds");
            let there = at(second, ours.address.port());
            // Bound and not listening, then listening.
            bind(there, 2, Sharing::Alone).expect_err("reserved");
            let open = ours.open().expect("listens");
            let error = bind(there, 2, Sharing::Alone).expect_err("in use");
            let error = std::error::Error::source(&error)
                .expect("a source")
                .to_string();
            assert!(
                error.contains(&format!("address in use by pid {} (", std::process::id())),
                "{error}"
            );
            let shared = bind(there, 2, Sharing::WithOthers).expect("binds beside");
            assert_eq!(shared.open().expect("listens beside").len(), 2);
            drop(open);
        }
        // Of another program, which shares nothing.
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        for sharing in [Sharing::Alone, Sharing::WithOthers] {
            bind(other.local_addr().expect("address"), 1, sharing).expect_err("in use");
        }
    }

    #[test]
    fn of_two_that_got_past_the_look_one_opens() {
        // As if a connection of a predecessor had kept both from reserving the address.
        let unreserved = |port| Sockets {
            reservation: None,
            ..bind(at("127.0.0.1", port), 2, Sharing::Alone).expect("binds")
        };
        let one = unreserved(0);
        let other = unreserved(one.address.port());
        let _open = one.open().expect("listens");
        other.open().expect_err("the other was first");
    }

    #[test]
    fn connections_that_a_predecessor_left_do_not_count() {
        let predecessor = bind(at("127.0.0.1", 0), 1, Sharing::Alone).expect("binds");
        let (address, open) = (predecessor.address, predecessor.open().expect("listens"));
        let _client = std::net::TcpStream::connect(address).expect("connects");
        let _left = open[0].accept().expect("accepts");
        drop(open);
        bind(address, 2, Sharing::Alone)
            .expect("binds")
            .open()
            .expect("listens");
    }

    #[test]
    fn a_taken_address_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = other.local_addr().expect("address");
        let error = bind(address, 1, Sharing::Alone)
            .expect_err("taken")
            .to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
