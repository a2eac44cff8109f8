//! From the configuration to what workers hold: rules, pages, certificates.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::StatusCode;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::http::headers::HeaderRules;
use crate::proxy::settings::Settings;
use crate::proxy::tls::{CertStore, TlsError, UpstreamTls};

/// Rules of the data path.
///
/// # Errors
/// The page or the CAs cannot be read.
pub(super) fn build(config: &Config) -> anyhow::Result<Settings> {
    let proxy = config.proxy.clone();
    let no_route_page = match &proxy.no_route_page {
        Some(path) => Bytes::from(
            std::fs::read(path).with_context(|| format!("key proxy.no_route_page: cannot read {}", path.display()))?,
        ),
        None => Bytes::new(),
    };
    let upstream_tls = UpstreamTls::new(proxy.upstream_ca_file.as_deref())
        .context("TLS towards upstreams (key proxy.upstream_ca_file)")?;
    Ok(Settings {
        no_route_status: StatusCode::from_u16(proxy.no_route_status).unwrap_or(StatusCode::NOT_FOUND),
        no_route_page,
        header_rules: HeaderRules::new(&proxy),
        proxy,
        health: config.health.clone(),
        upstream_tls,
        access_log: config.log.access,
    })
}

fn joined(errors: &[TlsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn report(source: &str, errors: &[TlsError]) {
    if !errors.is_empty() {
        tracing::error!(source, errors = joined(errors), "certificates not taken over; what was there before stays");
    }
}

/// All certificate sources that listeners name.
#[derive(Clone, Debug)]
pub(super) struct Certificates(BTreeMap<String, Arc<CertStore>>);

impl Certificates {
    /// Loads them.
    ///
    /// # Errors
    /// The first source that has not one usable pair.
    pub(super) fn load(config: &Config) -> anyhow::Result<Self> {
        let mut stores = BTreeMap::new();
        for (name, source) in &config.certificates {
            let (store, first) = CertStore::load(source.clone())
                .map_err(|errors| anyhow::anyhow!("certificates.{name}: {}", joined(&errors)))?;
            report(name, &first.errors);
            stores.insert(name.clone(), Arc::new(store));
        }
        Ok(Self(stores))
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<CertStore>> {
        self.0.get(name).cloned()
    }

    /// Reads all files again. What cannot be used is reported and stays as it was.
    pub(super) fn reload(&self, metrics: &Metrics) {
        for (name, store) in &self.0 {
            report(name, &store.reload().errors);
        }
        self.report_expiry(metrics);
    }

    pub(super) fn report_expiry(&self, metrics: &Metrics) {
        let mut control = metrics.control();
        control.certificate_expiry.clear();
        for (source, store) in &self.0 {
            for (name, not_after) in store.expiries() {
                control.certificate_expiry.insert((source.clone(), name), not_after as f64);
            }
        }
    }

    /// Files to watch.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.values().flat_map(|store| store.paths()).collect()
    }
}
