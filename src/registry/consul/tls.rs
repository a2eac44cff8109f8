//! TLS towards Consul: which CAs to believe, which certificate to show.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::ConsulError;
use super::expiry::Expiry;
use super::settings::read;
use crate::config::ConsulConfig;
use crate::trust::AcceptAny;

/// Builds the client side of TLS from the files that `[consul]` names, and says when these certificates end.
///
/// # Errors
/// [`ConsulError::File`] with the key and the file that cannot be used.
pub(super) fn client_config(config: &ConsulConfig) -> Result<(ClientConfig, Vec<Expiry>), ConsulError> {
    let mut expiries = Vec::new();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| value("address", "https", &error))?;
    let builder = if config.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny::new(provider)))
    } else {
        builder.with_root_certificates(roots(config, &mut expiries)?)
    };
    let mut tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let (chain, private) = (certificates("cert_file", cert)?, private_key(key)?);
            // The first is the own one; those above it are the CA's business.
            expiries.extend(Expiry::earliest(cert, chain.get(..1).unwrap_or_default()));
            // Fails when the key does not belong to the certificate.
            builder.with_client_auth_cert(chain, private).map_err(|error| file("cert_file", cert, &error))?
        }
        (Some(cert), None) => return Err(file("cert_file", cert, &"needs consul.key_file beside it")),
        (None, Some(key)) => return Err(file("key_file", key, &"needs consul.cert_file beside it")),
        (None, None) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((tls, expiries))
}

/// The CAs of `ca_file` and `ca_path`, or the system's when neither is given.
fn roots(config: &ConsulConfig, expiries: &mut Vec<Expiry>) -> Result<RootCertStore, ConsulError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        expiries.extend(Expiry::earliest(path, &add(&mut roots, "ca_file", path)?));
    }
    if let Some(directory) = &config.ca_path {
        let entries = fs::read_dir(directory).map_err(|error| file("ca_path", directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| file("ca_path", directory, &error))?.path();
            if path.is_file() && path.extension().is_some_and(|ext| ext == "pem" || ext == "crt" || ext == "cer") {
                add(&mut roots, "ca_path", &path)?;
            }
        }
        if roots.is_empty() {
            return Err(file("ca_path", directory, &"no *.pem, *.crt or *.cer file in it"));
        }
    }
    if config.ca_file.is_none() && config.ca_path.is_none() {
        // Certificates of the system that cannot be read are no fault of ours; without any, verifying fails and says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(roots)
}

/// Adds the CAs of one file, and returns them.
fn add(roots: &mut RootCertStore, key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let certificates = certificates(key, path)?;
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| file(key, path, &error))?;
    }
    Ok(certificates)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let pem = read(key, path)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| file(key, path, &error))?;
    if chain.is_empty() {
        return Err(file(key, path, &"no certificate in it (PEM, BEGIN CERTIFICATE)"));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConsulError> {
    PrivateKeyDer::from_pem_slice(&read("key_file", path)?).map_err(|error| file("key_file", path, &error))
}

fn file(key: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> ConsulError {
    ConsulError::File { key, path: path.to_owned(), reason: reason.to_string() }
}

fn value(key: &'static str, value: &str, reason: &dyn std::fmt::Display) -> ConsulError {
    ConsulError::Value { key, value: value.to_owned(), reason: reason.to_string() }
}
