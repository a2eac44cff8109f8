//! `[auth.NAME]` with `type = "jwt"`: what needs more than one of its keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

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

/// Its keys as they are written.
#[derive(Debug)]
pub(super) struct JwtSettings<'a> {
    pub(super) issuer: Option<&'a str>,
    pub(super) audiences: &'a [String],
    pub(super) jwks_url: Option<&'a Secret>,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) keys_file: Option<&'a Path>,
    pub(super) algorithms: &'a [SigningAlgorithm],
    pub(super) claims_to_headers: Option<&'a Placed>,
    pub(super) require: Option<&'a Placed>,
    pub(super) exp_required: bool,
    pub(super) forward_token: bool,
    pub(super) timeout: Duration,
}

impl JwtSettings<'_> {
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> JwtAuth {
        if self.algorithms.is_empty() {
            reader.wrong(
                "algorithms",
                "names none",
                "leave the key out for all with public keys, or name some, as in [\"ES256\"]",
            );
        }
        let mut algorithms = self.algorithms.iter();
        let symmetric = algorithms.find(|algorithm| algorithm.is_symmetric());
        if let (Some(algorithm), Some(_)) = (symmetric, self.jwks_url) {
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
        if self.issuer.is_none() && self.audiences.is_empty() {
            reader.warn(
                "issuer",
                "is missing, and so is audiences: every token that one of the keys signed lets a request in, whatever it was made for",
                "write the iss and the aud that tokens must have",
            );
        }
        JwtAuth {
            issuer: self.issuer.map(str::to_owned),
            audiences: self.audiences.to_vec(),
            keys: self.keys(reader),
            algorithms: self.algorithms.to_vec(),
            claims_to_headers: claims_to_headers(reader, self.claims_to_headers),
            require: texts(reader, "require", self.require, "{ role = \"admin\" }"),
            exp_required: self.exp_required,
            forward_token: self.forward_token,
            timeout: self.timeout,
        }
    }

    fn keys(&self, reader: &mut Reader<'_>) -> JwtKeys {
        const EXAMPLE: &str =
            "write it like \"https://id.example.com/realms/shop/protocol/openid-connect/certs\"";
        match (self.keys_file, self.jwks_url) {
            (Some(_), Some(_)) => reader.wrong(
                "keys_file",
                "stands beside jwks_url",
                "keep one of the two: keys come from one place",
            ),
            (None, None) => reader.wrong(
                "jwks_url",
                "is missing, and so is keys_file",
                "say where the keys are that sign tokens",
            ),
            (None, Some(url)) if parse_url(url.reveal()).is_none() => {
                reader.wrong("jwks_url", "is not an http:// or https:// URL", EXAMPLE);
            }
            _ => {}
        }
        match self.keys_file {
            Some(file) => JwtKeys::File(file.to_owned()),
            None => JwtKeys::Url {
                url: self.jwks_url.cloned().unwrap_or_default(),
                ca_file: self.ca_file.map(Path::to_owned),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthKind, Inputs, Loaded, load};

    const URL: &str = "jwks_url = \"https://id.example.com/certs\"\n";

    fn read(text: &str) -> Result<Loaded, String> {
        let file = format!("[auth.id]\ntype = \"jwt\"\n{text}");
        let inputs = Inputs {
            file: Some(("conf/lb.toml".into(), file)),
            ..Inputs::default()
        };
        load(&inputs).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn a_scheme_needs_little_and_its_defaults_are_strict() {
        let loaded = read(URL).unwrap();
        let AuthKind::Jwt(jwt) = &loaded.config.auth["id"].kind else {
            panic!("tokens");
        };
        assert!(jwt.exp_required && jwt.forward_token);
        assert_eq!(jwt.algorithms.len(), 9);
        assert!(!jwt.algorithms.iter().any(|it| it.is_symmetric()));
        assert!(
            loaded
                .warnings
                .iter()
                .any(|it| it.to_string().contains("auth.id.issuer"))
        );
        let quiet = read(&format!("{URL}issuer = \"https://id.example.com\"\n")).unwrap();
        assert!(quiet.warnings.is_empty(), "{:?}", quiet.warnings);
    }

    #[test]
    fn all_of_it_is_read() {
        let loaded = read(
            "keys_file = \"keys.json\"\nissuer = \"i\"\naudiences = [\"a\", \"b\"]\nalgorithms = [\"ES256\", \"HS256\"]\n\
             claims_to_headers = { sub = \"X-User\", \"a.b\" = \"X-B\" }\nrequire = { role = \"admin\" }\n\
             exp_required = false\nforward_token = false\n",
        )
        .unwrap();
        let AuthKind::Jwt(jwt) = &loaded.config.auth["id"].kind else {
            panic!("tokens");
        };
        assert_eq!(jwt.keys, JwtKeys::File("conf/keys.json".into()));
        assert_eq!(
            jwt.algorithms,
            [SigningAlgorithm::Es256, SigningAlgorithm::Hs256]
        );
        let names: Vec<_> = jwt
            .claims_to_headers
            .iter()
            .map(|(_, it)| it.as_str())
            .collect();
        assert_eq!(names, ["x-b", "x-user"]);
        assert_eq!(jwt.require, [("role".to_owned(), "admin".to_owned())]);
        assert!(!jwt.exp_required && !jwt.forward_token);
    }

    #[test]
    fn mistakes_name_their_key() {
        for (text, part) in [
            ("", "auth.id.jwks_url is missing"),
            (
                "jwks_url = \"id.example.com\"\n",
                "is not an http:// or https:// URL",
            ),
            (
                &format!("{URL}keys_file = \"k\"\n"),
                "stands beside jwks_url",
            ),
            (
                &format!("{URL}algorithms = [\"none\"]\n"),
                "auth.id.algorithms",
            ),
            (
                &format!("{URL}algorithms = [\"HS256\"]\n"),
                "whose keys are secrets",
            ),
            (
                &format!("{URL}require = \"admin\"\n"),
                "is not a table of texts",
            ),
            (
                &format!("{URL}require = {{ role = 1 }}\n"),
                "is not a table of texts",
            ),
            (
                &format!("{URL}claims_to_headers = {{ sub = \"X User\" }}\n"),
                "is not the name of a header",
            ),
            (
                &format!("{URL}claims_to_headers = {{ sub = \"Authorization\" }}\n"),
                "has a meaning of its own",
            ),
            (
                &format!("{URL}claims_to_headers = {{ sub = \"Content-Length\" }}\n"),
                "has a meaning of its own",
            ),
            (
                &format!("{URL}claims_to_headers = {{ a = \"X-A\", b = \"x-a\" }}\n"),
                "for two claims",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
