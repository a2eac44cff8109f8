//! Upstream servers for tests, in this process: one that speaks HTTP/1.1 and h2c and does what it
//! is told, one that responds with given bytes, and one that echoes bytes. Each has a thread and a
//! runtime of its own, so that blocking tests can use them.
//!
//! The path of a request says what comes back, whatever stands before it:
//!
//! | last part of the path | response |
//! |---|---|
//! | `/echo` | the request's body, streamed back as it arrives, with its trailers |
//! | `/sse` | a server-sent event at once, then one for each [`Upstream::tick`] |
//! | `/chunks` | three chunks |
//! | `/trailers` | a body and the trailer `x-checksum: 42` |
//! | `/bytes/N` | N bytes |
//! | `/ws` | upgrade to a websocket that echoes frames |
//! | `/close` | the connection is closed without a response |
//! | anything else | JSON of what arrived: method, path, headers, body |

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// A running server. Dropped: killed, all its connections reset.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    name: String,
    delay_ms: AtomicU64,
    status: AtomicU16,
    grpc_status: AtomicU16,
    last: Mutex<String>,
    requests: AtomicU64,
    connections: AtomicU64,
    closing: AtomicBool,
    frozen: watch::Sender<bool>,
    ticks: watch::Sender<u64>,
}

/// Responses carry no gRPC status.
const NO_GRPC_STATUS: u16 = u16::MAX;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

impl Upstream {
    /// Starts one on a free port.
    pub fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts one at this address: to bring a killed one back.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            delay_ms: AtomicU64::new(0),
            status: AtomicU16::new(200),
            grpc_status: AtomicU16::new(NO_GRPC_STATUS),
            last: Mutex::default(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            frozen: watch::Sender::new(false),
            ticks: watch::Sender::new(0),
        });
        let (kill, killed) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        let (thread, address) = on_thread(address, killed, move |socket, connections| {
            connections.spawn(serve(socket, Arc::clone(&for_thread)));
        });
        Self {
            address,
            shared,
            kill: Some(kill),
            thread: Some(thread),
        }
    }

    /// Its name, which responses carry in `x-instance`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// From now on, responses take this long.
    pub fn set_delay(&self, delay: Duration) {
        self.shared
            .delay_ms
            .store(u64::try_from(delay.as_millis()).unwrap(), SeqCst);
    }

    /// From now on, responses have this status.
    pub fn set_status(&self, status: u16) {
        self.shared.status.store(status, SeqCst);
    }

    /// From now on, responses have no body, and this gRPC status in their head: how a call fails
    /// before it said anything.
    pub fn set_grpc_status(&self, status: u16) {
        self.shared.grpc_status.store(status, SeqCst);
    }

    /// From now on, each request is met by a closed connection instead of a response.
    pub fn set_closing(&self, closing: bool) {
        self.shared.closing.store(closing, SeqCst);
    }

    /// Stops reading and writing on every connection, old and new; the kernel still accepts, as for
    /// a process that was stopped.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Sends one event on every open `/sse` stream.
    pub fn tick(&self) {
        self.shared.ticks.send_modify(|count| *count += 1);
    }

    /// Requests seen so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }

    /// What it saw of the last request to which it responded with that, as JSON.
    pub fn last_request(&self) -> String {
        self.shared.last.lock().unwrap().clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Closes the listener and resets all connections, as kill -9 does with unread data. Returns
    /// when it is done.
    pub fn kill(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

/// Responds to every request head with the same bytes and leaves the connection open (or closes
/// it): for responses that no library would send.
pub struct RawUpstream {
    /// Where it listens.
    pub address: SocketAddr,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RawUpstream {
    /// Starts one.
    pub fn start(reply: impl Into<Vec<u8>>, close: bool) -> Self {
        let (kill, killed) = oneshot::channel();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let reply: Arc<[u8]> = Arc::from(reply.into());
        let (thread, address) = on_thread(any, killed, move |mut socket, connections| {
            let reply = Arc::clone(&reply);
            connections.spawn(async move {
                let mut seen = Vec::new();
                while matches!(socket.read_buf(&mut seen).await, Ok(1..)) {
                    if seen.windows(4).any(|window| window == b"\r\n\r\n") {
                        seen.clear();
                        if socket.write_all(&reply).await.is_err() || close {
                            let _ = socket2::SockRef::from(&socket).set_linger(None);
                            return;
                        }
                    }
                }
            });
        });
        Self {
            address,
            kill: Some(kill),
            thread: Some(thread),
        }
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Echoes bytes, and passes the end of either direction on by itself.
pub struct TcpEcho {
    /// Where it listens.
    pub address: SocketAddr,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TcpEcho {
    /// Starts one. It sends `greeting` first; after the client's FIN it sends what is left, then
    /// `farewell`, then its own FIN: only half-close done right brings the farewell to the client.
    pub fn start(greeting: &'static str, farewell: &'static str) -> Self {
        let (kill, killed) = oneshot::channel();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (thread, address) = on_thread(any, killed, move |mut socket, connections| {
            connections.spawn(async move {
                let _: io::Result<()> = async {
                    let (mut read, mut write) = socket.split();
                    write.write_all(greeting.as_bytes()).await?;
                    tokio::io::copy(&mut read, &mut write).await?;
                    write.write_all(farewell.as_bytes()).await?;
                    write.shutdown().await?;
                    // A clean end this time.
                    socket2::SockRef::from(&socket).set_linger(None)
                }
                .await;
            });
        });
        Self {
            address,
            kill: Some(kill),
            thread: Some(thread),
        }
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An accept loop on a thread of its own, until `killed`.
fn on_thread(
    address: SocketAddr,
    killed: oneshot::Receiver<()>,
    mut handle: impl FnMut(TcpStream, &mut JoinSet<()>) + Send + 'static,
) -> (std::thread::JoinHandle<()>, SocketAddr) {
    let listener = std::net::TcpListener::bind(address)
        .unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            let accept = async {
                loop {
                    if let Ok((socket, _)) = listener.accept().await {
                        // Closing then means RST: how a killed process's connections with unread
                        // data end.
                        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                        let _ = socket.set_nodelay(true);
                        handle(socket, &mut connections);
                    }
                }
            };
            tokio::select! { () = accept => {}, _ = killed => {} }
            drop(listener);
            connections.shutdown().await;
        });
    });
    (thread, address)
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, SeqCst);
    let mut frozen = shared.frozen.subscribe();
    let _ = frozen.wait_for(|frozen| !frozen).await;
    let prior_knowledge = speaks_h2(&socket).await;
    let io = Freezable {
        io: TokioIo::new(socket),
        frozen: shared.frozen.subscribe(),
        thawed: None,
    };
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    if prior_knowledge {
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
}

/// Whether the connection begins with the preface of HTTP/2 (no method begins with `PRI`).
async fn speaks_h2(socket: &TcpStream) -> bool {
    let mut start = [0; 3];
    loop {
        match socket.peek(&mut start).await {
            Ok(3) => return start == *b"PRI",
            Ok(count @ 1..) if b"PRI".starts_with(&start[..count]) => {
                tokio::task::yield_now().await
            }
            _ => return false,
        }
    }
}

/// An error makes hyper close the connection without a response.
async fn answer(
    mut request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, io::Error> {
    shared.requests.fetch_add(1, SeqCst);
    let delay = Duration::from_millis(shared.delay_ms.load(SeqCst));
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    // In HTTP/2 hyper leaves it to us that HEAD gets no content.
    let bodiless = request.version() == Version::HTTP_2 && *request.method() == Method::HEAD;
    let path = request.uri().path().to_owned();
    let last = path.rsplit('/').next().unwrap_or("");
    if shared.closing.load(SeqCst) || last == "close" {
        return Err(io::Error::other("told to close"));
    }
    let grpc_status = shared.grpc_status.load(SeqCst);
    let mut response = match last {
        _ if grpc_status != NO_GRPC_STATUS => {
            let mut response = Response::new(full(Vec::new()));
            response.headers_mut().insert(
                "content-type",
                "application/grpc".parse().map_err(io::Error::other)?,
            );
            response
                .headers_mut()
                .insert("grpc-status", grpc_status.into());
            response
        }
        "echo" => Response::new(request.into_body().boxed_unsync()),
        "sse" => sse(&shared),
        "chunks" => Response::new(frames(
            ["one ", "two ", "three"]
                .map(|part| Frame::data(Bytes::from(part)))
                .into(),
        )),
        "trailers" => trailers(),
        "ws" => upgrade(&mut request),
        _ if path.contains("/bytes/") => Response::new(full(vec![b'x'; last.parse().unwrap_or(0)])),
        _ => json(request, &shared).await,
    };
    if response.status() == StatusCode::OK {
        *response.status_mut() =
            StatusCode::from_u16(shared.status.load(SeqCst)).map_err(io::Error::other)?;
    }
    if bodiless {
        *response.body_mut() = full(Vec::new());
    }
    response
        .headers_mut()
        .insert("x-instance", shared.name.parse().map_err(io::Error::other)?);
    Ok(response)
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(stream::iter(
        frames.into_iter().map(Ok::<_, hyper::Error>),
    )))
}

fn trailers() -> Response<Body> {
    let mut fields = HeaderMap::new();
    fields.insert("x-checksum", header::HeaderValue::from_static("42"));
    let mut response = Response::new(frames(vec![
        Frame::data(Bytes::from("body")),
        Frame::trailers(fields),
    ]));
    response.headers_mut().insert(
        header::TRAILER,
        header::HeaderValue::from_static("x-checksum"),
    );
    response
}

fn sse(shared: &Arc<Shared>) -> Response<Body> {
    let ticks = shared.ticks.subscribe();
    let events = stream::unfold((ticks, 0u64), |(mut ticks, sent)| async move {
        if sent > 0 {
            // The sender lives as long as the server; its end is the end of the stream.
            ticks.changed().await.ok()?;
        }
        let event = Frame::data(Bytes::from(format!("data: {sent}\n\n")));
        Some((Ok::<_, hyper::Error>(event), (ticks, sent + 1)))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(events)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/event-stream"),
    );
    response
}

async fn json(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let mut answer = serde_json::json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "authority": head.uri.authority().map(|authority| authority.as_str()),
        "version": if head.version == Version::HTTP_2 { "2" } else { "1" },
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    *shared.last.lock().unwrap() = answer.to_string();
    answer["instance"] = shared.name.as_str().into();
    let mut response = Response::new(full(answer.to_string()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

/// The response to the handshake does not depend on the key (the accept value is fixed: proxies
/// pass it, clients of these tests do not look), and frames are echoed as bytes: a proxy must not
/// care what they are.
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        let _ = io.shutdown().await;
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("upgrade"),
    );
    headers.insert(
        header::UPGRADE,
        header::HeaderValue::from_static("websocket"),
    );
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        header::HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    );
    response
}

/// A connection that neither reads nor writes while the server is frozen.
struct Freezable {
    io: TokioIo<TcpStream>,
    frozen: watch::Receiver<bool>,
    thawed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Freezable {
    fn poll_thawed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.thawed.is_none() && !*self.frozen.borrow() {
            return Poll::Ready(());
        }
        let mut frozen = self.frozen.clone();
        let thawed = self.thawed.get_or_insert_with(|| {
            Box::pin(async move {
                let _ = frozen.wait_for(|frozen| !frozen).await;
            })
        });
        std::task::ready!(thawed.as_mut().poll(context));
        self.thawed = None;
        Poll::Ready(())
    }
}

impl Read for Freezable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_thawed(context));
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Freezable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_thawed(context));
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
