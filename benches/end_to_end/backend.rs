//! The backend behind every proxy: a thread of this process that does as little as possible per
//! request, so that the proxy is what is measured. HTTP/1.1 by path (`/10k`, `/1m`, 64 bytes for
//! any other), gRPC, and bytes.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::ports::Backends;
use crate::request_body;

/// 1 MiB.
pub(crate) const BULK: usize = 1 << 20;

/// Requests, calls and messages that came in whole.
static SERVED: AtomicU64 = AtomicU64::new(0);

/// How many it has responded to so far: those that a proxy responded to by itself are not among
/// them.
pub(crate) fn served() -> u64 {
    SERVED.load(Relaxed)
}

/// Starts it; it lives as long as the process.
pub(crate) fn start() -> Backends {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async move {
                let listen = || TcpListener::bind(("127.0.0.1", 0));
                let (http, grpc, tcp) = (
                    listen().await.unwrap(),
                    listen().await.unwrap(),
                    listen().await.unwrap(),
                );
                let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
                tell.send(Backends {
                    http: port(&http),
                    grpc: port(&grpc),
                    tcp: port(&tcp),
                })
                .unwrap();
                tokio::join!(
                    serve(http, serve_http),
                    serve(grpc, serve_grpc),
                    serve(tcp, serve_tcp)
                );
            });
    });
    told.recv().unwrap()
}

async fn serve<F: Future<Output = io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    each: fn(TcpStream) -> F,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        // A client that goes away is not an event here.
        tokio::spawn(async move { drop(each(stream).await) });
    }
}

fn answer(length: usize) -> Bytes {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes();
    answer.resize(answer.len() + length, b'x');
    answer.into()
}

async fn serve_http(mut stream: TcpStream) -> io::Result<()> {
    let (small, middle, large) = (answer(64), answer(10_240), answer(BULK));
    let mut buffer = BytesMut::with_capacity(16_384);
    loop {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = buffer.split_to(end);
        request_body::skip(&head, &mut stream, &mut buffer).await?;
        let answer = match head
            .iter()
            .position(|&byte| byte == b'/')
            .map(|at| &head[at..])
        {
            Some(path) if path.starts_with(b"/10k ") => &middle,
            Some(path) if path.starts_with(b"/1m ") => &large,
            _ => &small,
        };
        SERVED.fetch_add(1, Relaxed);
        stream.write_all(answer).await?;
    }
}

async fn serve_grpc(stream: TcpStream) -> io::Result<()> {
    let service = service_fn(|request: Request<Incoming>| async move {
        let sent = request
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        SERVED.fetch_add(1, Relaxed);
        let trailers = HeaderMap::from_iter([(
            "grpc-status".parse().unwrap(),
            HeaderValue::from_static("0"),
        )]);
        let frames = [
            Ok::<_, Infallible>(Frame::data(sent)),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Ok::<_, Infallible>(
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap(),
        )
    });
    let server = http2::Builder::new(TokioExecutor::new());
    server
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// Messages of 64 bytes: the reply to one that begins with `b` is 1 MiB, that to any other itself.
async fn serve_tcp(mut stream: TcpStream) -> io::Result<()> {
    let bulk = Bytes::from(vec![b'x'; BULK]);
    let mut message = [0; 64];
    loop {
        stream.read_exact(&mut message).await?;
        SERVED.fetch_add(1, Relaxed);
        if message[0] == b'b' {
            stream.write_all(&bulk).await?;
        } else {
            stream.write_all(&message).await?;
        }
    }
}
