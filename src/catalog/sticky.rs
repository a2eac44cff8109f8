//! `sticky=`: a cookie keeps a client with the instance that served it.

use std::fmt;
use std::sync::Arc;

use super::matchers::decode;

/// Longest name of a cookie: what browsers keep of one is about 4 KB, and more helps no application.
const NAME_MAX: usize = 128;

/// Which cookie says where a client belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyCookie {
    /// One with a name of the route's own.
    OfRoute,
    /// One with this name.
    Named(Arc<str>),
}

impl StickyCookie {
    /// Reads the value of `sticky=`; none: no cookie is wanted.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(value: &str) -> Result<Option<Self>, &'static str> {
        let name = decode(value)?;
        match &*name {
            "false" => Ok(None),
            "true" => Ok(Some(Self::OfRoute)),
            "" => Err("write sticky=true, or sticky=NAME for a cookie of that name"),
            _ if name.len() > NAME_MAX => Err("the name of the cookie is longer than 128 bytes"),
            // RFC 6265 section 4.1.1: a token.
            _ if !name.bytes().all(is_token) => {
                Err("the name of a cookie is letters, digits and !#$%&'*+-.^_`|~")
            }
            // RFC 6265bis section 4.1.3: with `Path=/`, `__Secure-` and `__Host-` want TLS, and
            // browsers throw the cookie away without.
            _ if is_prefixed(&name) => Err(
                "names that begin with __Secure- or __Host- hold on TLS alone, and lb serves both",
            ),
            _ => Ok(Some(Self::Named(name.into()))),
        }
    }
}

impl fmt::Display for StickyCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OfRoute => "true",
            Self::Named(name) => name,
        })
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_prefixed(name: &str) -> bool {
    ["__secure-", "__host-"].iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for (value, expected) in [
            ("true", Some(StickyCookie::OfRoute)),
            ("false", None),
            ("SESSION", Some(StickyCookie::Named("SESSION".into()))),
            ("a%2Bb", Some(StickyCookie::Named("a+b".into()))),
            ("TRUE", Some(StickyCookie::Named("TRUE".into()))),
        ] {
            assert_eq!(StickyCookie::read(value), Ok(expected), "{value}");
        }
        let long = "x".repeat(NAME_MAX + 1);
        for value in [
            "",
            "a b",
            "a%20b",
            "a=b",
            "a;b",
            "a%3Bb",
            "a,b",
            "\u{e4}",
            "a%0d",
            "%zz",
            "__Host-a",
            "__secure-x",
            &long,
        ] {
            assert!(StickyCookie::read(value).is_err(), "{value}");
        }
    }
}
