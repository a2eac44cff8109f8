//! What can be wrong with certificates, keys, and the files that hold them.

use std::path::PathBuf;

/// What is wrong with a certificate, a key, or the files that hold them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file far larger than any certificate.
    #[error("{path} is larger than 1 MiB: not a PEM file of certificates", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file without what it should hold.
    #[error("{path} holds no {what}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A file whose content is not valid PEM.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with the PEM text.
        reason: String,
    },
    /// A certificate and a key that do not belong together, or a key that cannot be used.
    #[error("{path}: certificate and key cannot be used together: {source}", path = path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// A directory tree without a single pair, or with too much in it.
    #[error("{path} {reason}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What it lacks, or has too much of.
        reason: &'static str,
    },
    /// An entry that a remote source has, but could not be read there.
    #[error("{path}: {reason}", path = path.display())]
    Fetch {
        /// Its name at the source.
        path: PathBuf,
        /// What the source said.
        reason: String,
    },
    /// The other half of a pair of a remote source.
    #[error("{path} is missing at the source", path = path.display())]
    Absent {
        /// Its name at the source.
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

/// What is wrong with what was read.
#[derive(Debug, Default)]
pub struct Problems {
    /// What could not be read or used. The previous form of it is still in use, if there was one.
    pub errors: Vec<TlsError>,
    /// What is used although it is outside its validity period.
    pub out_of_date: Vec<TlsError>,
}
