//! Query strings: form encoding (WHATWG URL, section 5), read into pairs.

use percent_encoding::percent_decode_str;

/// Most pairs that are looked at.
const PAIRS_MAX: usize = 200;

/// Name and value of each pair, decoded; a bare word has an empty value. Bad UTF-8 becomes U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(PAIRS_MAX);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_found_by_name() {
        let query = Query::parse("raw&url=http%3A%2F%2Fx%2Fa%2Bb&header=A:+1&header=B%3D2=3&&=x&bad=%zz%ff");
        assert!(query.has("raw") && !query.has("pretty"));
        assert_eq!(query.first("raw"), Some(""));
        assert_eq!(query.first("url"), Some("http://x/a+b"));
        assert_eq!(query.all("header").collect::<Vec<_>>(), ["A: 1", "B=2=3"]);
        assert_eq!(query.first("bad"), Some("%zz\u{fffd}"));
        assert_eq!(query.first("nothing"), None);
    }
}
