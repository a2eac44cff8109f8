//! Query strings: form encoding (WHATWG URL, section 5), read into pairs.

use percent_encoding::percent_decode_str;

/// Most pairs that are looked at.
const PAIRS_MAX: usize = 200;

/// Name and value of each pair, decoded; a bare word has an empty value. Bad UTF-8 becomes U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .take(PAIRS_MAX);
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
        self.0
            .iter()
            .filter(move |(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Words that have to be in an entry, in lower case.
    pub(super) words: Vec<String>,
    /// How many of the entries that match to leave out at the begin.
    pub(super) offset: usize,
    /// Most entries; none: all.
    pub(super) limit: Option<usize>,
}

impl Part {
    /// `filter`, `offset` and `limit`; numbers that cannot be read count as not given.
    pub(super) fn of(query: &Query) -> Self {
        let number = |name: &str| query.first(name).and_then(|text| text.parse().ok());
        Self {
            words: words(query.first("filter").unwrap_or_default()),
            offset: number("offset").unwrap_or(0),
            limit: number("limit"),
        }
    }

    /// The entries that match, and are wanted of those; and how many match in all.
    pub(super) fn take<T>(&self, all: Vec<T>, text: impl Fn(&T) -> String) -> (Vec<T>, usize) {
        let mut matching = all;
        if !self.words.is_empty() {
            matching.retain(|entry| contains(&text(entry), &self.words));
        }
        let total = matching.len();
        let limit = self.limit.unwrap_or(usize::MAX);
        (
            matching.into_iter().skip(self.offset).take(limit).collect(),
            total,
        )
    }
}

/// The words of a filter, in lower case.
pub(super) fn words(filter: &str) -> Vec<String> {
    filter.split_whitespace().map(str::to_lowercase).collect()
}

/// Whether each word is in the text, whatever its case.
pub(super) fn contains(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(&**word))
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_matches_between_two_places() {
        let all: Vec<String> = (0..10_000)
            .map(|number| format!("Svc-{number:05} /x"))
            .collect();
        let part = |query: &str| {
            let (found, total) = Part::of(&Query::parse(query)).take(all.clone(), Clone::clone);
            (found.first().cloned(), found.len(), total)
        };
        assert_eq!(part(""), (Some("Svc-00000 /x".to_owned()), 10_000, 10_000));
        assert_eq!(
            part("filter=svc-09999"),
            (Some("Svc-09999 /x".to_owned()), 1, 1)
        );
        assert_eq!(
            part("filter=SVC+-0999&offset=3&limit=2"),
            (Some("Svc-09993 /x".to_owned()), 2, 10)
        );
        assert_eq!(part("filter=nothing"), (None, 0, 0));
        assert_eq!(part("limit=x&offset=-1").1, 10_000);
        assert_eq!(part("offset=20000"), (None, 0, 10_000));
    }

    #[test]
    fn pairs_are_decoded_and_found_by_name() {
        let query = Query::parse(
            "raw&url=http%3A%2F%2Fx%2Fa%2Bb&header=A:+1&header=B%3D2=3&&=x&bad=%zz%ff",
        );
        assert!(query.has("raw") && !query.has("pretty"));
        assert_eq!(query.first("raw"), Some(""));
        assert_eq!(query.first("url"), Some("http://x/a+b"));
        assert_eq!(query.all("header").collect::<Vec<_>>(), ["A: 1", "B=2=3"]);
        assert_eq!(query.first("bad"), Some("%zz\u{fffd}"));
        assert_eq!(query.first("nothing"), None);
    }
}
