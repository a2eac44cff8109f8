//! Which certificate is shown to instances (`cert=NAME`): that of a source of `[certificates.NAME]`,
//! as it is at each handshake.
//!
//! No session is resumed on such a connection: it would be that of the certificate before.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::store::CertStore;
use super::upstream::UpstreamTls;

/// All sources, by name.
#[derive(Debug, Default)]
pub struct ClientCertificates {
    by_name: BTreeMap<String, ClientCertificate>,
}

#[derive(Debug)]
struct ClientCertificate {
    store: Arc<CertStore>,
    /// Made at first use: few sources are for instances.
    tls: OnceLock<UpstreamTls>,
}

impl ClientCertificates {
    /// The first certificate of each of these sources.
    #[must_use]
    pub fn new(stores: &BTreeMap<String, Arc<CertStore>>) -> Self {
        let certificate = |store: &Arc<CertStore>| ClientCertificate {
            store: Arc::clone(store),
            tls: OnceLock::new(),
        };
        let by_name = stores.iter();
        Self {
            by_name: by_name
                .map(|(name, store)| (name.clone(), certificate(store)))
                .collect(),
        }
    }

    /// Why no connection can be made with the certificate of this name.
    #[must_use]
    pub fn problem(&self, name: &str) -> Option<String> {
        match self.by_name.get(name) {
            None => Some(format!(
                "cert={name}: there is no [certificates.{name}] in the configuration"
            )),
            Some(certificate) if certificate.store.first_key().is_none() => Some(format!(
                "cert={name}: [certificates.{name}] has no certificate yet"
            )),
            Some(_) => None,
        }
    }

    /// What stands for the present certificate of this name: another number for another one.
    #[must_use]
    pub fn fingerprint(&self, name: &str) -> u64 {
        let certificate = self.by_name.get(name);
        certificate.map_or(0, |certificate| certificate.store.fingerprint())
    }

    /// Settings for connections with this certificate that trust as `upstream` does; none where
    /// there is none to show.
    #[must_use]
    pub fn tls(&self, name: &str, upstream: &UpstreamTls) -> Option<&UpstreamTls> {
        let certificate = self.by_name.get(name)?;
        certificate.store.first_key()?;
        let shown = || Arc::new(Shown(Arc::clone(&certificate.store)));
        Some(certificate.tls.get_or_init(|| upstream.showing(shown())))
    }
}

/// Shows what the store has at the time of the handshake.
#[derive(Debug)]
struct Shown(Arc<CertStore>);

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.first_key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
