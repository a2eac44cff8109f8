//! Texts as they are shown, without secrets.

use serde_json::Value;

use super::secret::Secret;

/// Stands for a secret.
pub(super) const MASK: &str = "***";

/// `scheme://user:password@host` loses what stands before the `@`.
pub(super) fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{MASK}@{host}{tail}"),
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    }
}

/// A URL whose password and query, which may be a token, are masked.
pub(super) fn without_secrets(url: &Secret) -> Value {
    let text = without_password(url.reveal());
    match text.split_once('?') {
        Some((place, _)) => format!("{place}?{MASK}").into(),
        None => text.into(),
    }
}

/// As [`without_secrets`], where there may be none.
pub(super) fn without_secrets_if_set(url: &Option<Secret>) -> Value {
    url.as_ref().map_or(Value::Null, without_secrets)
}
