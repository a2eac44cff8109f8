//! Rewriting of paths (`rewrite` of `[policy.NAME]`): a regular expression, and what stands for it.
//!
//! A path is compared as RFC 3986 section 6.2.2 makes paths equal: what need not be encoded is
//! decoded, so that no client gets past a rule by writing `%61` for `a`; a slash or a blank inside a
//! segment stays encoded, because it is data. What a rule makes is put into legal form here; whether
//! it leads anywhere else than its reader thinks is for the data path to find out.

use regex::{Regex, RegexBuilder};

/// Most bytes that a compiled expression may take.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;
/// Longest path that a rule may make, in bytes.
const MADE_BYTES_MAX: usize = 64 << 10;

/// Rules, carried out one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRewrite(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    from: Regex,
    to: String,
    parts: Vec<Part>,
}

/// A part of what stands for a match.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.from.as_str() == other.from.as_str() && self.to == other.to
    }
}

impl Eq for Rule {}

/// A part of a rule that cannot be carried out, `from` or `to`, and why.
pub type RewriteMistake = (&'static str, String);

impl PathRewrite {
    /// Adds a rule: each match of `from` becomes `to`, in which `$1` or `${1}` stands for the first
    /// group, `${name}` for a named one, and `$$` for a dollar.
    ///
    /// # Errors
    /// What cannot be carried out.
    pub fn add(&mut self, from: &str, to: &str) -> Result<(), RewriteMistake> {
        if from.is_empty() {
            return Err((
                "from",
                "it matches everywhere: write ^/ for the whole path".to_owned(),
            ));
        }
        let expression = RegexBuilder::new(from)
            .size_limit(EXPRESSION_BYTES_MAX)
            .dfa_size_limit(EXPRESSION_BYTES_MAX)
            .build();
        let expression = expression.map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            ("from", last.trim_start_matches("error: ").to_owned())
        })?;
        let parts = parts(to, &expression).map_err(|why| ("to", why))?;
        self.0.push(Rule {
            from: expression,
            to: to.to_owned(),
            parts,
        });
        Ok(())
    }

    /// What becomes of a path, given as it would be sent, in legal form. None: nothing, no rule
    /// matches.
    #[must_use]
    pub fn apply(&self, path: &str) -> Option<String> {
        let mut made: Option<String> = None;
        let comparable = comparable(path);
        for rule in &self.0 {
            let path = made.as_ref().unwrap_or(&comparable);
            made = rule.apply(path).or(made);
        }
        made
    }
}

impl Rule {
    fn apply(&self, path: &str) -> Option<String> {
        let (mut made, mut end) = (String::new(), None);
        for found in self.from.captures_iter(path) {
            let Some(whole) = found.get(0) else { continue };
            made.push_str(&path[end.unwrap_or(0)..whole.start()]);
            for part in &self.parts {
                match part {
                    Part::Text(text) => made.push_str(text),
                    Part::Group(at) => made.push_str(found.get(*at).map_or("", |it| it.as_str())),
                }
            }
            end = Some(whole.end());
            if made.len() > MADE_BYTES_MAX {
                break;
            }
        }
        made.push_str(&path[end?..]);
        Some(legal(&made))
    }
}

/// The parts of what stands for a match.
fn parts(to: &str, expression: &Regex) -> Result<Vec<Part>, String> {
    if to.contains(['?', '#']) {
        return Err("only the path is rewritten, the query stays: leave out ? and #".to_owned());
    }
    if to.chars().any(char::is_control) {
        return Err("it holds a control character".to_owned());
    }
    let has_dots = percent_encoding::percent_decode_str(to)
        .collect::<Vec<u8>>()
        .split(|byte| *byte == b'/')
        .any(|segment| matches!(segment, b"." | b".."));
    if has_dots {
        return Err("it holds a segment . or ..: write where it leads".to_owned());
    }
    let (mut parts, mut rest) = (Vec::new(), to);
    let put = |parts: &mut Vec<Part>, text: &str| match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    };
    while let Some((before, after)) = rest.split_once('$') {
        put(&mut parts, before);
        if let Some(after) = after.strip_prefix('$') {
            put(&mut parts, "$");
            rest = after;
            continue;
        }
        let (name, behind) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').ok_or("a { behind $ is not closed")?,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        let at = match name.parse::<usize>() {
            Ok(at) => (at < expression.captures_len()).then_some(at),
            Err(_) => expression
                .capture_names()
                .position(|known| known == Some(name)),
        };
        let Some(at) = at else {
            return Err(match name {
                "" => "a $ stands for nothing: write $1 for the first group, or $$".to_owned(),
                _ => format!(
                    "${name} is not a group of the expression: write ${{1}} before letters and digits, $$ for a dollar"
                ),
            });
        };
        parts.push(Part::Group(at));
        rest = behind;
    }
    put(&mut parts, rest);
    Ok(parts)
}

/// Bytes that mean the same encoded or not (RFC 3986 section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The two digits behind a `%`.
fn escape(rest: &[u8]) -> Option<u8> {
    let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(1)? * 16 + digit(2)?).ok()
}

/// A path in the form in which equal ones are the same.
fn comparable(path: &str) -> String {
    let mut made = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest.as_bytes()) {
        made.push_str(&rest[..at]);
        rest = &rest[at..];
        match escape(rest.as_bytes()) {
            Some(byte) => {
                if is_unreserved(byte) {
                    made.push(char::from(byte));
                } else {
                    made.push_str(&rest[..3].to_ascii_uppercase());
                }
                rest = &rest[3..];
            }
            // No escape may come of what is decoded behind it.
            None => {
                made.push_str("%25");
                rest = &rest[1..];
            }
        }
    }
    made.push_str(rest);
    made
}

/// A path that can be sent: one slash in front, and what cannot stand in a path encoded.
fn legal(made: &str) -> String {
    let mut path = String::with_capacity(made.len() + 1);
    path.push('/');
    // What follows two slashes in front is a host to readers of references.
    let made = made.trim_start_matches('/');
    for (at, byte) in made.bytes().enumerate() {
        let stays = match byte {
            b'%' => escape(&made.as_bytes()[at..]).is_some(),
            _ => is_unreserved(byte) || b"!$&'()*+,;=:@/".contains(&byte),
        };
        if stays {
            path.push(char::from(byte));
        } else {
            path.push_str(percent_encoding::percent_encode_byte(byte));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewrite(rules: &[(&str, &str)]) -> Result<PathRewrite, RewriteMistake> {
        let mut rewrite = PathRewrite::default();
        for (from, to) in rules {
            rewrite.add(from, to)?;
        }
        Ok(rewrite)
    }

    fn made(rules: &[(&str, &str)], path: &str) -> Option<String> {
        rewrite(rules).unwrap().apply(path)
    }

    #[test]
    fn paths_are_rewritten() {
        for (from, to, path, expected) in [
            ("^/old/(.*)", "/new/$1", "/old/a/b", Some("/new/a/b")),
            ("^/old/(.*)", "/new/$1", "/older/a", None),
            ("^/v(\\d+)/", "/api/${1}x/", "/v2/u", Some("/api/2x/u")),
            (
                "^/(?P<who>\\w+)$",
                "/users/${who}",
                "/ann",
                Some("/users/ann"),
            ),
            (
                "^/(?P<who>\\w+)$",
                "/users/$who",
                "/ann",
                Some("/users/ann"),
            ),
            ("/b", "/c", "/b/x/b", Some("/c/x/c")),
            ("^.*$", "/all", "/x/y", Some("/all")),
            ("^/a", "", "/a", Some("/")),
            ("^/a", "", "/a//b", Some("/b")),
            ("^/a", "", "/ab", Some("/b")),
            ("^/x", "/$$1", "/x", Some("/$1")),
            ("^/x", "/a b/é%41%zz", "/x", Some("/a%20b/%C3%A9%41%25zz")),
            // The client's form does not matter, data stays data.
            ("^/admin", "/no", "/%61dm%69n/x", Some("/no/x")),
            ("^/q/(.*)", "/$1", "/q/a%2fb%20c", Some("/a%2Fb%20c")),
            ("^/q/([^/]+)/", "/$1-", "/q/a%2Fb/c", Some("/a%2Fb-c")),
            ("^/(a)|(b)", "/$1$2", "/b", Some("/b")),
            ("^/é", "/e", "/%C3%A9", None),
        ] {
            assert_eq!(
                made(&[(from, to)], path).as_deref(),
                expected,
                "{from} {path}"
            );
        }
        let several = [("^/a/", "/b/"), ("^/b/", "/c/"), ("^/never", "/x")];
        assert_eq!(made(&several, "/a/1").as_deref(), Some("/c/1"));
        assert_eq!(made(&several, "/d"), None);
    }

    #[test]
    fn rules_that_cannot_be_carried_out() {
        for (from, to, part) in [
            ("", "/a", "from"),
            ("(", "/a", "from"),
            ("(?=x)", "/a", "from"),
            ("(a)\\1", "/a", "from"),
            ("(x{1000}){1000}", "/a", "from"),
            ("a", "/$1", "to"),
            ("(a)", "/$2", "to"),
            ("(a)", "/$1x", "to"),
            ("(a)", "/${1", "to"),
            ("(a)", "/$", "to"),
            ("(a)", "/${}", "to"),
            ("(a)", "/$name", "to"),
            ("(a)", "/x?y=$1", "to"),
            ("(a)", "/x#y", "to"),
            ("(a)", "/x/../y", "to"),
            ("(a)", "/x/%2e%2E/y", "to"),
            ("(a)", "/x/%2f../y", "to"),
            ("(a)", "/x\n", "to"),
        ] {
            let (told, why) = rewrite(&[(from, to)]).expect_err(to);
            assert_eq!(told, part, "{from} {to}: {why}");
            assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
        }
    }

    #[test]
    fn a_hostile_path_takes_time_in_proportion_to_its_length() {
        let rewrite = rewrite(&[("^(/a*)*b$", "/x")]).unwrap();
        let long = format!("/{}", "a".repeat(60_000));
        assert_eq!(rewrite.apply(&long), None);
    }

    proptest! {
        #[test]
        fn what_is_made_is_legal_and_comparing_is_stable(path in "/[a-zA-Z0-9%./é ~]{0,24}") {
            let once = comparable(&path);
            prop_assert_eq!(&comparable(&legal(&once)), &legal(&once));
            let made = legal(&path);
            prop_assert!(made.starts_with('/') && !made.starts_with("//"));
            prop_assert_eq!(&legal(&made), &made);
            prop_assert!(made.is_ascii());
        }
    }
}
