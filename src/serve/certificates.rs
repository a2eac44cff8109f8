//! The certificate sources that listeners name, and their replacement under way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::admin::TlsSettings;
use crate::config::{AdminConfig, Config};
use crate::metrics::Metrics;
use crate::proxy::tls::{CertStore, ServerUse, TlsError};

type Stores = BTreeMap<String, Arc<CertStore>>;

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    stores: Arc<ArcSwap<Stores>>,
    /// Series of certificate ends that come from here: source and file.
    reported: Mutex<Vec<(String, String)>>,
}

impl Certificates {
    /// Loads them.
    ///
    /// # Errors
    /// The first source that has not one usable pair.
    pub(super) fn load(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        let all = Self::default();
        let stores = all.prepare(config, metrics)?;
        all.stores.store(Arc::new(stores));
        all.report_expiry(metrics);
        Ok(all)
    }

    /// The stores that `config` names: the present one where nothing about it changed, else a new one.
    ///
    /// # Errors
    /// As [`Certificates::load`]; nothing has changed then.
    pub(super) fn prepare(&self, config: &Config, metrics: &Metrics) -> anyhow::Result<Stores> {
        let present = self.stores.load();
        let mut stores = Stores::new();
        for (name, source) in &config.certificates {
            let store = match present.get(name) {
                Some(store) if store.is_of(source) => Arc::clone(store),
                _ => {
                    let (store, first) = CertStore::load(source.clone())
                        .map_err(|errors| anyhow::anyhow!("certificates.{name}: {}", joined(&errors)))?;
                    report(name, &first.errors, metrics);
                    Arc::new(store)
                }
            };
            stores.insert(name.clone(), store);
        }
        Ok(stores)
    }

    /// Puts prepared stores into force and reads the files of all of them again. What cannot be used is reported and
    /// stays as it was.
    pub(super) fn commit(&self, stores: Stores, metrics: &Metrics) {
        for (name, store) in &stores {
            report(name, &store.reload().errors, metrics);
        }
        self.stores.store(Arc::new(stores));
        self.report_expiry(metrics);
    }

    /// Replaces the series of these sources; others (Consul's own pair) report theirs to the same map.
    fn report_expiry(&self, metrics: &Metrics) {
        let stores = self.stores.load();
        let expiries = stores.iter().flat_map(|(source, store)| {
            store.expiries().into_iter().map(|(name, not_after)| ((source.clone(), name), not_after as f64))
        });
        let now: BTreeMap<_, _> = expiries.collect();
        let mut before = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let mut control = metrics.control();
        for gone in before.iter().filter(|key| !now.contains_key(key)) {
            control.certificate_expiry.remove(gone);
        }
        *before = now.keys().cloned().collect();
        control.certificate_expiry.extend(now);
    }

    /// The present stores.
    pub(super) fn stores(&self) -> Arc<Stores> {
        self.stores.load_full()
    }

    /// How the admin listener shows them.
    pub(super) fn for_admin(&self) -> TlsSettings {
        let stores = Arc::clone(&self.stores);
        Arc::new(move |config| admin_settings(config, &stores.load()))
    }

    /// Files to watch.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.stores.load().values().flat_map(|store| store.paths()).collect()
    }
}

/// What a handshake of the admin listener begins with.
pub(super) fn admin_settings(config: &AdminConfig, stores: &Stores) -> Result<Option<Arc<ServerConfig>>, String> {
    let Some(name) = &config.certificates else { return Ok(None) };
    let store = stores.get(name).ok_or_else(|| format!("no certificates.{name}"))?;
    // No name is offered by ALPN: HTTP/1.1 is spoken, as by those who know nothing of it.
    let used = ServerUse { strict: config.strict_sni, http: false, limits: config.tls.clone() };
    store.server_config(&used).map(Some).map_err(|error| format!("certificates.{name}: {error}"))
}

fn joined(errors: &[TlsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn report(source: &str, errors: &[TlsError], metrics: &Metrics) {
    if !errors.is_empty() {
        metrics.control().reload_errors.certificates += errors.len() as u64;
        tracing::error!(source, errors = joined(errors), "certificates not taken over; what was there before stays");
    }
}
