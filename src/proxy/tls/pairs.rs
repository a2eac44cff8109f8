//! Certificates with their keys, read from files or from what a remote source told.
//!
//! A pair counts only whole: the key must be the certificate's, and the certificate must be
//! readable. A bad pair affects no other one; what replaces it is decided in
//! [`store`](crate::proxy::tls::store).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::CertificateSource;
use crate::proxy::tls::error::TlsError;
use crate::trust::bundle;

/// Largest PEM file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How deep a directory of pairs may be nested, and how many entries it may hold.
const DEPTH_MAX: usize = 8;
const ENTRIES_MAX: usize = 10_000;

/// One certificate with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// File (or name at the source) of the certificate: what identifies the pair from one reading
    /// to the next.
    pub path: PathBuf,
    /// Lower-case names it is good for: DNS names and common name, wildcards included.
    pub names: Vec<String>,
    /// Begin of the certificate's validity (unix time, s).
    pub not_before: i64,
    /// Its end (unix time, s).
    pub not_after: i64,
    /// Chain and key as rustls wants them.
    pub key: Arc<CertifiedKey>,
}

/// Where one pair lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PairFiles {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// PEM texts of a remote source by their names, which follow the rules of files; the reason where
/// one could not be had.
pub type Pems = BTreeMap<PathBuf, Result<Bytes, String>>;

/// Where texts are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Texts<'a> {
    /// On this machine.
    Files,
    /// Among those that a source told.
    Given(&'a Pems),
}

impl<'a> Texts<'a> {
    fn read(self, path: &Path) -> Result<Cow<'a, [u8]>, TlsError> {
        let Self::Given(pems) = self else {
            return read_pem(path).map(Cow::Owned);
        };
        match pems.get(path) {
            Some(Ok(text)) if text.len() as u64 > FILE_BYTES_MAX => Err(TlsError::TooLarge {
                path: path.to_owned(),
            }),
            Some(Ok(text)) => Ok(Cow::Borrowed(text)),
            Some(Err(reason)) => Err(TlsError::Fetch {
                path: path.to_owned(),
                reason: reason.clone(),
            }),
            None => Err(TlsError::Absent {
                path: path.to_owned(),
            }),
        }
    }
}

/// Which pairs a source has, in order of their names: the first is the default. What of a folder
/// cannot be read is added to `errors` and costs itself.
pub(super) fn list(
    source: &CertificateSource,
    texts: Texts<'_>,
    errors: &mut Vec<TlsError>,
) -> Result<Vec<PairFiles>, TlsError> {
    match (source, texts) {
        (
            CertificateSource::File {
                cert_file,
                key_file,
            },
            _,
        ) => Ok(vec![PairFiles {
            cert: cert_file.clone(),
            key: key_file.clone(),
        }]),
        (CertificateSource::Path { path }, _) => {
            let pairs = in_pairs(&pem_files(path, errors)?);
            if pairs.is_empty() {
                return Err(TlsError::Directory {
                    path: path.clone(),
                    reason: "holds no `*.pem` with a certificate",
                });
            }
            Ok(pairs)
        }
        // Their names are hosts. That there is none yet is nothing to tell of.
        (CertificateSource::Acme(_), Texts::Given(pems)) => Ok(pems
            .keys()
            .map(|host| PairFiles {
                cert: host.clone(),
                key: host.clone(),
            })
            .collect()),
        (_, Texts::Given(pems)) => {
            let files: Vec<PathBuf> = pems.keys().filter(|path| is_pem(path)).cloned().collect();
            let pairs = in_pairs(&files);
            if pairs.is_empty() {
                Err(TlsError::Empty)
            } else {
                Ok(pairs)
            }
        }
        (_, Texts::Files) => Ok(Vec::new()),
    }
}

/// All `*.pem` below a folder, in order. A folder below it that cannot be read is added to
/// `errors`.
pub(super) fn pem_files(
    folder: &Path,
    errors: &mut Vec<TlsError>,
) -> Result<Vec<PathBuf>, TlsError> {
    let mut files = Vec::new();
    walk(folder, 0, &mut files, errors)?;
    files.sort_unstable();
    Ok(files)
}

fn is_pem(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "pem")
}

fn walk(
    dir: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    errors: &mut Vec<TlsError>,
) -> Result<(), TlsError> {
    let failed = |source| TlsError::Read {
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Links are followed; the depth bounds a circle. What vanished meanwhile is not there.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            let walked = match depth {
                DEPTH_MAX => Err(TlsError::Directory {
                    path,
                    reason: "is nested too deep",
                }),
                _ => walk(&path, depth + 1, files, errors),
            };
            errors.extend(walked.err());
        } else if is_pem(&path) {
            files.push(path);
        }
        if files.len() > ENTRIES_MAX {
            return Err(TlsError::Directory {
                path: dir.to_owned(),
                reason: "holds more than 10000 files",
            });
        }
    }
    Ok(())
}

/// `X-cert.pem` with `X-key.pem`; any other `X.pem` holds both.
fn in_pairs(files: &[PathBuf]) -> Vec<PairFiles> {
    let stem = |file: &PathBuf| {
        file.file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
            .to_owned()
    };
    let mut pairs = Vec::new();
    for cert in files {
        let stem = stem(cert);
        if stem.ends_with("-key") {
            continue;
        }
        let key = match stem.strip_suffix("-cert") {
            Some(name) => cert.with_file_name(format!("{name}-key.pem")),
            None => cert.clone(),
        };
        pairs.push(PairFiles {
            cert: cert.clone(),
            key,
        });
    }
    pairs
}

/// Reads one pair and checks that key and certificate belong together.
pub(super) fn load(
    files: &PairFiles,
    texts: Texts<'_>,
    provider: &CryptoProvider,
) -> Result<Pair, TlsError> {
    let path = files.cert.clone();
    let malformed = |path: &Path, reason: String| TlsError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let text = texts.read(&path)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(&path, error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(malformed(&path, bundle::nothing_in(&text).to_owned()));
    };
    let Leaf {
        names,
        not_before,
        not_after,
    } = read_leaf(leaf).map_err(|reason| malformed(&path, reason))?;
    let key = match PrivateKeyDer::from_pem_slice(&texts.read(&files.key)?) {
        Ok(key) => key,
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            return Err(TlsError::Missing {
                path: files.key.clone(),
                what: "private key",
            });
        }
        // What it says may quote what it read.
        Err(_) => {
            return Err(malformed(
                &files.key,
                "the private key is not valid PEM".to_owned(),
            ));
        }
    };
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
        path: path.clone(),
        source,
    })?;
    Ok(Pair {
        path,
        names,
        not_before,
        not_after,
        key: Arc::new(key),
    })
}

pub(super) fn read_pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(failed)
}

/// What is read of a certificate.
struct Leaf {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

fn read_leaf(der: &CertificateDer<'_>) -> Result<Leaf, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    let mut push = |name: &str| {
        let name = name.to_ascii_lowercase();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    };
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name {
                push(name);
            }
        }
    }
    for name in certificate.subject().iter_common_name() {
        if let Ok(name) = name.as_str() {
            push(name);
        }
    }
    let validity = certificate.validity();
    Ok(Leaf {
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}
