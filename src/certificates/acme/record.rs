//! The texts that a store holds: a certificate with its key, an order that is pending or failed, the
//! account.
//!
//! A certificate is its chain in PEM, and behind that its key: in PEM, or encrypted. Without
//! encryption it is a file as `source = "path"` reads it.

use std::rc::Rc;

use bytes::Bytes;
use instant_acme::{AccountCredentials, CertificateIdentifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::challenge::Challenge;
use super::failure::Kind;
use super::schedule::{Tries, Validity};
use super::sealing::{SealError, Sealer, begin_of};

/// What seals the private keys of a store; none: they are kept as they are.
pub(super) type Seal = Option<Rc<Sealer>>;

/// Why a stored text cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// It may be good under another passphrase, or for a newer lb: it is left alone.
    #[error("{0}")]
    Locked(String),
    /// It is of no use to any lb.
    #[error("{0}")]
    Damaged(String),
}

impl From<SealError> for Unreadable {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Damaged => Self::Damaged(error.to_string()),
            SealError::Newer | SealError::WrongPassphrase | SealError::NoKey => {
                Self::Locked(error.to_string())
            }
        }
    }
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) validity: Validity,
    /// Chain and key in PEM.
    pub(super) pem: Bytes,
    /// What the CA calls it in its renewal information.
    pub(super) id: Option<String>,
}

impl Stored {
    /// Of a chain and its key, as they came.
    pub(super) fn new(chain: &str, key: &str) -> Result<Self, Unreadable> {
        let damaged = |reason: &str| Unreadable::Damaged(reason.to_owned());
        let leaf = CertificateDer::pem_slice_iter(chain.as_bytes())
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| damaged("holds no certificate"))?;
        PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| damaged("holds no private key"))?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| damaged("holds a certificate that cannot be read"))?;
        let validity = Validity {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        };
        Ok(Self {
            validity,
            pem: Bytes::from(format!("{}\n{}", chain.trim_end(), key)),
            id: CertificateIdentifier::try_from(&leaf)
                .ok()
                .map(|id| id.to_string()),
        })
    }

    pub(super) fn decode(text: &[u8], host: &str, seal: &Seal) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Unreadable::Damaged("is not a text".to_owned()))?;
        match begin_of(text) {
            Some(at) => {
                let (chain, sealed) = text.split_at(at);
                Self::new(chain, &opened(sealed, &key_purpose(host), seal)?)
            }
            None => Self::new(text, text.get(key_begin(text)..).unwrap_or_default()),
        }
        .map(|stored| match begin_of(text) {
            Some(_) => stored,
            None => Self {
                pem: Bytes::copy_from_slice(text.as_bytes()),
                ..stored
            },
        })
    }
}

fn key_begin(text: &str) -> usize {
    let label = text.find("PRIVATE KEY-----").unwrap_or(0);
    text[..label].rfind("-----BEGIN").unwrap_or(0)
}

/// What a store holds of a certificate.
pub(super) fn certificate_text(
    chain: &str,
    key: &str,
    host: &str,
    seal: &Seal,
) -> Result<String, SealError> {
    let key = sealed(key, &key_purpose(host), seal)?;
    Ok(format!("{}\n{key}", chain.trim_end()))
}

/// An order that is pending, or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderRecord {
    /// Where the CA has the order, while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// The key that the certificate will have, as a store holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// What the CA looks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) challenge: Option<Challenge>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<FailureRecord>,
}

/// What the CA said about a name, so that the next lb does not try again too soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailureRecord {
    pub(super) kind: Kind,
    pub(super) reason: String,
    pub(super) count: u32,
    pub(super) retry_at: i64,
}

impl FailureRecord {
    pub(super) fn tries(&self) -> Tries {
        Tries {
            count: self.count,
            retry_at: self.retry_at,
        }
    }
}

impl OrderRecord {
    pub(super) fn pending(
        url: &str,
        key: &str,
        host: &str,
        seal: &Seal,
    ) -> Result<Self, SealError> {
        Ok(Self {
            url: Some(url.to_owned()),
            key: Some(sealed(key, &key_purpose(host), seal)?),
            ..Self::default()
        })
    }

    /// The key in PEM.
    pub(super) fn key(&self, host: &str, seal: &Seal) -> Option<Result<String, Unreadable>> {
        let key = self.key.as_deref()?;
        Some(match begin_of(key) {
            Some(_) => opened(key, &key_purpose(host), seal),
            None => Ok(key.to_owned()),
        })
    }

    /// What is not understood is not an order.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a store holds of the account.
pub(super) fn account_text(
    credentials: &AccountCredentials,
    seal: &Seal,
) -> Result<String, SealError> {
    let text = serde_json::to_string(credentials).map_err(|_| SealError::NoKey)?;
    sealed(&text, ACCOUNT, seal)
}

pub(super) fn account(text: &[u8], seal: &Seal) -> Result<AccountCredentials, Unreadable> {
    let damaged = || Unreadable::Damaged("is not an account of lb".to_owned());
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    let plain = match begin_of(text) {
        Some(_) => opened(text, ACCOUNT, seal)?,
        None => text.to_owned(),
    };
    serde_json::from_str(&plain).map_err(|_| damaged())
}

const ACCOUNT: &str = "account";

fn key_purpose(host: &str) -> String {
    format!("key of {host}")
}

fn sealed(text: &str, purpose: &str, seal: &Seal) -> Result<String, SealError> {
    match seal {
        Some(sealer) => sealer.seal(text, purpose),
        None => Ok(text.to_owned()),
    }
}

fn opened(text: &str, purpose: &str, seal: &Seal) -> Result<String, Unreadable> {
    match seal {
        Some(sealer) => Ok(sealer.open(text, purpose)?),
        None => Err(Unreadable::Locked(
            "is encrypted, and there is no key_passphrase_file".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn seal(passphrase: &str) -> Seal {
        Some(Rc::new(Sealer::new(Secret::new(passphrase))))
    }

    #[test]
    fn certificates_come_back_as_they_were() {
        let (chain, key) = pair();
        for seal in [None, seal("one")] {
            let text = certificate_text(&chain, &key, "a.test", &seal).unwrap();
            assert_eq!(text.contains("PRIVATE KEY"), seal.is_none());
            let stored = Stored::decode(text.as_bytes(), "a.test", &seal).unwrap();
            let pem = std::str::from_utf8(&stored.pem).unwrap();
            assert!(pem.contains("BEGIN CERTIFICATE") && pem.contains("PRIVATE KEY"));
            assert!(stored.validity.not_before < stored.validity.not_after);
        }
    }

    #[test]
    fn what_another_passphrase_opens_is_told_from_damage() {
        let (chain, key) = pair();
        let text = certificate_text(&chain, &key, "a.test", &seal("one")).unwrap();
        let read = |text: &str, host: &str, seal: &Seal| {
            Stored::decode(text.as_bytes(), host, seal).unwrap_err()
        };
        for (host, other) in [
            ("a.test", seal("two")),
            ("b.test", seal("one")),
            ("a.test", None),
        ] {
            assert!(matches!(read(&text, host, &other), Unreadable::Locked(_)));
        }
        for garbage in ["", "garbage", &chain, &key, &text[..text.len() / 2]] {
            let found = read(garbage, "a.test", &seal("one"));
            assert!(
                matches!(found, Unreadable::Damaged(_)),
                "{garbage}: {found}"
            );
        }
    }

    #[test]
    fn orders_hold_no_key_in_the_clear() {
        let seal = seal("one");
        let record = OrderRecord::pending("http://ca/1", "the key", "a.test", &seal).unwrap();
        let text = record.text();
        assert!(!text.contains("the key"));
        let read = OrderRecord::decode(text.as_bytes()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.key("a.test", &seal).unwrap().as_deref(), Ok("the key"));
        assert_eq!(OrderRecord::decode(b"garbage"), None);
    }
}
