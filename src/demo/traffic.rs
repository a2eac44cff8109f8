//! A small generator of traffic: a few clients on keep-alive connections, each asking for one page
//! after another.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::board::Board;
use super::sample::INSTANCE_HEADER;
use super::services::SERVICES;

/// Clients at the same time.
const CLIENTS: u64 = 8;
/// Pause of a client between two requests, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 20..80;
/// Longest wait for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the clients; they end when the set is dropped.
pub(super) fn start(router: SocketAddr, board: &Arc<Mutex<Board>>, seed: u64) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(browse(
            router,
            Arc::clone(board),
            fastrand::Rng::with_seed(seed ^ (client + 1)),
        ));
    }
    clients
}

async fn browse(router: SocketAddr, board: Arc<Mutex<Board>>, mut rng: fastrand::Rng) {
    let mut connection = None;
    loop {
        tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE_MS))).await;
        let path = format!("{}/", SERVICES[rng.usize(..SERVICES.len())].route);
        let begun = Instant::now();
        let outcome =
            tokio::time::timeout(ANSWER_TIMEOUT, ask(router, &mut connection, &path)).await;
        let failure = outcome
            .unwrap_or_else(|_| Err(format!("no answer within {ANSWER_TIMEOUT:?}")))
            .err();
        if failure.is_some() {
            connection = None;
        }
        let failure = failure.map(|reason| format!("GET {path}: {reason}"));
        board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(begun.elapsed(), failure);
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// One request on the connection at hand, or on a new one if there is none or it is closed.
async fn ask(
    router: SocketAddr,
    connection: &mut Option<Connection>,
    path: &str,
) -> Result<(), String> {
    let mut warm = connection.take();
    if let Some(sender) = &mut warm
        && sender.ready().await.is_err()
    {
        warm = None;
    }
    let mut sender = match warm {
        Some(sender) => sender,
        None => connect(router)
            .await
            .map_err(|error| format!("connect: {error}"))?,
    };
    let request = Request::get(path)
        .header(header::HOST, router.to_string())
        .header(header::USER_AGENT, "lb-demo")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let (status, named) = (
        response.status(),
        response.headers().contains_key(INSTANCE_HEADER),
    );
    response
        .into_body()
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?;
    *connection = Some(sender);
    match (status, named) {
        (StatusCode::OK, true) => Ok(()),
        (StatusCode::OK, false) => Err("200, but not from a sample instance".into()),
        (status, _) => Err(status.to_string()),
    }
}

async fn connect(
    router: SocketAddr,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(router).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    // Ends by itself when the sender is dropped or the router closes.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
