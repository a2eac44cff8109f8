//! The certificate sources that listeners name, and their replacement under way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::tls::{CertStore, TlsError};

type Stores = BTreeMap<String, Arc<CertStore>>;

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Certificates(ArcSwap<Stores>);

impl Certificates {
    /// Loads them.
    ///
    /// # Errors
    /// The first source that has not one usable pair.
    pub(super) fn load(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        let none = Self(ArcSwap::default());
        let stores = none.prepare(config, metrics)?;
        none.0.store(Arc::new(stores));
        none.report_expiry(metrics);
        Ok(none)
    }

    /// The stores that `config` names: the present one where nothing about it changed, else a new one.
    ///
    /// # Errors
    /// As [`Certificates::load`]; nothing has changed then.
    pub(super) fn prepare(&self, config: &Config, metrics: &Metrics) -> anyhow::Result<Stores> {
        let present = self.0.load();
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
        self.0.store(Arc::new(stores));
        self.report_expiry(metrics);
    }

    fn report_expiry(&self, metrics: &Metrics) {
        let mut control = metrics.control();
        control.certificate_expiry.clear();
        for (source, store) in self.0.load().iter() {
            for (name, not_after) in store.expiries() {
                control.certificate_expiry.insert((source.clone(), name), not_after as f64);
            }
        }
    }

    /// The present stores.
    pub(super) fn stores(&self) -> Arc<Stores> {
        self.0.load_full()
    }

    /// Files to watch.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.load().values().flat_map(|store| store.paths()).collect()
    }
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
