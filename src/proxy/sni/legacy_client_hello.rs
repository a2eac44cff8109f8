//! The server name of a ClientHello from before TLS 1.2. rustls reads such a hello and then refuses
//! it, because it could not serve that client; the instance that the client is passed on to may.
//!
//! Only for what rustls has read as a whole hello: everything here ends in none where a length does
//! not fit.

use rustls::pki_types::DnsName;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: [u8; 2] = [0, 0];
const HOST_NAME: u8 = 0;

/// The name in lower case; none when there is none, or one that is not a DNS name. `records`: from
/// the first byte of the connection, in records of any size (RFC 8446 sections 4.1.2 and 5.1, RFC
/// 6066 section 3).
pub(super) fn server_name(records: &[u8]) -> Option<String> {
    let message = joined(records);
    let mut rest = message.as_slice();
    if take(&mut rest, 1)? != [CLIENT_HELLO] {
        return None;
    }
    let mut hello = prefixed(&mut rest, 3)?;
    let _version_and_random = take(&mut hello, 2 + 32)?;
    let _session = prefixed(&mut hello, 1)?;
    let _cipher_suites = prefixed(&mut hello, 2)?;
    let _compressions = prefixed(&mut hello, 1)?;
    let mut extensions = prefixed(&mut hello, 2)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let mut content = prefixed(&mut extensions, 2)?;
        if kind == SERVER_NAME {
            let mut names = prefixed(&mut content, 2)?;
            let is_host = take(&mut names, 1)? == [HOST_NAME];
            let name = DnsName::try_from(prefixed(&mut names, 2)?)
                .ok()
                .filter(|_| is_host)?;
            return Some(name.as_ref().to_ascii_lowercase());
        }
    }
    None
}

/// The handshake bytes of all records in front, without their heads.
fn joined(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(records.len());
    while let Some([HANDSHAKE_RECORD, _, _]) = take(&mut records, 3) {
        let Some(payload) = prefixed(&mut records, 2) else {
            break;
        };
        message.extend_from_slice(payload);
    }
    message
}

/// The first `count` bytes, taken off.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

/// What follows a length of `width` bytes, taken off with it.
fn prefixed<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let length = take(rest, width)?
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::sni::tests::{hello, in_records};

    fn with_length(width: usize, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - width..], content].concat()
    }

    /// A hello of TLS 1.1 in one record; without extensions when there is no name.
    pub(in crate::proxy::sni) fn old(name: Option<&str>) -> Vec<u8> {
        let mut body = [
            &[3, 2][..],
            &[7; 32],
            &[0],
            &with_length(2, &[0xc0, 0x14, 0, 0x35]),
            &[1, 0],
        ]
        .concat();
        if let Some(name) = name {
            let names = with_length(
                2,
                &[&[HOST_NAME][..], &with_length(2, name.as_bytes())].concat(),
            );
            let groups = [&[0, 10][..], &with_length(2, &[0, 2, 0, 23])].concat();
            body.extend(with_length(
                2,
                &[&groups[..], &SERVER_NAME, &with_length(2, &names)].concat(),
            ));
        }
        let message = [&[CLIENT_HELLO][..], &with_length(3, &body)].concat();
        [&[HANDSHAKE_RECORD, 3, 1][..], &with_length(2, &message)].concat()
    }

    #[test]
    fn names_of_old_hellos() {
        for (name, found) in [
            (Some("a.test"), Some("a.test")),
            (Some("A.Test"), Some("a.test")),
            (Some("a b"), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(server_name(&old(name)).as_deref(), found, "{name:?}");
        }
        assert_eq!(server_name(b""), None);
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n\r\n"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_rustls_on_new_hellos(length in 1usize..900, name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}") {
            let bytes = in_records(&hello(&name), &[length]);
            prop_assert_eq!(server_name(&bytes), Some(name));
        }

        #[test]
        fn never_panics(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut spoiled = old(Some("a.test"));
            let at = at.index(spoiled.len());
            for (old, new) in spoiled[at..].iter_mut().zip(&bytes) {
                *old = *new;
            }
            let _ = server_name(&spoiled);
            let _ = server_name(&spoiled[..at]);
            let _ = server_name(&bytes);
        }
    }
}
