//! TLS on both sides: certificates for clients ([`store`]), trust in upstreams ([`upstream`]).
//!
//! rustls with aws-lc-rs, TLS 1.2 and 1.3. Handshakes and their deadlines are the listener's and `connect`'s.

mod accept;
mod choice;
mod client_cas;
pub mod pairs;
pub mod store;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;

use crate::proxy::http::headers::TlsDetails;
use crate::system::unix_now;
use crate::trust::bundle;

pub use accept::accept;
pub use pairs::{Pair, Pems};
pub use store::{CertStore, Demand, Material, Problems, ServerUse};
pub use upstream::UpstreamTls;

/// What is wrong with a certificate, a key, or the files that hold them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file far larger than any certificate.
    #[error("{path} is larger than 1 MiB: not a PEM file of certificates", path = path.display())]
    TooLarge {
        /// Which one.
        path: PathBuf,
    },
    /// A file without what it should hold.
    #[error("{path} holds no {what}", path = path.display())]
    Missing {
        /// Which one.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A file whose content is no valid PEM.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate and a key that do not belong together, or a key that cannot be used.
    #[error("{path}: certificate and key cannot be used together: {source}", path = path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A directory tree without a single pair, or with too much in it.
    #[error("{path} {reason}", path = path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// An entry that a remote source has, but could not be read there.
    #[error("{path}: {reason}", path = path.display())]
    Fetch {
        /// Its name.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The other half of a pair of a remote source.
    #[error("{path} is missing at the source", path = path.display())]
    Absent {
        /// Its name.
        path: PathBuf,
    },
    /// A remote source without a single pair.
    #[error("the source has no certificate")]
    Empty,
    /// Nothing has come from a remote source yet.
    #[error("{0} have not been loaded yet")]
    NotLoaded(&'static str),
    /// Nothing in the files can be used.
    #[error("none of its {0} can be used")]
    Unusable(&'static str),
    /// A certificate that is used although it is outside its validity period.
    #[error("{path}: the certificate {reason}", path = path.display())]
    OutOfDate {
        /// Its file.
        path: PathBuf,
        /// Its subject and the end of the period that is passed.
        reason: String,
    },
    /// The TLS library refuses the settings.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The cryptography used everywhere.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The usable certificates of a PEM text, as trust anchors; what is wrong with the others is added to `problems`.
fn authorities(path: &Path, text: &[u8], problems: &mut Problems) -> Vec<CertificateDer<'static>> {
    let found = bundle::read(text, unix_now());
    let malformed = |reason| TlsError::Malformed { path: path.to_owned(), reason };
    problems.errors.extend(found.left_out.into_iter().map(malformed));
    let out_of_date = |reason| TlsError::OutOfDate { path: path.to_owned(), reason };
    problems.out_of_date.extend(found.out_of_date.into_iter().map(out_of_date));
    if found.certificates.is_empty() {
        problems.errors.push(malformed(bundle::nothing_in(text).to_owned()));
    }
    found.certificates
}

/// What the header rules tell of a finished handshake.
#[must_use]
pub fn details(connection: &rustls::ServerConnection) -> TlsDetails {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "tls12",
        _ => "tls13",
    };
    let cipher = connection.negotiated_cipher_suite().map_or(0, |suite| u16::from(suite.suite()));
    TlsDetails { version, cipher }
}
