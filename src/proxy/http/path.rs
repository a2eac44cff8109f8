//! Request paths: the form routes are compared with, and the form that is sent on.
//!
//! Pure. A path is decoded **once**: Fabio decodes it twice and cuts it at the `?` or `#` that appear, so that
//! `%252F` and `%3F` can lead to another route than the upstream believes it serves. The wire form is kept as it is
//! (an upstream may tell `%2F` from `/`) unless cleaning changed the path: then what is routed is also what is sent,
//! else `/public/../admin` would be judged as one path and served as another.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use super::target::{legal, push_percent};

/// A path that cannot be what a client meant; answer 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Neither `/…` nor anything that could be routed.
    #[error("request path {0:?} does not begin with `/`")]
    NotAbsolute(String),
    /// `%` without two hexadecimal digits after it.
    #[error("request path {0:?} holds a `%` without two hexadecimal digits")]
    BadPercent(String),
    /// `%00`: no path has it, but a program behind us may end the path there.
    #[error("request path {0:?} holds an encoded NUL")]
    Nul(String),
    /// The target built from the route's options cannot be sent.
    #[error("rewritten target {0:?} is not a valid request target: look at strip=, prepend= and the target's query")]
    Rewritten(String),
}

/// A request path in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// Decoded and cleaned, for look-up. Bytes that are no UTF-8 show as U+FFFD.
    pub decoded: Cow<'a, str>,
    /// As it is sent: the client's own form unless cleaning changed it.
    pub wire: Cow<'a, str>,
}

impl<'a> NormalPath<'a> {
    /// A path of which [`normalise`] has found that it stays as it is.
    #[must_use]
    pub fn as_it_came(path: &'a str) -> Self {
        Self { decoded: Cow::Borrowed(path), wire: Cow::Borrowed(path) }
    }

    /// Whether both forms are what came.
    #[must_use]
    pub fn is_as_it_came(&self) -> bool {
        matches!((&self.decoded, &self.wire), (Cow::Borrowed(_), Cow::Borrowed(_)))
    }
}

/// Decodes `path` once, and cleans `.`, `..` and `//`; a trailing slash stays. Allocates only if something changes.
///
/// # Errors
/// A path that does not begin with `/`, a bad percent encoding, or an encoded NUL.
pub fn normalise(path: &str) -> Result<NormalPath<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute(path.to_owned()));
    }
    let bytes = path.as_bytes();
    let encoded = memchr::memchr(b'%', bytes).is_some();
    if !encoded && is_clean(bytes) {
        return Ok(NormalPath::as_it_came(path));
    }
    let decoded = if encoded { Cow::Owned(decode(path)?) } else { Cow::Borrowed(bytes) };
    if is_clean(&decoded) {
        return Ok(NormalPath { decoded: Cow::Owned(text(&decoded)), wire: Cow::Borrowed(path) });
    }
    let cleaned = clean(&decoded);
    Ok(NormalPath { decoded: Cow::Owned(text(&cleaned)), wire: Cow::Owned(encode(&cleaned)) })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn decode(path: &str) -> Result<Vec<u8>, PathError> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, width) = decoded_byte(&bytes[at..]).ok_or_else(|| PathError::BadPercent(path.to_owned()))?;
        if byte == 0 {
            return Err(PathError::Nul(path.to_owned()));
        }
        decoded.push(byte);
        at += width;
    }
    Ok(decoded)
}

/// The first byte of a non-empty wire form, decoded, and how many bytes it takes there.
fn decoded_byte(wire: &[u8]) -> Option<(u8, usize)> {
    match wire {
        [b'%', high, low, ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(*high)? * 16 + digit(*low)?;
            Some((u8::try_from(value).ok()?, 3))
        }
        [b'%', ..] | [] => None,
        [byte, ..] => Some((*byte, 1)),
    }
}

/// No segment is empty (but the last), `.` or `..`.
fn is_clean(path: &[u8]) -> bool {
    let mut rest = path;
    while let [b'/', tail @ ..] = rest {
        if matches!(tail, [b'/', ..] | [b'.'] | [b'.', b'.'] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..]) {
            return false;
        }
        match memchr::memchr(b'/', tail) {
            Some(slash) => rest = &tail[slash..],
            None => return true,
        }
    }
    true
}

fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned = Vec::with_capacity(path.len());
    for segment in path.split(|&byte| byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => cleaned.truncate(memchr::memrchr(b'/', &cleaned).unwrap_or(0)),
            segment => {
                cleaned.push(b'/');
                cleaned.extend_from_slice(segment);
            }
        }
    }
    if cleaned.is_empty() || path.ends_with(b"/") {
        cleaned.push(b'/');
    }
    cleaned
}

/// Bytes that stand for themselves in a path (RFC 3986 section 3.3).
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte)
}

fn encode(path: &[u8]) -> String {
    let mut wire = String::with_capacity(path.len() + 16);
    push_encoded(&mut wire, path, is_path_byte);
    wire
}

fn push_encoded(wire: &mut String, bytes: &[u8], stays: impl Fn(u8) -> bool) {
    for &byte in bytes {
        if stays(byte) {
            wire.push(char::from(byte));
        } else {
            push_percent(wire, byte);
        }
    }
}

/// What the options of a target do to the path and query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathEdit<'a> {
    /// `strip=`: text cut from the start of the decoded path, where it is found; may end inside a segment.
    pub strip: Option<&'a str>,
    /// `prepend=`: text put before what is left, in wire form.
    pub prepend: Option<&'a str>,
    /// Query of the target's URL, put before the request's own.
    pub query: Option<&'a str>,
}

/// The path that is sent on, after `strip` and `prepend`. The query is not its business.
#[must_use]
pub fn edited<'p>(path: &'p NormalPath<'_>, strip: Option<&str>, prepend: Option<&str>) -> Cow<'p, str> {
    let cut = strip.and_then(|prefix| stripped_len(&path.wire, prefix)).unwrap_or(0);
    prepended(after_cut(&path.wire, cut), prepend)
}

/// The same for a place inside a URL, where nothing may be left: a path that `strip` cuts whole is empty there, and not `/`
/// (as Fabio does since 1.6.0).
#[must_use]
pub fn edited_inside<'p>(path: &'p NormalPath<'_>, strip: Option<&str>, prepend: Option<&str>) -> Cow<'p, str> {
    let cut = strip.and_then(|prefix| stripped_len(&path.wire, prefix)).unwrap_or(0);
    let rest = if cut == path.wire.len() { Cow::Borrowed("") } else { after_cut(&path.wire, cut) };
    prepended(rest, prepend)
}

fn prepended<'p>(rest: Cow<'p, str>, prepend: Option<&str>) -> Cow<'p, str> {
    let Some(prepend) = prepend.filter(|prepend| !prepend.is_empty()) else {
        return rest;
    };
    let mut wire = String::with_capacity(prepend.len() + rest.len() + 2);
    if !prepend.starts_with('/') {
        wire.push('/');
    }
    push_encoded(&mut wire, prepend.as_bytes(), |byte| is_path_byte(byte) || byte == b'%');
    wire.push_str(&rest);
    Cow::Owned(wire)
}

/// What is left of a wire form, beginning with `/`. A cut inside a segment can lay bare `..` (`/a../x` without `/a`):
/// it is cleaned again, so that nobody climbs out of the stripped prefix.
fn after_cut(wire: &str, cut: usize) -> Cow<'_, str> {
    let rest = &wire[cut..];
    if cut == 0 {
        return Cow::Borrowed(rest);
    }
    if rest.starts_with('/') {
        return normalise(rest).map_or(Cow::Borrowed(rest), |path| path.wire);
    }
    let rooted = format!("/{rest}");
    let cleaned = match normalise(&rooted) {
        Ok(NormalPath { wire: Cow::Owned(cleaned), .. }) => Some(cleaned),
        _ => None,
    };
    Cow::Owned(cleaned.unwrap_or(rooted))
}

/// How many bytes of the wire form spell `prefix`; none if it does not begin with it.
fn stripped_len(wire: &str, prefix: &str) -> Option<usize> {
    let wire = wire.as_bytes();
    let mut at = 0;
    for &wanted in prefix.as_bytes() {
        let (byte, width) = decoded_byte(&wire[at..])?;
        if byte != wanted {
            return None;
        }
        at += width;
    }
    // Never cut inside a character that the client sent unencoded.
    std::str::from_utf8(&wire[at..]).is_ok().then_some(at)
}

/// Path and query as the upstream gets them. Costs a reference count when nothing changes.
///
/// # Errors
/// [`PathError::Rewritten`] when the options make something that cannot be sent.
pub fn rewrite(original: &PathAndQuery, path: &NormalPath<'_>, edit: &PathEdit<'_>) -> Result<PathAndQuery, PathError> {
    match rewrite_text(original.as_str(), path, edit)? {
        Cow::Borrowed(_) => Ok(original.clone()),
        Cow::Owned(target) => PathAndQuery::try_from(target.as_str()).map_err(|_| PathError::Rewritten(target)),
    }
}

/// The same on text: `target` is what came, in its legal form, and `path` its path. Borrowed when nothing changes; what
/// changes is put into its legal form again (the query of a target's URL may hold anything).
///
/// # Errors
/// [`PathError::Rewritten`] when the options make something that cannot be sent.
pub fn rewrite_text<'t>(
    target: &'t str,
    path: &NormalPath<'_>,
    edit: &PathEdit<'_>,
) -> Result<Cow<'t, str>, PathError> {
    let sent = edited(path, edit.strip, edit.prepend);
    let added = edit.query.filter(|query| !query.is_empty());
    let (own_path, own) = match memchr::memchr(b'?', target.as_bytes()) {
        Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
        None => (target, None),
    };
    if added.is_none() && *sent == *own_path {
        return Ok(Cow::Borrowed(target));
    }
    let mut text = String::with_capacity(target.len() + 64);
    text.push_str(&sent);
    match (added, own) {
        (Some(added), Some(own)) if !own.is_empty() => {
            text.push('?');
            text.push_str(added);
            text.push('&');
            text.push_str(own);
        }
        (Some(query), _) | (None, Some(query)) => {
            text.push('?');
            text.push_str(query);
        }
        (None, None) => {}
    }
    match legal(text.as_bytes()) {
        Ok(Cow::Borrowed(_)) => Ok(Cow::Owned(text)),
        Ok(Cow::Owned(encoded)) => Ok(Cow::Owned(encoded)),
        Err(_) => Err(PathError::Rewritten(text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalises() {
        // path, for look-up, as sent
        let cases = [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/b/", "/a/b/", "/a/b/"),
            ("/a.b/..c/.d", "/a.b/..c/.d", "/a.b/..c/.d"),
            ("//", "/", "/"),
            ("/a//b", "/a/b", "/a/b"),
            ("/a/./b/", "/a/b/", "/a/b/"),
            ("/a/../b", "/b", "/b"),
            ("/../../b/..", "/", "/"),
            ("/a/b/..", "/a", "/a"),
            ("/a/%2e%2E/b", "/b", "/b"),
            ("/a%2Fb", "/a/b", "/a%2Fb"),
            ("/a%2F%2Fb", "/a/b", "/a/b"),
            ("/a%2f..%2fb c", "/b c", "/b%20c"),
            ("/%C3%A4", "/ä", "/%C3%A4"),
            ("/%FF/x", "/\u{fffd}/x", "/%FF/x"),
            ("/../%FF", "/\u{fffd}", "/%FF"),
            // Decoded once only.
            ("/a%252Fb", "/a%2Fb", "/a%252Fb"),
            ("/a%252e%252e/b", "/a%2e%2e/b", "/a%252e%252e/b"),
            ("/a%3Fb%23c", "/a?b#c", "/a%3Fb%23c"),
            ("/x/../a%3Fb%23c", "/a?b#c", "/a%3Fb%23c"),
        ];
        for (path, decoded, wire) in cases {
            let normal = normalise(path).unwrap();
            assert_eq!((&*normal.decoded, &*normal.wire), (decoded, wire), "{path}");
        }
    }

    #[test]
    fn clean_paths_are_borrowed() {
        let normal = normalise("/v1/users/42/").unwrap();
        assert!(matches!((normal.decoded, normal.wire), (Cow::Borrowed(_), Cow::Borrowed(_))));
    }

    #[test]
    fn refuses_impossible_paths() {
        for path in ["/%", "/%2", "/%zz", "/%+1", "/a%2"] {
            assert_eq!(normalise(path), Err(PathError::BadPercent(path.into())), "{path}");
        }
        assert_eq!(normalise("/a%00b"), Err(PathError::Nul("/a%00b".into())));
        for path in ["", "*", "a/b"] {
            assert_eq!(normalise(path), Err(PathError::NotAbsolute(path.into())));
        }
    }

    #[test]
    fn rewrites() {
        let edit = |strip, prepend, query| PathEdit { strip, prepend, query };
        let cases = [
            ("/a/b?x=1", edit(None, None, None), "/a/b?x=1"),
            ("/a/b", edit(Some("/a"), None, None), "/b"),
            ("/a", edit(Some("/a"), None, None), "/"),
            ("/abc/d", edit(Some("/ab"), None, None), "/c/d"),
            ("/A/b", edit(Some("/a"), None, None), "/A/b"),
            ("/x/a", edit(Some("/a"), None, None), "/x/a"),
            ("/a/x%2Fb%20c?q", edit(Some("/a/"), None, None), "/x%2Fb%20c?q"),
            // A cut inside a segment must not make a way up.
            ("/a../secret", edit(Some("/a"), None, None), "/secret"),
            ("/a%2E%2e/secret", edit(Some("/a"), Some("/p/q"), None), "/p/q/secret"),
            ("/a%2Fb", edit(Some("/a/"), None, None), "/b"),
            ("/%61/b", edit(Some("/a"), None, None), "/b"),
            ("/b", edit(None, Some("/p"), None), "/p/b"),
            ("/b", edit(None, Some("p q"), None), "/p%20q/b"),
            ("/a/b", edit(Some("/a"), Some("/p"), None), "/p/b"),
            ("/a//b/../c", edit(Some("/a"), None, None), "/c"),
            ("/b", edit(None, None, Some("k=v")), "/b?k=v"),
            ("/b?", edit(None, None, Some("k=v")), "/b?k=v"),
            ("/b?x=1", edit(None, None, Some("k=v")), "/b?k=v&x=1"),
            ("/b?x=1", edit(None, None, Some("")), "/b?x=1"),
            ("/b?a//b/..", edit(None, None, None), "/b?a//b/.."),
        ];
        for (target, edit, wanted) in cases {
            let original = PathAndQuery::from_static(target);
            let path = normalise(original.path()).unwrap();
            assert_eq!(rewrite(&original, &path, &edit).unwrap().as_str(), wanted, "{target} {edit:?}");
        }
    }

    #[test]
    fn what_options_add_is_made_legal() {
        let path = normalise("/a").unwrap();
        let edit = PathEdit { strip: None, prepend: Some("/ö<"), query: Some("<é>") };
        assert_eq!(rewrite_text("/a?b", &path, &edit).unwrap(), "/%C3%B6%3C/a?%3C%C3%A9%3E&b");
    }

    #[test]
    fn a_query_that_cannot_be_sent_is_an_error() {
        let original = PathAndQuery::from_static("/a");
        let path = normalise("/a").unwrap();
        let edit = PathEdit { query: Some("a b\n"), ..PathEdit::default() };
        assert!(matches!(rewrite(&original, &path, &edit), Err(PathError::Rewritten(_))));
    }

    proptest! {
        #[test]
        fn what_is_routed_is_what_is_sent(path in "/([a-c%./]|%2[eEfF]|%C3|%25){0,24}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(is_clean(normal.decoded.as_bytes()));
                let again = normalise(&normal.wire).unwrap();
                prop_assert_eq!(&again.decoded, &normal.decoded);
                prop_assert_eq!(&again.wire, &normal.wire);
            }
        }

        #[test]
        fn never_panics(path in "\\PC{0,32}", strip in "\\PC{0,6}", prepend in "\\PC{0,6}") {
            if let Ok(normal) = normalise(&path) {
                let sent = edited(&normal, Some(&strip), Some(&prepend));
                prop_assert!(sent.starts_with('/'));
            }
        }
    }
}
