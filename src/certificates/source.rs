//! What a source is given, what it fetches, and where that goes.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::error::SourceError;
use super::vault::Tokens;
use crate::config::{ConsulConfig, VaultConfig};

/// PEM texts by their names; the reason where one could not be had.
pub(crate) type Pems = BTreeMap<PathBuf, Result<Bytes, String>>;

/// What a source has. What is `None` here stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchedCertificates {
    /// Pairs, by the names that files would have: `X-cert.pem` and `X-key.pem`, or `X.pem`.
    pub pairs: Option<Pems>,
    pub client_cas: Option<Pems>,
}

impl FetchedCertificates {
    /// Whether nothing is missing that the source has.
    pub(super) fn is_whole(&self) -> bool {
        let mut texts = [&self.pairs, &self.client_cas]
            .into_iter()
            .flatten()
            .flat_map(BTreeMap::values);
        texts.all(Result::is_ok)
    }
}

/// A client needs a certificate for this name (in lower case). The sender is dropped when it is
/// there, or cannot be had.
pub(crate) type Demand = (String, oneshot::Sender<()>);

/// Demands outlive the task that serves them: a reload starts it anew.
pub(crate) type Demands = Arc<Mutex<mpsc::Receiver<Demand>>>;

/// Takes what a source fetches.
pub(crate) trait CertificateSink: Send + Sync + 'static {
    /// Takes what the source has now.
    fn take(&self, fetched: &FetchedCertificates);

    /// Takes the reason why the source could not be read, or a certificate not be issued.
    fn failed(&self, error: &SourceError);

    /// Takes the pair that was issued for a name; returns its end (unix time, s), or what is wrong
    /// with it.
    ///
    /// # Errors
    /// When it cannot be used.
    fn add(&self, name: &str, pem: Bytes) -> Result<i64, String>;

    /// Forgets the pairs of these names.
    fn remove(&self, names: &[String]);

    /// The names with their ends (unix time, s) that were issued before.
    fn issued(&self) -> Vec<(String, i64)>;

    /// Names that have a pair and were in a handshake since this was called last.
    fn take_used(&self) -> HashSet<String>;
}

/// What a source needs beside its own settings.
#[derive(Clone, Debug)]
pub(crate) struct FetchContext {
    /// `[consul]`.
    pub consul: Option<ConsulConfig>,
    /// `[vault]`.
    pub vault: VaultConfig,
    /// Tokens that were unwrapped before, and their renewal.
    pub tokens: Arc<Tokens>,
}
