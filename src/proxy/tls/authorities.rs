//! The CAs of a PEM text, for both sides: those that may certify clients, and instances.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use crate::proxy::tls::error::{Problems, TlsError};
use crate::system::unix_now;
use crate::trust::bundle;

/// The usable certificates of a PEM text, as trust anchors; what is wrong with the others is added
/// to `problems`.
pub(super) fn authorities(
    path: &Path,
    text: &[u8],
    problems: &mut Problems,
) -> Vec<CertificateDer<'static>> {
    let found = bundle::read(text, unix_now());
    let malformed = |reason| TlsError::Malformed {
        path: path.to_owned(),
        reason,
    };
    problems
        .errors
        .extend(found.left_out.into_iter().map(malformed));
    let out_of_date = |reason| TlsError::OutOfDate {
        path: path.to_owned(),
        reason,
    };
    problems
        .out_of_date
        .extend(found.out_of_date.into_iter().map(out_of_date));
    if found.certificates.is_empty() {
        problems
            .errors
            .push(malformed(bundle::nothing_in(text).to_owned()));
    }
    found.certificates
}
