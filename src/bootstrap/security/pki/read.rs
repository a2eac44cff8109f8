//! Reading certificates: what they say, and whether it is time for another.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::subject::Subject;
use crate::bootstrap::security::secrets::Pair;

/// With fewer days left than this a certificate is made anew; with a life of less than three times
/// that, in the last third of it.
const RENEW_DAYS: i64 = 30;

const DAY: i64 = 86_400;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Common name.
    pub subject: String,
    /// Subject alternative names, in their order.
    pub names: Vec<String>,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// Key of the issuer (authority key identifier), lower-case hex; empty when it does not say.
    pub issuer_key_id: String,
    /// Own key (subject key identifier), lower-case hex; empty when it does not say.
    pub key_id: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Whether it may act as a TLS server.
    pub server: bool,
    /// Whether it is a CA's.
    pub is_ca: bool,
    /// How many CAs may stand between this one and a leaf; None: any number.
    pub path_length: Option<u32>,
    pub(super) public_key: Vec<u8>,
    pub(super) subject_raw: Vec<u8>,
    pub(super) issuer_raw: Vec<u8>,
}

impl CertificateInfo {
    /// Whole days until it ends; negative afterwards.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        (self.not_after - unix(now)).div_euclid(DAY)
    }

    /// Whether it stands at the top: a root.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.subject_raw == self.issuer_raw
    }

    /// When it has to be made anew, Unix seconds.
    #[must_use]
    pub fn renew_at(&self) -> i64 {
        let life = (self.not_after - self.not_before).max(0);
        self.not_after - (RENEW_DAYS * DAY).min(life / 3)
    }
}

/// What the first certificate of a PEM text says.
///
/// # Errors
/// When there is none in it, or it cannot be read.
pub fn describe(pem: &str) -> Result<CertificateInfo> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .ok()
        .context("no certificate (BEGIN CERTIFICATE)")?;
    let (_, cert) = X509Certificate::from_der(&der)
        .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let subject = cert
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .unwrap_or_default();
    let mut info = CertificateInfo {
        subject: subject.to_owned(),
        names: Vec::new(),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        issuer_key_id: String::new(),
        key_id: String::new(),
        serial: hex(cert.raw_serial()),
        server: false,
        is_ca: cert.is_ca(),
        path_length: cert
            .basic_constraints()
            .ok()
            .flatten()
            .and_then(|constraints| constraints.value.path_len_constraint),
        public_key: cert.public_key().raw.to_vec(),
        subject_raw: cert.subject().as_raw().to_vec(),
        issuer_raw: cert.issuer().as_raw().to_vec(),
    };
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                info.names = names.general_names.iter().filter_map(name).collect();
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                info.key_id = hex(id.0);
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                info.issuer_key_id = id
                    .key_identifier
                    .as_ref()
                    .map(|id| hex(id.0))
                    .unwrap_or_default();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => info.server = usage.server_auth,
            _ => {}
        }
    }
    Ok(info)
}

/// Why a certificate has to be made anew, if it has to. `ca_pem` is the certificate of the CA that
/// signs now.
#[must_use]
pub fn needs_renewal(
    pem: &str,
    ca_pem: &str,
    subject: &Subject,
    now: SystemTime,
) -> Option<String> {
    let info = match describe(pem) {
        Ok(info) => info,
        Err(error) => return Some(format!("cannot be read ({error})")),
    };
    let issuer = describe(ca_pem).map(|ca| ca.key_id).unwrap_or_default();
    if info.issuer_key_id.is_empty() || info.issuer_key_id != issuer {
        return Some("signed by another CA".to_owned());
    }
    if info.names != subject.names || info.server != subject.server {
        return Some("names changed".to_owned());
    }
    let now_seconds = unix(now);
    if now_seconds >= info.not_after {
        return Some("expired".to_owned());
    }
    if now_seconds < info.not_before {
        return Some("not yet valid: the clock was set back since it was made".to_owned());
    }
    // The CA's own end bounds the leaf's: making it anew every time would not make it last longer.
    let bounded = describe(ca_pem).is_ok_and(|ca| info.not_after >= ca.not_after);
    (now_seconds >= info.renew_at() && !bounded)
        .then(|| format!("expires in {} days", info.days_left(now)))
}

/// Whether the key of a pair is the one that its certificate speaks of.
#[must_use]
pub fn belongs(pair: &Pair) -> bool {
    match (describe(&pair.cert), KeyPair::from_pem(pair.key.reveal())) {
        (Ok(info), Ok(key)) => info.public_key == key.subject_public_key_info(),
        _ => false,
    }
}

/// The single certificates of a bundle, each with its PEM armour.
#[must_use]
pub fn split(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let (mut found, mut rest) = (Vec::new(), bundle);
    while let Some(start) = rest.find("-----BEGIN CERTIFICATE-----") {
        let Some(end) = rest[start..].find(END).map(|end| start + end + END.len()) else {
            break;
        };
        found.push(format!("{}\n", rest[start..end].replace("\r\n", "\n")));
        rest = &rest[end..];
    }
    found
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
            };
            address.map(|address| address.to_string())
        }
        _ => None,
    }
}

fn unix(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |passed| {
        i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
