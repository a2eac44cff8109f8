//! Sockets of the admin listener: accepts, bounds and times out connections.
//!
//! What is answered is decided in `router`. Limits are small: this is for a handful of people and a scraper, and it
//! shares a thread with the control loop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{AdminState, router};

/// Most connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// Limit for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit for a request head; an idle kept-alive connection is closed by it too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Oldest a connection gets: ends those that do not read their answers.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Room for one request head, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

/// Pause after an accept that failed for want of something (descriptors, memory): the cause will not be gone at
/// once, and the loop must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the admin API on `listener` until the handle is aborted; its connections end with it. Must be called
/// within a `LocalSet`.
pub fn serve(listener: TcpListener, state: AdminState) -> JoinHandle<()> {
    tokio::task::spawn_local(accept_all(listener, Rc::new(state)))
}

async fn accept_all(listener: TcpListener, state: Rc<AdminState>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Never closed, so this only waits.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let state = Rc::clone(&state);
                connections.spawn_local(async move {
                    let _slot = slot;
                    serve_connection(stream, peer, state).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, state: Rc<AdminState>) {
    let settings = Arc::clone(&state.settings.borrow());
    match (state.tls)(&settings) {
        Ok(None) => serve_requests(stream, Client { address: peer, handshake: None }, state).await,
        Ok(Some(tls)) => match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => {
                let handshake = stream.get_ref().1.server_name().map(str::to_owned);
                serve_requests(stream, Client { address: peer, handshake }, state).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "admin connection: no TLS handshake"),
            Err(_) => tracing::debug!("admin connection: the TLS handshake took too long"),
        },
        Err(error) => tracing::error!(error, "the admin listener cannot speak TLS"),
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    /// The name that the TLS handshake was made for.
    pub(super) handshake: Option<String>,
}

async fn serve_requests(stream: impl AsyncRead + AsyncWrite + Unpin, client: Client, state: Rc<AdminState>) {
    let client = Rc::new(client);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (state, client) = (Rc::clone(&state), Rc::clone(&client));
        async move { Ok::<_, Infallible>(router::answer(&state, request, &client).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_AGE_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
        Err(_) => tracing::debug!("admin connection reached its age"),
    }
}
