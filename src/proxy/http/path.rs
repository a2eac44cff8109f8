//! Request paths: the form routes are compared with, and the form that is sent on.
//!
//! Pure. A path is decoded **once**: Fabio decodes it twice and cuts it at the `?` or `#` that
//! appear, so that `%252F` and `%3F` can lead to another route than the upstream believes it
//! serves.
//!
//! Routes are compared with the folded form: decoded, without `//`, `.` and `..`. In the wire form
//! `%2F` and `//` are data of the client (RFC 3986 section 2.2: a queue may be called `/`, a key
//! may hold two slashes), and stay. Dot segments do not: `/public/../admin` would be judged as one
//! path and served as another. Instances read them in two ways. RFC 3986 section 5.2.4 takes a
//! segment back for each `..`, also an empty one or one with a `%2F` inside; Go and its like decode
//! and fold first. Where both lead to the same place, that place is sent, and the rest as it came;
//! where they do not, all of the folded form. The wire form never has a dot segment, encoded or
//! between encoded slashes, so every reader ends where the route was looked up.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use super::target::{legal, push_percent};

/// A path that cannot be what a client meant; the response is 400.
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
    /// Rewriting laid bare a segment that leads elsewhere.
    #[error("rewritten path {0:?} holds a segment `.` or `..`, which the request did not")]
    Escapes(String),
    /// The target built from the route's options cannot be sent.
    #[error(
        "rewritten target {0:?} is not a valid request target: look at strip=, prepend= and the target's query"
    )]
    Rewritten(String),
}

/// A request path in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// Decoded and cleaned, for look-up. Bytes that are not UTF-8 show as U+FFFD.
    pub decoded: Cow<'a, str>,
    /// As it is sent: the client's own form, without dot segments. It folds to `decoded`.
    pub wire: Cow<'a, str>,
}

impl<'a> NormalPath<'a> {
    /// A path of which [`normalise`] has found that it stays as it is.
    #[must_use]
    pub fn as_it_came(path: &'a str) -> Self {
        Self {
            decoded: Cow::Borrowed(path),
            wire: Cow::Borrowed(path),
        }
    }

    /// Whether both forms are what came.
    #[must_use]
    pub fn is_as_it_came(&self) -> bool {
        matches!(
            (&self.decoded, &self.wire),
            (Cow::Borrowed(_), Cow::Borrowed(_))
        )
    }
}

/// Both forms of `path`. The one for look-up is decoded once, without `.`, `..` and `//`; a
/// trailing slash stays. The wire form loses its dot segments alone, or with `merge_slashes`
/// (`proxy.merge_slashes`) becomes the other one encoded again whenever that lost anything.
/// Allocates only if something changes.
///
/// # Errors
/// A path that does not begin with `/`, a bad percent encoding, or an encoded NUL.
pub fn normalise(path: &str, merge_slashes: bool) -> Result<NormalPath<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute(path.to_owned()));
    }
    let bytes = path.as_bytes();
    let encoded = memchr::memchr(b'%', bytes).is_some();
    if !encoded && is_clean(bytes) {
        return Ok(NormalPath::as_it_came(path));
    }
    let decoded = if encoded {
        Cow::Owned(decode(path)?)
    } else {
        Cow::Borrowed(bytes)
    };
    if is_clean(&decoded) {
        return Ok(NormalPath {
            decoded: Cow::Owned(text(&decoded)),
            wire: Cow::Borrowed(path),
        });
    }
    let cleaned = clean(&decoded);
    let wire = if merge_slashes {
        Cow::Owned(encode(&cleaned))
    } else if has_dots(&decoded) {
        // A dot segment at the end leaves a slash behind (`/a//.`), or not.
        let leads_there = |wire: &String| decode(wire).is_ok_and(|wire| clean(&wire) == cleaned);
        Cow::Owned(
            without_dots(path)
                .filter(leads_there)
                .unwrap_or_else(|| encode(&cleaned)),
        )
    } else {
        Cow::Borrowed(path)
    };
    Ok(NormalPath {
        decoded: Cow::Owned(text(&cleaned)),
        wire,
    })
}

/// Both forms of a path that a rule of the route made of a normal one. What had no dot segment may
/// get one where a rule cuts inside of a segment (`/files../x` to `/data/../x`): it would lead out
/// of the place that the rule names.
///
/// # Errors
/// It holds a dot segment, a bad percent encoding, or an encoded NUL.
pub fn made(path: &str) -> Result<NormalPath<'_>, PathError> {
    if has_dots(&decode(path)?) {
        return Err(PathError::Escapes(path.to_owned()));
    }
    normalise(path, false)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn decode(path: &str) -> Result<Vec<u8>, PathError> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, width) =
            decoded_byte(&bytes[at..]).ok_or_else(|| PathError::BadPercent(path.to_owned()))?;
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
        if matches!(
            tail,
            [b'/', ..] | [b'.'] | [b'.', b'.'] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..]
        ) {
            return false;
        }
        match memchr::memchr(b'/', tail) {
            Some(slash) => rest = &tail[slash..],
            None => return true,
        }
    }
    true
}

/// A segment is `.` or `..`.
fn has_dots(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/')
        .any(|segment| matches!(segment, b"." | b".."))
}

/// A wire form without its dot segments, else as it is. None where it depends on the reader where
/// it leads.
fn without_dots(path: &str) -> Option<String> {
    let mut kept = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        let decoded = decode(segment).ok()?;
        match decoded.as_slice() {
            b"." => {}
            b".." => {
                let start = kept.rfind('/').unwrap_or(0);
                // One reader takes this segment back. The other one folds first: of it, an empty
                // one is not there, and one with a slash inside is two.
                let taken = &kept[start..];
                if taken == "/" || taken.contains("%2F") || taken.contains("%2f") {
                    return None;
                }
                kept.truncate(start);
            }
            // Dots beside an encoded slash: a part of a name, or a way.
            decoded if has_dots(decoded) => return None,
            _ => {
                kept.push('/');
                kept.push_str(segment);
            }
        }
    }
    if kept.is_empty() {
        kept.push('/');
    }
    // What follows two slashes in front is a host to readers of references (RFC 3986 section 4.2).
    // A client may send that, but it is not made of what it sent.
    (!kept.starts_with("//")).then_some(kept)
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
    /// `strip=`: text cut from the start of the path as routes are compared with it, where it is
    /// found; may end inside a segment.
    pub strip: Option<&'a str>,
    /// `prepend=`: text put before what is left, in wire form.
    pub prepend: Option<&'a str>,
    /// Query of the target's URL, put before the request's own.
    pub query: Option<&'a str>,
}

/// The path that is sent on, after `strip` and `prepend`. It leaves the query alone.
#[must_use]
pub fn edited<'p>(
    path: &'p NormalPath<'_>,
    strip: Option<&str>,
    prepend: Option<&str>,
) -> Cow<'p, str> {
    let cut = strip
        .and_then(|prefix| stripped_len(&path.wire, prefix))
        .unwrap_or(0);
    prepended(after_cut(&path.wire, cut), prepend)
}

/// The same for a place inside a URL, where nothing may be left: a path that `strip` cuts whole is
/// empty there, and not `/` (as Fabio does since 1.6.0).
#[must_use]
pub fn edited_inside<'p>(
    path: &'p NormalPath<'_>,
    strip: Option<&str>,
    prepend: Option<&str>,
) -> Cow<'p, str> {
    let cut = strip
        .and_then(|prefix| stripped_len(&path.wire, prefix))
        .unwrap_or(0);
    let rest = if cut == path.wire.len() {
        Cow::Borrowed("")
    } else {
        after_cut(&path.wire, cut)
    };
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
    push_encoded(&mut wire, prepend.as_bytes(), |byte| {
        is_path_byte(byte) || byte == b'%'
    });
    wire.push_str(&rest);
    Cow::Owned(wire)
}

/// What is left of a wire form, beginning with `/`. A cut inside a segment can lay bare `..`
/// (`/a../x` without `/a`): it is cleaned again, so that no path climbs out of the stripped prefix.
fn after_cut(wire: &str, cut: usize) -> Cow<'_, str> {
    let (gone, rest) = wire.split_at(cut);
    if gone.is_empty() {
        return Cow::Borrowed(rest);
    }
    // Where the slash was cut off that a path begins with, what follows is data, be it another one.
    let slash_gone = ["/", "%2F", "%2f"]
        .iter()
        .any(|slash| gone.ends_with(slash));
    if rest.starts_with('/') && !slash_gone {
        return normalise(rest, false).map_or(Cow::Borrowed(rest), |path| path.wire);
    }
    let rooted = match decoded_byte(rest.as_bytes()) {
        // It becomes the one that a path begins with, but never one of two.
        Some((b'/', width)) if !slash_gone && !rest[width..].starts_with('/') => {
            format!("/{}", &rest[width..])
        }
        _ => format!("/{rest}"),
    };
    let cleaned = match normalise(&rooted, false) {
        Ok(NormalPath {
            wire: Cow::Owned(cleaned),
            ..
        }) => Some(cleaned),
        _ => None,
    };
    Cow::Owned(cleaned.unwrap_or(rooted))
}

/// How many bytes of the wire form spell `prefix`, where several slashes count as one; none if it
/// does not begin with it.
fn stripped_len(wire: &str, prefix: &str) -> Option<usize> {
    let wire = wire.as_bytes();
    let mut at = 0;
    let mut last = 0;
    for &wanted in prefix.as_bytes() {
        let (mut byte, mut width) = decoded_byte(&wire[at..])?;
        while last == b'/' && byte == b'/' {
            at += width;
            (byte, width) = decoded_byte(&wire[at..])?;
        }
        if byte != wanted {
            return None;
        }
        last = byte;
        at += width;
    }
    // Never cut inside a character that the client sent unencoded.
    std::str::from_utf8(&wire[at..]).is_ok().then_some(at)
}

/// Path and query as the upstream gets them. Costs a reference count when nothing changes.
///
/// # Errors
/// [`PathError::Rewritten`] when the options make something that cannot be sent.
pub fn rewrite(
    original: &PathAndQuery,
    path: &NormalPath<'_>,
    edit: &PathEdit<'_>,
) -> Result<PathAndQuery, PathError> {
    match rewrite_text(original.as_str(), path, edit)? {
        Cow::Borrowed(_) => Ok(original.clone()),
        Cow::Owned(target) => {
            PathAndQuery::try_from(target.as_str()).map_err(|_| PathError::Rewritten(target))
        }
    }
}

/// The same on text: `target` is what came, in its legal form, and `path` its path. Borrowed when
/// nothing changes; what changes is put into its legal form again (the query of a target's URL may
/// hold anything).
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
    fn a_path_that_a_rule_made_has_no_dot_segments() {
        for path in ["/", "/a..b/.c", "/a%2Fb//c", "/a%2E%2Eb", "/..."] {
            assert_eq!(made(path).unwrap().wire, path);
        }
        for path in [
            "/data/../x",
            "/a/..",
            "/a/.",
            "/%2e%2e/x",
            "/a%2F..%2Fb",
            "/a/%2E/b",
        ] {
            assert_eq!(made(path), Err(PathError::Escapes(path.to_owned())));
        }
        for path in ["/%00", "/%", "x"] {
            assert!(made(path).is_err(), "{path}");
        }
    }

    #[test]
    fn normalises() {
        // path, for look-up, as sent, as sent with merge_slashes where that is something else
        let cases = [
            ("/", "/", "/", None),
            ("/a/b", "/a/b", "/a/b", None),
            ("/a/b/", "/a/b/", "/a/b/", None),
            ("/a.b/..c/.d", "/a.b/..c/.d", "/a.b/..c/.d", None),
            ("/a/./b/", "/a/b/", "/a/b/", None),
            ("/a/../b", "/b", "/b", None),
            ("/../../b/..", "/", "/", None),
            ("/a/b/..", "/a", "/a", None),
            ("/a/b/../", "/a/", "/a/", None),
            ("/a/%2e%2E/b", "/b", "/b", None),
            ("/a/.%2e/b/%2E", "/b", "/b", None),
            ("/%C3%A4", "/ä", "/%C3%A4", None),
            ("/%FF/x", "/\u{fffd}/x", "/%FF/x", None),
            ("/../%FF", "/\u{fffd}", "/%FF", None),
            // Slashes are data.
            ("//", "/", "//", Some("/")),
            ("/a//b", "/a/b", "/a//b", Some("/a/b")),
            ("/a///", "/a/", "/a///", Some("/a/")),
            ("/a%2Fb", "/a/b", "/a%2Fb", None),
            ("/%2F", "/", "/%2F", Some("/")),
            ("/a%2F%2fb", "/a/b", "/a%2F%2fb", Some("/a/b")),
            (
                "/api/queues/%2F/x",
                "/api/queues/x",
                "/api/queues/%2F/x",
                Some("/api/queues/x"),
            ),
            // Without its dots, a path stays as it came.
            (
                "/a%2Fb/./c//%41{",
                "/a/b/c/A{",
                "/a%2Fb/c//%41{",
                Some("/a/b/c/A%7B"),
            ),
            ("/a%2Fb/c/../d//", "/a/b/d/", "/a%2Fb/d//", Some("/a/b/d/")),
            ("/a//b/../c", "/a/c", "/a//c", Some("/a/c")),
            ("/a//./b", "/a/b", "/a//b", Some("/a/b")),
            ("/a/../%2Fb", "/b", "/%2Fb", Some("/b")),
            ("/a/..//b", "/b", "/b", None),
            ("/.//b/c%2Fd", "/b/c/d", "/b/c/d", None),
            // Readers do not agree on where these lead.
            ("/a//../b", "/b", "/b", None),
            ("/a//.", "/a", "/a", None),
            ("/a//b%2Fc/..", "/a/b", "/a/b", None),
            ("/a%2F/b/..", "/a", "/a", None),
            ("/a//..", "/", "/", None),
            ("//../b", "/b", "/b", None),
            ("/x%2Fy/z//../b", "/x/y/b", "/x/y/b", None),
            ("/a//b/../../c", "/c", "/c", None),
            ("/a%2Fb/../c", "/a/c", "/a/c", None),
            ("/%2F/../c", "/c", "/c", None),
            ("/a%2f..%2fb c", "/b c", "/b%20c", None),
            ("/a%2F..%2Fb", "/b", "/b", None),
            ("/a%2F../b", "/b", "/b", None),
            ("/a/..%2Fb", "/b", "/b", None),
            ("/a%2F./b//c", "/a/b/c", "/a/b/c", None),
            ("/a/%2e%2e%2Fb", "/b", "/b", None),
            // Decoded once only.
            ("/a%252Fb", "/a%2Fb", "/a%252Fb", None),
            ("/a%252e%252e/b", "/a%2e%2e/b", "/a%252e%252e/b", None),
            ("/x%252F/../y", "/y", "/y", None),
            ("/a%3Fb%23c", "/a?b#c", "/a%3Fb%23c", None),
            ("/x/../a%3Fb%23c", "/a?b#c", "/a%3Fb%23c", None),
        ];
        for (path, decoded, wire, merged) in cases {
            let normal = normalise(path, false).unwrap();
            assert_eq!((&*normal.decoded, &*normal.wire), (decoded, wire), "{path}");
            let normal = normalise(path, true).unwrap();
            assert_eq!(
                (&*normal.decoded, &*normal.wire),
                (decoded, merged.unwrap_or(wire)),
                "{path} merged"
            );
        }
    }

    #[test]
    fn clean_paths_are_borrowed() {
        let normal = normalise("/v1/users/42/", false).unwrap();
        assert!(normal.is_as_it_came());
        let normal = normalise("/v1//%2F", false).unwrap();
        assert!(!normal.is_as_it_came() && matches!(normal.wire, Cow::Borrowed(_)));
    }

    #[test]
    fn refuses_impossible_paths() {
        for path in ["/%", "/%2", "/%zz", "/%+1", "/a%2"] {
            assert_eq!(
                normalise(path, false),
                Err(PathError::BadPercent(path.into())),
                "{path}"
            );
        }
        assert_eq!(
            normalise("/a%00b", false),
            Err(PathError::Nul("/a%00b".into()))
        );
        for path in ["", "*", "a/b"] {
            assert_eq!(
                normalise(path, false),
                Err(PathError::NotAbsolute(path.into()))
            );
        }
    }

    #[test]
    fn rewrites() {
        let edit = |strip, prepend, query| PathEdit {
            strip,
            prepend,
            query,
        };
        let cases = [
            ("/a/b?x=1", edit(None, None, None), "/a/b?x=1"),
            ("/a/b", edit(Some("/a"), None, None), "/b"),
            ("/a", edit(Some("/a"), None, None), "/"),
            ("/abc/d", edit(Some("/ab"), None, None), "/c/d"),
            ("/A/b", edit(Some("/a"), None, None), "/A/b"),
            ("/x/a", edit(Some("/a"), None, None), "/x/a"),
            (
                "/a/x%2Fb%20c?q",
                edit(Some("/a/"), None, None),
                "/x%2Fb%20c?q",
            ),
            // A cut inside a segment must not make a way up.
            ("/a../secret", edit(Some("/a"), None, None), "/secret"),
            (
                "/a%2E%2e/secret",
                edit(Some("/a"), Some("/p/q"), None),
                "/p/q/secret",
            ),
            ("/a%2Fb", edit(Some("/a/"), None, None), "/b"),
            ("/%61/b", edit(Some("/a"), None, None), "/b"),
            ("/b", edit(None, Some("/p"), None), "/p/b"),
            ("/b", edit(None, Some("p q"), None), "/p%20q/b"),
            ("/a/b", edit(Some("/a"), Some("/p"), None), "/p/b"),
            ("/a//b/../c", edit(Some("/a"), None, None), "//c"),
            ("/a//../c", edit(Some("/a"), None, None), "/c"),
            // Found in what the route was found by; what is left stays as it came.
            (
                "/a//b%2F/x%2F//y",
                edit(Some("/a/b"), None, None),
                "/%2F/x%2F//y",
            ),
            ("/a//b/x", edit(Some("/a/b/"), None, None), "/x"),
            ("/a//b//x", edit(Some("/a/b/"), None, None), "//x"),
            ("/a/%2F/x", edit(Some("/a/"), None, None), "/%2F/x"),
            ("/a/%2F", edit(Some("/a/"), None, None), "/%2F"),
            ("/a/%2F", edit(Some("/a"), None, None), "/%2F"),
            ("/a%2F%2F", edit(Some("/a/"), None, None), "/%2F"),
            ("/a%2F/x", edit(Some("/a"), None, None), "/%2F/x"),
            ("/%2Fa/x", edit(Some("/a"), None, None), "/x"),
            ("/a%2Fb", edit(Some("/a"), None, None), "/b"),
            ("/a%2F%2Fb", edit(Some("/a"), None, None), "/%2Fb"),
            ("/a//b", edit(Some("/a//b"), None, None), "/a//b"),
            ("/a..%2Fx", edit(Some("/a"), None, None), "/x"),
            ("/a../x%2F//y", edit(Some("/a"), None, None), "/x%2F//y"),
            (
                "/api/queues/%2F/x",
                edit(Some("/api"), Some("/v1"), None),
                "/v1/queues/%2F/x",
            ),
            ("/b", edit(None, None, Some("k=v")), "/b?k=v"),
            ("/b?", edit(None, None, Some("k=v")), "/b?k=v"),
            ("/b?x=1", edit(None, None, Some("k=v")), "/b?k=v&x=1"),
            ("/b?x=1", edit(None, None, Some("")), "/b?x=1"),
            ("/b?a//b/..", edit(None, None, None), "/b?a//b/.."),
        ];
        for (target, edit, wanted) in cases {
            let original = PathAndQuery::from_static(target);
            let path = normalise(original.path(), false).unwrap();
            assert_eq!(
                rewrite(&original, &path, &edit).unwrap().as_str(),
                wanted,
                "{target} {edit:?}"
            );
            let text = rewrite_text(target, &path, &edit).unwrap();
            assert_eq!(
                (&*text, matches!(text, Cow::Borrowed(_))),
                (wanted, target == wanted),
                "{target} {edit:?}"
            );
        }
    }

    #[test]
    fn what_options_add_is_made_legal() {
        let path = normalise("/a", false).unwrap();
        let edit = PathEdit {
            strip: None,
            prepend: Some("/ö<"),
            query: Some("<é>"),
        };
        assert_eq!(
            rewrite_text("/a?b", &path, &edit).unwrap(),
            "/%C3%B6%3C/a?%3C%C3%A9%3E&b"
        );
    }

    #[test]
    fn a_query_that_cannot_be_sent_is_an_error() {
        let original = PathAndQuery::from_static("/a");
        let path = normalise("/a", false).unwrap();
        for query in ["a b", "a\n", "a#b"] {
            let edit = PathEdit {
                query: Some(query),
                ..PathEdit::default()
            };
            assert!(
                matches!(
                    rewrite(&original, &path, &edit),
                    Err(PathError::Rewritten(_))
                ),
                "{query:?}"
            );
            assert!(
                matches!(
                    rewrite_text("/a", &path, &edit),
                    Err(PathError::Rewritten(_))
                ),
                "{query:?}"
            );
        }
    }

    /// How Go and its like read a path: decoded, folded, and `..` last.
    fn folding_reader(wire: &str) -> Vec<u8> {
        let mut decoded = decode(wire).unwrap();
        decoded.dedup_by(|next, before| *next == b'/' && *before == b'/');
        let mut way: Vec<&[u8]> = Vec::new();
        for segment in decoded.split(|byte| *byte == b'/').skip(1) {
            match segment {
                b"." => {}
                b".." => drop(way.pop()),
                segment => way.push(segment),
            }
        }
        rejoined(&way)
    }

    /// RFC 3986 section 5.2.4, on a wire form whose unreserved characters are decoded (section
    /// 6.2.2.2), and decoded and folded after that.
    fn rfc_reader(wire: &str) -> Vec<u8> {
        let input = ["%2e", "%2E"]
            .iter()
            .fold(wire.to_owned(), |text, dot| text.replace(dot, "."));
        let (mut input, mut output) = (input.as_str(), String::new());
        while !input.is_empty() {
            if let Some(rest) = input.strip_prefix("/./") {
                input = &input[input.len() - rest.len() - 1..];
            } else if input == "/." {
                input = "/";
            } else if let Some(rest) = input.strip_prefix("/../") {
                input = &input[input.len() - rest.len() - 1..];
                output.truncate(output.rfind('/').unwrap_or(0));
            } else if input == "/.." {
                input = "/";
                output.truncate(output.rfind('/').unwrap_or(0));
            } else {
                let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
                output.push_str(&input[..end]);
                input = &input[end..];
            }
        }
        let mut decoded = decode(&output).unwrap();
        decoded.dedup_by(|next, before| *next == b'/' && *before == b'/');
        decoded
    }

    fn rejoined(way: &[&[u8]]) -> Vec<u8> {
        way.iter()
            .flat_map(|segment| [b"/", *segment].concat())
            .chain(way.is_empty().then_some(b'/'))
            .collect()
    }

    #[test]
    fn the_readers_of_these_tests_read() {
        for (path, folding, rfc) in [
            ("/a//../b", "/b", "/a/b"),
            ("/a%2F..%2Fb", "/b", "/a/../b"),
            ("/a%2Fb/../c", "/a/c", "/c"),
            ("/a/b/%2e%2E/c/.", "/a/c", "/a/c/"),
            ("/../a/", "/a/", "/a/"),
        ] {
            let read = |bytes| String::from_utf8(bytes).unwrap();
            assert_eq!(
                (read(folding_reader(path)), read(rfc_reader(path))),
                (folding.into(), rfc.into()),
                "{path}"
            );
        }
    }

    /// Paths with much in them that readers see in different ways.
    const INTRICATE: &str =
        r"/(/|//|[a-c.{]|\.\.|/\.\./|/\./|%2[eEfF]|%2F\.\.|%C3%A4|%252[eF]|%25){0,16}";

    proptest! {
        #[test]
        fn what_is_routed_is_what_is_served(path in INTRICATE, merge_slashes in any::<bool>()) {
            let normal = normalise(&path, merge_slashes).unwrap();
            prop_assert!(is_clean(normal.decoded.as_bytes()));
            let again = normalise(&normal.wire, merge_slashes).unwrap();
            prop_assert_eq!(&again.decoded, &normal.decoded);
            prop_assert_eq!(&again.wire, &normal.wire);
            // No reader has a dot segment to remove, and where none were to fold, all read the
            // same.
            prop_assert!(!has_dots(&decode(&normal.wire).unwrap()), "{}", normal.wire);
            prop_assert_eq!(text(&folding_reader(&normal.wire)), &*normal.decoded);
            prop_assert_eq!(text(&rfc_reader(&normal.wire)), &*normal.decoded);
            // The switch is about what is sent, not about where it goes.
            prop_assert_eq!(&normalise(&path, !merge_slashes).unwrap().decoded, &normal.decoded);
        }

        #[test]
        fn a_path_without_dot_segments_is_sent_as_it_came(path in "/(/|[a-c{]|%2[fF]|%252[eEfF]|%C3|%25|[ab.]c){0,16}") {
            prop_assert_eq!(normalise(&path, false).unwrap().wire, path.as_str());
        }

        #[test]
        fn paths_of_all_kinds_have_one_reading(path in "/([a-c%./]|%2[eEfF]|%C3|%25){0,24}") {
            if let Ok(normal) = normalise(&path, false) {
                prop_assert_eq!(text(&folding_reader(&normal.wire)), &*normal.decoded);
                prop_assert_eq!(text(&rfc_reader(&normal.wire)), &*normal.decoded);
            }
        }

        #[test]
        fn strip_cuts_what_was_routed(path in INTRICATE, strip in "/[ac./]{0,4}", merge_slashes in any::<bool>()) {
            let normal = normalise(&path, merge_slashes).unwrap();
            let left = match normal.decoded.strip_prefix(&*strip) {
                Some(left) => text(&clean(format!("/{left}").as_bytes())),
                None => normal.decoded.clone().into_owned(),
            };
            let sent = edited(&normal, Some(&strip), None);
            prop_assert!(!has_dots(&decode(&sent).unwrap()), "{sent}");
            prop_assert_eq!(text(&folding_reader(&sent)), &*left);
            prop_assert_eq!(text(&rfc_reader(&sent)), &*left);
        }

        #[test]
        fn never_panics(path in "\\PC{0,32}", strip in "\\PC{0,6}", prepend in "\\PC{0,6}") {
            if let Ok(normal) = normalise(&path, false) {
                let sent = edited(&normal, Some(&strip), Some(&prepend));
                prop_assert!(sent.starts_with('/'));
                let edit = PathEdit { strip: Some(&strip), prepend: Some(&prepend), query: Some(&path) };
                if let Ok(target) = rewrite_text(&path, &normal, &edit) {
                    prop_assert!(matches!(legal(target.as_bytes()), Ok(Cow::Borrowed(_))));
                    prop_assert!(PathAndQuery::try_from(&*target).is_ok());
                }
            }
        }
    }
}
