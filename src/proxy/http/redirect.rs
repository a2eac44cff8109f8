//! `redirect=CODE,URL`: the `Location` of the response, and the rule that a route does not redirect
//! to itself.
//!
//! Pure. Escapes of the request's path are always kept; Fabio decodes them when `$path` follows the
//! host directly.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::proxy::http::path::{NormalPath, edited_inside, normalise};

/// What of a request goes into a redirect.
#[derive(Clone, Copy, Debug)]
pub struct RedirectSource<'a> {
    /// The request's path.
    pub path: &'a NormalPath<'a>,
    /// The request's query, without `?`.
    pub query: Option<&'a str>,
    /// The request's host, maybe with port.
    pub host: &'a str,
    /// `strip=` of the target.
    pub strip: Option<&'a str>,
    /// `prepend=` of the target.
    pub prepend: Option<&'a str>,
}

/// `Location` made from `template`: `$host` in the host part becomes the request's host, the first
/// `$path` (with a `/` right before it) the request's path after `strip` and `prepend`. The
/// request's query follows only with `$path`, and only if the template has no query. Bytes beyond
/// ASCII, which a target of HTTP/2 may have, are percent-encoded (RFC 3986 section 2.1). None when
/// the result cannot be sent as a header.
#[must_use]
pub fn location(template: &str, source: &RedirectSource<'_>) -> Option<HeaderValue> {
    let text = location_text(template, source);
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes)
                .bytes()
                .for_each(|byte| ascii.push_str(&format!("%{byte:02X}")));
        }
    }
    HeaderValue::from_str(&ascii).ok()
}

/// The response, with a short note for people whose client does not follow (RFC 9110, section
/// 15.4); a client that did not GET is told nothing but where.
#[must_use]
pub fn response(code: StatusCode, location: HeaderValue, method: &Method) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = code;
    if matches!(*method, Method::GET | Method::HEAD) {
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
    }
    if *method == Method::GET {
        *response.body_mut() =
            Bytes::from(note(code, &String::from_utf8_lossy(location.as_bytes())));
    }
    response.headers_mut().insert(LOCATION, location);
    response
}

/// A link. Parts of the client's request may be in it, and must not become markup.
fn note(code: StatusCode, location: &str) -> String {
    let mut text = String::from("<a href=\"");
    for c in location.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&#34;"),
            '\'' => text.push_str("&#39;"),
            c => text.push(c),
        }
    }
    text.push_str(&format!(
        "\">{}</a>.\n\n",
        code.canonical_reason().unwrap_or_default()
    ));
    text
}

fn location_text(template: &str, source: &RedirectSource<'_>) -> String {
    let (scheme, rest) = match template.find("://") {
        Some(at) => template.split_at(at + 3),
        None => ("", template),
    };
    let host_end = match scheme {
        "" => 0,
        _ => rest
            .find(['/', '?', '#'])
            .unwrap_or(rest.len())
            .min(rest.find("$path").unwrap_or(rest.len())),
    };
    let (host, rest) = rest.split_at(host_end);
    let mut text =
        String::with_capacity(template.len() + source.path.wire.len() + source.host.len());
    text.push_str(scheme);
    text.push_str(&host.replacen("$host", source.host, 1));
    let Some((before, after)) = rest.split_once("$path") else {
        if !rest.starts_with('/') {
            text.push('/');
        }
        text.push_str(rest);
        return text;
    };
    let before = before.strip_suffix('/').unwrap_or(before);
    let path = edited_inside(source.path, source.strip, source.prepend);
    // Without a host in front, two slashes would begin one (RFC 3986 section 4.2).
    let path = if scheme.is_empty() && before.is_empty() {
        rooted(&path)
    } else {
        path.into_owned()
    };
    text.push_str(before);
    text.push_str(&path);
    if before.is_empty() && path.is_empty() && !after.starts_with('/') {
        // What comes next must not become a part of the host.
        text.push('/');
    }
    text.push_str(after);
    if let Some(query) = source
        .query
        .filter(|query| !query.is_empty() && !rest.contains('?'))
    {
        text.push('?');
        text.push_str(query);
    }
    text
}

/// A path with one slash at its beginning. Browsers take a backslash for a slash.
fn rooted(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['/', '\\']))
}

/// Whether the redirect would lead back to the same request: same scheme, host and path. Such a
/// route is skipped and the next host is tried. `scheme` is the request's (`https` when a front end
/// says so in `X-Forwarded-Proto`); the query does not count, as in Fabio.
#[must_use]
pub fn is_self_redirect(template: &str, scheme: &str, source: &RedirectSource<'_>) -> bool {
    let location = location_text(template, source);
    let Some((to_scheme, rest)) = location.split_once("://") else {
        return false;
    };
    let scheme = match scheme {
        "ws" => "http",
        "wss" => "https",
        other => other,
    };
    let (to_host, to_path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !to_scheme.eq_ignore_ascii_case(scheme)
        || !without_port(to_host, scheme).eq_ignore_ascii_case(without_port(source.host, scheme))
    {
        return false;
    }
    let to_path = to_path.split(['?', '#']).next().unwrap_or("");
    // Only the form for look-up is compared, in which slashes are always merged.
    match normalise(if to_path.is_empty() { "/" } else { to_path }, false) {
        Ok(to) => to.decoded == source.path.decoded,
        Err(_) => false,
    }
}

/// The host without the default port of its scheme.
fn without_port<'a>(host: &'a str, scheme: &str) -> &'a str {
    let port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    host.strip_suffix(port).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        // template, path, query, strip, prepend, wanted; the host is h.example:8080
        let cases = [
            (
                "https://new.example/fixed?a=b",
                "/x",
                Some("q=1"),
                None,
                None,
                "https://new.example/fixed?a=b",
            ),
            (
                "https://new.example",
                "/x",
                Some("q=1"),
                None,
                None,
                "https://new.example/",
            ),
            (
                "https://new.example/$path",
                "/x/y",
                Some("q=1"),
                None,
                None,
                "https://new.example/x/y?q=1",
            ),
            (
                "https://new.example$path",
                "/x/y",
                None,
                None,
                None,
                "https://new.example/x/y",
            ),
            (
                "https://new.example/a/$path",
                "/x",
                None,
                None,
                None,
                "https://new.example/a/x",
            ),
            (
                "https://new.example/a$path",
                "/x",
                None,
                None,
                None,
                "https://new.example/a/x",
            ),
            (
                "https://new.example/$path?k=v",
                "/x",
                Some("q=1"),
                None,
                None,
                "https://new.example/x?k=v",
            ),
            (
                "https://$host$path",
                "/x",
                None,
                None,
                None,
                "https://h.example:8080/x",
            ),
            // As HTTP/2 may carry it.
            (
                "https://$host$path",
                "/é",
                Some("ä=ö"),
                None,
                None,
                "https://h.example:8080/%C3%A9?%C3%A4=%C3%B6",
            ),
            (
                "https://www.$host/$path",
                "/",
                None,
                None,
                None,
                "https://www.h.example:8080/",
            ),
            (
                "https://n.example/$host",
                "/x",
                None,
                None,
                None,
                "https://n.example/$host",
            ),
            (
                "https://n.example/$path",
                "/a/x",
                None,
                Some("/a"),
                None,
                "https://n.example/x",
            ),
            (
                "https://n.example/$path",
                "/a/x",
                None,
                Some("/a"),
                Some("/b"),
                "https://n.example/b/x",
            ),
            (
                "https://n.example$path",
                "/a%2Fx%20y",
                None,
                None,
                None,
                "https://n.example/a%2Fx%20y",
            ),
            (
                "https://n.example/$path/$path",
                "/x",
                None,
                None,
                None,
                "https://n.example/x/$path",
            ),
            ("/elsewhere$path", "/x", None, None, None, "/elsewhere/x"),
            // Nothing is left of the path.
            (
                "http://to.test/bbb$path",
                "/s",
                None,
                Some("/s"),
                None,
                "http://to.test/bbb",
            ),
            (
                "http://to.test/bbb/$path",
                "/s",
                None,
                Some("/s"),
                None,
                "http://to.test/bbb",
            ),
            (
                "http://to.test/bbb$path",
                "/s/",
                None,
                Some("/s"),
                None,
                "http://to.test/bbb/",
            ),
            (
                "http://to.test/bbb$path",
                "/s/",
                None,
                Some("/s/"),
                None,
                "http://to.test/bbb",
            ),
            (
                "http://to.test/bbb$path",
                "/s/a",
                None,
                Some("/s"),
                None,
                "http://to.test/bbb/a",
            ),
            (
                "http://to.test/bbb$path",
                "/s",
                Some("q=1"),
                Some("/s"),
                None,
                "http://to.test/bbb?q=1",
            ),
            (
                "http://to.test/bbb$path?k=v",
                "/s",
                Some("q=1"),
                Some("/s"),
                None,
                "http://to.test/bbb?k=v",
            ),
            (
                "http://to.test$path",
                "/s",
                None,
                Some("/s"),
                None,
                "http://to.test/",
            ),
            (
                "http://to.test/$path",
                "/s",
                Some("q=1"),
                Some("/s"),
                None,
                "http://to.test/?q=1",
            ),
            (
                "http://to.test$path.evil",
                "/s",
                None,
                Some("/s"),
                None,
                "http://to.test/.evil",
            ),
            (
                "http://to.test$path/end",
                "/s",
                None,
                Some("/s"),
                None,
                "http://to.test/end",
            ),
            (
                "http://to.test$path",
                "/s",
                None,
                Some("/s"),
                Some("/x"),
                "http://to.test/x",
            ),
            (
                "http://to.test$path",
                "/",
                None,
                None,
                Some("/x"),
                "http://to.test/x/",
            ),
            (
                "http://to.test/bbb$path",
                "/",
                None,
                None,
                None,
                "http://to.test/bbb/",
            ),
            (
                "http://to.test/bbb$path",
                "/%73",
                None,
                Some("/s"),
                None,
                "http://to.test/bbb",
            ),
            (
                "https://$host$path",
                "/s",
                None,
                Some("/s"),
                None,
                "https://h.example:8080/",
            ),
            ("/bbb$path", "/s", None, Some("/s"), None, "/bbb"),
            ("/$path", "/s", None, Some("/s"), None, "/"),
            (
                "/$path",
                "/s/evil.test",
                None,
                Some("/s"),
                None,
                "/evil.test",
            ),
            ("/$path", "/\\evil.test", None, None, None, "/evil.test"),
        ];
        for (template, path, query, strip, prepend, wanted) in cases {
            let path = normalise(path, false).unwrap();
            let source = RedirectSource {
                path: &path,
                query,
                host: "h.example:8080",
                strip,
                prepend,
            };
            assert_eq!(location(template, &source).unwrap(), wanted, "{template}");
        }
    }

    #[test]
    fn a_host_cannot_end_the_header() {
        let path = normalise("/", false).unwrap();
        let source = RedirectSource {
            path: &path,
            query: None,
            host: "x\r\nSet-Cookie: a",
            strip: None,
            prepend: None,
        };
        assert_eq!(location("https://$host/", &source), None);
    }

    #[test]
    fn redirects_to_itself() {
        // template, scheme, host, path, is itself
        let cases = [
            ("https://$host$path", "http", "a.example", "/x", false),
            ("https://$host$path", "https", "a.example", "/x", true),
            ("https://$host$path", "wss", "a.example", "/x", true),
            (
                "https://A.example:443$path",
                "https",
                "a.example",
                "/x",
                true,
            ),
            ("https://b.example$path", "https", "a.example", "/x", false),
            ("https://a.example/y", "https", "a.example", "/x", false),
            ("https://a.example/%78", "https", "a.example", "/x", true),
            ("http://a.example", "http", "a.example:80", "/", true),
            ("http://a.example?q", "http", "a.example:81", "/", false),
            ("/x", "http", "a.example", "/x", false),
        ];
        for (template, scheme, host, path, itself) in cases {
            let path = normalise(path, false).unwrap();
            let source = RedirectSource {
                path: &path,
                query: Some("q"),
                host,
                strip: None,
                prepend: None,
            };
            assert_eq!(
                is_self_redirect(template, scheme, &source),
                itself,
                "{template} {scheme} {host}"
            );
        }
    }

    #[test]
    fn the_response_has_a_link_that_cannot_be_more() {
        let location = || HeaderValue::from_static("https://to.test/?a='b'&c=<\"");
        let answer = |method: &Method| super::response(StatusCode::FOUND, location(), method);
        let got = answer(&Method::GET);
        assert_eq!(
            (got.status(), &got.headers()[LOCATION]),
            (StatusCode::FOUND, &location())
        );
        assert_eq!(got.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let note = "<a href=\"https://to.test/?a=&#39;b&#39;&amp;c=&lt;&#34;\">Found</a>.\n\n";
        assert_eq!(got.body(), note);
        assert!(
            answer(&Method::HEAD).body().is_empty()
                && answer(&Method::HEAD).headers().contains_key(CONTENT_TYPE)
        );
        assert!(
            answer(&Method::POST).body().is_empty()
                && !answer(&Method::POST).headers().contains_key(CONTENT_TYPE)
        );
    }
}
