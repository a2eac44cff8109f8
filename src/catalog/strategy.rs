//! Text form of balancing strategies: the same words in tags, route commands and the configuration.

use std::fmt;
use std::str::FromStr;

use super::options::{HashKey, Strategy};

/// The words of those that need no more than a word.
const PLAIN: [(&str, Strategy); 5] = [
    ("p2c", Strategy::P2c),
    ("rr", Strategy::RoundRobin),
    ("rnd", Strategy::Random),
    ("least", Strategy::Least),
    ("ewma", Strategy::Ewma),
];

/// What a strategy may be written as, for messages.
#[must_use]
pub fn words() -> String {
    let plain = PLAIN.map(|(word, _)| word).join(", ");
    format!("{plain}, hash:ip, hash:path, hash:header:NAME or hash:cookie:NAME")
}

/// A strategy that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown strategy `{value}`: write {}", words())]
pub struct StrategyError {
    /// What was written.
    pub value: String,
}

impl FromStr for Strategy {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let plain = PLAIN.into_iter().find(|(word, _)| *word == text);
        let hash = || text.strip_prefix("hash:")?.parse().map(Self::Hash).ok();
        plain
            .map(|(_, strategy)| strategy)
            .or_else(hash)
            .ok_or_else(|| StrategyError {
                value: text.to_owned(),
            })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Hash(key) = self {
            return write!(f, "hash:{key}");
        }
        let plain = PLAIN.iter().find(|(_, strategy)| strategy == self);
        f.write_str(plain.map_or("", |(word, _)| word))
    }
}

impl FromStr for HashKey {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let invalid = || StrategyError {
            value: text.to_owned(),
        };
        match text.split_once(':') {
            None if text == "ip" => Ok(Self::Ip),
            None if text == "path" => Ok(Self::Path),
            // Field names ignore case (RFC 9110, 5.1), cookie names do not (RFC 6265).
            Some(("header", name)) if is_token(name) => {
                Ok(Self::Header(name.to_ascii_lowercase().into()))
            }
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.into())),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

/// Whether `name` is a token of RFC 9110, 5.6.2: what names of fields and cookies are made of.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for word in [
            "p2c",
            "rr",
            "rnd",
            "least",
            "ewma",
            "hash:ip",
            "hash:path",
            "hash:header:x-user",
            "hash:cookie:Sid",
        ] {
            let strategy: Strategy = word
                .parse()
                .unwrap_or_else(|error| panic!("{word}: {error}"));
            assert_eq!(strategy.to_string(), word);
        }
    }

    #[test]
    fn header_names_ignore_case_and_cookie_names_keep_it() {
        assert_eq!(
            "hash:header:X-User".parse(),
            Ok(Strategy::Hash(HashKey::Header("x-user".into())))
        );
        assert_eq!(
            "hash:cookie:SID".parse(),
            Ok(Strategy::Hash(HashKey::Cookie("SID".into())))
        );
    }

    #[test]
    fn other_words_are_refused() {
        for word in [
            "",
            "P2C",
            "random",
            "hash",
            "hash:",
            "hash:ip:x",
            "hash:header",
            "hash:header:",
            "hash:cookie:a b",
        ] {
            let error = word.parse::<Strategy>().expect_err(word);
            assert_eq!(error.value, word);
            assert!(error.to_string().contains("hash:cookie:NAME"), "{error}");
        }
    }
}
