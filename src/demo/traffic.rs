//! A small generator of traffic: a few clients on keep-alive connections, each requesting one page
//! after another.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::{HeaderValue, StatusCode, Uri, header};
use tokio::task::JoinSet;

use super::board::Board;
use super::sample::INSTANCE_HEADER;
use super::services::SERVICES;
use crate::http_client::{Client, Limits, Request};

/// Clients at the same time.
const CLIENTS: u64 = 8;
/// Pause of a client between two requests, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 20..80;
/// Bounds of one request.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    bytes: 1 << 20,
};

/// Starts the clients; they end when the set is dropped.
///
/// # Errors
/// When no HTTP client can be set up.
pub(super) fn start(
    router: SocketAddr,
    board: &Arc<Mutex<Board>>,
    seed: u64,
) -> anyhow::Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        // Each has connections of its own, as browsers have.
        let client = Client::without_tls().context("the demo's traffic")?;
        let rng = fastrand::Rng::with_seed(seed ^ (number + 1));
        clients.spawn(browse(client, router, Arc::clone(board), rng));
    }
    Ok(clients)
}

async fn browse(
    client: Client,
    router: SocketAddr,
    board: Arc<Mutex<Board>>,
    mut rng: fastrand::Rng,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE_MS))).await;
        let path = format!("{}/", SERVICES[rng.usize(..SERVICES.len())].route);
        let begun = Instant::now();
        let failure = get(&client, router, &path).await.err();
        let failure = failure.map(|reason| format!("GET {path}: {reason}"));
        board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(begun.elapsed(), failure);
    }
}

async fn get(client: &Client, router: SocketAddr, path: &str) -> Result<(), String> {
    let url = format!("http://{router}{path}").parse::<Uri>();
    let mut request = Request::get(url.map_err(|error| error.to_string())?);
    let agent = HeaderValue::from_static("lb-demo");
    request.headers.push((header::USER_AGENT, agent));
    let response = client.send_once(request, LIMITS).await;
    let response = response.map_err(|error| error.to_string())?;
    match (
        response.status(),
        response.headers().contains_key(INSTANCE_HEADER),
    ) {
        (StatusCode::OK, true) => Ok(()),
        (StatusCode::OK, false) => Err("200, but not from a sample instance".into()),
        (status, _) => Err(status.to_string()),
    }
}
