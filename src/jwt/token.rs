//! The parts of a token in compact form (RFC 7515 section 7.1), and its header.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::fault::Fault;
use super::json;
use super::key::Key;

/// Longest token, in bytes. With many groups in it one may have several thousand.
pub const TOKEN_MAX: usize = 16 << 10;
/// Longest `kid`.
const KID_MAX: usize = 256;

/// A token whose header is understood. What it claims is its own word until a key has signed it.
#[derive(Debug)]
pub struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// What is signed.
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    /// Reads a token up to its header.
    ///
    /// # Errors
    /// It is too long, not a token, or its header demands what is never accepted.
    pub fn read(text: &'a str) -> Result<Self, Fault> {
        if text.len() > TOKEN_MAX {
            return Err(Fault::TooLong);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Fault::Form)?;
        let (header, payload) = message.split_once('.').ok_or(Fault::Form)?;
        // A signature that is not canonical would give one token several texts.
        if payload.contains('.') || decode(signature).is_none_or(|bytes| bytes.is_empty()) {
            return Err(Fault::Form);
        }
        let header = json::object(&decode(header).ok_or(Fault::Form)?).ok_or(Fault::Header)?;
        let (algorithm, kid) = read_header(&header)?;
        Ok(Self {
            algorithm,
            kid,
            message,
            payload,
            signature,
        })
    }

    /// How it says that it is signed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The name of the key that it says it is signed with.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether this key signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(self.algorithm, self.message.as_bytes(), self.signature)
    }

    /// What it claims.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn claims(&self) -> Result<Claims, Fault> {
        let payload = decode(self.payload).ok_or(Fault::Form)?;
        json::object(&payload).map(Claims::new).ok_or(Fault::Claims)
    }
}

/// Of base64url without padding, with no bits left over.
fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Fault> {
    // `crit` lists extensions that a reader must understand, and none is understood here; `b64`
    // changes what is signed (RFC 7797), whether or not it is listed; the others make it an
    // encrypted token.
    for name in ["crit", "b64", "enc", "zip"] {
        if header.contains_key(name) {
            return Err(Fault::Unsupported);
        }
    }
    if let Some(kind) = header.get("typ")
        && !kind.as_str().is_some_and(is_access_token)
    {
        return Err(Fault::Unsupported);
    }
    let algorithm = header.get("alg").and_then(Value::as_str);
    let algorithm = algorithm.and_then(|name| name.parse().ok());
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_MAX => Some(kid.clone()),
        Some(_) => return Err(Fault::Header),
    };
    Ok((algorithm.ok_or(Fault::Algorithm)?, kid))
}

/// Whether a token of this `typ` may be one for a resource. Others of the same issuer are signed
/// with the same keys and mean something else: a logout, a proof of possession (RFC 8725 section
/// 3.11).
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    kind == "jwt" || kind == "at+jwt" || kind.ends_with("-at+jwt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("sig"))
    }

    #[test]
    fn headers_are_understood_or_refused() {
        for (header, expected) in [
            (r#"{"alg":"ES256"}"#, Ok((Algorithm::ES256, None))),
            (
                r#"{"alg":"RS256","typ":"JWT","kid":"a","x5t":"y","jku":"http://h/"}"#,
                Ok((Algorithm::RS256, Some("a"))),
            ),
            (
                r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
                Ok((Algorithm::EdDSA, None)),
            ),
            (
                r#"{"alg":"RS256","typ":"application/okta-internal-at+jwt"}"#,
                Ok((Algorithm::RS256, None)),
            ),
            (r#"{"alg":"none"}"#, Err(Fault::Algorithm)),
            (r#"{"alg":"None"}"#, Err(Fault::Algorithm)),
            (r#"{"alg":"es256"}"#, Err(Fault::Algorithm)),
            (r#"{"alg":""}"#, Err(Fault::Algorithm)),
            (r#"{"alg":null}"#, Err(Fault::Algorithm)),
            (r#"{"alg":["ES256"]}"#, Err(Fault::Algorithm)),
            (r#"{"typ":"JWT"}"#, Err(Fault::Algorithm)),
            (r#"{"alg":"ES256","alg":"none"}"#, Err(Fault::Header)),
            (r#"{"alg":"ES256","kid":1}"#, Err(Fault::Header)),
            (r#"{"alg":"ES256","crit":["b64"]}"#, Err(Fault::Unsupported)),
            (r#"{"alg":"ES256","crit":[]}"#, Err(Fault::Unsupported)),
            (r#"{"alg":"ES256","b64":false}"#, Err(Fault::Unsupported)),
            (r#"{"alg":"ES256","zip":"DEF"}"#, Err(Fault::Unsupported)),
            (
                r#"{"alg":"ES256","enc":"A128GCM"}"#,
                Err(Fault::Unsupported),
            ),
            (
                r#"{"alg":"ES256","typ":"logout+jwt"}"#,
                Err(Fault::Unsupported),
            ),
            (
                r#"{"alg":"ES256","typ":"dpop+jwt"}"#,
                Err(Fault::Unsupported),
            ),
            (r#"{"alg":"ES256","typ":1}"#, Err(Fault::Unsupported)),
            ("[]", Err(Fault::Header)),
            ("", Err(Fault::Header)),
        ] {
            let text = token(header, "{}");
            let read = Token::read(&text);
            let read = read
                .as_ref()
                .map(|token| (token.algorithm(), token.kid()))
                .map_err(|fault| *fault);
            assert_eq!(read, expected, "{header}");
        }
        let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(KID_MAX + 1));
        assert_eq!(Token::read(&token(&long, "{}")).unwrap_err(), Fault::Header);
    }

    #[test]
    fn a_token_has_three_parts_and_one_text() {
        let good = token(r#"{"alg":"ES256"}"#, "{}");
        assert!(Token::read(&good).is_ok());
        let parts: Vec<&str> = good.split('.').collect();
        for bad in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            parts[..2].join("."),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{good}.{}", parts[2]),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("{}..{}.{}", parts[0], parts[1], parts[2]),
            // The last character has bits that mean nothing: not as an encoder writes it.
            format!("{}.{}.c2lnAB", parts[0], parts[1]),
            good.replace('.', "+."),
        ] {
            assert_eq!(Token::read(&bad).unwrap_err(), Fault::Form, "{bad}");
        }
        let long = format!("{good}{}", "A".repeat(TOKEN_MAX));
        assert_eq!(Token::read(&long).unwrap_err(), Fault::TooLong);
    }

    #[test]
    fn claims_are_an_object_whose_members_stand_once() {
        for (payload, good) in [
            ("{}", true),
            (r#"{"sub":"a"}"#, true),
            (r#"{"sub":"a","sub":"b"}"#, false),
            ("[]", false),
            ("\"text\"", false),
            ("", false),
            ("{\"sub\":\"\u{fffd}\"}", true),
        ] {
            let text = token(r#"{"alg":"ES256"}"#, payload);
            let claims = Token::read(&text).unwrap().claims();
            assert_eq!(claims.is_ok(), good, "{payload}");
        }
    }
}
