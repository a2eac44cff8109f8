//! The cookie that keeps a client with its instance (`sticky=`), as it comes and goes. What its
//! value stands for is known to [`table::sticky`](crate::table::sticky).

use std::fmt::Write as _;

use http::HeaderValue;
use http::header::COOKIE;

use super::head::Head;
use super::headers::{self, ClientContext, HeaderRules};
use crate::table::sticky::{StickyRoute, StickyToken};
use crate::table::{Route, Target};

/// Digits of a value.
const DIGITS: usize = 32;
/// Most cookies of one name that are looked at: browsers send one for each path and domain.
const SAME_NAME_MAX: usize = 8;

/// What the cookies of this name in a `Cookie` field say, as far as it can be a value of ours.
pub fn tokens<'c>(cookies: &'c [u8], name: &'c str) -> impl Iterator<Item = StickyToken> + 'c {
    cookies
        .split(|byte| *byte == b';')
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(token(value))
        })
        .take(SAME_NAME_MAX)
        .flatten()
}

/// Exactly as it is written by [`put_token`]: another spelling would be another cookie.
fn token(value: &[u8]) -> Option<StickyToken> {
    if value.len() != DIGITS {
        return None;
    }
    value.iter().try_fold(0, |number: StickyToken, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | StickyToken::from(digit))
    })
}

fn put_token(out: &mut String, token: StickyToken) {
    let _ = write!(out, "{token:032x}");
}

/// The target that the client of this request belongs to, if it may serve, and the value that says
/// so. `now_ms` is the present time on the process clock.
pub(crate) fn kept<'r>(
    route: &'r Route,
    head: &Head<'_>,
    now_ms: u64,
) -> Option<(&'r Target, StickyToken)> {
    let sticky = route.sticky.as_deref()?;
    found(sticky, head, |token| {
        sticky.kept(&route.targets, token, now_ms)
    })
}

/// As [`kept`], for a request that is not made.
pub(crate) fn would_keep<'r>(route: &'r Route, head: &Head<'_>, now_ms: u64) -> Option<&'r Target> {
    let sticky = route.sticky.as_deref()?;
    let found = found(sticky, head, |token| {
        sticky.would_keep(&route.targets, token, now_ms)
    });
    found.map(|(target, _)| target)
}

fn found<'r>(
    sticky: &StickyRoute,
    head: &Head<'_>,
    target: impl Fn(StickyToken) -> Option<&'r Target>,
) -> Option<(&'r Target, StickyToken)> {
    head.fields
        .all(&COOKIE)
        .flat_map(|cookies| tokens(cookies, sticky.name()))
        .find_map(|token| Some((target(token)?, token)))
}

/// The field that keeps the client with `target`, which has responded; none where it belongs there
/// already (`kept`), and for routes without such cookies. `secure`: its client speaks TLS.
#[must_use]
pub fn set_cookie(
    route: &Route,
    kept: Option<StickyToken>,
    target: &Target,
    secure: impl FnOnce() -> bool,
) -> Option<HeaderValue> {
    let sticky = route.sticky.as_deref()?;
    let token = sticky.token(route.index_of(target)?)?;
    if kept == Some(token) {
        return None;
    }
    let mut cookie = String::with_capacity(128);
    let _ = write!(cookie, "{}=", sticky.name());
    put_token(&mut cookie, token);
    cookie.push_str("; Path=/; HttpOnly; SameSite=Lax");
    if secure() {
        cookie.push_str("; Secure");
    }
    HeaderValue::try_from(cookie).ok()
}

/// Whether the client speaks TLS, to us or, as a trusted proxy tells, to that.
pub(crate) fn is_secure(head: &Head<'_>, client: &ClientContext, rules: &HeaderRules) -> bool {
    if !head.has_forwarding_fields() {
        // No map of the fields is needed for that.
        return client.is_tls();
    }
    let scheme = headers::scheme(head.fields.map(), client, rules, false);
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_among_other_cookies() {
        let value = "0123456789abcdef00000000000000ff";
        let number = 0x0123_4567_89ab_cdef_0000_0000_0000_00ff;
        for (cookies, expected) in [
            (format!("n={value}"), vec![number]),
            (format!("a=b; n={value} ;c=d"), vec![number]),
            (format!(" ;;n={value};"), vec![number]),
            (format!("n=forged; n={value}"), vec![number]),
            (format!("n={value}; n={:032x}", 7), vec![number, 7]),
            (format!("nn={value}; N={value}; xn={value}"), vec![]),
            (format!("n={}", &value[1..]), vec![]),
            (format!("n={value}0"), vec![]),
            (format!("n={}", value.to_uppercase()), vec![]),
            (format!("n=\"{value}\""), vec![]),
            (format!("n =  {value}"), vec![]),
            (format!("n=+{}", &value[1..]), vec![]),
            ("n".to_owned(), vec![]),
            ("n=".to_owned(), vec![]),
            (String::new(), vec![]),
        ] {
            let found: Vec<_> = tokens(cookies.as_bytes(), "n").collect();
            assert_eq!(found, expected, "{cookies}");
        }
        let many = "n=x; ".repeat(SAME_NAME_MAX) + &format!("n={value}");
        assert_eq!(
            tokens(many.as_bytes(), "n").count(),
            0,
            "no browser sends that many"
        );
        let mut written = String::new();
        put_token(&mut written, number);
        assert_eq!(written, value);
    }
}
