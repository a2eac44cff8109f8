//! When the certificates towards Consul end: an agent that refuses an expired one leaves the
//! routing table as it is for good, so this has to be seen coming. For
//! `lb_certificate_expiry_timestamp_seconds`.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::catalog::source::CONSUL;
use crate::metrics::Metrics;

/// The end of what one file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// The file, as configured.
    pub(super) path: PathBuf,
    /// When the first of its certificates ends (unix time, s).
    pub(super) not_after: i64,
}

impl Expiry {
    /// The earliest end among the certificates of a file; none when none of them can be read, which
    /// shows where they are used to verify.
    pub(super) fn earliest(path: &Path, certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let ends = certificates.iter().filter_map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        });
        Some(Self {
            path: path.to_owned(),
            not_after: ends.min()?,
        })
    }
}

/// Replaces what was reported of this source before.
pub(super) fn report(expiries: &[Expiry], metrics: &Metrics) {
    let mut control = metrics.control();
    control
        .certificate_expiry
        .retain(|(source, _), _| source != CONSUL);
    for Expiry { path, not_after } in expiries {
        let series = (CONSUL.to_owned(), path.display().to_string());
        control.certificate_expiry.insert(series, *not_after as f64);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(last_year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["consul.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    #[test]
    fn the_first_end_counts_and_reports_replace_each_other() {
        let (ca, own) = (Path::new("/etc/ca.pem"), Path::new("/etc/own.pem"));
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        let early =
            Expiry::earliest(ca, &[certificate(2040), garbage.clone(), certificate(2030)]).unwrap();
        assert_eq!(
            early,
            Expiry {
                path: ca.to_owned(),
                not_after: 1_893_456_000
            }
        );
        assert_eq!(Expiry::earliest(ca, &[garbage]), None);
        assert_eq!(Expiry::earliest(ca, &[]), None);

        let metrics = Metrics::default();
        let listener = ("file".to_owned(), "shop".to_owned());
        metrics
            .control()
            .certificate_expiry
            .insert(listener.clone(), 1.0);
        report(
            &[
                early,
                Expiry {
                    path: own.to_owned(),
                    not_after: 5,
                },
            ],
            &metrics,
        );
        report(
            &[Expiry {
                path: own.to_owned(),
                not_after: 7,
            }],
            &metrics,
        );
        let shown: Vec<_> = metrics
            .control()
            .certificate_expiry
            .clone()
            .into_iter()
            .collect();
        assert_eq!(
            shown,
            [
                ((CONSUL.to_owned(), "/etc/own.pem".to_owned()), 7.0),
                (listener, 1.0)
            ]
        );
    }
}
