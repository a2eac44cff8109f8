//! Which servers are trusted, and which certificate is shown to them: the client side of TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tracing::warn;

use crate::trust::{AcceptAny, bundle, files_below};

/// Which CAs are trusted, and the client certificate. The default: the system's CAs, and none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trust<'a> {
    /// PEM bundle of CAs.
    pub ca_file: Option<&'a Path>,
    /// Directory of such bundles, whatever their names, and of directories of them.
    pub ca_path: Option<&'a Path>,
    /// CAs as PEM text.
    pub ca_pem: Option<&'a str>,
    /// Client certificate and its key.
    pub pair: Option<(&'a Path, &'a Path)>,
    /// Takes any certificate.
    pub skip_verify: bool,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TrustError {
    path: PathBuf,
    reason: String,
}

fn wrong(path: &Path, reason: impl ToString) -> TrustError {
    TrustError {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

impl Trust<'_> {
    /// Reads the files and makes settings of them.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let inline = Path::new("TLS");
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(inline, error))?;
        let builder = match self.skip_verify {
            true => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny::new(provider))),
            false => builder.with_root_certificates(self.roots()?),
        };
        let config = match self.pair {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert, &read(cert)?)?;
                let private = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|_| wrong(key, "no private key in it (PEM, not encrypted)"))?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| wrong(cert, error))?
            }
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        // A CA that cannot be used is left out: fewer are trusted then.
        let mut add = |path: &Path, text: &[u8]| {
            let found = bundle::read(text, 0);
            if found.certificates.is_empty() {
                return Err(wrong(path, found.why_empty(text)));
            }
            for certificate in found.certificates {
                roots.add(certificate).map_err(|error| wrong(path, error))?;
            }
            Ok(())
        };
        if let Some(path) = self.ca_file {
            add(path, &read(path)?)?;
        }
        if let Some(text) = self.ca_pem {
            add(Path::new("the CAs given as text"), text.as_bytes())?;
        }
        if let Some(folder) = self.ca_path {
            let mut some = false;
            for path in files_below(folder).map_err(|error| wrong(folder, error))? {
                // One file that cannot be used costs itself: such folders hold others, too.
                match read(&path).and_then(|text| add(&path, &text)) {
                    Ok(()) => some = true,
                    Err(error) => warn!(%error, "file of CA certificates passed over"),
                }
            }
            if !some {
                return Err(wrong(
                    folder,
                    "no file in it holds a CA certificate (PEM, BEGIN CERTIFICATE)",
                ));
            }
        }
        if self.ca_file.is_none() && self.ca_pem.is_none() && self.ca_path.is_none() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    fs::read(path).map_err(|error| wrong(path, error))
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(path, error))?;
    if found.is_empty() {
        return Err(wrong(path, "no certificate in it (PEM, BEGIN CERTIFICATE)"));
    }
    Ok(found)
}
