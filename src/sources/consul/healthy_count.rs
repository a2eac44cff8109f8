//! The number of healthy instances of one service, by a blocking query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::utf8_percent_encode;
use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::client::{Block, Mode};
use super::error::ConsulError;
use super::room::Purpose;
use super::shared::Shared;
use super::wire::SEGMENT;
use crate::sources::backoff::Backoff;
use crate::sources::blocking::{Next, Position};
use crate::sources::healthy_count;
use crate::system::vital;

/// How long Consul may hold a query.
const WAIT: Duration = Duration::from_secs(60);
/// Bounds of the pause after a request that failed. A count that is late is a wrong one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Shortest time between two reads: changes of checks come in bursts.
const EVERY_MIN: Duration = Duration::from_millis(100);

/// Counts for as long as it is kept.
#[derive(Debug)]
pub(super) struct HealthyCount {
    service: watch::Sender<Option<String>>,
    count: watch::Receiver<Option<u32>>,
    task: JoinHandle<()>,
}

impl HealthyCount {
    /// Counts nothing yet. Must be called inside a Tokio runtime.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (service, followed) = watch::channel(None);
        let (counted, count) = watch::channel(None);
        let run = run(shared, followed, counted);
        Self {
            service,
            count,
            task: tokio::spawn(vital::task("the count of the fleet", run)),
        }
    }
}

impl healthy_count::HealthyCount for HealthyCount {
    fn follow(&self, service: Option<&str>) {
        self.service.send_if_modified(|present| {
            let differs = present.as_deref() != service;
            *present = service.map(str::to_owned);
            differs
        });
    }

    fn count(&self) -> watch::Receiver<Option<u32>> {
        self.count.clone()
    }
}

impl Drop for HealthyCount {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    shared: Arc<Shared>,
    mut followed: watch::Receiver<Option<String>>,
    counted: watch::Sender<Option<u32>>,
) {
    loop {
        let service = followed.borrow_and_update().clone();
        let Some(service) = service else {
            counted.send_replace(None);
            if followed.changed().await.is_err() {
                return;
            }
            continue;
        };
        let _place = shared.client.watching(Purpose::Other);
        tokio::select! {
            changed = followed.changed() => if changed.is_err() { return },
            () = watch_one(&shared, &service, &counted) => {}
        }
    }
}

/// Never ends.
async fn watch_one(shared: &Shared, service: &str, counted: &watch::Sender<Option<u32>>) {
    let path = format!(
        "/v1/health/service/{}?passing=true",
        utf8_percent_encode(service, SEGMENT)
    );
    let mut position = Position::default();
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    let mut rng = fastrand::Rng::new();
    let mut failing = false;
    loop {
        let started = Instant::now();
        let block = position.index().map(|index| Block { index, wait: WAIT });
        let pause = match read(shared, &path, block).await {
            Ok((found, index, early)) => {
                if std::mem::take(&mut failing) {
                    info!(service, "the number of lb in Consul can be read again");
                }
                backoff.succeeded();
                note(service, found, counted);
                match position.advance(index, early) {
                    Next::Now => EVERY_MIN.saturating_sub(started.elapsed()),
                    Next::Stuck => PAUSE.0,
                    Next::After(pause) => pause,
                }
            }
            Err(error) => {
                position.forget();
                if !std::mem::replace(&mut failing, true) {
                    warn!(
                        service,
                        %error,
                        "the number of lb in Consul cannot be read; limits stay divided as they are"
                    );
                }
                backoff.failed(&mut rng)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn read(
    shared: &Shared,
    path: &str,
    block: Option<Block>,
) -> Result<(u32, Option<u64>, bool), ConsulError> {
    let response = shared.client.get(path, Mode::Stale, block).await?;
    let found: Vec<IgnoredAny> =
        serde_json::from_slice(&response.body).map_err(|error| ConsulError::Decode {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let found = u32::try_from(found.len()).unwrap_or(u32::MAX);
    Ok((found, response.index, response.early))
}

/// A list without any instance is not believed once there was one: we are one ourselves, and Consul
/// sends it too where the token may not read the service.
fn note(service: &str, found: u32, counted: &watch::Sender<Option<u32>>) {
    let before = *counted.borrow();
    if found > 0 && before != Some(found) {
        info!(
            service,
            count = found,
            "limits are divided by this number of lb"
        );
        counted.send_replace(Some(found));
    }
}
