//! What a service is told that decides about a request.
//!
//! It decides by these fields, so none of them may be the client's word: whatever a client (or a
//! proxy in front of us that passes on what a client says) sends under such a name goes, and what
//! was seen here stands in its place.

use http::Method;
use http::header::{COOKIE, FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::proxy::http::headers::{
    RequestContext, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PREFIX,
    X_FORWARDED_PROTO, X_REAL_IP, alike, cached_forwarded, join_cookies, plain_scheme, port_of,
    remove_where, seen_scheme, without_port,
};

static X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
static X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Beginnings of names under which proxies tell of the original request.
const FAMILIES: [&str; 2] = ["x-forwarded-", "x-original-"];
/// Further such names; also those by which a framework would treat our GET as another method.
const NAMES: [&str; 9] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-original",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// What the client wants, as it was routed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The host by which the route was found, as received.
    pub host: Option<&'a HeaderValue>,
    /// Path and query in the form that is passed on, before `strip` and `prepend`.
    pub uri: &'a str,
}

/// Makes `fields`, which are those that the instance would get, those that the service gets.
pub fn tell_decider(fields: &mut HeaderMap, ctx: &RequestContext<'_>, wanted: &Wanted<'_>) {
    let configured = ctx.rules.configured();
    remove_where(fields, |name| {
        tells_of_the_request(name.as_str().as_bytes()) && !configured.contains(&Some(name))
    });
    // Requests to it are in HTTP/1.1, whatever the instance speaks: one field, or it might decide
    // by the first.
    if fields.get_all(COOKIE).iter().nth(1).is_some() {
        join_cookies(fields);
    }
    let websocket = ctx.upgrade.is_some_and(|upgrade| upgrade.websocket);
    let scheme = seen_scheme(ctx.client.is_tls(), websocket);
    let default = HeaderValue::from_static(if ctx.client.is_tls() { "443" } else { "80" });
    let port = wanted.host.and_then(|host| port_of(host.as_bytes()));
    // Bytes beyond ASCII may stand in a target of HTTP/2, and must not make the field go: it would
    // be decided without it.
    let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    let written = [
        (&X_FORWARDED_FOR, Some(ctx.client.ip_value())),
        (&X_REAL_IP, Some(ctx.client.ip_value())),
        (
            &X_FORWARDED_PROTO,
            Some(HeaderValue::from_static(plain_scheme(scheme))),
        ),
        (&FORWARDED, Some(cached_forwarded(ctx, scheme))),
        (&X_FORWARDED_HOST, wanted.host.and_then(compared)),
        (
            &X_FORWARDED_PORT,
            Some(
                port.and_then(|port| HeaderValue::from_bytes(port).ok())
                    .unwrap_or(default),
            ),
        ),
        (&X_FORWARDED_PREFIX, ctx.strip.and_then(text)),
        (&X_FORWARDED_METHOD, text(wanted.method.as_str())),
        (&X_FORWARDED_URI, text(wanted.uri)),
    ];
    for (name, value) in written {
        match value {
            Some(value) => fields.insert(name, value),
            None => fields.remove(name),
        };
    }
}

/// The host as it was compared: in lower case, and without the dot of an absolute name.
fn compared(host: &HeaderValue) -> Option<HeaderValue> {
    let name = without_port(host.as_bytes());
    let mut text = name.to_ascii_lowercase();
    if let Some(port) = port_of(host.as_bytes()) {
        text.push(b':');
        text.extend_from_slice(port);
    }
    HeaderValue::from_bytes(&text).ok()
}

/// Whether a field of that name, or of one that could be taken for it, says where a request came
/// from or what it wants.
fn tells_of_the_request(name: &[u8]) -> bool {
    let begins = |family: &str| {
        name.get(..family.len())
            .is_some_and(|beginning| alike(beginning, family.as_bytes()))
    };
    FAMILIES.iter().any(|family| begins(family))
        || NAMES.iter().any(|known| alike(name, known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_telling_name_is_known() {
        for name in [
            "x-forwarded-host",
            "X-Forwarded-Anything",
            "x_forwarded_host",
            "X.Forwarded.Uri",
            "x-original-url",
            "X_Original_Method",
            "forwarded",
            "Forwarded",
            "x-real-ip",
            "x_real_ip",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
        ] {
            assert!(tells_of_the_request(name.as_bytes()), "{name}");
        }
        for name in [
            "cookie",
            "authorization",
            "x-api-key",
            "x-requested-with",
            "from",
            "x-forward",
            "x-origin",
            "",
        ] {
            assert!(!tells_of_the_request(name.as_bytes()), "{name}");
        }
    }
}
