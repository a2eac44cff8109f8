//! What is known of keys: the set, and the tokens that were verified with it. One of them replaces
//! the other as a whole, so that no token outlives the keys that vouched for it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::cache::{Cache, Verdict};
use crate::jwt::{Algorithm, Claims, Fault, KeySet, Rules, Token, text_of};
use crate::proxy::auth::admission::Granted;

/// What tokens are held to, as configured.
#[derive(Debug)]
pub(super) struct Demands {
    pub(super) rules: Rules,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) claims_to_headers: Vec<(String, HeaderName)>,
    pub(super) forward_token: bool,
}

/// Keys and what was verified with them.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) keys: KeySet,
    cache: Cache,
    /// What the keys were read from.
    pub(super) text: Vec<u8>,
}

impl Known {
    pub(super) fn new(keys: KeySet, text: Vec<u8>) -> Self {
        Self {
            keys,
            cache: Cache::default(),
            text,
        }
    }

    /// What this token lets its request do, at `now_s` (seconds since 1970).
    pub(super) fn judge(
        &self,
        text: &str,
        demands: &Demands,
        now_s: i64,
    ) -> Result<Verdict, Fault> {
        if text.len() > crate::jwt::TOKEN_MAX {
            return Err(Fault::TooLong);
        }
        let digest = self.cache.digest(text);
        if let Some(verdict) = self.cache.recall(&digest, now_s) {
            return Ok(verdict);
        }
        let token = Token::read(text)?;
        if !demands.algorithms.contains(&token.algorithm()) {
            return Err(Fault::Algorithm);
        }
        if !self
            .keys
            .candidates(&token)
            .any(|key| token.is_signed_by(key))
        {
            // A token without a name for its key may be signed with a new one.
            let known = token.kid().is_some_and(|kid| self.keys.knows(kid));
            return Err(if known {
                Fault::Signature
            } else {
                Fault::UnknownKey
            });
        }
        let claims = token.claims()?;
        let (verdict, until_s) = match demands.rules.check(&claims, now_s) {
            Ok(until_s) => (Verdict::Passes(demands.granted(&claims)), until_s),
            // Not kept: a token that is refused may cost its sender more than others.
            Err(Fault::Insufficient) => return Ok(Verdict::Insufficient),
            Err(fault) => return Err(fault),
        };
        self.cache.note(digest, &verdict, until_s);
        Ok(verdict)
    }
}

impl Demands {
    /// What the claims change in the request.
    fn granted(&self, claims: &Claims) -> Option<Box<Granted>> {
        if self.claims_to_headers.is_empty() && self.forward_token {
            return None;
        }
        let value = |claim: &str| {
            let text = claims.get(claim).and_then(text_of)?;
            HeaderValue::from_bytes(text.as_bytes()).ok()
        };
        let mut set: Vec<_> = (self.claims_to_headers.iter())
            .map(|(claim, name)| (name.clone(), value(claim)))
            .collect();
        if !self.forward_token {
            set.push((http::header::AUTHORIZATION, None));
        }
        Some(Box::new(Granted::setting(set)))
    }
}

/// The token of a request (RFC 6750 section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
