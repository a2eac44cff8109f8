//! Which client certificates are taken.
//!
//! A certificate among the configured ones is taken as it is. Others need an issuer among them, and
//! only what says that it is a CA may be one: the holder of a mere client certificate must not make
//! more of them. `client_ca_upgrade_cn` names issuers whose certificates are CAs although they do
//! not say so.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::proxy::tls::authorities::authorities;
use crate::proxy::tls::cryptography::provider;
use crate::proxy::tls::error::{Problems, TlsError};
use crate::proxy::tls::pairs::{Pems, pem_files, read_pem};

/// The configured certificates. At least one.
#[derive(Debug)]
pub(super) struct ClientCas {
    known: Vec<CertificateDer<'static>>,
    /// Those that may sign others.
    anchors: Vec<CertificateDer<'static>>,
}

impl ClientCas {
    /// Those of a file, or of all `*.pem` in a folder. What cannot be used is added to `problems`
    /// and costs itself alone: fewer CAs let fewer clients in.
    pub(super) fn read(
        path: &Path,
        upgrade_cn: Option<&str>,
        problems: &mut Problems,
    ) -> Result<Self, TlsError> {
        let mut cas = Self {
            known: Vec::new(),
            anchors: Vec::new(),
        };
        let is_folder = path.is_dir();
        let files = if is_folder {
            pem_files(path, &mut problems.errors)?
        } else {
            vec![path.to_owned()]
        };
        for file in files {
            match read_pem(&file) {
                Ok(text) => cas.add(&file, &text, upgrade_cn, problems),
                Err(error) => problems.errors.push(error),
            }
        }
        cas.not_empty(path, problems)
    }

    /// Those of a remote source. One that could not be had leaves all of them as they were.
    pub(super) fn given(
        pems: &Pems,
        upgrade_cn: Option<&str>,
        problems: &mut Problems,
    ) -> Result<Self, TlsError> {
        let mut cas = Self {
            known: Vec::new(),
            anchors: Vec::new(),
        };
        for (path, text) in pems {
            let failed = |reason: &String| TlsError::Fetch {
                path: path.clone(),
                reason: reason.clone(),
            };
            cas.add(path, text.as_ref().map_err(failed)?, upgrade_cn, problems);
        }
        cas.not_empty(Path::new("the source of client CAs"), problems)
    }

    fn not_empty(self, path: &Path, problems: &mut Problems) -> Result<Self, TlsError> {
        if !self.known.is_empty() {
            return Ok(self);
        }
        // The reason, if one was found, says more.
        let missing = || TlsError::Missing {
            path: path.to_owned(),
            what: "certificate",
        };
        Err(problems.errors.pop().unwrap_or_else(missing))
    }

    fn add(&mut self, path: &Path, text: &[u8], upgrade_cn: Option<&str>, problems: &mut Problems) {
        for certificate in authorities(path, text, problems) {
            let Ok((_, read)) = X509Certificate::from_der(&certificate) else {
                continue;
            };
            let anchor = is_ca(&read) || upgrade_cn.is_some_and(|wanted| issuer_is(&read, wanted));
            if anchor {
                self.anchors.push(certificate.clone());
            }
            self.known.push(certificate);
        }
    }

    /// Whether the same clients are let in.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.known == other.known && self.anchors == other.anchors
    }

    /// What requests certificates from clients, and verifies them.
    pub(super) fn verifier(&self, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let anchors = roots(&self.anchors)?;
        let of_cas: Option<Arc<dyn ClientCertVerifier>> = match anchors.is_empty() {
            true => None,
            false => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider());
                Some(
                    builder
                        .build()
                        .map_err(|error| Error::General(error.to_string()))?,
                )
            }
        };
        Ok(Arc::new(Verifier {
            of_cas,
            hints: roots(&self.known)?.subjects(),
            known: self.known.clone(),
            mandatory: !optional,
            algorithms: provider().signature_verification_algorithms,
        }))
    }
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Certificates of version 1 have no way to say it, and they are not made for anything else any
/// more.
fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => certificate.version() == X509Version::V1,
        Err(_) => false,
    }
}

fn issuer_is(certificate: &X509Certificate<'_>, name: &str) -> bool {
    certificate
        .issuer()
        .iter_common_name()
        .any(|found| found.as_str() == Ok(name))
}

#[derive(Debug)]
struct Verifier {
    of_cas: Option<Arc<dyn ClientCertVerifier>>,
    known: Vec<CertificateDer<'static>>,
    hints: Vec<DistinguishedName>,
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.known.contains(end_entity) {
            return in_its_time(end_entity, now).map(|()| ClientCertVerified::assertion());
        }
        match &self.of_cas {
            Some(of_cas) => of_cas.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn in_its_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let unreadable = |error| CertificateError::Other(OtherError(Arc::new(error)));
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(unreadable)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
