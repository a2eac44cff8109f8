//! URLs of `http` and `https` in settings.

use http::Uri;

use super::reader::Reader;
use super::secret::Secret;

/// The URL, if it is one of `http` or `https` with a host.
pub(super) fn check_web_url(
    reader: &mut Reader<'_>,
    key: &str,
    url: Secret,
    example: &str,
) -> Option<Secret> {
    if url.reveal().is_empty() {
        return None;
    }
    if parse_url(url.reveal()).is_none() {
        reader.wrong(key, "is not a URL", &format!("write it like {example}"));
        return None;
    }
    Some(url)
}

/// Reads an `http://` or `https://` URL with a host.
pub(super) fn parse_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}
