//! The grammar of route tags (`urlprefix-host/path opts`).
//!
//! A tag that cannot be understood is an error of that tag alone; what to do with the instance's
//! other tags, and with the route an earlier version of the tag made, is decided by `control`.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::glob::{Glob, GlobError};
use super::option_text::{self, Context, OptionError, ParsedOptions};
use super::options::{Proto, RouteOptions};
use super::policies::Policies;

/// Where a route stands: an HTTP place, or a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Lower-case host, possibly with port or glob characters; empty for any host. TCP routes:
    /// `:PORT` or `IP:PORT`.
    pub host: String,
    /// Path, beginning with `/`; empty for TCP routes.
    pub path: String,
}

/// One parsed route tag.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Host and path, or the TCP port.
    pub key: RouteKey,
    /// Options of its target.
    pub options: RouteOptions,
}

/// A tag that could be read, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedTag {
    /// Place and options.
    pub spec: RouteSpec,
    /// Unknown options, in words, with the nearest known one: kept, without effect.
    pub unknown: Vec<String>,
    /// What does not do what its author may think, in words.
    pub warnings: Vec<String>,
}

/// A route tag that makes no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route tag `{tag}`: {fault}")]
pub struct TagError {
    /// The whole tag.
    pub tag: String,
    /// What is wrong with it, and what would be right.
    pub fault: TagFault,
}

/// What can be wrong with a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagFault {
    /// The place cannot be one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An option makes the tag unusable.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// A place that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing after the prefix.
    #[error("no place given: write host/path, /path or :PORT")]
    Empty,
    /// `:PORT` without a port in 1 to 65535, or with a path.
    #[error("`{0}` is not a TCP port: write :PORT with a port from 1 to 65535 and no path")]
    Port(String),
    /// Something that never is the host of a request.
    #[error("`{0}` cannot be a host: write host/path without scheme, blank or control character")]
    Host(String),
    /// A host whose glob characters make no pattern: it could never match.
    #[error(transparent)]
    Glob(#[from] GlobError),
}

/// Parses one tag of a service; none when it does not begin with `prefix` (then it is a plain tag).
///
/// `$NAME` and `${NAME}` in the place are replaced from `env`, which holds `DC`; other names become
/// empty and are warned about.
pub fn parse_tag(
    prefix: &str,
    tag: &str,
    env: &HashMap<String, String>,
) -> Option<Result<ParsedTag, TagError>> {
    let rest = tag.trim().strip_prefix(prefix)?.trim();
    Some(parse_rest(rest, env).map_err(|fault| TagError {
        tag: tag.to_owned(),
        fault,
    }))
}

/// The place that a route tag names, whatever else is wrong with it; none where that place makes no
/// sense.
#[must_use]
pub fn place_of(prefix: &str, tag: &str, env: &HashMap<String, String>) -> Option<RouteKey> {
    let rest = tag.trim().strip_prefix(prefix)?.trim();
    place(rest.split(char::is_whitespace).next()?, env)
}

/// The place that a line of the route language names, whatever else is wrong with it: `… SERVICE
/// PLACE …`, from the third word on.
#[must_use]
pub fn place_of_line(line: &str) -> Option<RouteKey> {
    line.split_whitespace()
        .skip(2)
        .filter(|word| !word.contains("://"))
        .find_map(|word| {
            let is_place = word.contains('/') || word.starts_with(':');
            is_place.then(|| place(word, &HashMap::new())).flatten()
        })
}

fn place(source: &str, env: &HashMap<String, String>) -> Option<RouteKey> {
    let (source, _) = expand(source, env);
    RouteKey::parse(&source, false).ok()
}

/// The tags that are not route tags, in their order.
#[must_use]
pub fn plain_tags(prefix: &str, tags: &[Arc<str>]) -> Vec<Arc<str>> {
    tags.iter()
        .filter(|tag| !tag.trim().starts_with(prefix))
        .cloned()
        .collect()
}

fn parse_rest(rest: &str, env: &HashMap<String, String>) -> Result<ParsedTag, TagFault> {
    let (source, options) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let ParsedOptions {
        options,
        unknown,
        mut warnings,
    } = option_text::parse_options(options, Context::Tag)?;
    let (source, missing) = expand(source, env);
    warnings.extend(
        missing
            .into_iter()
            .map(|name| format!("unknown variable `{name}` is replaced by nothing")),
    );
    let key = RouteKey::parse(&source, options.proto == Proto::Tcp)?;
    if key.is_tcp() || options.proto == Proto::Tcp {
        warnings.extend(options.idle_on_tcp());
    }
    Ok(ParsedTag {
        spec: RouteSpec::new(key, options)?,
        unknown,
        warnings,
    })
}

impl RouteSpec {
    /// A place and the options of its target, which have to fit together.
    ///
    /// # Errors
    /// The options look at requests, and the route takes none.
    pub(super) fn new(key: RouteKey, options: RouteOptions) -> Result<Self, OptionError> {
        let tcp = key.is_tcp() || options.proto == Proto::Tcp;
        if let Some(matchers) = options.matchers.as_ref().filter(|_| tcp) {
            return Err(OptionError::MatcherOfTcp(matchers.to_string()));
        }
        let policies = options.policies.as_deref().filter(|_| tcp);
        if let Some(why) = policies.and_then(Policies::not_for_tcp) {
            return Err(OptionError::PolicyOfTcp(why.to_owned()));
        }
        Ok(Self { key, options })
    }
}

impl RouteKey {
    /// Parses a place as in a tag or command: `host/path`, `host` (the same as `host/`), `/path`,
    /// `:PORT`, and, when the target is spoken to in plain TCP, `IP:PORT`.
    ///
    /// Shape and protocol decide together. `:PORT` is always a TCP place, since no HTTP host is
    /// empty before its port. `IP:PORT` without a slash can be both, so it is one only with `tcp`.
    /// Anything with a slash is a host and a path, also with `tcp` (a server name for routing by
    /// SNI).
    ///
    /// # Errors
    /// When nothing, or nothing that could ever match, is given.
    pub fn parse(text: &str, tcp: bool) -> Result<Self, SourceError> {
        if text.is_empty() {
            return Err(SourceError::Empty);
        }
        if let Some(port) = text.strip_prefix(':') {
            let valid = port
                .parse::<u16>()
                .ok()
                .filter(|&number| number > 0 && !port.starts_with('+'));
            let number = valid.ok_or_else(|| SourceError::Port(text.to_owned()))?;
            return Ok(Self {
                host: format!(":{number}"),
                path: String::new(),
            });
        }
        if let (true, Ok(addr)) = (tcp, text.parse::<SocketAddr>()) {
            return Ok(Self {
                host: addr.to_string(),
                path: String::new(),
            });
        }
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        if host.ends_with(':') || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(SourceError::Host(host.to_owned()));
        }
        if !Glob::is_literal(host) {
            Glob::new(host)?;
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            path: format!("/{path}"),
        })
    }

    /// Whether the route stands on a TCP port.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.path.is_empty()
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

/// The tag without its prefix, in canonical form: parsing it gives an equal value.
impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        for (key, value) in &self.options.raw {
            write!(f, " {}", option_text::word(key, value))?;
        }
        Ok(())
    }
}

/// Replaces `$NAME` and `${NAME}` as Go's `os.Expand` does (Fabio's rule): a name is a run of
/// letters, digits and `_`, or one of the shell's special characters; `${` without a name or an end
/// is dropped; a `$` before anything else stays. Returns the names that `env` lacks, too.
fn expand(text: &str, env: &HashMap<String, String>) -> (String, Vec<String>) {
    let (mut out, mut missing) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, length) = variable(after);
        rest = &after[length..];
        match env.get(name) {
            Some(value) => out.push_str(value),
            None if length == 0 => out.push('$'),
            None => missing.push(name.to_owned()),
        }
    }
    out.push_str(rest);
    (out, missing)
}

/// The variable name at the start of `text` (what follows a `$`), and how many bytes it takes.
fn variable(text: &str) -> (&str, usize) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some((name, _)) => (name, name.len() + 2),
            None => ("", 1),
        };
    }
    if text.starts_with(|c: char| "*#$@!?-".contains(c) || c.is_ascii_digit()) {
        return (&text[..1], 1);
    }
    let length = text
        .bytes()
        .take_while(|&b| b.is_ascii_alphanumeric() || b == b'_')
        .count();
    (&text[..length], length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "urlprefix-";

    fn env() -> HashMap<String, String> {
        HashMap::from([("DC".to_owned(), "dc1".to_owned())])
    }

    fn parse(tag: &str) -> Option<Result<ParsedTag, TagError>> {
        parse_tag(PREFIX, tag, &env())
    }

    fn key(tag: &str) -> (String, String) {
        let parsed = parse(tag)
            .expect(tag)
            .unwrap_or_else(|error| panic!("{error}"));
        (parsed.spec.key.host, parsed.spec.key.path)
    }

    #[test]
    fn places() {
        for (tag, host, path) in [
            ("urlprefix-/", "", "/"),
            ("urlprefix-/Foo/", "", "/Foo/"),
            ("urlprefix-A.Example/Foo", "a.example", "/Foo"),
            ("urlprefix-a.example", "a.example", "/"),
            ("urlprefix-a.example:81/x", "a.example:81", "/x"),
            ("urlprefix-*.example/", "*.example", "/"),
            ("urlprefix-{a,b}.[!x]/[", "{a,b}.[!x]", "/["),
            ("  urlprefix-  /x  strip=/x ", "", "/x"),
            ("urlprefix-:1234 proto=tcp", ":1234", ""),
            ("urlprefix-:01234", ":1234", ""),
            ("urlprefix-10.0.0.1:80 proto=tcp", "10.0.0.1:80", ""),
            ("urlprefix-[::1]:80 proto=tcp", "[::1]:80", ""),
            ("urlprefix-10.0.0.1:80", "10.0.0.1:80", "/"),
            ("urlprefix-10.0.0.1:80/ proto=tcp", "10.0.0.1:80", "/"),
            ("urlprefix-a.example proto=tcp", "a.example", "/"),
            ("urlprefix-$DC.example/${DC}/$", "dc1.example", "/dc1/$"),
            ("urlprefix-$NO.example/x$$DC", ".example", "/xDC"),
            ("urlprefix-a${DC/", "adc", "/"),
        ] {
            assert_eq!(key(tag), (host.to_owned(), path.to_owned()), "{tag}");
        }
    }

    #[test]
    fn only_the_prefix_makes_a_route_tag() {
        for tag in ["", "v1", "urlprefi", "xurlprefix-/a", "URLPREFIX-/a"] {
            assert_eq!(parse(tag), None, "{tag}");
        }
        let tags: Vec<Arc<str>> = vec!["b".into(), " urlprefix-/x".into(), "a".into()];
        assert_eq!(plain_tags(PREFIX, &tags), [Arc::from("b"), Arc::from("a")]);
    }

    #[test]
    fn a_bad_tag_is_an_error_that_shows_it() {
        for (tag, shown) in [
            ("urlprefix-", "no place given"),
            ("urlprefix-  ", "no place given"),
            ("urlprefix-$NO", "no place given"),
            ("urlprefix-:", "TCP port"),
            ("urlprefix-:0 proto=tcp", "TCP port"),
            ("urlprefix-:70000 proto=tcp", "TCP port"),
            ("urlprefix-:80/x", "TCP port"),
            ("urlprefix-:+80", "TCP port"),
            ("urlprefix-http://a/", "without scheme"),
            ("urlprefix-a\u{7}b/", "control"),
            ("urlprefix-{a,b/", "not closed"),
            ("urlprefix-/ weight=heavy", "`heavy`"),
            ("urlprefix-/ redirect=301", "comma"),
        ] {
            let error = parse(tag).expect(tag).expect_err(tag);
            assert_eq!(error.tag, tag);
            assert!(
                error.to_string().contains(shown) && error.to_string().contains(tag),
                "{error}"
            );
        }
    }

    #[test]
    fn remarks_come_with_the_tag() {
        let parsed = parse("urlprefix-/$X stripp=/a proto=ftp")
            .expect("a route tag")
            .expect("valid");
        assert_eq!(
            parsed.unknown,
            ["unknown option `stripp`, nearest is `strip`"]
        );
        assert_eq!(parsed.warnings.len(), 2, "{:?}", parsed.warnings);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(tag in any::<String>()) {
            let _ = parse(&format!("{PREFIX}{tag}"));
        }

        #[test]
        fn printing_and_parsing_again_gives_the_same(
            tag in r#"([a-zA-Z0-9.:$\{\}*\[\]DC-]{0,12}|:[0-9]{1,5}|[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5})(/[a-z$\{\}*/%é]{0,8})?( (proto=(tcp|https|h2c|x)|weight=-?[0-9.]{1,4}|strip=/?[a-z]{0,3}|prepend=[a-z/]{0,4}|host=(dst|a\.b)|redirect=30[0-9],https://x\$path|(allow|deny)=ip:10\.0\.0\.[0-9]{1,3}(/[0-9]{1,2})?|strategy=(rr|hash:ip|q)|[a-z]{1,6}(=[a-z=]{0,4})?)){0,5}"#
        ) {
            if let Some(Ok(parsed)) = parse(&format!("{PREFIX}{tag}")) {
                let printed = format!("{PREFIX}{}", parsed.spec);
                let again = parse(&printed).expect("a route tag").expect("still valid");
                prop_assert_eq!(again.spec, parsed.spec);
            }
        }
    }
}
