//! Public keys and certificates as PEM.

use jsonwebtoken::{Algorithm, DecodingKey};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::key::{Key, RSA};
use super::keys_error::KeysError;

/// The keys of a text, none for each that cannot be used. They have no names.
pub(super) fn keys(text: &[u8]) -> Result<Vec<Option<Key>>, KeysError> {
    let mut keys = Vec::new();
    for block in Pem::iter_from_buffer(text) {
        let block = block.map_err(|_| KeysError::Form)?;
        keys.push(match &*block.label {
            "PUBLIC KEY" => of_info(&block.contents),
            "RSA PUBLIC KEY" => Some(rsa(&block.contents)),
            "CERTIFICATE" => block
                .parse_x509()
                .ok()
                .and_then(|certificate| of_parsed(certificate.public_key())),
            label if label.ends_with("PRIVATE KEY") => return Err(KeysError::Private),
            _ => None,
        });
    }
    match keys.is_empty() {
        true => Err(KeysError::Form),
        false => Ok(keys),
    }
}

fn rsa(der: &[u8]) -> Key {
    Key::new(None, RSA, DecodingKey::from_rsa_der(der))
}

fn of_info(der: &[u8]) -> Option<Key> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    of_parsed(&info)
}

fn of_parsed(info: &SubjectPublicKeyInfo<'_>) -> Option<Key> {
    let bits: &[u8] = &info.subject_public_key.data;
    if info.algorithm.algorithm == OID_SIG_ED25519 {
        let key = DecodingKey::from_ed_der(bits);
        return (bits.len() == 32).then(|| Key::new(None, &[Algorithm::EdDSA], key));
    }
    match info.parsed().ok()? {
        // The cryptography refuses fewer than 2048 bits itself, at each token; said once is better.
        PublicKey::RSA(key) => (key.key_size() >= 2048).then(|| rsa(bits)),
        PublicKey::EC(point) => {
            let parameters = info.algorithm.parameters.as_ref()?;
            let curve = parameters.as_oid().ok()?;
            let algorithm = if curve == OID_EC_P256 {
                Algorithm::ES256
            } else if curve == OID_NIST_EC_P384 {
                Algorithm::ES384
            } else {
                return None;
            };
            let key = DecodingKey::from_ec_der(point.data());
            Some(Key::new(None, &[algorithm], key))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn public_keys_and_certificates_are_read() {
        let mut all = String::new();
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            all.push_str(&pair.public_key_pem());
            let certificate = rcgen::CertificateParams::new(["h".to_owned()])
                .unwrap()
                .self_signed(&pair)
                .unwrap();
            all.push_str(&certificate.pem());
            assert_eq!(
                keys(pair.serialize_pem().as_bytes()).unwrap_err(),
                KeysError::Private
            );
        }
        let read = keys(all.as_bytes()).unwrap();
        assert_eq!((read.len(), read.iter().flatten().count()), (6, 6));
        assert_eq!(keys(b"nothing").unwrap_err(), KeysError::Form);
        let broken = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert!(keys(broken.as_bytes()).unwrap()[0].is_none());
    }
}
