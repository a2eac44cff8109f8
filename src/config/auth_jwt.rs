//! `[auth.NAME]` with `type = "jwt"`: what needs more than one of its keys.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::auth::AuthConfig;
use super::raw::{Placed, RawValue};
use super::reader::Reader;
use super::secret::Secret;
use super::url::parse_url;
use super::words::words;
use crate::catalog::field_edits::FRAMING;

words! {
    /// How tokens may be signed.
    pub enum SigningAlgorithm {
        /// ECDSA with P-256.
        Es256 = "ES256",
        /// ECDSA with P-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
        /// RSA with PKCS #1 v1.5 and SHA-256.
        Rs256 = "RS256",
        /// RSA with PKCS #1 v1.5 and SHA-384.
        Rs384 = "RS384",
        /// RSA with PKCS #1 v1.5 and SHA-512.
        Rs512 = "RS512",
        /// RSA with PSS and SHA-256.
        Ps256 = "PS256",
        /// RSA with PSS and SHA-384.
        Ps384 = "PS384",
        /// RSA with PSS and SHA-512.
        Ps512 = "PS512",
        /// A shared secret and SHA-256.
        Hs256 = "HS256",
        /// A shared secret and SHA-384.
        Hs384 = "HS384",
        /// A shared secret and SHA-512.
        Hs512 = "HS512",
    }
}

impl SigningAlgorithm {
    /// Whether the key that verifies a token can also make one.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// Tokens that let requests in.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtAuth {
    /// The `iss` that they must have.
    pub issuer: Option<String>,
    /// Their `aud` must name one of these, if there are any.
    pub audiences: Vec<String>,
    /// Where the keys come from that sign them.
    pub keys: JwtKeys,
    /// How they may be signed.
    pub algorithms: Vec<SigningAlgorithm>,
    /// Claims that instances are told, and in which fields.
    pub claims_to_headers: Vec<(String, HeaderName)>,
    /// Claims, and the text that each must have or hold.
    pub require: Vec<(String, String)>,
    /// Whether one without an end is refused.
    pub exp_required: bool,
    /// Whether instances get the token itself.
    pub forward_token: bool,
    /// Limit for a response with keys.
    pub timeout: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// Fetched, and fetched again in time.
    Url {
        /// An `http` or `https` URL.
        url: Secret,
        /// The CAs that its certificate must come from; none: those for upstreams.
        ca_file: Option<PathBuf>,
    },
    /// Read, and read again when it changes.
    File(PathBuf),
}

impl AuthConfig {
    pub(super) fn jwt(&mut self, reader: &mut Reader<'_>) -> JwtAuth {
        let algorithms = self.algorithms.clone().unwrap_or_default();
        if algorithms.is_empty() {
            reader.wrong(
                "algorithms",
                "names none",
                "leave the key out for all with public keys, or name some, as in [\"ES256\"]",
            );
        }
        let keys = self.jwt_keys(reader);
        let symmetric = algorithms.iter().find(|algorithm| algorithm.is_symmetric());
        if let (Some(algorithm), JwtKeys::Url { .. }) = (symmetric, &keys)
            && self.jwks_url.is_some()
        {
            let problem = format!(
                "holds {}, whose keys are secrets and are not fetched from a URL",
                algorithm.as_str()
            );
            reader.wrong(
                "algorithms",
                &problem,
                "take it out, or put the secret into a keys_file",
            );
        }
        if let Some(issuer) = &self.issuer
            && issuer.trim() != issuer
        {
            reader.wrong("issuer", "has blanks around it", "take them out");
        }
        if self.issuer.is_none() && self.audiences.iter().flatten().next().is_none() {
            reader.warn(
                "issuer",
                "is missing, and so is audiences: every token that one of the keys signed lets a request in, whatever it was made for",
                "write the iss and the aud that tokens must have",
            );
        }
        JwtAuth {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone().unwrap_or_default(),
            keys,
            algorithms,
            claims_to_headers: claims_to_headers(reader, self.claims_to_headers.as_ref()),
            require: texts(
                reader,
                "require",
                self.require.as_ref(),
                "{ role = \"admin\" }",
            ),
            exp_required: self.exp_required.unwrap_or(true),
            forward_token: self.forward_token.unwrap_or(true),
            timeout: self.timeout.unwrap_or_default(),
        }
    }

    fn jwt_keys(&self, reader: &mut Reader<'_>) -> JwtKeys {
        const EXAMPLE: &str =
            "write it like \"https://id.example.com/realms/shop/protocol/openid-connect/certs\"";
        let url = self.jwks_url.clone().unwrap_or_default();
        match (&self.keys_file, self.jwks_url.is_some()) {
            (Some(_), true) => reader.wrong(
                "keys_file",
                "stands beside jwks_url",
                "keep one of the two: keys come from one place",
            ),
            (None, false) => reader.wrong(
                "jwks_url",
                "is missing, and so is keys_file",
                "say where the keys are that sign tokens",
            ),
            (None, true) if parse_url(url.reveal()).is_none() => {
                reader.wrong("jwks_url", "is not an http:// or https:// URL", EXAMPLE);
            }
            _ => {}
        }
        match &self.keys_file {
            Some(file) => JwtKeys::File(file.clone()),
            None => JwtKeys::Url {
                url,
                ca_file: self.ca_file.clone(),
            },
        }
    }
}

fn claims_to_headers(
    reader: &mut Reader<'_>,
    written: Option<&Placed>,
) -> Vec<(String, HeaderName)> {
    const KEY: &str = "claims_to_headers";
    let mut found: Vec<(String, HeaderName)> = Vec::new();
    for (claim, name) in texts(reader, KEY, written, "{ sub = \"X-User\" }") {
        let Ok(name) = name.parse::<HeaderName>() else {
            let problem = format!("holds {name:?}, which is not the name of a header");
            reader.wrong(KEY, &problem, "write names like \"X-User\"");
            continue;
        };
        if FRAMING.contains(&name) || name == http::header::AUTHORIZATION {
            let problem = format!("holds {name:?}, which has a meaning of its own");
            reader.wrong(KEY, &problem, "use another name, like \"X-User\"");
        } else if found.iter().any(|(_, other)| *other == name) {
            let problem = format!("names {name:?} for two claims");
            reader.wrong(KEY, &problem, "give each claim a field of its own");
        } else {
            found.push((claim, name));
        }
    }
    found
}

/// A table of texts.
fn texts(
    reader: &mut Reader<'_>,
    key: &str,
    written: Option<&Placed>,
    example: &str,
) -> Vec<(String, String)> {
    let Some(written) = written else {
        return Vec::new();
    };
    let pairs = match &written.value {
        RawValue::Table(table) => table
            .iter()
            .map(|(name, value)| match &value.value {
                RawValue::Text(text) => Some((name.clone(), text.clone())),
                _ => None,
            })
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    if pairs.is_none() {
        let advice = format!("write it like {example}");
        reader.wrong(key, "is not a table of texts", &advice);
    }
    pairs.unwrap_or_default()
}
