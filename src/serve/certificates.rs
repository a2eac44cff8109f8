//! The certificate sources that listeners name, and their replacement under way.
//!
//! Files are read here. Everything else comes from tasks of [`crate::certificates`], on a thread of
//! their own: a Vault that hangs holds up neither a request nor a table, and without such sources
//! there is no such thread.

mod acme;
mod fetcher;
mod list;
pub(super) mod present;
mod store_sink;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::mpsc;

use self::acme::Acme;
use self::fetcher::{Fetcher, Job};
use self::present::{Present, SOURCE_LABEL, Stores, joined, label};
use self::store_sink::StoreSink;
use crate::admin::{CertificateList, TlsSettings};
use crate::certificates::{Demand, Demands, FetchContext, Tokens};
use crate::config::{AdminConfig, CertificateConfig, CertificateSource, Config, TokenPlace};
use crate::metrics::Metrics;
use crate::proxy::challenges::Challenges;
use crate::proxy::tls::{CertStore, Problems, ServerUse};
use crate::table::SharedTable;

/// Requests for certificates that one source takes at a time, beside those that wait already.
const DEMANDS_MAX: usize = 256;

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Certificates {
    present: Arc<Present>,
    demands: Mutex<BTreeMap<String, (mpsc::Sender<Demand>, Demands)>>,
    fetcher: Mutex<Option<Fetcher>>,
    tokens: Arc<Tokens>,
    acme: Acme,
}

impl Certificates {
    /// Reads files, and starts to fetch everything else. A source of files without one usable pair
    /// is empty until its files change: a restart must be as calm about a bad file as a reload is.
    ///
    /// # Errors
    /// The TLS library refuses its own settings, or the thread that fetches cannot be made.
    pub(super) fn load(
        config: &Config,
        metrics: &Metrics,
        table: &SharedTable,
    ) -> anyhow::Result<Self> {
        let present = Present {
            stores: ArcSwap::default(),
            reported: Mutex::default(),
            metrics: metrics.clone(),
        };
        let all = Self {
            present: Arc::new(present),
            demands: Mutex::default(),
            fetcher: Mutex::default(),
            tokens: Arc::default(),
            acme: Acme::new(table.clone(), metrics.clone()),
        };
        let stores = all.build(config, CertStore::open)?;
        all.present.stores.store(Arc::new(stores));
        all.present.report_expiry();
        all.fetch(config)?;
        Ok(all)
    }

    /// The stores that `config` names: the present one where nothing about it changed, else a new
    /// one.
    ///
    /// # Errors
    /// The first new source of files that has not one usable pair; nothing has changed then.
    pub(super) fn prepare(&self, config: &Config) -> anyhow::Result<Stores> {
        self.build(config, |source| {
            CertStore::load(source).map_err(|errors| anyhow::anyhow!(joined(&errors)))
        })
    }

    fn build<E: Into<anyhow::Error>>(
        &self,
        config: &Config,
        read: impl Fn(CertificateConfig) -> Result<(CertStore, Problems), E>,
    ) -> anyhow::Result<Stores> {
        let present = self.present.stores.load();
        let mut stores = Stores::new();
        for (name, source) in &config.certificates {
            let before = present.get(name);
            let failed = || format!("certificates.{name}");
            let store = match before {
                Some(store) if store.is_of(source) => Arc::clone(store),
                _ if source.source.is_remote() => {
                    let demands = self
                        .demands_of(name, &source.source)
                        .map(|(sender, _)| sender);
                    let mut problems = Problems::default();
                    let before = before.map(Arc::as_ref);
                    let store = CertStore::remote(source.clone(), before, demands, &mut problems);
                    let store = store.with_context(failed)?;
                    self.present.report(name, &problems);
                    Arc::new(store)
                }
                _ => {
                    let (store, problems) = read(source.clone())
                        .map_err(Into::into)
                        .with_context(failed)?;
                    self.present.report(name, &problems);
                    Arc::new(store)
                }
            };
            stores.insert(name.clone(), store);
        }
        Ok(stores)
    }

    /// Puts prepared stores into force, reads the files of all of them again, and fetches from all
    /// other sources anew. What cannot be used is reported and stays as it was.
    pub(super) fn commit(&self, stores: Stores, config: &Config) {
        for (name, store) in &stores {
            let before = store.expiries();
            self.present.report(name, &store.reload());
            self.present.tell_renewal(name, &before, store);
        }
        let before = self.present.stores.load_full();
        let is_there = |source: &str| {
            source
                .strip_prefix(SOURCE_LABEL)
                .is_none_or(|name| stores.contains_key(name))
        };
        self.present
            .metrics
            .control()
            .certificate_errors
            .retain(|source, _| is_there(source));
        self.present.stores.store(Arc::new(stores));
        self.present.report_expiry();
        if let Err(error) = self.fetch(config) {
            tracing::error!(
                error = format!("{error:#}"),
                "certificates from elsewhere are not fetched"
            );
        }
        // After the tasks of the last configuration have ended. What is read from files now is not
        // fetched.
        let is_asked_for = |name: &str| {
            config
                .certificates
                .get(name)
                .is_some_and(|it| it.source.is_remote())
        };
        for gone in before.keys().filter(|name| !is_asked_for(name)) {
            self.present
                .metrics
                .journal()
                .sources()
                .forget(&label(gone));
            self.acme.forget(gone);
        }
    }

    /// Starts the tasks of this configuration in place of those of the last one.
    fn fetch(&self, config: &Config) -> anyhow::Result<()> {
        let mut fetcher = self.fetcher.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = self.present.stores.load();
        let context = FetchContext {
            consul: config.consul.clone(),
            vault: config.vault.clone(),
            tokens: Arc::clone(&self.tokens),
        };
        let mut jobs = Vec::new();
        for (name, source) in config
            .certificates
            .iter()
            .filter(|(_, it)| it.source.is_remote())
        {
            let Some(store) = stores.get(name) else {
                continue;
            };
            let sink = StoreSink::new(name, Arc::clone(store), Arc::clone(&self.present));
            let demands = self
                .demands_of(name, &source.source)
                .map(|(_, demands)| demands);
            let ports =
                matches!(source.source, CertificateSource::Acme(_)).then(|| self.acme.ports(name));
            jobs.push(Job {
                config: source.clone(),
                context: context.clone(),
                sink: Arc::new(sink),
                demands,
                ports,
            });
        }
        // Once there it stays: the renewal of tokens lives there too.
        if fetcher.is_none() && !jobs.is_empty() {
            *fetcher = Some(Fetcher::start()?);
        }
        if let Some(fetcher) = &*fetcher {
            fetcher.replace(jobs);
        }
        Ok(())
    }

    /// Both ends of the channel for requested names; they stay the same for all reloads.
    fn demands_of(
        &self,
        name: &str,
        source: &CertificateSource,
    ) -> Option<(mpsc::Sender<Demand>, Demands)> {
        if !matches!(source, CertificateSource::VaultPki { .. }) {
            return None;
        }
        let mut all = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let (sender, receiver) = mpsc::channel(DEMANDS_MAX);
            (sender, Arc::new(tokio::sync::Mutex::new(receiver)))
        };
        Some(all.entry(name.to_owned()).or_insert_with(made).clone())
    }

    /// Responses to challenges, for the data path.
    pub(super) fn challenges(&self, config: &Config) -> Challenges {
        self.acme.challenges(config)
    }

    /// What `/api/certificates` shows.
    pub(super) fn list(&self) -> CertificateList {
        let (present, states) = (Arc::clone(&self.present), self.acme.states());
        Arc::new(move || list::rows(&present.stores.load(), &states))
    }

    pub(super) fn stores(&self) -> Arc<Stores> {
        self.present.stores.load_full()
    }

    /// How the admin listener shows them.
    pub(super) fn for_admin(&self) -> TlsSettings {
        let present = Arc::clone(&self.present);
        Arc::new(move |config| admin_settings(config, &present.stores.load()))
    }
}

/// Files to watch.
pub(super) fn paths(config: &Config) -> Vec<PathBuf> {
    let mut paths = Vec::from_iter(config.metrics.client_ca_file.clone());
    let mut uses_vault = false;
    for certificates in config.certificates.values() {
        paths.extend(crate::proxy::tls::store::paths(certificates));
        uses_vault |= certificates.source.uses_vault();
        if let Some(TokenPlace::File(path)) = certificates.source.token() {
            paths.push(path.clone());
        }
        if let CertificateSource::Acme(acme) = &certificates.source {
            paths.extend(acme.passphrase_file.clone());
            paths.extend(acme.ca_file.clone());
            paths.extend(acme.external_account.iter().map(|it| it.1.clone()));
        }
    }
    if uses_vault {
        let vault = &config.vault;
        let files = [
            &vault.ca_file,
            &vault.ca_path,
            &vault.cert_file,
            &vault.key_file,
        ];
        paths.extend(files.into_iter().flatten().cloned());
        if let TokenPlace::File(path) = &vault.token {
            paths.push(path.clone());
        }
    }
    paths
}

/// Whether the admin listener can use what it names. A source that has not responded yet is waited
/// for.
pub(super) fn check_admin(config: &AdminConfig, stores: &Stores) -> anyhow::Result<()> {
    let loaded = |name: &String| stores.get(name).is_none_or(|store| store.is_loaded());
    if config.certificates.as_ref().is_none_or(loaded) {
        admin_settings(config, stores)
            .map_err(anyhow::Error::msg)
            .context("admin listener (key admin.certificates)")?;
    }
    Ok(())
}

/// What a handshake of the admin listener begins with.
fn admin_settings(
    config: &AdminConfig,
    stores: &Stores,
) -> Result<Option<Arc<ServerConfig>>, String> {
    let Some(name) = &config.certificates else {
        return Ok(None);
    };
    let store = stores
        .get(name)
        .ok_or_else(|| format!("there is no [certificates.{name}] in the configuration"))?;
    // No name is offered by ALPN: HTTP/1.1 is spoken, as with a client that does not know ALPN.
    let used = ServerUse {
        strict: config.strict_sni,
        http: false,
        limits: config.tls(),
    };
    store
        .server_config(&used)
        .map(Some)
        .map_err(|error| format!("certificates.{name}: {error}"))
}
