//! Certificates that are ordered from an ACME server (RFC 8555) for hosts of routes.
//!
//! ```text
//! hosts of routes ─► names ─► what is due? (schedule) ─► order ─► store ─► watch ─► CertificateSink
//!                                  ▲                       │                  │
//!                             holder of the lock      challenge ─► store ─► watch ─► responses in the data path
//! ```
//! Any number of lb share a store. All of them serve what it holds and respond to every challenge; the
//! one that has the lock orders. See docs/decisions/0026-acme.md.

mod account;
mod challenge;
mod failure;
mod hook;
mod names;
mod order;
mod owner;
mod port;
mod record;
mod schedule;
mod sealing;
mod server;
mod shared;
mod store;
mod view;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

pub(crate) use challenge::Answer;
pub(crate) use failure::Kind;
pub(crate) use port::{Ask, Asks, NameState, Port, Ports};

use self::failure::Failure;
use self::owner::Owner;
use self::record::Seal;
use self::sealing::Sealer;
use self::shared::Shared;
use self::store::{Shelf, Store, Watch};
use super::error::SourceError;
use super::source::CertificateSink;
use crate::config::{AcmeConfig, ConsulConfig, Secret};
use crate::sources::backoff::Backoff;

/// Pauses after a failure of the store.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Between two looks whether the lock is free.
const LOCK_LOOK: Duration = Duration::from_secs(2);
/// Between two reads for queries: clients can request any name.
const ASK_PAUSE: Duration = Duration::from_millis(30);
/// How often what is said of names is brought up to date, and hosts of routes are looked at.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Serves the source until it is dropped.
pub(super) async fn run(
    config: AcmeConfig,
    consul: Option<ConsulConfig>,
    sink: Arc<dyn CertificateSink>,
    ports: Ports,
) {
    let seal = loop {
        match seal(config.passphrase_file.as_deref()) {
            Ok(seal) => break seal,
            Err(error) => {
                ports.port.failed(Kind::Passphrase);
                sink.failed(&SourceError::Acme(error));
                sleep(BACKOFF.1).await;
            }
        }
    };
    let store = Store::new(&config, consul.as_ref());
    let shared = Shared::new(config, seal, store, ports.port, sink);
    // Boxed: each is large, and all of them together are more than a stack should carry.
    tokio::join!(
        Box::pin(follow(&shared)),
        Box::pin(answer(&shared, &ports.asks)),
        Box::pin(order(&shared)),
        tell(&shared),
    );
}

fn seal(file: Option<&Path>) -> Result<Seal, String> {
    let Some(file) = file else { return Ok(None) };
    let at = |reason: &str| format!("key_passphrase_file {}: {reason}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| at(&error.to_string()))?;
    match text.trim() {
        "" => Err(at("is empty")),
        passphrase => Ok(Some(Rc::new(Sealer::new(Secret::new(passphrase))))),
    }
}

/// Takes what the store holds, whenever it changes.
async fn follow(shared: &Shared) {
    let certificates = async {
        let mut watch = Watch::new(Shelf::Certificates);
        each(shared, &mut watch, |texts| shared.take_certificates(texts)).await;
    };
    let orders = async {
        let mut watch = Watch::new(Shelf::Orders);
        each(shared, &mut watch, |texts| shared.take_orders(texts)).await;
    };
    tokio::join!(certificates, orders);
}

async fn each(shared: &Shared, watch: &mut Watch, take: impl Fn(&store::Texts)) {
    let mut random = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        match shared.store.next(watch).await {
            Ok(texts) => {
                backoff.succeeded();
                take(&texts);
            }
            Err(failure) => {
                shared.store_trouble(&failure);
                sleep(BACKOFF.0 + backoff.failed(&mut random)).await;
            }
        }
    }
}

/// Responds to queries of the data path: reads what the store holds at this moment, once for all that
/// wait.
async fn answer(shared: &Shared, asks: &Asks) {
    let mut asks = asks.lock().await;
    loop {
        let Some(first) = asks.recv().await else {
            return;
        };
        let mut waiting = vec![first];
        while let Ok(next) = asks.try_recv() {
            waiting.push(next);
        }
        match shared.store.list(Shelf::Orders).await {
            Ok(texts) => shared.take_orders(&texts),
            Err(failure) => shared.store_trouble(&failure),
        }
        drop(waiting);
        sleep(ASK_PAUSE).await;
    }
}

/// Orders while the lock is held.
async fn order(shared: &Shared) {
    let mut random = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let pause = match Box::pin(held(shared)).await {
            Ok(()) => {
                backoff.succeeded();
                LOCK_LOOK.mul_f64(0.5 + random.f64())
            }
            Err(failure) => {
                shared.store_trouble(&failure);
                BACKOFF.0 + backoff.failed(&mut random)
            }
        };
        sleep(pause).await;
    }
}

/// Takes the lock, if it is free, and orders until it is lost.
async fn held(shared: &Shared) -> Result<(), Failure> {
    let Some(lock) = shared.store.lock().await? else {
        return Ok(());
    };
    tracing::info!("this lb orders certificates");
    // What other lb have done is known before anything is ordered.
    let read = async {
        shared.take_certificates(&shared.store.list(Shelf::Certificates).await?);
        shared.take_orders(&shared.store.list(Shelf::Orders).await?);
        shared.view.borrow_mut().is_complete = true;
        Ok::<_, Failure>(())
    };
    if let Err(failure) = read.await {
        lock.release().await;
        return Err(failure);
    }
    let mut owner = Owner::new(shared, &lock);
    let lost = tokio::select! {
        lost = lock.lost() => lost,
        () = Box::pin(owner.run()) => return Ok(()),
    };
    drop(owner);
    tracing::warn!(%lost, "this lb no longer orders certificates");
    lock.release().await;
    Err(lost)
}

async fn tell(shared: &Shared) {
    loop {
        sleep(TELL_EVERY).await;
        shared.tell();
    }
}
