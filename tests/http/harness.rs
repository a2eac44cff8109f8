//! What these tests run against: the router with static routes, and an upstream that follows a script
//! byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::lb::Lb;
use crate::support::wait::{PATIENCE, wait_until};

/// The router with these routes (place, instances, options) and further configuration.
pub fn router(routes: &[(&str, &[SocketAddr], &str)], more: &str) -> Lb {
    // Keys of the top level have to come first.
    let (top, sections) = more
        .split_once("[")
        .map_or((more, String::new()), |(top, rest)| {
            (top, format!("[{rest}"))
        });
    let mut config = format!("{top}\n[admin]\naddress = \"127.0.0.1:0\"\n");
    config += "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n";
    for (number, (place, instances, options)) in routes.iter().enumerate() {
        let targets: Vec<String> = instances
            .iter()
            .map(|address| format!("\"http://{address}\""))
            .collect();
        config += &format!(
            "[[static.route]]\nservice = \"s{number}\"\nsource = \"{place}\"\ntargets = [{}]\noptions = \"{options}\"\n",
            targets.join(", ")
        );
    }
    let lb = Lb::start(&(config + &sections));
    lb.wait_ready();
    lb
}

/// An address where nothing listens. Its port stays taken, so that nothing else can get it.
pub struct Refusing {
    /// The address.
    pub address: SocketAddr,
    _socket: socket2::Socket,
}

impl Refusing {
    /// Takes a port without listening.
    pub fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        Self {
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            _socket: socket,
        }
    }
}

/// An upstream whose connections are each served by a function on a thread.
pub struct Scripted {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    received: Mutex<Vec<u8>>,
    closed: AtomicUsize,
    stop: AtomicBool,
}

/// One connection of a [`Scripted`] upstream.
pub struct Visit {
    stream: TcpStream,
    unread: Vec<u8>,
    shared: Arc<Shared>,
}

impl Scripted {
    /// Starts one.
    pub fn start(script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// Starts one at this address.
    pub fn start_at(
        address: SocketAddr,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (for_thread, script) = (Arc::clone(&shared), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.stop.load(SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                for_thread.connections.fetch_add(1, SeqCst);
                let mut visit = Visit {
                    stream,
                    unread: Vec::new(),
                    shared: Arc::clone(&for_thread),
                };
                let script = Arc::clone(&script);
                std::thread::spawn(move || script(&mut visit));
            }
        });
        Self { address, shared }
    }

    /// Responds to each request with these bytes, and goes on.
    pub fn replying(reply: &'static str) -> Self {
        Self::start(move |visit| {
            while visit.request().is_some() {
                visit.send(reply);
            }
        })
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Everything received so far, of all connections.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.shared.received.lock().unwrap()).into_owned()
    }

    /// Request heads received so far.
    pub fn requests(&self) -> usize {
        self.received().matches(" HTTP/1.1\r\n").count()
    }

    /// Waits until this many connections were seen closed by the other side.
    pub fn wait_closed(&self, count: usize) {
        wait_until("connections closed by the router", || {
            self.shared.closed.load(SeqCst) >= count
        });
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Visit {
    /// Reads a request head and the body that its Content-Length announces; none at the end of the
    /// connection.
    pub fn request(&mut self) -> Option<String> {
        let head = self.head()?;
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")
                    .map(str::trim)
                    .map(str::to_owned)
            })
            .map_or(0, |length| length.parse().unwrap());
        let body = self.exactly(length)?;
        Some(head + &body)
    }

    /// Reads a request head.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self
                .unread
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                return Some(String::from_utf8(self.unread.drain(..at + 4).collect()).unwrap());
            }
            self.fill()?;
        }
    }

    /// Reads this many bytes.
    pub fn exactly(&mut self, count: usize) -> Option<String> {
        while self.unread.len() < count {
            self.fill()?;
        }
        Some(String::from_utf8_lossy(&self.unread.drain(..count).collect::<Vec<_>>()).into_owned())
    }

    /// Reads a chunked body without trailers: its data.
    pub fn chunks(&mut self) -> Option<String> {
        let mut data = String::new();
        loop {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                line += &self.exactly(1)?;
            }
            let size = usize::from_str_radix(line.trim_end(), 16)
                .unwrap_or_else(|_| panic!("no size: {line:?}"));
            data += &self.exactly(size)?;
            assert_eq!(self.exactly(2)?, "\r\n");
            if size == 0 {
                return Some(data);
            }
        }
    }

    /// Whether anything comes within this time.
    pub fn comes_within(&self, wait: Duration) -> bool {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let came = matches!(self.stream.peek(&mut [0]), Ok(1));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        came
    }

    /// Reads until the other side closes.
    pub fn until_closed(&mut self) {
        while self.fill().is_some() {}
    }

    /// Reads some more; none at the end of the connection.
    pub fn more(&mut self) -> Option<()> {
        self.fill()
    }

    /// Whether what came and was not taken holds this.
    pub fn received_contains(&self, text: &str) -> bool {
        self.unread
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// Whether what came and was not taken ends with this.
    pub fn received_ends_with(&self, text: &str) -> bool {
        self.unread.ends_with(text.as_bytes())
    }

    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            self.shared.closed.fetch_add(1, SeqCst);
            return None;
        }
        self.shared
            .received
            .lock()
            .unwrap()
            .extend_from_slice(&buffer[..count]);
        self.unread.extend_from_slice(&buffer[..count]);
        Some(())
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Sends for as long as the other side takes it; then that counts as closed by it.
    pub fn send_until_closed(&mut self) {
        while self.stream.write_all(&[b'x'; 64 << 10]).is_ok() {}
        self.shared.closed.fetch_add(1, SeqCst);
    }

    /// Sends FIN.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The connection ends with RST.
    pub fn reset(&self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        // The next drop of the stream does it.
    }
}

/// Waits until nothing is in flight: neither for a service nor at any of its instances.
pub fn wait_quiet(lb: &Lb, service: &str) {
    let sample = format!("lb_http_requests_in_flight{{service=\"{service}\"}}");
    wait_until("end of everything in flight", || {
        lb.metric(&sample) == Some(0.0)
    });
}

/// A runtime for load.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The usual response.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
