//! Where certificates come from that are not files of this machine.
//!
//! ```text
//! http    list of names, the files beside it ─┐  every `refresh`
//! vault   entries of a KV engine ─────────────┤                  ├─► Told ─► Shelf: what handshakes use
//! consul  keys of the KV store ───────────────┘  when they change
//! vault-pki   Demand (a server name) ─► issue ─► Shelf
//! ```
//! A source fetches and tells; it never judges. Whether a pair is good, and what stays when it is not, is the shelf's
//! business, so that the rules are the same as for files: one bad pair harms no other, and an answer that is empty or
//! fails takes nothing away.

mod consul;
mod error;
mod http;
mod vault;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot};

pub use error::SourceError;
pub use vault::Tokens;

use crate::config::{CertificateConfig, CertificateSource, ConsulConfig, VaultConfig};
use crate::registry::backoff::Backoff;

/// PEM texts by their names; the reason where one could not be had.
pub type Pems = BTreeMap<PathBuf, Result<Bytes, String>>;

/// What a source has. What it does not tell of stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Pairs, by the names that files would have: `X-cert.pem` and `X-key.pem`, or `X.pem`.
    pub pairs: Option<Pems>,
    /// Client CAs.
    pub client_cas: Option<Pems>,
}

/// Somebody wants a certificate for this name (in lower case), and hears when it is there or cannot be had.
pub type Demand = (String, oneshot::Sender<()>);

/// Demands outlive the task that serves them: a reload starts it anew.
pub type Demands = Arc<Mutex<mpsc::Receiver<Demand>>>;

/// Takes what a source tells.
pub trait Shelf: Send + Sync + 'static {
    /// Takes what is there now.
    fn take(&self, told: &Told);

    /// Hears why the source could not be read, or a certificate not be issued.
    fn failed(&self, error: &SourceError);

    /// Takes the pair that was issued for a name; returns its end (unix time, s), or what is wrong with it.
    ///
    /// # Errors
    /// When it cannot be used.
    fn add(&self, name: &str, pem: Bytes) -> Result<i64, String>;

    /// Forgets the pairs of these names.
    fn remove(&self, names: &[String]);

    /// The names with their ends (unix time, s) that were issued before.
    fn issued(&self) -> Vec<(String, i64)>;

    /// Names that have a pair and were asked for since this was called last.
    fn take_used(&self) -> HashSet<String>;
}

/// What a source needs beside its own settings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `[consul]`.
    pub consul: Option<ConsulConfig>,
    /// `[vault]`.
    pub vault: VaultConfig,
    /// Tokens that were unwrapped before, and their renewal.
    pub tokens: Arc<Tokens>,
}

/// First bound of the pause after a reading that failed, and the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Shortest time from one reading to the next: nobody is asked in a loop.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Most entries of one source.
const ENTRIES_MAX: usize = 1000;
/// Entries that are read at a time.
const AT_A_TIME: usize = 4;
/// Largest text in bytes, as for files.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Serves one source until it is dropped (or, read once, has answered). Files have none.
pub async fn run(config: CertificateConfig, around: Surroundings, shelf: Arc<dyn Shelf>, demands: Option<Demands>) {
    match config.source {
        CertificateSource::File { .. } | CertificateSource::Path { .. } => {}
        CertificateSource::Http { url, client_ca_url, headers, refresh } => {
            let mut source = http::Source::new(&url, client_ca_url.as_ref(), headers);
            again_and_again(async || source.read().await, refresh, &*shelf).await;
        }
        CertificateSource::Consul { keys, client_ca, token } => {
            let places = consul::Places { keys, client_ca, token };
            consul::run(places, around.consul, shelf).await;
        }
        CertificateSource::Vault { kv_path, client_ca_kv_path, refresh, token } => {
            let mut api = vault::Connection::new(around, token);
            let read = async || {
                let api = api.api().await?;
                vault::kv::read(api, Some(&kv_path), client_ca_kv_path.as_deref()).await
            };
            again_and_again(read, refresh, &*shelf).await;
        }
        CertificateSource::VaultPki { issue_path, names, renew_before, client_ca_kv_path, refresh, token } => {
            let Some(demands) = demands else { return };
            let mut api = vault::Connection::new(around.clone(), token.clone());
            let cas = async {
                if client_ca_kv_path.is_some() {
                    let read = async || vault::kv::read(api.api().await?, None, client_ca_kv_path.as_deref()).await;
                    again_and_again(read, refresh, &*shelf).await;
                }
            };
            let rules = vault::pki::Rules { issue_path, names, renew_before };
            let issuer = vault::pki::run(rules, vault::Connection::new(around, token), shelf.clone(), demands);
            tokio::join!(cas, issuer);
        }
    }
}

/// Reads every `refresh`; zero: until all of it was read once. Tells only what differs from before.
async fn again_and_again(
    mut read: impl AsyncFnMut() -> Result<Told, SourceError>,
    refresh: Duration,
    shelf: &dyn Shelf,
) {
    let mut rng = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut before = None;
    loop {
        let pause = match read().await {
            Ok(told) => {
                let whole = told.is_whole();
                if before.as_ref() != Some(&told) {
                    shelf.take(&told);
                    before = Some(told);
                }
                backoff.succeeded();
                match (refresh, whole) {
                    (Duration::ZERO, true) => return,
                    (Duration::ZERO, false) => BACKOFF.1,
                    (refresh, _) => refresh,
                }
            }
            Err(error) => {
                shelf.failed(&error);
                // What failed may have changed, too: the next answer counts.
                before = None;
                PAUSE_MIN + backoff.failed(&mut rng)
            }
        };
        tokio::time::sleep(pause.max(PAUSE_MIN)).await;
    }
}

impl Told {
    /// Whether nothing is missing that the source has.
    fn is_whole(&self) -> bool {
        let mut texts = [&self.pairs, &self.client_cas].into_iter().flatten().flat_map(BTreeMap::values);
        texts.all(Result::is_ok)
    }
}
