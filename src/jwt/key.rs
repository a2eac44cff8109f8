//! One key that signs tokens, and what it may be used for.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

/// Shortest modulus of RSA, in bytes: what the cryptography takes (2048 bits).
const MODULUS_MIN: usize = 256;
/// Shortest secret for HMAC, in bytes (RFC 7518 section 3.2, for SHA-256).
const SECRET_MIN: usize = 32;

pub(super) const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// One key, and what it may be used for. What kind it is comes from the set, never from a token.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    pub(super) fn new(kid: Option<String>, algorithms: &[Algorithm], key: DecodingKey) -> Self {
        Self {
            kid,
            algorithms: algorithms.to_vec(),
            key,
        }
    }

    /// Whether it made this signature (in base64url) of the message.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && crypto::verify(signature, message, &self.key, algorithm).unwrap_or(false)
    }

    /// A key as it is written in a set; secrets for HMAC only where `symmetric`.
    pub(super) fn of_jwk(jwk: &Map<String, Value>, symmetric: bool) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            let operations = operations.as_array()?;
            if !operations.iter().any(|operation| operation == "verify") {
                return None;
            }
        }
        let (mut algorithms, key) = match text("kty")? {
            "RSA" => {
                let (n, e) = (bytes(text("n")?)?, bytes(text("e")?)?);
                let significant = n.iter().skip_while(|byte| **byte == 0).count();
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                (RSA.to_vec(), (significant >= MODULUS_MIN).then_some(key)?)
            }
            "EC" => {
                let (algorithm, length) = match text("crv")? {
                    "P-256" => (Algorithm::ES256, 32),
                    "P-384" => (Algorithm::ES384, 48),
                    _ => return None,
                };
                let (x, y) = (bytes(text("x")?)?, bytes(text("y")?)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                let point = [&[4], &*x, &*y].concat();
                (vec![algorithm], DecodingKey::from_ec_der(&point))
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                let x = bytes(text("x")?).filter(|x| x.len() == 32)?;
                (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(&x))
            }
            "oct" if symmetric => {
                let secret = bytes(text("k")?).filter(|secret| secret.len() >= SECRET_MIN)?;
                (HMAC.to_vec(), DecodingKey::from_secret(&secret).ok()?)
            }
            _ => return None,
        };
        if let Some(only) = text("alg") {
            algorithms.retain(|algorithm| only.parse() == Ok(*algorithm));
        }
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            kid: text("kid").map(str::to_owned),
            algorithms,
            key,
        })
    }

    /// Its name.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it may have made a signature of this kind.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Of base64url, with or without padding: some providers write it.
fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .ok()
}
