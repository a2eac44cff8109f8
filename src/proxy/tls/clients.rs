//! Clients that a listener takes whose CAs are its own, and not those of the certificates it shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;

use super::client_cas::ClientCas;
use super::error::{Problems, TlsError};

/// The CAs of one file, or of a folder of them.
#[derive(Clone, Debug)]
pub struct Clients {
    path: PathBuf,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Clients {
    /// As the file says now. What cannot be used is added to `problems`.
    ///
    /// # Errors
    /// When not one CA can be used.
    pub fn read(path: &Path, problems: &mut Problems) -> Result<Self, TlsError> {
        let verifier = ClientCas::read(path, None, problems)?.verifier(false)?;
        Ok(Self {
            path: path.to_owned(),
            verifier: Some(verifier),
        })
    }

    /// None is let in until the file can be read.
    #[must_use]
    pub fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            verifier: None,
        }
    }

    /// Whether any client may be let in.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.verifier.is_some()
    }

    /// Where they are from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.clone()
    }
}
