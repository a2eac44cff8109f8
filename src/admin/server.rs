//! Sockets of the admin listener and of the one for scrapers: accepts, bounds and times out
//! connections.
//!
//! The response is decided by the [`Site`]. Limits are small: this is for a handful of people and a
//! scraper, and it shares a thread with the control loop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use tokio_rustls::TlsAcceptor;

use super::scrape::{ScrapeSite, ScrapeTls};
use super::seats::{Noted, Responding, Seat, Seats};
use super::site::{Client, Site};
use super::{AdminState, router};
use crate::system::lack::is_exhaustion;
use crate::system::throttle::Throttle;
use crate::system::vital;

/// Limit for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit for a request head; an idle kept-alive connection is closed by it too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest time for a client to take nothing of its response.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often that is looked at.
const STALL_LOOK: Duration = Duration::from_secs(5);

/// Oldest a connection gets: ends those that read their responses byte by byte.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Room for one request head, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

/// Pause after an accept that failed for want of something (descriptors, memory), and while all are
/// busy: the cause will not be gone at once, and the loop must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the admin API on `listener` until the handle is aborted; its connections end with it.
/// Must be called within a `LocalSet`.
pub fn serve(listener: TcpListener, state: AdminState) -> JoinHandle<()> {
    tokio::task::spawn_local(vital::task(
        "the admin listener",
        accept_all(listener, Rc::new(state)),
    ))
}

/// Serves metrics alone, in the same way.
pub fn serve_metrics(listener: TcpListener, state: AdminState, tls: ScrapeTls) -> JoinHandle<()> {
    tokio::task::spawn_local(vital::task(
        "the metrics listener",
        accept_all(listener, Rc::new(ScrapeSite { state, tls })),
    ))
}

async fn accept_all(listener: TcpListener, site: Rc<dyn Site>) {
    let seats = Rc::new(Seats::default());
    let mut connections = JoinSet::new();
    let told = Throttle::default();
    let tell = |problem: &dyn std::fmt::Display| {
        if told.is_due(Instant::now().into_std()) {
            tracing::warn!(%problem, "the {} listener cannot take a connection", site.name());
        }
    };
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let seat = loop {
                    if let Some(seat) = seats.take(Instant::now()) {
                        break seat;
                    }
                    tell(&"all connections of the admin listener are in use");
                    // One of them ends, or takes too long.
                    tokio::time::timeout(ACCEPT_PAUSE, connections.join_next())
                        .await
                        .ok();
                };
                let (site, seats) = (Rc::clone(&site), Rc::clone(&seats));
                connections.spawn_local(async move {
                    tokio::select! {
                        () = serve_connection(stream, peer, site, &seat) => {}
                        () = seat.told_to_leave() => tracing::debug!("admin connection gave way to another one"),
                    }
                    seats.left(&seat);
                });
            }
            Err(error) => {
                tell(&error);
                if !(is_exhaustion(&error) && seats.give_way(Instant::now())) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // What gave way ends in a turn of its own.
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    site: Rc<dyn Site>,
    seat: &Rc<Seat>,
) {
    match site.tls() {
        Ok(None) => {
            serve_requests(
                stream,
                Client {
                    address: peer,
                    handshake: None,
                },
                site,
                seat,
            )
            .await
        }
        Ok(Some(tls)) => {
            match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
                Ok(Ok(stream)) => {
                    let handshake = stream.get_ref().1.server_name().map(str::to_owned);
                    serve_requests(
                        stream,
                        Client {
                            address: peer,
                            handshake,
                        },
                        site,
                        seat,
                    )
                    .await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "admin connection: no TLS handshake"),
                Err(_) => tracing::debug!("admin connection: the TLS handshake took too long"),
            }
        }
        Err(error) => tracing::error!(error, "the {} listener cannot speak TLS", site.name()),
    }
}

async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    client: Client,
    site: Rc<dyn Site>,
    seat: &Rc<Seat>,
) {
    let client = Rc::new(client);
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (site, seat, client) = (Rc::clone(&site), Rc::clone(seat), Rc::clone(&client));
        async move {
            let responding = seat.responding();
            let mut answer = match seat.is_reserved() && !site.is_watching(&request) {
                true => router::overcrowded(),
                false => site.respond(request, &client).await,
            };
            if seat.is_reserved() {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| BodyUnderWay {
                body,
                _responding: responding,
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Noted::new(stream, Rc::clone(seat))), service);
    let stalled = async {
        let mut look = interval(STALL_LOOK);
        while seat.stalled_for(Instant::now()) < STALL_TIMEOUT {
            look.tick().await;
        }
    };
    tokio::select! {
        ended = timeout(CONNECTION_AGE_MAX, connection) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
            Err(_) => tracing::debug!("admin connection reached its age"),
        },
        () = stalled => tracing::debug!("admin connection: its client takes nothing of the response"),
    }
}

/// The body of a response, which is under way until it is dropped.
struct BodyUnderWay<B> {
    body: B,
    _responding: Responding,
}

impl<B: Body<Data = Bytes> + Unpin> Body for BodyUnderWay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
