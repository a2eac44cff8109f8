//! Keep-alive HTTP/1.1 of which one request in so many is another one: what such a request costs
//! those that follow it on its connection is the question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::{self, connect, exchange_for};
use crate::outcome::Outcome;
use crate::requests::Request;

/// Connections that send requests, as many as in `h1-64`.
const CONNECTIONS: usize = 64;

/// Sends `usual`, and on each connection `other` once in `every` requests.
pub(crate) fn run(
    port: u16,
    usual: Request,
    other: Request,
    every: u64,
    length: Duration,
) -> Outcome {
    let prepared = Arc::new([usual, other].map(|request| (request, request.bytes())));
    let started = AtomicU64::new(0);
    clients::run(CONNECTIONS, length, move |tally, until| {
        let prepared = Arc::clone(&prepared);
        // Their turns to send the other one are spread.
        let mut number = started.fetch_add(1, Relaxed);
        async move {
            let mut stream = connect(port).await?;
            let mut buffer = Vec::new();
            while Instant::now() < until {
                number += 1;
                let (request, bytes) = &prepared[usize::from(number.is_multiple_of(every))];
                exchange_for(request.status(), &mut stream, bytes, &mut buffer).await?;
                tally.good.fetch_add(1, Relaxed);
                tally
                    .by_proxy
                    .fetch_add(u64::from(request.is_for_proxy()), Relaxed);
            }
            Ok(())
        }
    })
}
