//! The stores in force, and what is said of them: events, gauges, ends of certificates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::journal::{Draft, Kind};
use crate::metrics::Metrics;
use crate::proxy::tls::{CertStore, Problems, TlsError};

pub(in crate::serve) type Stores = BTreeMap<String, Arc<CertStore>>;

/// What the names of these sources begin with in `lb_certificate_errors`, and among all sources.
pub(super) const SOURCE_LABEL: &str = "certificates.";

pub(super) fn label(source: &str) -> String {
    format!("{SOURCE_LABEL}{source}")
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) stores: ArcSwap<Stores>,
    /// Series of certificate ends that come from here: source and file.
    pub(super) reported: Mutex<Vec<(String, String)>>,
    pub(super) metrics: Metrics,
}

impl Present {
    /// Replaces the series of these sources; others (Consul's own pair) report theirs to the same
    /// map.
    pub(super) fn report_expiry(&self) {
        let stores = self.stores.load();
        let expiries = stores.iter().flat_map(|(source, store)| {
            // Ordered ones are named by their hosts, whatever the source is called.
            let label = match store.source_kind() {
                "acme" => "acme".to_owned(),
                _ => source.clone(),
            };
            store
                .expiries()
                .into_iter()
                .map(move |(name, not_after)| ((label.clone(), name), not_after as f64))
        });
        let now: BTreeMap<_, _> = expiries.collect();
        let mut before = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let mut control = self.metrics.control();
        for gone in before.iter().filter(|key| !now.contains_key(key)) {
            control.certificate_expiry.remove(gone);
        }
        *before = now.keys().cloned().collect();
        control.certificate_expiry.extend(now);
    }

    /// An event about certificates.
    pub(super) fn tell(&self, source: &str, to: &'static str, reason: &str) {
        let event = Draft::new(Kind::Certificate).of(source).to(to);
        self.metrics.journal().events().push(event.because(reason));
    }

    /// Tells of certificates that are others than `before`.
    pub(super) fn tell_renewal(&self, source: &str, before: &[(String, i64)], store: &CertStore) {
        let now = store.expiries();
        if now != before {
            let names: Vec<&str> = now.iter().map(|(name, _)| &**name).collect();
            self.tell(source, "loaded", &names.join(", "));
        }
    }

    /// Says what is wrong with a source, and sets its gauge.
    pub(super) fn report(
        &self,
        source: &str,
        Problems {
            errors,
            out_of_date,
        }: &Problems,
    ) {
        let wrong = errors.len() + out_of_date.len();
        self.metrics
            .control()
            .certificate_errors
            .insert(label(source), wrong as u64);
        if !errors.is_empty() {
            self.count(errors.len());
            self.tell(
                source,
                "refused",
                &format!("what was there before stays: {}", joined(errors)),
            );
            tracing::warn!(
                source,
                errors = joined(errors),
                "certificates not taken over; what was there before stays, everything else is used"
            );
        }
        if !out_of_date.is_empty() {
            let certificates = joined(out_of_date);
            tracing::warn!(
                source,
                certificates,
                "certificates outside their validity period; used all the same"
            );
        }
    }

    pub(super) fn count(&self, errors: usize) {
        self.metrics.control().reload_errors.certificates += errors as u64;
    }
}

pub(super) fn joined(errors: &[TlsError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
