//! What texts may be: names, versions, words of `ssh`. Pure; each check says what is wrong, to be
//! read after the value.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

/// A lower-case DNS label (RFC 1123): node names end up in certificates and in Consul's DNS.
pub(super) fn label(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    match (bytes.first(), bytes.last()) {
        (None, _) | (_, None) => Err("is empty"),
        _ if bytes.len() > 63 => Err("is longer than 63 characters"),
        _ if !bytes.iter().all(allowed) => Err("is not a lower-case DNS label"),
        (Some(b'-'), _) | (_, Some(b'-')) => Err("begins or ends with -"),
        _ => Ok(()),
    }
}

/// A datacenter or region. Consul takes letters, digits, - and _, and lowers the case; certificates
/// carry the name, so it has to be the same everywhere.
pub(super) fn datacenter(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    match text {
        "" => Err("is empty"),
        _ if text.len() > 63 => Err("is longer than 63 characters"),
        _ if !text.bytes().all(allowed) => {
            Err("has characters other than lower-case letters, digits, - and _")
        }
        _ => Ok(()),
    }
}

/// A DNS domain: labels with dots between them.
pub(super) fn domain(text: &str) -> Result<(), &'static str> {
    if text.len() > 200 || text.split('.').any(|part| label(part).is_err()) {
        return Err("is not a lower-case DNS domain");
    }
    Ok(())
}

/// A version of an official release, which becomes part of a URL and of a path.
pub(super) fn version(text: &str) -> Result<(), &'static str> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let digits = |part: &&str| {
        !part.is_empty() && part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    if text.len() > 40
        || parts.len() != 3
        || !parts.iter().all(digits)
        || !text.bytes().all(allowed)
    {
        return Err("is not a version");
    }
    Ok(())
}

/// A network interface, as Linux names them.
pub(super) fn interface(text: &str) -> Result<(), &'static str> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'@');
    match text {
        "" => Err("is empty"),
        _ if text.len() > 15 || !text.bytes().all(allowed) => {
            Err("is not the name of a network interface")
        }
        _ => Ok(()),
    }
}

/// A user, host or jump host for the command line of `ssh`: nothing there may turn into an option
/// of its own.
pub(super) fn ssh_word(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("is empty"),
        _ if text.starts_with('-') => Err("begins with -, which ssh would take for an option"),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("has a space or control character")
        }
        _ => Ok(()),
    }
}

/// A base URL of releases, or of a key.
pub(super) fn url(text: &str) -> Result<(), &'static str> {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return Err("is not a URL");
    };
    // The nodes' shell gets to see it.
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/[]@!+,=%".contains(&byte));
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(host))
            if !host.is_empty() && uri.query().is_none() && plain =>
        {
            Ok(())
        }
        (Some("https" | "http"), Some(host)) if !host.is_empty() => {
            Err("has more than a host and a path")
        }
        _ => Err("is not an https:// URL"),
    }
}

/// A fingerprint of an OpenPGP key: 40 hexadecimal digits, blanks aside.
pub(super) fn fingerprint(text: &str) -> Result<(), &'static str> {
    let plain = plain_fingerprint(text);
    match plain.len() == 40 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(()),
        false => Err("is not a fingerprint"),
    }
}

/// The fingerprint without blanks, in upper case.
pub(super) fn plain_fingerprint(text: &str) -> String {
    let digits = text.chars().filter(|c| !c.is_whitespace());
    digits.collect::<String>().to_ascii_uppercase()
}

/// A path.
pub(super) fn path(text: &str) -> Result<(), &'static str> {
    match text.is_empty() || text.contains('\0') {
        true => Err("is not a path"),
        false => Ok(()),
    }
}

/// The address of a node.
pub(super) fn address(text: &str) -> Result<(), &'static str> {
    let parsed = text.parse::<IpAddr>();
    parsed.map(drop).map_err(|_| "is not an IP address")
}

/// A network on loopback.
pub(super) fn loopback_network(text: &str) -> Result<(), &'static str> {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    match text.parse::<Ipv4Net>() {
        Err(_) => Err("is not an IPv4 network"),
        Ok(network) if !loopback.contains(&network.trunc()) => Err("is not within 127.0.0.0/8"),
        Ok(_) => Ok(()),
    }
}

/// A range of ports for tasks.
pub(super) fn port_range(text: &str) -> Result<(), &'static str> {
    let range = ports(text).map(drop);
    range.ok_or("is not a range of ports above 1023")
}

/// First and last port of `20000-32000`.
pub(super) fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last && first >= 1024).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Result<(), &'static str>;

    #[test]
    fn what_is_taken_and_what_is_not() {
        let long = "a".repeat(64);
        let rows: [(Check, &[&str], &[&str]); 10] = [
            (
                label,
                &["a", "consul-0", "0a", &long[1..]],
                &["", "A", "a.b", "a_b", "-a", "a-", "ä", "a b", &long],
            ),
            (
                datacenter,
                &["dc1", "eu-west_1", "_"],
                &["", "DC1", "dc.1", "dc 1", "dc/1", &long],
            ),
            (
                domain,
                &["consul", "a.b-c"],
                &["", ".", "a.", "A", "a..b", "a_b"],
            ),
            (
                version,
                &["1.8.7", "1.15.0-rc1", "1.15.2+ent"],
                &[
                    "",
                    "1.8",
                    "v1.8.7",
                    "1.8.7/..",
                    "1.8.x",
                    "1.8.7 ",
                    "latest",
                    "1.8.7-$(id)",
                ],
            ),
            (
                interface,
                &["lo", "eth0", "ens3.100"],
                &["", "eth0 ", "{{ x }}", "a-name-too-long-for-linux"],
            ),
            (
                ssh_word,
                &["root", "a@b", "bastion:2222", "fe80::1%eth0"],
                &["", "-oProxyCommand=x", "a b", "a\n"],
            ),
            (
                url,
                &[
                    "https://releases.hashicorp.com",
                    "http://10.0.0.1:8080/x",
                    "https://[::1]/x",
                ],
                &[
                    "",
                    "ftp://a",
                    "https://",
                    "a/b",
                    "https://a b",
                    "https://a/?x",
                    "https://a/$(id)",
                    "https://a/'",
                ],
            ),
            (path, &["a", "~/x y", "/"], &["", "a\0b"]),
            (
                address,
                &["10.0.0.1", "fd00::1"],
                &["", "a.example", "10.0.0.1/8", "10.0.0.1:1"],
            ),
            (
                loopback_network,
                &["127.0.1.0/24", "127.0.0.0/8"],
                &["", "127.0.1.0", "126.0.0.0/7", "10.0.1.0/24", "::1/128"],
            ),
        ];
        for (at, (check, right, wrong)) in rows.iter().enumerate() {
            for text in *right {
                assert_eq!(check(text), Ok(()), "row {at}: {text:?}");
            }
            for text in *wrong {
                assert!(check(text).is_err(), "row {at}: {text:?}");
            }
        }
    }

    #[test]
    fn fingerprints_and_ports() {
        let plain = "C874011F0AB405110D02105534365D9472D7468F";
        let spaced = "c874 011F 0AB4 0511 0D02  1055 3436 5D94 72D7 468F";
        assert_eq!(fingerprint(spaced), Ok(()));
        assert_eq!(plain_fingerprint(spaced), plain);
        for text in ["", "72D7468F", &plain.replace('C', "G")] {
            assert!(fingerprint(text).is_err(), "{text}");
        }
        assert_eq!(ports("20000-32000"), Some((20000, 32000)));
        assert_eq!(ports("20000 - 20000"), Some((20000, 20000)));
        for text in [
            "",
            "20000",
            "32000-20000",
            "80-90",
            "1-70000",
            "a-b",
            "20000-",
        ] {
            assert_eq!(ports(text), None, "{text}");
        }
    }
}
