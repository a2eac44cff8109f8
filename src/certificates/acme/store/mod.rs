//! Where it all is kept: keys with texts, below the directory that they came from, and a lock.
//!
//! ```text
//! DIRECTORY/lock               which lb orders
//! DIRECTORY/account            the account at the CA, encrypted
//! DIRECTORY/certificates/HOST  the chain, and its key, encrypted
//! DIRECTORY/orders/HOST        while an order is pending, or since it failed
//! ```
//! What is written counts only while the lock is held: the store itself sees to that.

mod consul;
mod folder;
mod place;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::failure::Failure;
use crate::config::{AcmeConfig, AcmeStore, ConsulConfig};
pub(super) use place::{Place, Shelf, Texts, Write};

/// The store of one source.
pub(super) enum Store {
    Consul(Box<consul::Kv>),
    Folder(folder::Folder),
}

/// The lock; given back when this is dropped.
pub(super) enum Lock {
    Consul(consul::Held),
    Folder(folder::Held),
}

/// Follows a shelf.
#[derive(Debug)]
pub(super) struct Watch {
    shelf: Shelf,
    position: consul::WatchPosition,
    before: Option<Texts>,
}

impl Watch {
    pub(super) fn new(shelf: Shelf) -> Self {
        Self {
            shelf,
            position: consul::WatchPosition::default(),
            before: None,
        }
    }
}

impl Store {
    pub(super) fn new(config: &AcmeConfig, consul: Option<&ConsulConfig>) -> Self {
        let directory = directory_name(&config.directory);
        match &config.store {
            AcmeStore::Consul(path) => {
                let consul = consul.cloned().unwrap_or_default();
                let kv = consul::Kv::new(consul, format!("{path}/{directory}"));
                Self::Consul(Box::new(kv))
            }
            AcmeStore::Folder(folder) => Self::Folder(folder::Folder::new(folder.join(directory))),
        }
    }

    /// What a shelf holds, when it holds something else than before. Cancel safe.
    pub(super) async fn next(&self, watch: &mut Watch) -> Result<Texts, Failure> {
        loop {
            let texts = match self {
                Self::Consul(kv) => kv.next(watch.shelf, &mut watch.position).await?,
                Self::Folder(folder) => folder.next(watch.shelf, watch.before.is_some()).await?,
            };
            if watch.before.as_ref() != Some(&texts) {
                watch.before = Some(texts.clone());
                return Ok(texts);
            }
        }
    }

    /// What a shelf holds at this moment, whatever this machine has heard of it.
    pub(super) async fn list(&self, shelf: Shelf) -> Result<Texts, Failure> {
        match self {
            Self::Consul(kv) => kv.list(shelf).await,
            Self::Folder(folder) => folder.list(shelf),
        }
    }

    /// One text, in the same way.
    pub(super) async fn read(&self, place: Place<'_>) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Consul(kv) => kv.read(place).await,
            Self::Folder(folder) => folder.read(place),
        }
    }

    /// Takes the lock if no other lb has it.
    pub(super) async fn lock(&self) -> Result<Option<Lock>, Failure> {
        Ok(match self {
            Self::Consul(kv) => kv.lock().await?.map(Lock::Consul),
            Self::Folder(folder) => folder.lock()?.map(Lock::Folder),
        })
    }
}

impl Lock {
    /// Returns when the lock is lost. Cancel safe.
    pub(super) async fn lost(&self) -> Failure {
        match self {
            Self::Consul(held) => held.lost().await,
            Self::Folder(_) => std::future::pending().await,
        }
    }

    /// Whether it is held for certain.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Consul(held) => held.check(),
            Self::Folder(_) => Ok(()),
        }
    }

    /// Writes all of it or nothing, and nothing once the lock is lost.
    pub(super) async fn write(&self, writes: &[Write<'_>]) -> Result<(), Failure> {
        match self {
            Self::Consul(held) => held.write(writes).await,
            Self::Folder(held) => held.write(writes),
        }
    }

    /// Gives the lock back.
    pub(super) async fn release(self) {
        if let Self::Consul(held) = self {
            held.release().await;
        }
    }
}

/// A name for everything that comes from this directory, and from no other: that of the server for
/// people, and a digest.
fn directory_name(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let clean: String = rest
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') => c,
            _ => '_',
        })
        .take(80)
        .collect();
    let digest = digest(&SHA256, url.as_bytes());
    let hex: String = digest.as_ref()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{clean}-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_a_place_of_its_own() {
        let production = directory_name("https://acme-v02.api.letsencrypt.org/directory");
        assert!(production.starts_with("acme-v02.api.letsencrypt.org_directory-"));
        let urls = ["https://h/a_b", "https://h/a/b", "http://h/a/b"];
        let names: std::collections::BTreeSet<_> = urls.map(directory_name).into();
        assert_eq!(names.len(), 3);
    }
}
