//! What the CA looks for while it validates a host, and how it is shown.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};

/// A challenge that every lb of the name space responds to. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Challenge {
    /// The response to a request for the token is the authorization.
    #[serde(rename = "http-01")]
    Http {
        /// Last part of the path.
        token: String,
        authorization: String,
    },
    /// A handshake shows a certificate with the digest of the authorization.
    #[serde(rename = "tls-alpn-01")]
    Tls { authorization: String },
}

/// A response, for the data path.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// To a request.
    Http { token: String, body: Bytes },
    /// To a handshake: certificate and key in DER.
    Tls { certificate: Bytes, key: Bytes },
}

/// Responses by host, with the certificates that were made for them.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<String, (Challenge, Answer)>);

impl Answers {
    /// Those of these challenges; what was made before is used again.
    pub(super) fn replace<'a>(
        &mut self,
        challenges: impl Iterator<Item = (&'a String, &'a Challenge)>,
    ) -> Vec<(String, Answer)> {
        let mut before = std::mem::take(&mut self.0);
        for (host, challenge) in challenges {
            let known = before.remove(host).filter(|(known, _)| known == challenge);
            let entry = known.or_else(|| Some((challenge.clone(), answer(host, challenge)?)));
            self.0.extend(entry.map(|entry| (host.clone(), entry)));
        }
        let pairs = self.0.iter();
        pairs
            .map(|(host, (_, answer))| (host.clone(), answer.clone()))
            .collect()
    }
}

fn answer(host: &str, challenge: &Challenge) -> Option<Answer> {
    match challenge {
        Challenge::Http {
            token,
            authorization,
        } => Some(Answer::Http {
            token: token.clone(),
            body: Bytes::from(authorization.clone()),
        }),
        Challenge::Tls { authorization } => tls_answer(host, authorization).ok(),
    }
}

/// RFC 8737 section 3: self-signed, for this name alone, with the digest in a critical extension.
fn tls_answer(host: &str, authorization: &str) -> Result<Answer, rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let digest = digest(&SHA256, authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Answer::Tls {
        certificate: Bytes::copy_from_slice(certificate.der()),
        key: Bytes::from(key.serialize_der()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_for_each_challenge() {
        let mut answers = Answers::default();
        let host = "a.test".to_owned();
        let challenge = |text: &str| Challenge::Tls {
            authorization: text.to_owned(),
        };
        let mut made = |text: &str| {
            let found = answers.replace([(&host, &challenge(text))].into_iter());
            let Some((_, Answer::Tls { certificate, .. })) = found.into_iter().next() else {
                panic!("no response");
            };
            certificate
        };
        let first = made("one");
        assert_eq!(first, made("one"));
        assert_ne!(first, made("two"));
        assert!(answers.replace(std::iter::empty()).is_empty());
    }
}
