//! What a route wants of a request beside its place: method, fields, query parameters (`method=`,
//! `header=`, `query=`, `path=`, `priority=`).
//!
//! Routes of one place with different matchers are different routes; instances with the same
//! matchers share one. Their order is [`Matchers::rank`]. A route whose matchers do not hold is
//! passed over as if it were not there.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use http::{HeaderName, Method};
use percent_encoding::percent_decode_str;

/// How the path of one route is compared (`path=`), in place of `proxy.matcher`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathMode {
    /// The whole path, as text.
    Exact,
    /// The path begins with it, as text.
    Prefix,
    /// The same, ignoring case.
    IPrefix,
    /// The whole path against a glob.
    Glob,
}

impl PathMode {
    fn of(word: &str) -> Option<Self> {
        [Self::Exact, Self::Prefix, Self::IPrefix, Self::Glob]
            .into_iter()
            .find(|mode| mode.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Prefix => "prefix",
            Self::IPrefix => "iprefix",
            Self::Glob => "glob",
        }
    }
}

/// A field or a query parameter, and what its value has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ValueMatcher<N> {
    name: N,
    /// None: it only has to be there.
    value: Option<Arc<str>>,
}

impl<N> ValueMatcher<N> {
    fn holds(&self, value: &[u8]) -> bool {
        let pattern = self.value.as_deref();
        pattern.is_none_or(|pattern| matches_stars(pattern.as_bytes(), value))
    }
}

/// Everything that a route wants of a request beside its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matchers {
    methods: Vec<Method>,
    headers: Vec<ValueMatcher<HeaderName>>,
    queries: Vec<ValueMatcher<Arc<str>>>,
    path: Option<PathMode>,
    priority: i32,
    /// What was read, in canonical order.
    text: Arc<str>,
}

/// What matchers look at.
pub trait RequestParts {
    /// Its method.
    fn method(&self) -> &Method;

    /// Whether `test` holds for the value of a field of this name. `Host` is the host of the
    /// request, whatever version of HTTP it came by.
    fn any_field(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The text behind the first `?` of its target.
    fn query(&self) -> Option<&str>;
}

impl Matchers {
    /// Whether all of them hold. The path was compared when the route was looked up, but for
    /// [`PathMode::Exact`].
    #[must_use]
    pub fn hold(&self, request: &impl RequestParts) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method()))
            && self
                .headers
                .iter()
                .all(|wanted| request.any_field(&wanted.name, &mut |value| wanted.holds(value)))
            && self.queries.iter().all(|wanted| {
                request.query().is_some_and(|query| {
                    parameters(query).any(|(name, value)| {
                        *name == *wanted.name.as_bytes() && wanted.holds(&value)
                    })
                })
            })
    }

    /// How the path is compared, if not as `proxy.matcher` has it.
    #[must_use]
    pub fn path(&self) -> Option<PathMode> {
        self.path
    }

    /// Order among the routes of one place: the first that holds gets the request. Higher priority,
    /// then more matchers, then the canonical text.
    #[must_use]
    pub fn rank(one: Option<&Self>, other: Option<&Self>) -> Ordering {
        let key = |matchers: Option<&Self>| {
            matchers.map_or((0, 0), |matchers| (matchers.priority, matchers.count()))
        };
        key(other)
            .cmp(&key(one))
            .then_with(|| Self::text_of(one).cmp(Self::text_of(other)))
    }

    fn text_of(matchers: Option<&Self>) -> &str {
        matchers.map_or("", |matchers| &matchers.text)
    }

    fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.queries.len()
            + usize::from(self.path == Some(PathMode::Exact))
    }
}

/// The canonical text: as in a tag, values percent-encoded where they have to be.
impl fmt::Display for Matchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A matcher that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} `{value}`: {fault}")]
pub struct MatcherError {
    key: &'static str,
    value: String,
    fault: &'static str,
}

/// Collects the matchers of one tag.
#[derive(Clone, Debug, Default)]
pub(super) struct MatchersReader {
    read: Matchers,
}

impl MatchersReader {
    /// Reads one option. Returns whether it is a matcher.
    ///
    /// # Errors
    /// Its value cannot be one.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, MatcherError> {
        let error = |key, fault| MatcherError {
            key,
            value: value.to_owned(),
            fault,
        };
        match key {
            "method" => {
                self.read.methods = value
                    .split(',')
                    .map(|method| method.parse().ok())
                    .collect::<Option<_>>()
                    .ok_or_else(|| error("method", "write method=GET or method=GET,HEAD"))?;
                self.read.methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
                self.read.methods.dedup();
            }
            "header" => {
                let (name, value) = named_value(value).map_err(|fault| error("header", fault))?;
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    error(
                        "header",
                        "the name before `:` cannot be the name of a field; write header=X-Canary:1",
                    )
                })?;
                self.read.headers.push(ValueMatcher { name, value });
            }
            "query" => {
                let (name, value) = named_value(value).map_err(|fault| error("query", fault))?;
                if name.is_empty() {
                    return Err(error(
                        "query",
                        "the name of the parameter is missing; write query=version:2",
                    ));
                }
                self.read.queries.push(ValueMatcher { name, value });
            }
            "path" => {
                let mode = PathMode::of(value);
                self.read.path =
                    Some(mode.ok_or_else(|| {
                        error("path", "exact, prefix, iprefix and glob are known")
                    })?);
            }
            "priority" => {
                self.read.priority = value
                    .parse()
                    .map_err(|_| error("priority", "write a whole number like priority=10"))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// All of them together; none where there are none.
    pub(super) fn finish(self) -> Option<Arc<Matchers>> {
        let mut matchers = self.read;
        matchers.headers.sort_by(|a, b| {
            a.name
                .as_str()
                .cmp(b.name.as_str())
                .then_with(|| a.value.cmp(&b.value))
        });
        matchers.headers.dedup();
        matchers
            .queries
            .sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
        matchers.queries.dedup();
        let mut words = Vec::new();
        for header in &matchers.headers {
            words.push(word(
                "header",
                header.name.as_str(),
                header.value.as_deref(),
            ));
        }
        if !matchers.methods.is_empty() {
            let methods: Vec<&str> = matchers.methods.iter().map(Method::as_str).collect();
            words.push(format!("method={}", methods.join(",")));
        }
        if let Some(path) = matchers.path {
            words.push(format!("path={}", path.word()));
        }
        if matchers.priority != 0 {
            words.push(format!("priority={}", matchers.priority));
        }
        for query in &matchers.queries {
            words.push(word("query", &query.name, query.value.as_deref()));
        }
        if words.is_empty() {
            return None;
        }
        matchers.text = words.join(" ").into();
        Some(Arc::new(matchers))
    }
}

/// One word of the canonical text: reading it gives the same matcher.
fn word(key: &str, name: &str, value: Option<&str>) -> String {
    const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'%');
    const ENCODED_NAME: &percent_encoding::AsciiSet = &ENCODED.add(b':');
    let encode = percent_encoding::utf8_percent_encode;
    match value {
        None => format!("{key}={}", encode(name, ENCODED_NAME)),
        Some(value) => format!(
            "{key}={}:{}",
            encode(name, ENCODED_NAME),
            encode(value, ENCODED)
        ),
    }
}

/// `NAME:VALUE` or `NAME`, each decoded after they were told apart at the first `:`.
fn named_value(text: &str) -> Result<(Arc<str>, Option<Arc<str>>), &'static str> {
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    Ok((
        decode(name)?.into(),
        value.map(decode).transpose()?.map(Into::into),
    ))
}

/// Percent-decodes a value of an option, once.
///
/// # Errors
/// A `%` without two hexadecimal digits behind it; what is decoded is not UTF-8 or holds CR, LF or
/// NUL.
pub(super) fn decode(text: &str) -> Result<String, &'static str> {
    let bytes = text.as_bytes();
    let sound = |at: usize| {
        bytes
            .get(at + 1..at + 3)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !memchr::memchr_iter(b'%', bytes).all(sound) {
        return Err(
            "a `%` is not followed by two hexadecimal digits; write %25 for a percent sign",
        );
    }
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| "its percent-escapes decode to bytes that are not UTF-8")?;
    if decoded.contains(['\r', '\n', '\0']) {
        return Err("it holds a line break or a NUL");
    }
    Ok(decoded.into_owned())
}

/// The parameters of a query, decoded (`+` is a blank, as forms write it); one without `=` has an
/// empty value.
fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    let decoded = |text: &str| -> Cow<'static, [u8]> {
        let blanks = text.replace('+', " ");
        Cow::Owned(percent_decode_str(&blanks).collect())
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
}

/// Whether the whole of `text` is `pattern`, in which `*` stands for any bytes.
fn matches_stars(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(mut last) = parts.next() else {
        return rest.is_empty();
    };
    for part in parts {
        let part = std::mem::replace(&mut last, part);
        let Some(at) = memchr::memmem::find(rest, part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    struct Request {
        method: Method,
        headers: HeaderMap,
        query: Option<String>,
    }

    impl RequestParts for Request {
        fn method(&self) -> &Method {
            &self.method
        }

        fn any_field(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            self.headers
                .get_all(name)
                .iter()
                .any(|value| test(value.as_bytes()))
        }

        fn query(&self) -> Option<&str> {
            self.query.as_deref()
        }
    }

    fn read(text: &str) -> Result<Option<Arc<Matchers>>, MatcherError> {
        let mut reader = MatchersReader::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            assert!(reader.take(key, value)?, "{word}");
        }
        Ok(reader.finish())
    }

    fn request(method: &str, fields: &[(&str, &str)], query: Option<&str>) -> Request {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        Request {
            method: method.parse().unwrap(),
            headers,
            query: query.map(str::to_owned),
        }
    }

    #[test]
    fn each_matcher_holds_for_what_it_says() {
        let canary = &[("x-canary", "0"), ("x-canary", "1")][..];
        for (text, request, expected) in [
            ("method=GET", request("GET", &[], None), true),
            ("method=GET,HEAD", request("HEAD", &[], None), true),
            ("method=GET", request("get", &[], None), false),
            ("method=POST", request("GET", &[], None), false),
            ("header=X-Canary:1", request("GET", canary, None), true),
            ("header=x-canary", request("GET", canary, None), true),
            ("header=X-Canary:2", request("GET", canary, None), false),
            ("header=X-Canary:", request("GET", canary, None), false),
            ("header=X-Canary", request("GET", &[], None), false),
            (
                "header=A:b*d*f",
                request("GET", &[("a", "bcdef")], None),
                true,
            ),
            (
                "header=A:b*d*f",
                request("GET", &[("a", "bf")], None),
                false,
            ),
            (
                "header=A:x%20y",
                request("GET", &[("a", "x y")], None),
                true,
            ),
            ("header=A:x:y", request("GET", &[("a", "x:y")], None), true),
            ("header=A:B", request("GET", &[("a", "b")], None), false),
            (
                "header=A:b header=C",
                request("GET", &[("a", "b")], None),
                false,
            ),
            ("query=v:2", request("GET", &[], Some("v=1&v=2")), true),
            ("query=v:2", request("GET", &[], Some("v=%32")), true),
            ("query=v:2", request("GET", &[], Some("w=2")), false),
            ("query=v:2", request("GET", &[], None), false),
            ("query=v", request("GET", &[], Some("v")), true),
            ("query=v:", request("GET", &[], Some("v")), true),
            ("query=q:a%20b", request("GET", &[], Some("q=a+b")), true),
            ("query=a%3ab:1", request("GET", &[], Some("a:b=1")), true),
            ("priority=7", request("GET", &[], None), true),
        ] {
            let matchers = read(text).unwrap().unwrap();
            assert_eq!(matchers.hold(&request), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_one_is_told() {
        for text in [
            "method=",
            "method=GET,",
            "method=G@T",
            "header=",
            "header=:1",
            "header=a%20b:1",
            "header=A:%",
            "header=A:%2",
            "header=A:%zz",
            "header=A:%0a",
            "header=A:%00",
            "header=A:%ff",
            "query=",
            "query=:1",
            "query=a:%4",
            "path=",
            "path=regex",
            "priority=",
            "priority=high",
            "priority=1.5",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(text.split_once('=').unwrap().0), "{error}");
        }
    }

    #[test]
    fn the_order_of_one_place() {
        // Each before the next.
        let order = [
            "priority=2",
            "method=GET priority=1",
            "header=a:1 header=b:1",
            "header=a:1 path=exact",
            "header=a:1",
            "header=a:2",
            "query=a",
            "",
            "path=prefix",
            "header=a:1 priority=-1",
        ];
        for pair in order.windows(2) {
            let [one, other] = [pair[0], pair[1]].map(|text| read(text).unwrap());
            assert_eq!(
                Matchers::rank(one.as_deref(), other.as_deref()),
                Ordering::Less,
                "{pair:?}"
            );
        }
    }

    #[test]
    fn the_same_matchers_are_equal_however_they_are_written() {
        let one = read("header=A:1 method=HEAD,GET header=b query=q:%61").unwrap();
        let other = read("query=q:a method=GET,HEAD,GET header=B header=a:1 header=a:1").unwrap();
        assert_eq!(one, other);
        assert_eq!(
            one.unwrap().to_string(),
            "header=a:1 header=b method=GET,HEAD query=q:a"
        );
    }

    proptest! {
        #[test]
        fn the_canonical_text_means_the_same(
            name in "[a-zA-Z0-9-]{1,6}", parameter in "\\PC{1,4}", value in "\\PC{0,6}", priority in -3i32..4,
        ) {
            let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let text = format!("header={name}:{} query={}:{} priority={priority}", encode(&value), encode(&parameter), encode(&value));
            let matchers = read(&text).unwrap().unwrap();
            let canonical = matchers.to_string();
            prop_assert_eq!(read(&canonical).ok().flatten().map(|again| again.to_string()), Some(canonical));
        }

        #[test]
        fn what_is_encoded_is_decoded_once(text in "[^\r\n\0]{0,12}") {
            let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(decode(&encode(&text)), Ok(text.clone()));
            prop_assert_eq!(decode(&encode(&encode(&text))), Ok(encode(&text)));
            // Without an escape, a text stands for itself.
            let plain = text.replace('%', "");
            prop_assert_eq!(decode(&plain), Ok(plain));
        }

        #[test]
        fn a_malformed_escape_is_refused_wherever_it_stands(
            before in "[a-z]{0,3}", escape in "%([^0-9a-fA-F%]|[0-9a-f][^0-9a-fA-F%])?", after in "[g-z]{0,2}",
            bad in prop::sample::select(vec!["%0d", "%0A", "%00", "%ff", "%C3"]),
        ) {
            let malformed = format!("{before}{escape}{after}");
            prop_assert!(decode(&malformed).is_err(), "{}", malformed);
            let meaningless = format!("{before}{bad}{after}");
            prop_assert!(decode(&meaningless).is_err(), "{}", meaningless);
        }

        #[test]
        fn stars_agree_with_a_regular_expression(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            let regex = format!("^{}$", pattern.replace('*', ".*"));
            prop_assert_eq!(matches_stars(pattern.as_bytes(), text.as_bytes()), regex::Regex::new(&regex).unwrap().is_match(&text));
        }
    }
}
