//! One connection to one agent: resolve, connect, TLS, HTTP. Each step is a function of its own, so
//! that `lb check --live` can name the one that fails; pooling is left to `client`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{ConsulError, alert, chain};
use super::settings::{Agent, Settings, Transport};
use crate::system::lack::is_exhaustion;

/// Limit for connecting, TLS and HTTP preface together, per address of the agent.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for resolving the agent's name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one agent that are tried.
const ADDRESSES_MAX: usize = 8;
/// Idle time before the kernel probes a connection, and between probes: below the minute after
/// which middleboxes forget.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Time between HTTP/2 pings, and for their acknowledgement: finds an agent that froze, which no
/// socket error would show.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams used on one connection at once, until the agent says it takes fewer. Consul (Go) takes
/// 250.
pub(super) const STREAMS_MAX: usize = 200;
/// HTTP/2 windows: a response with thousands of instances should not wait for round trips.
const WINDOW: u32 = 1 << 20;

/// A connection ready for requests.
pub(super) enum Connection {
    /// One request at a time.
    Http1(http1::SendRequest<Full<Bytes>>, CloseReason),
    /// Many: as many as the agent grants, at most [`STREAMS_MAX`].
    Http2(http2::SendRequest<Full<Bytes>>, StreamLimit, CloseReason),
}

/// Streams that the agent grants at present.
pub(super) type StreamLimit = Arc<AtomicUsize>;

/// Why the connection ended, once it has: the real reason, where a request on it often sees only
/// "closed".
pub(super) type CloseReason = Arc<OnceLock<Arc<hyper::Error>>>;

/// Opens a connection to this agent.
///
/// # Errors
/// Resolve, connect, TLS or timeout, with the agent's name; what makes these settings unusable.
pub(super) async fn dial(settings: &Settings, agent: &Agent) -> Result<Connection, ConsulError> {
    if let Some(error) = &settings.broken {
        return Err(error.clone());
    }
    match &agent.transport {
        Transport::Unix(path) => {
            let stream = within(agent, UnixStream::connect(path)).await?;
            http1(agent, stream).await
        }
        Transport::Tcp { tls, .. } => {
            let stream = connect(agent, &resolve(agent).await?).await?;
            if *tls {
                let stream = handshake(settings, agent, stream).await?;
                http(agent, stream).await
            } else {
                http1(agent, stream).await
            }
        }
    }
}

/// All addresses of the agent's host.
pub(super) async fn resolve(agent: &Agent) -> Result<Vec<SocketAddr>, ConsulError> {
    let Transport::Tcp { host, port, .. } = &agent.transport else {
        return Ok(Vec::new());
    };
    let failed = |reason: String| ConsulError::Resolve {
        agent: agent.name.clone(),
        reason,
    };
    let found = timeout(RESOLVE_TIMEOUT, lookup_host((host.as_str(), *port)))
        .await
        .map_err(|_| failed(format!("no response within {RESOLVE_TIMEOUT:?}")))?
        .map_err(|error| exhausted(agent, &error).unwrap_or_else(|| failed(error.to_string())))?;
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        Err(failed("the name has no address".to_owned()))
    } else {
        Ok(addresses)
    }
}

/// A TCP connection to the first address that takes one.
pub(super) async fn connect(
    agent: &Agent,
    addresses: &[SocketAddr],
) -> Result<TcpStream, ConsulError> {
    let mut last = None;
    for &address in addresses {
        match within(agent, TcpStream::connect(address)).await {
            Ok(stream) => {
                // Neither is needed for correct responses, so a system that refuses them is not a
                // reason to fail.
                let _ = stream.set_nodelay(true);
                let keepalive = TcpKeepalive::new()
                    .with_time(KEEPALIVE)
                    .with_interval(KEEPALIVE);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ConsulError::Connect {
        agent: agent.name.clone(),
        reason: "no address".to_owned(),
    }))
}

/// TLS on a fresh connection.
pub(super) async fn handshake(
    settings: &Settings,
    agent: &Agent,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ConsulError> {
    let failed = |reason: String, alert| ConsulError::Tls {
        agent: agent.name.clone(),
        reason,
        alert,
    };
    let Transport::Tcp { host, .. } = &agent.transport else {
        return Err(failed("a unix socket has no TLS".to_owned(), None));
    };
    let Some(tls) = &settings.tls else {
        return Err(failed("no TLS settings".to_owned(), None));
    };
    let name = settings.server_name.as_ref().unwrap_or(host);
    let name = ServerName::try_from(name.clone())
        .map_err(|error| failed(format!("name `{name}`: {error}"), None))?;
    match timeout(
        CONNECT_TIMEOUT,
        TlsConnector::from(tls.clone()).connect(name, stream),
    )
    .await
    {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(chain(&error), alert(&error))),
        Err(_) => Err(failed(
            format!("no response within {CONNECT_TIMEOUT:?}"),
            None,
        )),
    }
}

/// HTTP/2 when the agent chose it in the handshake, else HTTP/1.1.
pub(super) async fn http(
    agent: &Agent,
    stream: TlsStream<TcpStream>,
) -> Result<Connection, ConsulError> {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(agent, stream).await
    } else {
        http1(agent, stream).await
    }
}

async fn http2(agent: &Agent, stream: TlsStream<TcpStream>) -> Result<Connection, ConsulError> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let (sender, mut connection) = preface(agent, builder.handshake(TokioIo::new(stream))).await?;
    let (close_reason, stream_limit) = (
        CloseReason::default(),
        Arc::new(AtomicUsize::new(STREAMS_MAX)),
    );
    let (end, grant) = (close_reason.clone(), stream_limit.clone());
    // Only the connection itself knows what the agent's SETTINGS say, so it is read whenever it
    // moves. It ends by itself: when the agent closes, or when every sender and stream is gone.
    let drive = poll_fn(move |context| {
        let moved = Pin::new(&mut connection).poll(context);
        if moved.is_pending() {
            grant.store(
                connection.current_max_send_streams().clamp(1, STREAMS_MAX),
                Relaxed,
            );
        }
        moved
    });
    tokio::spawn(async move { drive.await.map_err(|error| end.set(Arc::new(error))) });
    Ok(Connection::Http2(sender, stream_limit, close_reason))
}

/// HTTP/1.1 on any stream.
pub(super) async fn http1<S>(agent: &Agent, stream: S) -> Result<Connection, ConsulError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = preface(agent, http1::handshake(TokioIo::new(stream))).await?;
    let close_reason = CloseReason::default();
    let end = close_reason.clone();
    // Ends by itself: when the agent closes, or when the sender is gone.
    tokio::spawn(async move { connection.await.map_err(|error| end.set(Arc::new(error))) });
    // Ready once its task has run: the pool takes a connection that is not for one that was closed.
    preface(agent, sender.ready()).await?;
    Ok(Connection::Http1(sender, close_reason))
}

async fn preface<T>(
    agent: &Agent,
    handshake: impl Future<Output = hyper::Result<T>>,
) -> Result<T, ConsulError> {
    let broken = |reason, alert| ConsulError::Transport {
        agent: agent.name.clone(),
        reason,
        alert,
    };
    match timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(ready)) => Ok(ready),
        Ok(Err(error)) => Err(broken(chain(&error), alert(&error))),
        Err(_) => Err(broken(
            format!("no HTTP preface within {CONNECT_TIMEOUT:?}"),
            None,
        )),
    }
}

/// The error of a process or machine that lacks something, if this is one: it says nothing of the
/// agent.
fn exhausted(agent: &Agent, error: &std::io::Error) -> Option<ConsulError> {
    is_exhaustion(error).then(|| ConsulError::Exhausted {
        agent: agent.name.clone(),
        reason: error.to_string(),
    })
}

async fn within<T>(
    agent: &Agent,
    connect: impl Future<Output = std::io::Result<T>>,
) -> Result<T, ConsulError> {
    let failed = |reason| ConsulError::Connect {
        agent: agent.name.clone(),
        reason,
    };
    match timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(exhausted(agent, &error).unwrap_or_else(|| failed(error.to_string())))
        }
        Err(_) => Err(failed(format!("no response within {CONNECT_TIMEOUT:?}"))),
    }
}
