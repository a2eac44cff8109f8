//! Which addresses a request claims to have come through: `X-Forwarded-For`, and the `for=` of
//! `Forwarded` (RFC 7239).
//!
//! Pure. The one parser of these fields: a decision that is made from them has to know what it
//! could not read, so every element that is there comes out, as an address or as [`Hop::Unknown`].

use std::net::{IpAddr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::alike::alike;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED: &[u8] = b"x-forwarded-";

/// Whether a field of that name tells where a request came from: `X-Forwarded-*`, `Forwarded` or
/// `X-Real-Ip`, or a name that a program could take for one of them.
#[must_use]
pub fn is_forwarding(name: &[u8]) -> bool {
    match name.len() {
        9 => alike(name, b"forwarded") || alike(name, b"x-real-ip"),
        // Most names begin with another letter.
        13.. => name[0] | 0x20 == b'x' && alike(&name[..X_FORWARDED.len()], X_FORWARDED),
        _ => false,
    }
}

/// The fields of a request that [`is_forwarding`] knows.
pub fn forwarding_names(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    headers
        .keys()
        .filter(|name| is_forwarding(name.as_str().as_bytes()))
}

/// One element of such a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// An address, IPv4 where it was written as IPv6 (`::ffff:192.0.2.1`).
    Address(IpAddr),
    /// Anything else: `unknown`, an obfuscated name, text that is not an address.
    Unknown,
}

/// Every hop that the fields of a request name, those of `X-Forwarded-For` first.
pub fn hops(headers: &HeaderMap) -> impl Iterator<Item = Hop> {
    let elements = headers.get_all(FORWARDED).iter().flat_map(elements);
    listed_hops(headers).chain(elements.flatten())
}

/// Those of `X-Forwarded-For`.
pub fn listed_hops(headers: &HeaderMap) -> impl Iterator<Item = Hop> {
    headers.get_all(&X_FORWARDED_FOR).iter().flat_map(|value| {
        let elements = value
            .as_bytes()
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii);
        // A list may hold empty elements, which are to be ignored (RFC 9110 section 5.6.1).
        elements.filter(|element| !element.is_empty()).map(hop)
    })
}

/// Those of `Forwarded`, if it names any: one for each element, not known where it has no `for`.
#[must_use]
pub fn hops_of_elements(headers: &HeaderMap) -> Vec<Hop> {
    let elements: Vec<Option<Hop>> = headers
        .get_all(FORWARDED)
        .iter()
        .flat_map(elements)
        .collect();
    if elements.iter().all(Option::is_none) {
        return Vec::new();
    }
    elements
        .into_iter()
        .map(|hop| hop.unwrap_or(Hop::Unknown))
        .collect()
}

/// That of `X-Real-Ip`, which holds one address and is there once.
#[must_use]
pub fn real_ip(headers: &HeaderMap) -> Option<Hop> {
    let mut values = headers.get_all(&X_REAL_IP).iter();
    let value = values.next()?.as_bytes().trim_ascii();
    match values.next() {
        Some(_) => Some(Hop::Unknown),
        None => (!value.is_empty()).then(|| hop(value)),
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[IPV6]` or `[IPV6]:PORT`, with or without quotes and zone.
fn hop(element: &[u8]) -> Hop {
    std::str::from_utf8(element)
        .ok()
        .map(unquoted)
        .and_then(address)
        .map_or(Hop::Unknown, Hop::Address)
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .map_or(text, str::trim)
}

fn address(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, behind) = bracketed.split_once(']')?;
        return is_port_or_nothing(behind).then(|| ipv6(inside)).flatten();
    }
    match text.split_once(':') {
        None => text.parse().ok(),
        Some((_, rest)) if rest.contains(':') => ipv6(text),
        Some((v4, _)) if is_port_or_nothing(&text[v4.len()..]) => v4.parse().ok().map(IpAddr::V4),
        Some(_) => None,
    }
}

/// A zone (`%eth0`) says on which link of the sender's machine the address is: nothing that another
/// machine can compare.
fn ipv6(text: &str) -> Option<IpAddr> {
    let text = text
        .split_once('%')
        .map_or(text, |(address, _zone)| address);
    text.parse()
        .ok()
        .map(|address: Ipv6Addr| IpAddr::V6(address).to_canonical())
}

/// `:` and digits, or an obfuscated port (RFC 7239 section 6.3).
fn is_port_or_nothing(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else {
        return text.is_empty();
    };
    match port.strip_prefix('_') {
        Some(hidden) => {
            !hidden.is_empty()
                && hidden
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The `for=` of each element, none where it has none. Text that cannot be taken apart is a hop that
/// is not known.
fn elements(value: &HeaderValue) -> Vec<Option<Hop>> {
    let mut hops = Vec::new();
    let mut rest = value.as_bytes();
    // Of the present element: it has a pair; how many hops there were before it.
    let (mut begun, mut before) = (false, 0);
    loop {
        rest = rest.trim_ascii_start();
        match pair(rest) {
            Some((name, node, behind)) => {
                begun = true;
                if name.eq_ignore_ascii_case(b"for") {
                    hops.push(Some(hop(&node)));
                }
                rest = behind;
            }
            // An empty element, or an empty pair.
            None if matches!(rest.first(), None | Some(b',' | b';')) => {}
            None => {
                hops.push(Some(Hop::Unknown));
                return hops;
            }
        }
        let end = rest.trim_ascii_start();
        if matches!(end.first(), None | Some(b',')) {
            if begun && hops.len() == before {
                hops.push(None);
            }
            (begun, before) = (false, hops.len());
        }
        match end {
            [] => return hops,
            [b',' | b';', behind @ ..] => rest = behind,
            _ => {
                hops.push(Some(Hop::Unknown));
                return hops;
            }
        }
    }
}

/// `NAME=VALUE` at the start of `bytes`: name, value without its quotes, and what comes behind.
fn pair(bytes: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let ends_name = |byte: &u8| matches!(byte, b'=' | b',' | b';');
    let equals = bytes
        .iter()
        .position(ends_name)
        .filter(|at| *at > 0 && bytes[*at] == b'=')?;
    let (name, value) = (
        bytes[..equals].trim_ascii(),
        bytes[equals + 1..].trim_ascii_start(),
    );
    let [b'"', quoted @ ..] = value else {
        let end = value
            .iter()
            .position(|byte| matches!(byte, b',' | b';'))
            .unwrap_or(value.len());
        return Some((name, value[..end].trim_ascii_end().to_vec(), &value[end..]));
    };
    let (mut text, mut at) = (Vec::new(), 0);
    loop {
        match quoted.get(at)? {
            b'"' => return Some((name, text, &quoted[at + 1..])),
            b'\\' => {
                text.push(*quoted.get(at + 1)?);
                at += 2;
            }
            byte => {
                text.push(*byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(name: &'static str, values: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        hops(&headers)
            .map(|hop| match hop {
                Hop::Address(address) => address.to_string(),
                Hop::Unknown => "?".to_owned(),
            })
            .collect()
    }

    #[test]
    fn x_forwarded_for_in_every_form_that_proxies_write() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["203.0.113.9"], &["203.0.113.9"]),
            (&["203.0.113.9:4711"], &["203.0.113.9"]),
            (&["203.0.113.9:_hidden"], &["203.0.113.9"]),
            (&["\"203.0.113.9:1\""], &["203.0.113.9"]),
            (&["2001:db8::1"], &["2001:db8::1"]),
            (&["[2001:db8::1]"], &["2001:db8::1"]),
            (&["[2001:db8::1]:443"], &["2001:db8::1"]),
            (&["\"[2001:db8::1]:443\""], &["2001:db8::1"]),
            (
                &["fe80::1%eth0", "[fe80::1%25eth0]:1"],
                &["fe80::1", "fe80::1"],
            ),
            (
                &[
                    "::ffff:203.0.113.9",
                    "[::ffff:203.0.113.9]:80",
                    "::ffff:cb00:7109",
                ],
                &["203.0.113.9"; 3],
            ),
            (
                &[" 192.0.2.1 ,\t192.0.2.2:1", "192.0.2.3"],
                &["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            ),
            (&["", " , ,,", "192.0.2.1,"], &["192.0.2.1"]),
            (
                &[
                    "unknown",
                    "_x",
                    "-",
                    "localhost",
                    "192.0.2",
                    "192.0.2.1.5",
                    "0192.0.2.1",
                ],
                &["?"; 7],
            ),
            (
                &[
                    "192.0.2.1:",
                    "192.0.2.1:x",
                    "192.0.2.1:123456",
                    "192.0.2.1:-1",
                    "192.0.2.1 x",
                ],
                &["?"; 5],
            ),
            (
                &[
                    "[2001:db8::1",
                    "2001:db8::1]",
                    "[]",
                    "[192.0.2.1]",
                    "[2001:db8::1]x",
                    "1::2::3",
                ],
                &["?"; 6],
            ),
            (
                &["\u{e4}", "192.0.2.1;192.0.2.2", "for=192.0.2.1"],
                &["?"; 3],
            ),
        ];
        for (values, wanted) in cases {
            assert_eq!(of("x-forwarded-for", values), *wanted, "{values:?}");
        }
    }

    #[test]
    fn forwarded_with_its_quotes_and_parameters() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["for=192.0.2.1"], &["192.0.2.1"]),
            (&["For=192.0.2.1; proto=http; by=192.0.2.9"], &["192.0.2.1"]),
            (&["proto=https;for=\"192.0.2.1:4711\""], &["192.0.2.1"]),
            (
                &["for=\"[2001:db8::1]:443\", for=192.0.2.2"],
                &["2001:db8::1", "192.0.2.2"],
            ),
            (
                &["for=\"[2001:db8::1]\"", "FOR = 192.0.2.2"],
                &["2001:db8::1", "192.0.2.2"],
            ),
            (
                &["host=\"a,b;for=192.0.2.1\";for=192.0.2.2"],
                &["192.0.2.2"],
            ),
            (&["for=\"192\\.0.2.1\""], &["192.0.2.1"]),
            (
                &["for=unknown", "for=_hidden", "for=", "for=\"\""],
                &["?"; 4],
            ),
            (&["proto=https", "", " , ;", "by=192.0.2.1"], &[]),
            (&["for=192.0.2.1, for=\"192.0.2.2"], &["192.0.2.1", "?"]),
            (&["192.0.2.1"], &["?"]),
            (&["for=\"192.0.2.1\" x"], &["192.0.2.1", "?"]),
        ];
        for (values, wanted) in cases {
            assert_eq!(of("forwarded", values), *wanted, "{values:?}");
        }
    }

    #[test]
    fn both_fields_count() {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static("for=192.0.2.2"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        assert_eq!(hops(&headers).count(), 2);
    }

    proptest! {
        #[test]
        fn any_text_ends(value in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.append("forwarded", HeaderValue::from_str(&value).unwrap());
            headers.append("x-forwarded-for", HeaderValue::from_str(&value).unwrap());
            prop_assert!(hops(&headers).count() <= 2 * value.len() + 2);
        }
    }
}
