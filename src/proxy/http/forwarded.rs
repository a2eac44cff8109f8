//! Which addresses a request claims to have come through: `X-Forwarded-For`, and the `for=` of
//! `Forwarded` (RFC 7239).
//!
//! Pure. The one parser of these fields: a decision that is made from them has to know what it
//! could not read, so every element that is there comes out, as an address or as [`Hop::Unknown`].

use std::net::{IpAddr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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
    let listed = headers.get_all(&X_FORWARDED_FOR).iter().flat_map(|value| {
        let elements = value
            .as_bytes()
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii);
        // A list may hold empty elements, which are to be ignored (RFC 9110 section 5.6.1).
        elements.filter(|element| !element.is_empty()).map(hop)
    });
    listed.chain(headers.get_all(FORWARDED).iter().flat_map(forwarded_hops))
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

/// The `for=` of each element. Text that cannot be taken apart is a hop that is not known.
fn forwarded_hops(value: &HeaderValue) -> Vec<Hop> {
    let mut hops = Vec::new();
    let mut rest = value.as_bytes();
    loop {
        rest = rest.trim_ascii_start();
        match pair(rest) {
            Some((name, node, behind)) => {
                if name.eq_ignore_ascii_case(b"for") {
                    hops.push(hop(&node));
                }
                rest = behind;
            }
            // An empty element, or an empty pair.
            None if matches!(rest.first(), None | Some(b',' | b';')) => {}
            None => {
                hops.push(Hop::Unknown);
                return hops;
            }
        }
        match rest.trim_ascii_start() {
            [] => return hops,
            [b',' | b';', behind @ ..] => rest = behind,
            _ => {
                hops.push(Hop::Unknown);
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
