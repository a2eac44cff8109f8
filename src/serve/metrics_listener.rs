//! The listener for scrapers: its socket, and what its handshakes begin with.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::certificates::Certificates;
use super::certificates::present::Stores;
use crate::admin::ScrapeTls;
use crate::config::MetricsConfig;
use crate::metrics::Metrics;
use crate::proxy::sharing;
use crate::proxy::tls::{Clients, Problems, ServerUse, TlsError};

/// The key of its clients' CAs.
const KEY: &str = "metrics.client_ca_file";

/// Which certificates it shows, and which clients it takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    certificates: Option<String>,
    clients: Option<Clients>,
}

/// The trust in force, and how handshakes come by it.
#[derive(Debug)]
pub(super) struct MetricsTls {
    present: Arc<ArcSwap<Trust>>,
    metrics: Metrics,
}

/// Its socket, which does not listen for workers: the control thread serves it.
pub(super) struct MetricsSocket {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) tls: ScrapeTls,
}

impl MetricsSocket {
    /// By which number the kernel knows it.
    pub(super) fn inode(&self) -> Option<u64> {
        sharing::inode_of(&self.listener)
    }
}

impl MetricsTls {
    /// At start a file that cannot be read costs the listener its clients, and nothing else.
    ///
    /// # Errors
    /// The certificates it names cannot be used.
    pub(super) fn load(
        config: &MetricsConfig,
        stores: &Stores,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let clients = config
            .client_ca_file
            .as_deref()
            .filter(|_| config.address.is_some())
            .map(|path| match read(path, metrics) {
                Ok(clients) => clients,
                Err(error) => {
                    tracing::error!(key = KEY, %error, "no client of the metrics listener is let in until its CAs can be read");
                    Clients::none(path)
                }
            });
        let trust = Trust {
            certificates: config.certificates.clone(),
            clients,
        };
        check(config, &trust, stores)?;
        Ok(Self {
            present: Arc::new(ArcSwap::from_pointee(trust)),
            metrics: metrics.clone(),
        })
    }

    /// What the configuration wants from now on. CAs that were good and are bad now stay.
    ///
    /// # Errors
    /// What cannot be used; nothing has changed then.
    pub(super) fn prepare(
        &self,
        config: &MetricsConfig,
        stores: &Stores,
    ) -> anyhow::Result<Arc<Trust>> {
        let present = self.present.load_full();
        if config.address.is_none() {
            // There is no such listener, or none after the next start.
            return Ok(present);
        }
        let clients = match config.client_ca_file.as_deref() {
            None => {
                self.metrics.control().certificate_errors.remove(KEY);
                None
            }
            Some(path) => match (read(path, &self.metrics), &present.clients) {
                (Ok(clients), _) => Some(clients),
                (Err(error), Some(before)) if before.path() == path => {
                    tracing::warn!(key = KEY, %error, "CAs not taken over; those from before stay");
                    Some(before.clone())
                }
                (Err(error), _) => {
                    return Err(error).context("CAs of clients (key metrics.client_ca_file)");
                }
            },
        };
        let trust = Trust {
            certificates: config.certificates.clone(),
            clients,
        };
        check(config, &trust, stores)?;
        Ok(Arc::new(trust))
    }

    pub(super) fn commit(&self, trust: Arc<Trust>) {
        self.present.store(trust);
    }

    /// For each handshake.
    pub(super) fn settings(&self, certificates: &Arc<Certificates>) -> ScrapeTls {
        let (present, certificates) = (Arc::clone(&self.present), Arc::clone(certificates));
        Arc::new(move || handshake(&present.load(), &certificates.stores()))
    }
}

fn read(path: &Path, metrics: &Metrics) -> Result<Clients, TlsError> {
    let mut problems = Problems::default();
    let read = Clients::read(path, &mut problems);
    for error in &problems.errors {
        tracing::warn!(key = KEY, %error, "a CA that cannot be used is left out");
    }
    for error in &problems.out_of_date {
        tracing::warn!(key = KEY, %error, "a CA outside its validity period is used all the same");
    }
    let wrong = problems.errors.len() + problems.out_of_date.len() + usize::from(read.is_err());
    metrics
        .control()
        .certificate_errors
        .insert(KEY.to_owned(), wrong as u64);
    read
}

/// Whether the listener can use what it names. A source that has not responded yet, and CAs that
/// cannot be read yet, are waited for.
fn check(config: &MetricsConfig, trust: &Trust, stores: &Stores) -> anyhow::Result<()> {
    let is_loaded = |name: &String| stores.get(name).is_none_or(|store| store.is_loaded());
    let is_waited_for = trust.clients.as_ref().is_some_and(|it| !it.is_known());
    if config.address.is_some()
        && !is_waited_for
        && config.certificates.as_ref().is_none_or(is_loaded)
    {
        handshake(trust, stores)
            .map_err(anyhow::Error::msg)
            .context("metrics listener (key metrics.certificates)")?;
    }
    Ok(())
}

fn handshake(trust: &Trust, stores: &Stores) -> Result<Option<Arc<ServerConfig>>, String> {
    let Some(name) = &trust.certificates else {
        return Ok(None);
    };
    let store = stores
        .get(name)
        .ok_or_else(|| format!("there is no [certificates.{name}] in the configuration"))?;
    let used = ServerUse::default();
    match &trust.clients {
        Some(clients) => store.server_config_for(&used, clients),
        None => store.server_config(&used),
    }
    .map(Some)
    .map_err(|error| format!("certificates.{name}: {error}"))
}
