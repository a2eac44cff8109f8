//! Java properties, as the library behind Fabio reads them.
//!
//! `key = value`, `key: value` or `key value`; `#` and `!` begin comments; a backslash before the
//! end of a line goes on with the next one, and otherwise escapes (`\n`, `\t`, `\u00e9`, `\=`).
//! `${name}` in a value stands for another key of the file, else for a variable of the environment,
//! else for nothing.

use std::cell::Cell;
use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// How deep `${…}` may go.
const DEPTH_MAX: usize = 64;
/// Longest value after expansion, in bytes: a few lines that double each other must not fill the
/// memory.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most names expanded in one file.
const STEPS_MAX: usize = 100_000;

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// A `\u` without four hexadecimal digits.
    #[error("line {0}: \\u is not followed by four hexadecimal digits")]
    Unicode(usize),
    /// A backslash at the very end.
    #[error("line {0}: the file ends in a backslash")]
    End(usize),
    /// A `${` that is not closed.
    #[error("key {0}: its value has a ${{ without a }}")]
    Unclosed(String),
    /// Values that name each other.
    #[error("key {0}: its value names itself by way of ${{{1}}}")]
    Circular(String, String),
    /// Values that name others, and so on.
    #[error(
        "key {0}: the names in its value are too many, too deep or too long (100,000, 64 levels, 1 MiB)"
    )]
    TooLarge(String),
}

/// The keys of a file, in their order, with expanded values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    entries: Vec<(String, String)>,
}

impl Properties {
    /// Reads a file's text; `env` has the values of names that are not keys of the file.
    ///
    /// # Errors
    /// What no value can be made of. A line without a value is a key with an empty one.
    pub fn parse(
        text: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, PropertiesError> {
        let written = Reader::new(text).entries()?;
        let values: HashMap<&str, &str> = written
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let lookup = Lookup {
            values: &values,
            env: &env,
            steps: Cell::new(0),
        };
        let expand = |(key, value): &(String, String)| {
            Ok((key.clone(), lookup.expand(key, value, &mut Vec::new())?))
        };
        Ok(Self {
            entries: written.iter().map(expand).collect::<Result<_, _>>()?,
        })
    }

    /// The value of a key: the last one, if it stands there more than once.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The keys, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }
}

/// One entry so that [`Properties::parse`] reads it back; only a `${` cannot be escaped.
#[must_use]
pub fn entry(key: &str, value: &str) -> String {
    format!("{} = {}\n", escaped(key, true), escaped(value, false))
}

fn escaped(text: &str, is_key: bool) -> String {
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{c}' => out.push_str("\\f"),
            '\\' => out.push_str("\\\\"),
            '#' | '!' | ':' | '=' if is_key => out.extend(['\\', c]),
            ' ' if is_key || at == 0 => out.push_str("\\ "),
            c => out.push(c),
        }
    }
    out
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        // Some editors begin a file with a byte order mark.
        Self {
            chars: text
                .strip_prefix('\u{feff}')
                .unwrap_or(text)
                .chars()
                .peekable(),
            line: 1,
        }
    }

    fn entries(mut self) -> Result<Vec<(String, String)>, PropertiesError> {
        let mut entries = Vec::new();
        while let Some(&first) = self.chars.peek() {
            match first {
                ' ' | '\t' | '\u{c}' | '\r' | '\n' => drop(self.next()),
                '#' | '!' => while self.next().is_some_and(|c| !is_end(c)) {},
                _ => {
                    let key = self.key()?;
                    self.separator();
                    entries.push((key, self.value()?));
                }
            }
        }
        Ok(entries)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next()?;
        // A line ends with \n, \r or \r\n; the last is one end.
        if next == '\n' || (next == '\r' && self.chars.peek() != Some(&'\n')) {
            self.line += 1;
        }
        Some(next)
    }

    fn blanks(&mut self) {
        while self.chars.peek().is_some_and(|c| is_blank(*c)) {
            self.next();
        }
    }

    fn key(&mut self) -> Result<String, PropertiesError> {
        let mut key = String::new();
        while let Some(&c) = self.chars.peek() {
            match c {
                ':' | '=' => break,
                c if is_blank(c) || is_end(c) => break,
                '\\' => self.escape(&mut key)?,
                c => {
                    key.push(c);
                    self.next();
                }
            }
        }
        Ok(key)
    }

    fn separator(&mut self) {
        self.blanks();
        if self.chars.peek().is_some_and(|c| matches!(c, ':' | '=')) {
            self.next();
        }
        self.blanks();
    }

    fn value(&mut self) -> Result<String, PropertiesError> {
        let mut value = String::new();
        while let Some(&c) = self.chars.peek() {
            match c {
                c if is_end(c) => break,
                '\\' => self.escape(&mut value)?,
                c => {
                    value.push(c);
                    self.next();
                }
            }
        }
        Ok(value)
    }

    /// A backslash and what it stands for.
    fn escape(&mut self, into: &mut String) -> Result<(), PropertiesError> {
        let line = self.line;
        self.next();
        match self.next().ok_or(PropertiesError::End(line))? {
            'n' => into.push('\n'),
            'r' => into.push('\r'),
            't' => into.push('\t'),
            'f' => into.push('\u{c}'),
            'u' => into.push(self.unicode()?),
            end if is_end(end) => {
                if end == '\r' && self.chars.peek() == Some(&'\n') {
                    self.next();
                }
                self.blanks();
            }
            c => into.push(c),
        }
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, PropertiesError> {
        let first = self.hexadecimal()?;
        // Characters beyond the first 65,536 are written as two halves.
        if (0xd800..0xdc00).contains(&first) {
            let mut ahead = self.chars.clone();
            if ahead.next() == Some('\\') && ahead.next() == Some('u') {
                let before = self.chars.clone();
                self.chars = ahead;
                let second = self.hexadecimal()?;
                if (0xdc00..0xe000).contains(&second) {
                    let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                self.chars = before;
            }
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hexadecimal(&mut self) -> Result<u32, PropertiesError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .chars
                .next_if(char::is_ascii_hexdigit)
                .and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or(PropertiesError::Unicode(self.line))?;
        }
        Ok(code)
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn is_end(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

struct Lookup<'a> {
    values: &'a HashMap<&'a str, &'a str>,
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Names expanded so far: empty values can double each other without ever getting long.
    steps: Cell<usize>,
}

impl Lookup<'_> {
    /// `key` is whose value it is, for messages; `above` the names that are being expanded.
    fn expand(
        &self,
        key: &str,
        value: &str,
        above: &mut Vec<String>,
    ) -> Result<String, PropertiesError> {
        let mut out = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| PropertiesError::Unclosed(key.to_owned()))?;
            if above.iter().any(|known| known == name) || name == key {
                return Err(PropertiesError::Circular(key.to_owned(), name.to_owned()));
            }
            let named = match self.values.get(name) {
                Some(value) => (*value).to_owned(),
                None => (self.env)(name).unwrap_or_default(),
            };
            above.push(name.to_owned());
            self.steps.set(self.steps.get() + 1);
            if above.len() > DEPTH_MAX || self.steps.get() > STEPS_MAX {
                return Err(PropertiesError::TooLarge(key.to_owned()));
            }
            out.push_str(before);
            out.push_str(&self.expand(key, &named, above)?);
            above.pop();
            if out.len() > VALUE_BYTES_MAX {
                return Err(PropertiesError::TooLarge(key.to_owned()));
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, PropertiesError> {
        let env = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        Properties::parse(text, env).map(|properties| properties.entries)
    }

    #[test]
    fn lines_are_javas() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("a=b", &[("a", "b")]),
            (
                "a = b\nc: d\r\ne f\rg",
                &[("a", "b"), ("c", "d"), ("e", "f"), ("g", "")],
            ),
            ("  a  =  b  ", &[("a", "b  ")]),
            ("# a = b\n! c\n  # d\n#", &[]),
            ("a = b # c", &[("a", "b # c")]),
            ("a == b", &[("a", "= b")]),
            ("a=b=c:d", &[("a", "b=c:d")]),
            ("= v", &[("", "v")]),
            ("a = b\\\n    c\\\r\n\td", &[("a", "bcd")]),
            ("a = b\\\n\nc = d", &[("a", "b"), ("c", "d")]),
            ("a\\ b\\:\\= = \\  c", &[("a b:=", "  c")]),
            ("a = \\n\\t\\r\\f\\\\\\q", &[("a", "\n\t\r\u{c}\\q")]),
            (
                "a = \\u00e9\\uD83D\\ude00\\ud83dx",
                &[("a", "\u{e9}\u{1f600}\u{fffd}x")],
            ),
            ("\u{feff}a = b", &[("a", "b")]),
            ("a = 1\na = 2", &[("a", "1"), ("a", "2")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect();
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text:?}");
        }
        assert_eq!(
            Properties::parse("a=1\na=2", |_| None).unwrap().get("a"),
            Some("2")
        );
    }

    #[test]
    fn names_are_expanded() {
        let get = |text: &str| read(text).map(|entries| entries[0].1.clone());
        assert_eq!(
            get("a = <${b}${c}>\nb = 1${c}\nc = 2"),
            Ok("<122>".to_owned())
        );
        assert_eq!(
            get("a = ${HOME}/x-${none}-{{clean .Exec}}$b"),
            Ok("/root/x--{{clean .Exec}}$b".to_owned())
        );
        let key = || "a".to_owned();
        assert_eq!(get("a = ${b"), Err(PropertiesError::Unclosed(key())));
        assert_eq!(
            get("a = ${a}"),
            Err(PropertiesError::Circular(key(), key()))
        );
        assert_eq!(
            get("a = ${b}\nb = ${a}"),
            Err(PropertiesError::Circular(key(), key()))
        );
        let doubling = |last: &str| {
            (0..40)
                .map(|at| format!("a{at}=${{a{}}}${{a{}}}\n", at + 1, at + 1))
                .collect::<String>()
                + "a40="
                + last
        };
        for last in ["", "x"] {
            assert_eq!(
                get(&doubling(last)),
                Err(PropertiesError::TooLarge("a0".to_owned()))
            );
        }
        let chain: String = (0..80)
            .map(|at| format!("a{at}=${{a{}}}\n", at + 1))
            .collect();
        assert_eq!(get(&chain), Err(PropertiesError::TooLarge("a0".to_owned())));
    }

    #[test]
    fn what_cannot_be_read_is_reported_with_its_line() {
        assert_eq!(read("a = 1\nb = \\u12g4"), Err(PropertiesError::Unicode(2)));
        assert_eq!(read("a = 1\r\n\r\nb = \\"), Err(PropertiesError::End(3)));
        assert_eq!(read("a = \\u\u{e9}"), Err(PropertiesError::Unicode(1)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~\n\r\t\\\\u{}$=:#!\u{e9}\u{1f600}]{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn what_is_written_is_read_back(
            entries in prop::collection::vec((any::<String>(), any::<String>()), 0..8)
        ) {
            prop_assume!(entries.iter().all(|(_, value)| !value.contains("${")));
            let text: String = entries.iter().map(|(key, value)| entry(key, value)).collect();
            prop_assert_eq!(read(&text), Ok(entries));
        }
    }
}
