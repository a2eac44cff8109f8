//! Fabio's glob patterns, for hosts and for the `glob` path matcher.
//!
//! `*` and `**` match any run of characters, dots and slashes too, `?` any one character, `[ab]`,
//! `[a-z]` and `[!a]` one of (or none of) the given ones, `{a,b}` either text (nested ones too),
//! `\` takes the next character as it is.
//!
//! Own code, because the crates at hand give slashes or `**` another meaning, and most compile to a
//! regular expression, which costs kilobytes for each of perhaps thousands of patterns. Patterns
//! come from strangers' tags, so both their size and the time to match are bounded: braces are
//! expanded into plain alternatives, at most [`TOKENS_MAX`] tokens altogether, and an alternative
//! without braces never needs to reconsider any star but the last one, which makes a match cost at
//! most tokens times characters of the text.

/// Most characters and wildcards of a pattern, after `{a,b}` is written out.
pub const TOKENS_MAX: usize = 1024;

/// Deepest nesting of braces.
const DEPTH_MAX: usize = 8;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    alternatives: Vec<Vec<Token>>,
    prefix: String,
    suffix: String,
}

/// A pattern that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("glob `{pattern}`: {fault}")]
pub struct GlobError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub fault: GlobFault,
}

/// What can be wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobFault {
    /// `[` without its end.
    #[error("`[` is not closed by `]`; write \\[ for the character")]
    OpenClass,
    /// `[]`, `[!]` or `[z-a]`.
    #[error("`[…]` holds no character, or a range that runs backwards")]
    EmptyClass,
    /// `{` without its end.
    #[error("`{{` is not closed by `}}`; write \\{{ for the character")]
    OpenBrace,
    /// A backslash at the end.
    #[error("ends in a backslash; write \\\\ for the character")]
    OpenEscape,
    /// Over [`TOKENS_MAX`] or `DEPTH_MAX`.
    #[error(
        "too long or too deeply nested: at most {TOKENS_MAX} characters with braces written out"
    )]
    TooLarge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    AnyChar,
    AnyRun,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::AnyChar => true,
            Self::AnyRun => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated
            }
        }
    }
}

impl Glob {
    /// Compiles a pattern. Matching minds case.
    ///
    /// # Errors
    /// When a bracket, brace or escape is left open, a class is empty, or the pattern is too large.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        let mut parser = Parser {
            rest: pattern,
            depth: 0,
        };
        let parsed = parser
            .sequence()
            .and_then(|alternatives| check_size(alternatives, 0));
        let alternatives = parsed.map_err(|fault| GlobError {
            pattern: pattern.to_owned(),
            fault,
        })?;
        let prefix = common(alternatives.iter().map(|tokens| literal(tokens.iter())));
        let suffix = common(
            alternatives
                .iter()
                .map(|tokens| literal(tokens.iter().rev())),
        );
        Ok(Self {
            alternatives,
            prefix,
            suffix: suffix.chars().rev().collect(),
        })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        text.starts_with(&self.prefix)
            && text.ends_with(&self.suffix)
            && self
                .alternatives
                .iter()
                .any(|tokens| matches_tokens(tokens, text))
    }

    /// The longest text with which every match begins.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        &self.prefix
    }

    /// The longest text with which every match ends; the prefix may reach into it.
    #[must_use]
    pub fn literal_suffix(&self) -> &str {
        &self.suffix
    }

    /// Whether `pattern` holds no special character and so matches itself only.
    #[must_use]
    pub fn is_literal(pattern: &str) -> bool {
        !pattern.contains(['*', '?', '[', '{', '\\'])
    }
}

/// Matches one alternative. On a mismatch only the last star takes one character more: what an
/// earlier star could take instead would leave the later ones less text to choose from, never more.
fn matches_tokens(tokens: &[Token], text: &str) -> bool {
    let (mut at, mut rest) = (0, text);
    let mut retry: Option<(usize, &str)> = None;
    loop {
        match (tokens.get(at), rest.chars().next()) {
            (Some(Token::AnyRun), _) => {
                at += 1;
                retry = Some((at, rest));
                continue;
            }
            (Some(token), Some(c)) if token.accepts(c) => {
                at += 1;
                rest = &rest[c.len_utf8()..];
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after_star, from)) = retry else {
            return false;
        };
        let Some(c) = from.chars().next() else {
            return false;
        };
        (at, rest) = (after_star, &from[c.len_utf8()..]);
        retry = Some((at, rest));
    }
}

/// The characters up to the first token that is none.
fn literal<'a>(tokens: impl Iterator<Item = &'a Token>) -> String {
    tokens
        .map_while(|token| {
            if let Token::Char(c) = token {
                Some(*c)
            } else {
                None
            }
        })
        .collect()
}

/// The longest common start.
fn common(texts: impl Iterator<Item = String>) -> String {
    let shared = |a: String, b: String| {
        a.chars()
            .zip(b.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a)
            .collect()
    };
    texts.reduce(shared).unwrap_or_default()
}

type Alternatives = Vec<Vec<Token>>;

/// Passes alternatives on when they, and `more` tokens, stay within the limit. An empty one counts
/// as a token, so that their number is bounded too.
fn check_size(alternatives: Alternatives, more: usize) -> Result<Alternatives, GlobFault> {
    let tokens = alternatives
        .iter()
        .map(|tokens| tokens.len().max(1))
        .sum::<usize>()
        + more;
    if tokens > TOKENS_MAX {
        Err(GlobFault::TooLarge)
    } else {
        Ok(alternatives)
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    /// Reads until the end, or, within braces, until the `,` or `}` that ends this branch.
    fn sequence(&mut self) -> Result<Alternatives, GlobFault> {
        let mut alternatives = vec![Vec::new()];
        while let Some(c) = self.rest.chars().next() {
            if self.depth > 0 && matches!(c, ',' | '}') {
                break;
            }
            self.next();
            let token = match c {
                '{' => {
                    alternatives = product(&alternatives, &self.braces()?)?;
                    continue;
                }
                '*' => Token::AnyRun,
                '?' => Token::AnyChar,
                '[' => self.class()?,
                '\\' => Token::Char(self.next().ok_or(GlobFault::OpenEscape)?),
                c => Token::Char(c),
            };
            alternatives = check_size(alternatives, 0)?;
            for tokens in &mut alternatives {
                // Two stars in a row mean one.
                if token != Token::AnyRun || tokens.last() != Some(&Token::AnyRun) {
                    tokens.push(token.clone());
                }
            }
        }
        Ok(alternatives)
    }

    /// What follows a `{`.
    fn braces(&mut self) -> Result<Alternatives, GlobFault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(GlobFault::TooLarge);
        }
        let mut branches = Vec::new();
        loop {
            branches.extend(self.sequence()?);
            branches = check_size(branches, 0)?;
            match self.next() {
                Some(',') => {}
                Some(_) => break,
                None => return Err(GlobFault::OpenBrace),
            }
        }
        self.depth -= 1;
        Ok(branches)
    }

    /// What follows a `[`.
    fn class(&mut self) -> Result<Token, GlobFault> {
        let negated = self.rest.starts_with('!');
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        while let Some(low) = self.class_char()? {
            let mut ahead = self.rest.chars();
            // A `-` before the end of the class is itself.
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            let high = if is_range {
                self.next();
                self.class_char()?.ok_or(GlobFault::OpenClass)?
            } else {
                low
            };
            if low > high {
                return Err(GlobFault::EmptyClass);
            }
            ranges.push((low, high));
        }
        if ranges.is_empty() {
            Err(GlobFault::EmptyClass)
        } else {
            Ok(Token::Class { negated, ranges })
        }
    }

    /// The next character of a class; none at its end.
    fn class_char(&mut self) -> Result<Option<char>, GlobFault> {
        match self.next() {
            Some(']') => Ok(None),
            Some('\\') => self.next().map(Some).ok_or(GlobFault::OpenEscape),
            Some(c) => Ok(Some(c)),
            None => Err(GlobFault::OpenClass),
        }
    }
}

/// Every left one followed by every right one.
fn product(left: &Alternatives, right: &Alternatives) -> Result<Alternatives, GlobFault> {
    let size = |list: &Alternatives| list.iter().map(|tokens| tokens.len().max(1)).sum::<usize>();
    if size(left).saturating_mul(right.len()) + size(right).saturating_mul(left.len())
        > 2 * TOKENS_MAX
    {
        return Err(GlobFault::TooLarge);
    }
    let pairs = left
        .iter()
        .flat_map(|start| right.iter().map(move |end| [&start[..], &end[..]].concat()));
    check_size(pairs.collect(), 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn matches_as_fabio_does() {
        for (pattern, yes, no) in [
            ("", &[""][..], &["a"][..]),
            ("a.b", &["a.b"], &["a", "a.bc", "xa.b", "A.B"]),
            ("*", &["", "a", "a.b/c"], &[]),
            ("**", &["", "a/b"], &[]),
            ("*.x.y", &[".x.y", "a.x.y", "a.b.x.y"], &["x.y", "a.x.y."]),
            (
                "/a/*/c",
                &["/a/b/c", "/a/b/b/c", "/a//c"],
                &["/a/c", "/a/b/cc"],
            ),
            ("/a/**", &["/a/", "/a/b/c"], &["/a"]),
            ("a?c", &["abc", "a/c", "a\u{e4}c"], &["ac", "abbc"]),
            ("[ab]x", &["ax", "bx"], &["cx", "x", "abx"]),
            ("[a-cx]", &["a", "b", "c", "x"], &["d", "-"]),
            ("[!a-c]", &["d", "\u{e4}"], &["a", "b", ""]),
            ("[a-]", &["a", "-"], &["b"]),
            (r"[\]a]", &["]", "a"], &["b"]),
            ("{a,b}.c", &["a.c", "b.c"], &["c", ".c", "a,b.c"]),
            ("{,www.}a", &["a", "www.a"], &["w.a"]),
            (
                "{a,b{c,d*}}e",
                &["ae", "bce", "bde", "bdxe"],
                &["be", "bcxe"],
            ),
            (r"\*a\{", &["*a{"], &["xa{"]),
            ("a,b}]", &["a,b}]"], &["a"]),
            ("*a*b", &["ab", "xaxb", "aab", "abab"], &["ba", "aba"]),
        ] {
            let glob = glob(pattern);
            yes.iter()
                .for_each(|text| assert!(glob.matches(text), "{pattern} should match {text:?}"));
            no.iter().for_each(|text| {
                assert!(!glob.matches(text), "{pattern} should not match {text:?}")
            });
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for (pattern, fault) in [
            ("[a", GlobFault::OpenClass),
            ("[a-", GlobFault::OpenClass),
            ("[]", GlobFault::EmptyClass),
            ("[!]", GlobFault::EmptyClass),
            ("[z-a]", GlobFault::EmptyClass),
            ("{a,b", GlobFault::OpenBrace),
            ("{a,{b}", GlobFault::OpenBrace),
            ("a\\", GlobFault::OpenEscape),
            ("[\\", GlobFault::OpenEscape),
            (&"{".repeat(100), GlobFault::TooLarge),
            (&"{a,b}".repeat(20), GlobFault::TooLarge),
            (&"{,}".repeat(30), GlobFault::TooLarge),
            (&"a".repeat(TOKENS_MAX + 1), GlobFault::TooLarge),
        ] {
            let error = Glob::new(pattern).expect_err(pattern);
            assert_eq!(error.fault, fault, "{pattern}");
            assert!(error.to_string().contains(pattern));
        }
        assert!(Glob::new(&"a".repeat(TOKENS_MAX)).is_ok());
    }

    #[test]
    fn literal_ends_are_known() {
        for (pattern, prefix, suffix) in [
            ("a.b", "a.b", "a.b"),
            ("*.a.b", "", ".a.b"),
            ("/a/*", "/a/", ""),
            ("/a*b", "/a", "b"),
            ("{www.,w}a.b", "w", "a.b"),
            ("x{a,b}y", "x", "y"),
            ("[a]b", "", "b"),
            (r"\*x?", "*x", ""),
        ] {
            let glob = glob(pattern);
            assert_eq!(
                (glob.literal_prefix(), glob.literal_suffix()),
                (prefix, suffix),
                "{pattern}"
            );
        }
        assert!(
            Glob::is_literal("a.b:80/c,}]") && !Glob::is_literal("a?") && !Glob::is_literal(r"\a")
        );
    }

    #[test]
    fn many_stars_cost_no_more_than_tokens_times_characters() {
        // With backtracking into every star this would take longer than the universe has existed.
        let glob = glob(&format!("{}b", "*a".repeat(100)));
        assert!(!glob.matches(&"a".repeat(10_000)));
    }

    /// The plainest matcher there is: tries everything, on the pattern text.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            ['?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            ['[', '!', c, ']', rest @ ..] => {
                !text.is_empty() && text[0] != *c && naive(rest, &text[1..])
            }
            ['[', low, '-', high, ']', rest @ ..] => {
                !text.is_empty() && (*low..=*high).contains(&text[0]) && naive(rest, &text[1..])
            }
            ['{', rest @ ..] => {
                let (branches, after) = branches(rest);
                branches
                    .iter()
                    .any(|branch| naive(&[branch, after].concat(), text))
            }
            ['\\', c, rest @ ..] | [c, rest @ ..] => {
                text.first() == Some(c) && naive(rest, &text[1..])
            }
        }
    }

    /// Branches of a brace whose `{` was taken, and what follows its `}`.
    fn branches(pattern: &[char]) -> (Vec<Vec<char>>, &[char]) {
        let (mut branches, mut depth) = (vec![Vec::new()], 0);
        for (index, &c) in pattern.iter().enumerate() {
            match c {
                '}' if depth == 0 => return (branches, &pattern[index + 1..]),
                ',' if depth == 0 => {
                    branches.push(Vec::new());
                    continue;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            branches.last_mut().expect("there always is one").push(c);
        }
        panic!("unclosed brace");
    }

    fn pattern() -> impl Strategy<Value = String> {
        let piece = r"a|b|\*|\?|\[!a\]|\[a-b\]|/|\\\*";
        let leaf = proptest::collection::vec(
            proptest::string::string_regex(piece).expect("a regex"),
            0..5,
        )
        .prop_map(|pieces| pieces.concat());
        leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::vec(inner, 1..4)
                .prop_map(|parts| format!("{}{{{}}}", parts[0], parts.join(",")))
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(pattern in pattern(), texts in proptest::collection::vec("[ab/*]{0,6}", 1..8)) {
            let Ok(glob) = Glob::new(&pattern) else { return Ok(()) };
            let plain: Vec<char> = pattern.chars().collect();
            for text in texts {
                let expected = naive(&plain, &text.chars().collect::<Vec<_>>());
                prop_assert_eq!(glob.matches(&text), expected, "{} on {}", pattern, text);
            }
        }

        #[test]
        fn compiling_never_panics(pattern in any::<String>(), hostile in r"[a\[\]{},!*\\-]{0,24}", text in any::<String>()) {
            for pattern in [pattern, hostile] {
                if let Ok(glob) = Glob::new(&pattern) {
                    let _ = glob.matches(&text);
                    prop_assert!(!Glob::is_literal(&pattern) || glob.matches(&pattern));
                }
            }
        }
    }
}
