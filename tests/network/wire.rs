//! Clients and upstreams that these tests need beside the shared ones: HTTP/2, TLS, and sockets
//! that tell what happens to them.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::support::wait::PATIENCE;

/// Body of a request.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An HTTP/2 connection.
pub type H2 = SendRequest<Body>;

/// Runs a test's asynchronous part, which may block: connections have a thread of their own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(PATIENCE, future)
                .await
                .expect("done within the patience of a test")
        })
}

/// Configuration of a balancer: one worker, admin on a free port, and what `more` says.
pub fn config(more: &str) -> String {
    format!("{more}\n[admin]\naddress = \"127.0.0.1:0\"\n")
}

/// A listener on a free port.
pub fn listener(protocol: &str, more: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n{more}\n")
}

/// A static route.
pub fn route(service: &str, source: &str, targets: &[String], options: &str) -> String {
    format!(
        "[[static.route]]\nservice = \"{service}\"\nsource = \"{source}\"\ntargets = {targets:?}\noptions = \"{options}\"\n"
    )
}

/// URL of an address.
pub fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{address}")
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that says what is sent into the sender; it ends with the sender.
pub fn channel() -> (tokio::sync::mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|frame| (Ok::<_, Infallible>(frame), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// A frame of data.
pub fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

/// HTTP/2 with prior knowledge. The task ends with the connection.
pub async fn h2(address: SocketAddr) -> (H2, tokio::task::JoinHandle<hyper::Result<()>>) {
    h2_on(
        tokio::net::TcpStream::connect(address).await.unwrap(),
        1 << 20,
    )
    .await
}

/// HTTP/2 on a given stream, with this window for each stream.
pub async fn h2_on<T>(io: T, window: u32) -> (H2, tokio::task::JoinHandle<hyper::Result<()>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(window)
        .initial_connection_window_size(16 << 20);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// A GET of an absolute URL.
pub fn get(url: &str) -> Request<Body> {
    Request::get(url).body(full("")).unwrap()
}

/// The response with its whole body and its trailers.
pub async fn whole(response: Response<Incoming>) -> (http::response::Parts, Bytes, HeaderMap) {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    (parts, body.to_bytes(), trailers)
}

/// Sends a request and takes the whole response.
pub async fn ask(
    client: &mut H2,
    request: Request<Body>,
) -> (http::response::Parts, Bytes, HeaderMap) {
    client.ready().await.expect("an open connection");
    whole(client.send_request(request).await.expect("a response")).await
}

/// What the shared upstream's JSON says.
pub fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

/// An upstream on bare sockets: each connection is handed to the test, in order of arrival.
pub struct Sockets {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: mpsc::Receiver<TcpStream>,
}

impl Sockets {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = mpsc::channel();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if sender.send(socket).is_err() {
                    return;
                }
            }
        });
        Self { address, accepted }
    }

    /// The next connection.
    pub fn accept(&self) -> TcpStream {
        let socket = self.accepted.recv_timeout(PATIENCE).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Reads until `end` came.
pub fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        assert_eq!(
            socket.read(&mut byte).expect("more bytes"),
            1,
            "ended after {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    seen
}

/// Waits for the end of a connection, clean or not.
pub fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match socket.read_to_end(&mut all) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("still open after {PATIENCE:?}")
        }
        _ => all,
    }
}

/// An upstream that responds with more than any client reads, and counts what was taken off its
/// hands.
pub struct Flood {
    /// Where it listens.
    pub address: SocketAddr,
    /// Body bytes written so far.
    pub written: Arc<AtomicU64>,
}

impl Flood {
    /// Starts one; each response has `length` bytes of body.
    pub fn start(length: u64) -> Self {
        let sockets = Sockets::start();
        let (address, written) = (sockets.address, Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&written);
        std::thread::spawn(move || {
            for mut socket in sockets.accepted.iter() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    let chunk = vec![b'x'; 64 << 10];
                    read_until(&mut socket, b"\r\n\r\n");
                    write!(
                        socket,
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                    )?;
                    let mut left = length;
                    while left > 0 {
                        let now = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        socket.write_all(&chunk[..now])?;
                        left -= now as u64;
                        counter.fetch_add(now as u64, SeqCst);
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { address, written }
    }
}
