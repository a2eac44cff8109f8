//! Request targets that clients send although they may not: what can only be meant in one way is
//! put into its legal form.
//!
//! Pure. Browsers and older clients leave `<`, `"` or text beyond ASCII in a target as it is (RFC
//! 9112 section 3.2 wants such bytes percent-encoded). Encoding them changes nothing that they
//! could mean, and is done before anything else looks at the target: what is routed is then what is
//! sent. A byte that could end the target, or the line, is an error.

use std::borrow::Cow;

/// Longest target that [`http::uri::PathAndQuery`] holds, in bytes.
const LENGTH_MAX: usize = u16::MAX as usize - 1;

/// A target that cannot be sent on; the response is 400, or 414 for one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither a path nor `*`. An absolute form has its scheme and host cut off before.
    #[error("the request target does not begin with `/`")]
    NotAbsolute,
    /// A control byte, a blank or DEL, or the `#` of a fragment, which is never sent.
    #[error("the request target holds the byte 0x{0:02x}, which no encoding can be meant for")]
    Forbidden(u8),
    /// Longer than a target may be, maybe only after it was encoded.
    #[error("the request target is longer than {LENGTH_MAX} bytes")]
    TooLong,
}

/// Stays as it is in a path.
const PATH: u8 = 1;
/// Stays as it is in a query.
const QUERY: u8 = 2;
/// Has no place in a target.
const FORBIDDEN: u8 = 4;

/// What stays is what `PathAndQuery` takes, of ASCII.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0_u8;
    loop {
        classes[at as usize] = match at {
            0..=b' ' | b'#' | 0x7f => FORBIDDEN,
            b'<' | b'>' | 0x80.. => 0,
            b'"' => PATH,
            b'?' | b'`' => QUERY,
            _ => PATH | QUERY,
        };
        if at == u8::MAX {
            break classes;
        }
        at += 1;
    }
};

/// The target with everything percent-encoded that has to be; borrowed when that is nothing.
/// `http::uri::PathAndQuery` takes what comes out.
///
/// `%` and what follows it stays as it is, whatever it is: that is left to
/// [`super::path::normalise`].
///
/// # Errors
/// Neither `/…` nor `*`; a byte that no encoding can be meant for; too long.
pub fn legal(target: &[u8]) -> Result<Cow<'_, str>, TargetError> {
    if !matches!(target, [b'/', ..] | b"*") {
        return Err(TargetError::NotAbsolute);
    }
    let mut part = PATH;
    for (at, &byte) in target.iter().enumerate() {
        if CLASSES[usize::from(byte)] & part == 0 {
            if byte != b'?' {
                return encoded(target, at, part);
            }
            part = QUERY;
        }
    }
    match std::str::from_utf8(target) {
        Ok(text) if text.len() <= LENGTH_MAX => Ok(Cow::Borrowed(text)),
        _ => Err(TargetError::TooLong),
    }
}

/// The same where the byte at `at`, which lies in `part`, cannot stay.
#[cold]
fn encoded(target: &[u8], at: usize, mut part: u8) -> Result<Cow<'static, str>, TargetError> {
    let (before, rest) = target.split_at(at);
    let mut text = String::with_capacity(target.len() + 32);
    text.extend(before.iter().copied().map(char::from));
    for &byte in rest {
        let class = CLASSES[usize::from(byte)];
        if class & FORBIDDEN != 0 {
            return Err(TargetError::Forbidden(byte));
        }
        if class & part != 0 {
            text.push(char::from(byte));
        } else if byte == b'?' {
            part = QUERY;
            text.push('?');
        } else {
            push_percent(&mut text, byte);
        }
    }
    if text.len() > LENGTH_MAX {
        return Err(TargetError::TooLong);
    }
    Ok(Cow::Owned(text))
}

/// `byte`, percent-encoded (RFC 3986 section 2.1).
pub(super) fn push_percent(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    /// Leaves a `%` alone that encodes nothing.
    fn decoded(mut bytes: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        while let [byte, rest @ ..] = bytes {
            let pair = rest
                .get(..2)
                .filter(|pair| *byte == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
            match pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            {
                Some(value) => {
                    decoded.push(value);
                    bytes = &rest[2..];
                }
                None => {
                    decoded.push(*byte);
                    bytes = rest;
                }
            }
        }
        decoded
    }

    #[test]
    fn targets_become_legal() {
        let cases: [(&[u8], &str); 16] = [
            (b"/", "/"),
            (b"*", "*"),
            (b"/a/b;c=d?e=f&g", "/a/b;c=d?e=f&g"),
            (b"/?", "/?"),
            (b"/a<b>`c", "/a%3Cb%3E%60c"),
            (b"/a?<b>`c\"", "/a?%3Cb%3E`c%22"),
            (b"/a<?<", "/a%3C?%3C"),
            (b"/\"{}|\\^[]", "/\"{}|\\^[]"),
            (b"/?{}|\\^[]", "/?{}|\\^[]"),
            ("/straße?ö".as_bytes(), "/stra%C3%9Fe?%C3%B6"),
            (b"/\xff\x80?\xfe", "/%FF%80?%FE"),
            // Only the first `?` is a mark.
            (b"/a?b?<?", "/a?b?%3C?"),
            // What is encoded already stays, also where it is wrong.
            (b"/%3c%2F%zz%", "/%3c%2F%zz%"),
            (b"/%<", "/%%3C"),
            (b"/%2\xc3", "/%2%C3"),
            (b"//a//../%2e", "//a//../%2e"),
        ];
        for (target, wanted) in cases {
            let text = legal(target).unwrap();
            assert_eq!(text, wanted);
            assert_eq!(
                matches!(text, Cow::Borrowed(_)),
                target == wanted.as_bytes(),
                "{wanted}"
            );
        }
    }

    #[test]
    fn refuses_what_has_no_encoding() {
        for byte in (0..=b' ').chain([b'#', 0x7f]) {
            for start in ["/a", "/a?b", "/<", "/a?<"] {
                let target = [start.as_bytes(), &[byte], b"c"].concat();
                assert_eq!(
                    legal(&target),
                    Err(TargetError::Forbidden(byte)),
                    "{start} {byte:#x}"
                );
            }
        }
        for target in [
            &b""[..],
            b"a",
            b"?a",
            b"**",
            b"*?a",
            b"http://a/",
            b"a:443",
            b"\xff",
            b"#",
        ] {
            assert_eq!(legal(target), Err(TargetError::NotAbsolute));
        }
    }

    #[test]
    fn a_target_fits_its_type() {
        let of = |length: usize, byte: &str| format!("/{}", byte.repeat(length - 1));
        assert!(PathAndQuery::try_from(&*legal(of(LENGTH_MAX, "a").as_bytes()).unwrap()).is_ok());
        assert!(PathAndQuery::try_from(of(LENGTH_MAX + 1, "a")).is_err());
        assert_eq!(
            legal(of(LENGTH_MAX + 1, "a").as_bytes()),
            Err(TargetError::TooLong)
        );
        // One `/` and n times three bytes.
        assert!(
            PathAndQuery::try_from(&*legal(of(LENGTH_MAX / 3, "<").as_bytes()).unwrap()).is_ok()
        );
        assert_eq!(
            legal(of(LENGTH_MAX / 3 + 2, "<").as_bytes()),
            Err(TargetError::TooLong)
        );
    }

    /// The table says of each byte what `PathAndQuery` says, but that nothing beyond ASCII stays.
    #[test]
    fn what_stays_is_what_the_type_takes() {
        for byte in 0..=u8::MAX {
            for start in ["/", "/?"] {
                let target = [start.as_bytes(), &[byte]].concat();
                let stays = matches!(legal(&target), Ok(Cow::Borrowed(_)));
                // It cuts a fragment off without a word.
                let taken = PathAndQuery::try_from(&*target)
                    .is_ok_and(|taken| *taken.as_str().as_bytes() == *target);
                assert_eq!(stays, taken && byte.is_ascii(), "{start} {byte:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_is_sendable_and_means_the_same(
            target in proptest::collection::vec(prop_oneof![
                any::<u8>(), 0x21..0x7f_u8, proptest::sample::select(&b"%%%?<>`\"23cCfF/\xc3\xa4"[..]),
            ], 0..40),
            rooted in any::<bool>(),
        ) {
            let target = if rooted { [b"/", &*target].concat() } else { target };
            if let Ok(text) = legal(&target) {
                let taken = PathAndQuery::try_from(&*text).unwrap();
                prop_assert_eq!(taken.as_str(), &*text);
                prop_assert_eq!(decoded(text.as_bytes()), decoded(&target));
                prop_assert!(matches!(legal(text.as_bytes()), Ok(Cow::Borrowed(_))));
                // The mark between path and query stays where it was.
                let mark = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'?').map(|at| decoded(&bytes[..at]));
                prop_assert_eq!(mark(text.as_bytes()), mark(&target));
            } else {
                let fault = |byte: &u8| matches!(*byte, 0..=b' ' | b'#' | 0x7f);
                prop_assert!(!target.starts_with(b"/") || target.iter().any(fault));
            }
        }
    }
}
