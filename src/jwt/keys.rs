//! Keys that sign tokens: sets of them as JSON (RFC 7517), or public keys and certificates as PEM.

use serde_json::Value;

use super::key::Key;
use super::keys_error::KeysError;
use super::pem;
use super::token::Token;

/// Most keys of a set.
const KEYS_MAX: usize = 256;
/// Most keys that are tried for one token: each costs as much as a signature.
const TRIES_MAX: usize = 8;

/// Keys, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys that cannot be used here: of another kind, for encryption, too short.
    pub left_out: usize,
}

impl KeySet {
    /// Reads a set. Secrets for HMAC are left out unless `symmetric`.
    ///
    /// # Errors
    /// Not one key of it can be used.
    pub fn parse(text: &[u8], symmetric: bool) -> Result<Self, KeysError> {
        let text = text.trim_ascii();
        let set = if text.starts_with(b"{") {
            Self::of_json(text, symmetric)?
        } else {
            Self::counted(pem::keys(text)?)?
        };
        if set.keys.is_empty() {
            return Err(KeysError::NoneUsable(set.left_out));
        }
        Ok(set)
    }

    fn of_json(text: &[u8], symmetric: bool) -> Result<Self, KeysError> {
        let parsed: Value = serde_json::from_slice(text).map_err(|_| KeysError::Form)?;
        let written = match parsed.get("keys") {
            Some(keys) => keys.as_array().ok_or(KeysError::Form)?.clone(),
            None if parsed.get("kty").is_some() => vec![parsed],
            None => return Err(KeysError::Form),
        };
        let private = |jwk: &Value| jwk.get("d").is_some();
        if written.iter().any(private) {
            return Err(KeysError::Private);
        }
        Self::counted(
            written
                .iter()
                .map(|jwk| jwk.as_object().and_then(|jwk| Key::of_jwk(jwk, symmetric))),
        )
    }

    fn counted(keys: impl IntoIterator<Item = Option<Key>>) -> Result<Self, KeysError> {
        let mut set = Self::default();
        for key in keys {
            match key {
                Some(key) => set.keys.push(key),
                None => set.left_out += 1,
            }
            if set.keys.len() + set.left_out > KEYS_MAX {
                return Err(KeysError::TooMany);
            }
        }
        Ok(set)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed a token: those with its `kid` and those without one, of the
    /// kind that its algorithm needs.
    pub fn candidates<'k>(&'k self, token: &Token<'_>) -> impl Iterator<Item = &'k Key> {
        let (kid, algorithm) = (token.kid().map(str::to_owned), token.algorithm());
        let fits = move |key: &&Key| {
            let named = match (kid.as_deref(), key.kid()) {
                (Some(wanted), Some(own)) => wanted == own,
                _ => true,
            };
            named && key.is_for(algorithm)
        };
        self.keys.iter().filter(fits).take(TRIES_MAX)
    }

    /// Whether a key has this name, or there are keys without names.
    #[must_use]
    pub fn knows(&self, kid: &str) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|key| key.kid().is_none_or(|own| own == kid))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn read(set: &Value, symmetric: bool) -> Result<(usize, usize), KeysError> {
        let set = KeySet::parse(set.to_string().as_bytes(), symmetric)?;
        Ok((set.len(), set.left_out))
    }

    fn encoded(length: usize) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(vec![0xa5; length])
    }

    #[test]
    fn keys_are_taken_for_what_they_are() {
        let ec = |more: Value| {
            let mut key = json!({"kty": "EC", "crv": "P-256", "x": encoded(32), "y": encoded(32)});
            for (name, value) in more.as_object().unwrap() {
                key[name] = value.clone();
            }
            key
        };
        for (key, usable) in [
            (ec(json!({})), true),
            (ec(json!({"use": "sig", "kid": "a", "alg": "ES256"})), true),
            (ec(json!({"use": "enc"})), false),
            (ec(json!({"key_ops": ["verify"]})), true),
            (ec(json!({"key_ops": ["sign"]})), false),
            (ec(json!({"key_ops": "verify"})), false),
            (ec(json!({"alg": "RS256"})), false),
            (ec(json!({"alg": "ES384"})), false),
            (ec(json!({"alg": "HS256"})), false),
            (ec(json!({"crv": "secp256k1"})), false),
            (ec(json!({"crv": "P-384"})), false),
            (ec(json!({"x": encoded(31)})), false),
            (ec(json!({"x": "!"})), false),
            (json!({"kty": "RSA", "n": encoded(256), "e": "AQAB"}), true),
            (json!({"kty": "RSA", "n": encoded(128), "e": "AQAB"}), false),
            (json!({"kty": "RSA", "n": encoded(256)}), false),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(32)}),
                true,
            ),
            (
                json!({"kty": "OKP", "crv": "X25519", "x": encoded(32)}),
                false,
            ),
            (json!({"kty": "oct", "k": encoded(32)}), false),
            (json!({"kty": "new"}), false),
            (json!("text"), false),
        ] {
            let set = json!({"keys": [key]});
            let expected = match usable {
                true => Ok((1, 0)),
                false => Err(KeysError::NoneUsable(1)),
            };
            assert_eq!(read(&set, false), expected, "{key}");
            // Among others it costs nothing but itself.
            let set = json!({"keys": [key, ec(json!({}))]});
            let counted = if usable { (2, 0) } else { (1, 1) };
            assert_eq!(read(&set, false), Ok(counted), "{key}");
        }
        let secret = json!({"keys": [{"kty": "oct", "k": encoded(32)}]});
        assert_eq!(read(&secret, true), Ok((1, 0)));
        let short = json!({"keys": [{"kty": "oct", "k": encoded(31)}]});
        assert_eq!(read(&short, true), Err(KeysError::NoneUsable(1)));
        assert_eq!(read(&ec(json!({})), false), Ok((1, 0)), "a key alone");
        assert_eq!(
            read(&json!({"keys": [ec(json!({"d": "x"}))]}), false),
            Err(KeysError::Private)
        );
    }

    #[test]
    fn what_is_not_a_set_is_told() {
        for (text, error) in [
            ("", KeysError::Form),
            ("{", KeysError::Form),
            ("{}", KeysError::Form),
            (r#"{"keys":{}}"#, KeysError::Form),
            (r#"{"keys":[]}"#, KeysError::NoneUsable(0)),
            ("<html>", KeysError::Form),
        ] {
            assert_eq!(
                KeySet::parse(text.as_bytes(), false).unwrap_err(),
                error,
                "{text}"
            );
        }
        let many = json!({"keys": vec![json!({}); KEYS_MAX + 1]});
        assert_eq!(read(&many, false), Err(KeysError::TooMany));
    }
}
