//! The event stream of a namespace: hints of what changed, and nothing to be believed.
//!
//! It begins where its server likes, repeats events, and falls silent without an end when its token
//! is deleted. So what happened before it began is looked at by others, what it repeats is harmless,
//! and silence is an error: a stream that is alive says so every ten seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::error::NomadError;
use super::events::{Hint, Lines};
use super::shared::Shared;
use crate::catalog::ServiceName;
use crate::sources::backoff::Backoff;

/// Two signs of life in a row are missing.
const SILENCE_MAX: Duration = Duration::from_secs(24);
/// Limit for the head of the response.
const OPEN_LIMIT: Duration = Duration::from_secs(24);
/// Bounds of the pause before the next try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A stream that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(30);

/// What ended a stream.
enum End {
    Failed(NomadError),
    /// There is another API: the next one begins at once.
    Replaced,
    /// Nothing takes hints any more.
    Closed,
}

/// Reads until nothing takes hints any more.
pub(super) async fn run(shared: Arc<Shared>, namespace: Arc<str>, hints: mpsc::Sender<Hint>) {
    let watch = ServiceName::from(format!("event stream of namespace {namespace}"));
    let mut changes = shared.changes();
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut rng = fastrand::Rng::new();
    loop {
        let begun = Instant::now();
        let end = tokio::select! {
            end = follow(&shared, &namespace, &watch, &hints) => end,
            Ok(()) = changes.changed() => End::Replaced,
        };
        if hints.send(Hint::Lost).await.is_err() {
            return;
        }
        let error = match end {
            End::Closed => return,
            End::Replaced => continue,
            End::Failed(error) => error,
        };
        shared.failed(&watch, &error);
        if begun.elapsed() > GOOD {
            backoff.succeeded();
        }
        tokio::select! {
            () = sleep(backoff.failed(&mut rng)) => {}
            Ok(()) = changes.changed() => {}
            () = hints.closed() => return,
        }
    }
}

async fn follow(
    shared: &Shared,
    namespace: &str,
    watch: &ServiceName,
    hints: &mpsc::Sender<Hint>,
) -> End {
    let query = [
        ("topic", "Service"),
        ("topic", "Allocation"),
        ("namespace", namespace),
    ];
    let opened = shared
        .api()
        .open("/v1/event/stream", &query, OPEN_LIMIT)
        .await;
    let mut response = match opened {
        Ok(response) => response,
        Err(error) => return End::Failed(error),
    };
    if hints.send(Hint::Live).await.is_err() {
        return End::Closed;
    }
    let mut lines = Lines::default();
    loop {
        let part = match timeout(SILENCE_MAX, response.chunk()).await {
            Err(_) => {
                return End::Failed(NomadError::Silent {
                    url: response.url().to_owned(),
                    after: SILENCE_MAX,
                });
            }
            Ok(Err(error)) => return End::Failed(error.into()),
            Ok(Ok(None)) => {
                let url = response.url().to_owned();
                return End::Failed(NomadError::Ended { url });
            }
            Ok(Ok(Some(part))) => part,
        };
        // The head alone shows nothing: a token that may not read gets one, too.
        shared.succeeded(watch);
        for hint in lines.take(&part, Instant::now()) {
            if hints.send(hint).await.is_err() {
                return End::Closed;
            }
        }
    }
}
