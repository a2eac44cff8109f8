//! TLS towards Consul: which CAs to believe, which certificate to show.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::ConsulError;
use super::expiry::Expiry;
use super::key_file::read;
use crate::config::{ConsulConfig, Secret};
use crate::system::unix_now;
use crate::trust::{AcceptAny, bundle, files_below};

/// Builds the client side of TLS from the files or texts that `[consul]` gives, and says when these
/// certificates end. Single CAs that cannot be used, and certificates outside their validity
/// period, are added to `problems`.
///
/// # Errors
/// [`ConsulError::File`] with the key and the file that cannot be used, [`ConsulError::Value`] for
/// a text.
pub(super) fn client_config(
    config: &ConsulConfig,
    problems: &mut Vec<String>,
) -> Result<(ClientConfig, Vec<Expiry>), ConsulError> {
    let mut expiries = Vec::new();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| value("address", "https", &error))?;
    let builder = if config.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny::new(provider)))
    } else {
        builder.with_root_certificates(roots(config, &mut expiries, problems)?)
    };
    let cert = Pem::given(
        "cert_file",
        config.cert_file.as_deref(),
        "cert_pem",
        config.cert_pem.as_deref(),
    );
    let key = Pem::given(
        "key_file",
        config.key_file.as_deref(),
        "key_pem",
        config.key_pem.as_ref().map(Secret::reveal),
    );
    let mut tls = match (cert, key) {
        (Some(cert), Some(key)) => {
            let (chain, private) = (cert.certificates()?, key.private_key()?);
            // The first is the own one; those above it are the CA's business.
            expiries.extend(Expiry::earliest(
                &cert.name(),
                chain.get(..1).unwrap_or_default(),
            ));
            let validity = chain
                .first()
                .and_then(|own| bundle::validity(own, unix_now()));
            problems.extend(validity.map(|problem| {
                cert.error(&format!("the certificate {problem}"))
                    .to_string()
            }));
            // Fails when the key does not belong to the certificate.
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| cert.error(&error))?
        }
        (Some(cert), None) => {
            return Err(cert.error(&"needs consul.key_file or consul.key_pem beside it"));
        }
        (None, Some(key)) => {
            return Err(key.error(&"needs consul.cert_file or consul.cert_pem beside it"));
        }
        (None, None) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((tls, expiries))
}

/// The CAs of `ca_file` or `ca_pem`, and of `ca_path`; the system's when none is given.
fn roots(
    config: &ConsulConfig,
    expiries: &mut Vec<Expiry>,
    problems: &mut Vec<String>,
) -> Result<RootCertStore, ConsulError> {
    let mut roots = RootCertStore::empty();
    let given = Pem::given(
        "ca_file",
        config.ca_file.as_deref(),
        "ca_pem",
        config.ca_pem.as_deref(),
    );
    if let Some(pem) = given {
        expiries.extend(Expiry::earliest(
            &pem.name(),
            &add(&mut roots, pem, problems)?,
        ));
    }
    if let Some(directory) = &config.ca_path {
        let before = roots.len();
        for path in files_below(directory).map_err(|error| file("ca_path", directory, &error))? {
            // One file that cannot be used costs itself: such folders hold others, too.
            let added = add(&mut roots, Pem::File("ca_path", &path), problems);
            problems.extend(added.err().map(|error| error.to_string()));
        }
        if roots.len() == before {
            return Err(file(
                "ca_path",
                directory,
                &"no file in it holds a CA certificate (PEM, BEGIN CERTIFICATE)",
            ));
        }
    }
    if given.is_none() && config.ca_path.is_none() {
        // Certificates of the system that cannot be read are not our mistake; without any,
        // verifying fails and says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    Ok(roots)
}

/// Adds the usable CAs of one file or text, at least one, and returns them.
fn add(
    roots: &mut RootCertStore,
    pem: Pem<'_>,
    problems: &mut Vec<String>,
) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let bytes = pem.bytes()?;
    let found = bundle::read(&bytes, unix_now());
    if found.certificates.is_empty() {
        return Err(pem.error(&found.why_empty(&bytes)));
    }
    let all = found.left_out.iter().chain(&found.out_of_date);
    problems.extend(all.map(|problem| pem.error(problem).to_string()));
    for certificate in &found.certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| pem.error(&error))?;
    }
    Ok(found.certificates)
}

/// PEM, with the key that gives it.
#[derive(Clone, Copy)]
enum Pem<'a> {
    /// In a file of its own.
    File(&'static str, &'a Path),
    /// In the configuration itself.
    Text(&'static str, &'a str),
}

impl<'a> Pem<'a> {
    fn given(
        file_key: &'static str,
        file: Option<&'a Path>,
        text_key: &'static str,
        text: Option<&'a str>,
    ) -> Option<Self> {
        file.map(|path| Self::File(file_key, path))
            .or_else(|| text.map(|text| Self::Text(text_key, text)))
    }

    /// What the expiry is reported under.
    fn name(self) -> PathBuf {
        match self {
            Self::File(_, path) => path.to_owned(),
            Self::Text(key, _) => format!("consul.{key}").into(),
        }
    }

    fn bytes(self) -> Result<Cow<'a, [u8]>, ConsulError> {
        match self {
            Self::File(key, path) => read(key, path).map(Cow::Owned),
            Self::Text(_, text) => Ok(Cow::Borrowed(text.as_bytes())),
        }
    }

    fn certificates(self) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.bytes()?)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(&error))?;
        if chain.is_empty() {
            return Err(self.error(&"no certificate in it (PEM, BEGIN CERTIFICATE)"));
        }
        Ok(chain)
    }

    fn private_key(self) -> Result<PrivateKeyDer<'static>, ConsulError> {
        PrivateKeyDer::from_pem_slice(&self.bytes()?).map_err(|error| match self {
            Self::File(..) => self.error(&error),
            // What it says may quote what it read.
            Self::Text(..) => {
                self.error(&"no private key in it (PEM, BEGIN PRIVATE KEY, not encrypted)")
            }
        })
    }

    fn error(self, reason: &dyn std::fmt::Display) -> ConsulError {
        match self {
            Self::File(key, path) => file(key, path, reason),
            Self::Text(key, _) => value(key, "(text)", reason),
        }
    }
}

fn file(key: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> ConsulError {
    ConsulError::File {
        key,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn value(key: &'static str, value: &str, reason: &dyn std::fmt::Display) -> ConsulError {
    ConsulError::Value {
        key,
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}
