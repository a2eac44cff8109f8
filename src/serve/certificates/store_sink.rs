//! Puts what a source tells into the store that handshakes use, and says what cannot be used.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::present::{Present, joined, label};
use crate::certificates::{CertificateSink, FetchedCertificates, SourceError};
use crate::proxy::tls::{CertStore, Material};

/// Strangers choose the names of failures to issue: that many of them are not worth a line each.
const ISSUE_SAY: Duration = Duration::from_secs(5);

/// The store of one source.
#[derive(Debug)]
pub(super) struct StoreSink {
    source: String,
    store: Arc<CertStore>,
    present: Arc<Present>,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    failure: Option<String>,
    issue: Option<Instant>,
}

impl StoreSink {
    pub(super) fn new(source: &str, store: Arc<CertStore>, present: Arc<Present>) -> Self {
        let sink = Self {
            source: source.to_owned(),
            store,
            present,
            said: Mutex::default(),
        };
        sink.present
            .metrics
            .journal()
            .sources()
            .expect(&sink.name(), None);
        sink
    }

    /// What it is called among the sources.
    fn name(&self) -> String {
        label(&self.source)
    }
}

impl CertificateSink for StoreSink {
    fn take(&self, fetched: &FetchedCertificates) {
        let material = Material {
            pairs: fetched.pairs.clone(),
            client_cas: fetched.client_cas.clone(),
        };
        let before = self.store.expiries();
        self.present
            .report(&self.source, &self.store.take(&material));
        self.present.report_expiry();
        self.present.metrics.journal().source_read(&self.name(), "");
        self.present
            .metrics
            .journal()
            .sources()
            .synced(&self.name());
        self.present
            .tell_renewal(&self.source, &before, &self.store);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.failure = None;
        tracing::info!(
            source = self.source,
            pairs = self.store.pairs().len(),
            "certificates loaded"
        );
    }

    fn failed(&self, error: &SourceError) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if matches!(error, SourceError::Issue { .. }) {
            if said
                .issue
                .is_none_or(|at| now.duration_since(at) >= ISSUE_SAY)
            {
                said.issue = Some(now);
                tracing::warn!(source = self.source, %error, "certificate not issued");
            } else {
                tracing::debug!(source = self.source, %error, "certificate not issued");
            }
            return;
        }
        self.present.count(1);
        let text = error.to_string();
        self.present
            .metrics
            .journal()
            .source_failed(&self.name(), "", &text);
        // That it goes on is said for all sources together.
        if said.failure.as_ref() != Some(&text) {
            tracing::error!(
                source = self.source,
                error = text,
                "certificates cannot be read; what was there before stays"
            );
            said.failure = Some(text);
        }
    }

    fn add(&self, name: &str, pem: Bytes) -> Result<i64, String> {
        let not_after = self
            .store
            .add(name, pem)
            .map_err(|error| joined(&[error]))?;
        tracing::info!(source = self.source, name, "certificate issued");
        self.present.tell(&self.source, "issued", name);
        self.present.report_expiry();
        Ok(not_after)
    }

    fn remove(&self, names: &[String]) {
        self.store.remove(names);
        self.present.report_expiry();
    }

    fn issued(&self) -> Vec<(String, i64)> {
        self.store.expiries()
    }

    fn take_used(&self) -> HashSet<String> {
        self.store.take_used()
    }
}
