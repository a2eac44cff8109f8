//! The watch of the route commands in the KV store: a source of its own, on the connections of the
//! catalog's.

use std::sync::Arc;

use tracing::{info, warn};

use super::error::ConsulError;
use super::keys::{self, Entry, Listing, Parsed};
use super::poll::Poller;
use super::rights::{self, Rights};
use super::shared::{Closed, Shared};

/// Failed first reads (but for those without a connection) after which the start waits for the
/// commands no longer: routes of the catalog without them are what Fabio serves then, too.
const FAILURES_MAX: u32 = 3;

/// What is known of the commands.
struct Overrides {
    shared: Arc<Shared>,
    path: String,
    poller: Poller,
    parsed: Parsed,
    /// What was sent last.
    known: Option<Listing>,
    /// One of the keys that there were.
    some: Option<String>,
    failures: u32,
    synced: bool,
}

/// Watches until aborted, or until nothing takes updates any more.
pub(super) async fn run(shared: Arc<Shared>, path: String) {
    let poller = Poller::new(
        shared.clone(),
        keys::path(&path),
        format!("kv:{path}").into(),
    );
    let mut overrides = Overrides {
        shared,
        path,
        poller,
        parsed: Parsed::default(),
        known: None,
        some: None,
        failures: 0,
        synced: false,
    };
    while overrides.turn().await.is_ok() {}
}

impl Overrides {
    async fn turn(&mut self) -> Result<(), Closed> {
        match self.poller.attempt(keys::decode).await {
            Ok(Some(entries)) if entries.is_empty() && self.some.is_some() => self.confirm().await,
            Ok(Some(entries)) => self.take(entries).await,
            Ok(None) => Ok(()),
            Err(error) => self.failed(error).await,
        }
    }

    /// Keys that are gone all at once are read a second time: a server that is behind may not have
    /// them yet, and a token that lost its rights sees none.
    async fn confirm(&mut self) -> Result<(), Closed> {
        match self.second_look().await {
            Ok(Some(entries)) => self.take(entries).await,
            Ok(None) => {
                self.poller.held(&ConsulError::KeyRights {
                    path: self.path.clone(),
                });
                Ok(())
            }
            Err(error) => {
                self.poller
                    .unconfirmed(format!("{}: the loss of every key", self.path), &error)
                    .await;
                Ok(())
            }
        }
    }

    /// What the leader says; none when the token may not see the keys.
    async fn second_look(&mut self) -> Result<Option<Vec<Entry>>, ConsulError> {
        let entries = self.poller.confirm(None, keys::decode).await?;
        let Some(key) = self.some.as_ref().filter(|_| entries.is_empty()) else {
            return Ok(Some(entries));
        };
        let hidden =
            self.poller.filtered() || rights::to_key(&self.shared, key).await? == Rights::Denied;
        Ok((!hidden).then_some(entries))
    }

    async fn take(&mut self, entries: Vec<Entry>) -> Result<(), Closed> {
        self.some = entries.first().map(|entry| entry.key.clone());
        let (path, keys) = (&self.path, entries.len());
        let now = self.parsed.take(entries);
        self.poller.believed(self.known.as_ref() != Some(&now));
        if self.known.as_ref() != Some(&now) {
            let (commands, rejected) = (now.0.len(), now.1.len());
            if keys == 0 {
                info!(
                    path,
                    "Consul: no keys there; no route commands (a token without key_prefix read sees none either)"
                );
            } else {
                info!(
                    path,
                    keys, commands, rejected, "Consul: route commands read"
                );
            }
            self.known = Some(now.clone());
            self.shared
                .commands(now.0, now.1, self.poller.seen_at())
                .await?;
        }
        self.sync().await
    }

    async fn failed(&mut self, error: ConsulError) -> Result<(), Closed> {
        self.failures += u32::from(!error.is_dial());
        if self.failures >= FAILURES_MAX && !self.synced {
            warn!(path = self.path, %error, "Consul: route commands cannot be read; routes are served without them until they can");
            self.sync().await?;
        }
        self.poller.failed(&error).await;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Closed> {
        if std::mem::replace(&mut self.synced, true) {
            Ok(())
        } else {
            self.shared.commands_synced().await
        }
    }
}
