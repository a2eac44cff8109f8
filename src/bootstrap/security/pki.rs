//! The cluster's own CA and the certificates that it signs: ECDSA P-256, one key per node and
//! daemon.
//!
//! Below the CA stand two intermediates, Consul's and Nomad's. Each program trusts its own alone,
//! so that what one of them takes means nothing to the other
//! (docs/decisions/0019-one-intermediate-per-program.md).
//!
//! Consul and Nomad take a node's role from the names in its certificate:
//! `server.<datacenter>.<domain>` and `server.<region>.nomad` are held by servers alone.
//! [`Subject`] is the one place that decides which certificate gets which names. Reading
//! certificates is in `pki::read`; where they are kept and when they are made anew is `state`'s
//! business.

use std::net::IpAddr;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::secrets::{Pair, Secret};
use crate::bootstrap::topology::Product;

mod read;
mod subject;

pub use read::{CertificateInfo, belongs, describe, needs_renewal, split};
pub use subject::Subject;

/// Common name of the CA.
pub const CA_NAME: &str = "lb cluster CA";

/// Validity of the CA, in days: 10 years.
const CA_DAYS: u32 = 3653;

/// How far back validity begins, so that a node whose clock is behind the operator's does not
/// refuse a certificate that was made a moment ago. The preflight stops at clocks that differ by 5
/// s, so this is ample.
pub const BACKDATE: Duration = Duration::minutes(5);

/// Common name of the intermediate that signs for a program.
#[must_use]
pub fn intermediate_name(product: Product) -> &'static str {
    match product {
        Product::Consul => "lb cluster Consul CA",
        Product::Nomad => "lb cluster Nomad CA",
    }
}

/// A CA that can sign. `Debug` shows its certificate alone.
pub struct Authority {
    cert: String,
    key: Secret,
    is_root: bool,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new CA, valid for ten years.
    ///
    /// # Errors
    /// When the source of randomness fails.
    pub fn create(now: SystemTime) -> Result<Self> {
        let key = KeyPair::generate()?;
        let cert = ca_params(CA_NAME, 1, now)?.self_signed(&key)?.pem();
        Self::load(&cert, &key.serialize_pem())
    }

    /// A new intermediate below this CA, valid for ten years, but not longer than the CA itself.
    ///
    /// # Errors
    /// When the source of randomness fails, or this CA may not sign another one, or has expired.
    pub fn intermediate(&self, product: Product, now: SystemTime) -> Result<Self> {
        let own = describe(&self.cert)?;
        if own.path_length == Some(0) {
            bail!(
                "the CA {:?} may sign no other CA (pathlen:0): use one that may, at least one deep",
                own.subject
            );
        }
        let key = KeyPair::generate()?;
        let mut params = ca_params(intermediate_name(product), 0, now)?;
        params.use_authority_key_identifier_extension = true;
        self.bound(&mut params, now)?;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        self.check_traced(&cert)?;
        Self::load(&cert, &key.serialize_pem())
    }

    /// Takes up a CA from PEM: its certificate, and its key in the clear (PKCS #8).
    ///
    /// # Errors
    /// When either cannot be read, they do not belong together, or the certificate is not a CA's.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self> {
        // The reason is left out: it must not quote a key.
        let key = KeyPair::from_pem(key_pem)
            .ok()
            .context("the CA's key is not a private key (PKCS #8, PEM)")?;
        let info = describe(cert_pem).context("the CA's certificate")?;
        if !info.is_ca {
            bail!(
                "the certificate {:?} is not a CA's (no CA:TRUE)",
                info.subject
            );
        }
        if info.public_key != key.subject_public_key_info() {
            bail!(
                "the CA's key does not belong to its certificate {:?} (serial {})",
                info.subject,
                info.serial
            );
        }
        if info.key_id.is_empty() {
            bail!(
                "the CA's certificate {:?} has no subject key identifier, by which what it signs is traced back to it",
                info.subject
            );
        }
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key)
            .with_context(|| format!("the CA's certificate {:?}", info.subject))?;
        Ok(Self {
            cert: cert_pem.to_owned(),
            key: Secret::new(key_pem),
            is_root: info.is_self_signed(),
            issuer,
        })
    }

    /// Its certificate.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert
    }

    /// Its key in the clear.
    #[must_use]
    pub fn key_pem(&self) -> Secret {
        self.key.clone()
    }

    /// A new key and a certificate for it, valid for so many days, but not longer than the CA
    /// itself.
    ///
    /// # Errors
    /// When the source of randomness fails, a name is not ASCII, or the CA has expired.
    pub fn issue(&self, subject: &Subject, days: u32, now: SystemTime) -> Result<Pair> {
        let mut params = params(subject.names(), now, days)?;
        self.bound(&mut params, now)?;
        params.distinguished_name = common_name(subject.names().first().map_or("", String::as_str));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = subject.usages();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let mut cert = params.signed_by(&key, &self.issuer)?.pem();
        self.check_traced(&cert)?;
        if !self.is_root {
            // For clients that trust the CA at the top, such as browsers.
            cert.push_str(&self.cert);
        }
        Ok(Pair {
            cert,
            key: Secret::new(key.serialize_pem()),
        })
    }

    /// A certificate that outlives its CA looks well and is refused all the same.
    fn bound(&self, params: &mut CertificateParams, now: SystemTime) -> Result<()> {
        let ca = describe(&self.cert)?;
        if let Ok(end) = OffsetDateTime::from_unix_timestamp(ca.not_after) {
            params.not_after = params.not_after.min(end);
        }
        if params.not_after <= OffsetDateTime::from(now) {
            bail!(
                "the CA {:?} has expired; change it: `lb bootstrap rotate-certs --ca`",
                ca.subject
            );
        }
        Ok(())
    }

    fn check_traced(&self, cert: &str) -> Result<()> {
        if describe(cert)?.issuer_raw != describe(&self.cert)?.subject_raw {
            bail!(
                "the CA's subject has parts that cannot be repeated exactly, so what it signs would not be traced \
                 back to it: use a CA with a plain common name"
            );
        }
        Ok(())
    }
}

/// Of a CA that may have `below` others between itself and a leaf.
fn ca_params(name: &str, below: u8, now: SystemTime) -> Result<CertificateParams> {
    let mut params = params(&[], now, CA_DAYS)?;
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Names, validity and serial; the rest is up to the kind.
fn params(names: &[String], now: SystemTime, days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .with_context(|| format!("name {name:?}"))?,
            ),
        });
    }
    let now = OffsetDateTime::from(now);
    let not_before = now
        .checked_sub(BACKDATE)
        .context("the clock of this machine is out of range")?;
    params.not_before = not_before;
    params.not_after = now
        .checked_add(Duration::days(days.into()))
        .context("the validity is out of range")?;
    let mut serial = [0; 16];
    random(&mut serial)?;
    // Positive and without a leading zero byte, whatever the dice say: RFC 5280, 4.1.2.2.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Fills with random bytes fit for keys.
///
/// # Errors
/// When the operating system gives none.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .secure_random
        .fill(bytes)
        .ok()
        .context("the operating system gives no random bytes")
}

#[cfg(test)]
pub(in crate::bootstrap) mod tests;
