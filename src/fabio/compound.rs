//! Values that hold values: `addr;key=value;…,addr;…`.
//!
//! Groups are separated by commas, their parts by semicolons; the first part may lack its key. A
//! part may be quoted as a whole, with double quotes and backslash escapes, when it holds one of `,
//! ; =`.

use std::iter::Peekable;
use std::str::Chars;

/// Why a compound value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompoundError {
    /// A quote without its end.
    #[error("a quote is not closed")]
    Quote,
    /// Something else after a backslash than Go knows, or single quotes around more than one
    /// character.
    #[error("a quoted part has a wrong escape: write it as in Go, or leave the backslash out")]
    Escape,
    /// A part after the first that is not `key=value`.
    #[error("{0:?} is not followed by = and a value")]
    NoValue(String),
    /// A separator where a key belongs.
    #[error("a {0:?} stands where a name belongs")]
    Misplaced(char),
    /// Two texts without a separator.
    #[error("{0:?} follows a quoted part without a separator")]
    Joined(String),
}

/// One group: keys and values, in their order. The key of a first part without one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group(Vec<(String, String)>);

impl Group {
    /// The value of a key: the last one.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Keys and values, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Reads a compound value. Empty groups and parts are passed over.
///
/// # Errors
/// The first thing that makes no sense.
pub(crate) fn parse(text: &str) -> Result<Vec<Group>, CompoundError> {
    let mut groups = Vec::new();
    let mut group = Group::default();
    let mut lexer = Lexer {
        chars: text.chars().peekable(),
    };
    loop {
        let first = group.0.is_empty();
        match lexer.next()? {
            None => break,
            Some(Token::Mark(',')) if first => {}
            Some(Token::Mark(',')) => groups.push(std::mem::take(&mut group)),
            Some(Token::Mark(';')) => {}
            Some(Token::Mark(mark)) => return Err(CompoundError::Misplaced(mark)),
            Some(Token::Text(name)) => {
                let name = name.trim().to_owned();
                if lexer.chars.next_if_eq(&'=').is_some() {
                    group.0.push((name, lexer.value()?));
                } else if !matches!(lexer.chars.peek(), None | Some(',' | ';')) {
                    return Err(CompoundError::Joined(lexer.chars.collect()));
                } else if first && !name.is_empty() {
                    group.0.push((String::new(), name));
                } else if !name.is_empty() {
                    return Err(CompoundError::NoValue(name));
                }
                if lexer.chars.peek() == Some(&',') && !group.0.is_empty() {
                    groups.push(std::mem::take(&mut group));
                }
            }
        }
    }
    groups.extend((!group.0.is_empty()).then_some(group));
    Ok(groups)
}

enum Token {
    Text(String),
    Mark(char),
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Option<Token>, CompoundError> {
        let Some(&first) = self.chars.peek() else {
            return Ok(None);
        };
        Ok(Some(match first {
            ',' | ';' | '=' => {
                self.chars.next();
                Token::Mark(first)
            }
            '"' | '\'' => {
                self.chars.next();
                Token::Text(self.quoted(first)?)
            }
            _ => {
                let mut text = String::new();
                while let Some(c) = self.chars.next_if(|c| !matches!(c, ',' | ';' | '=')) {
                    text.push(c);
                }
                Token::Text(text)
            }
        }))
    }

    /// Everything up to the next separator; an `=` inside is part of it.
    fn value(&mut self) -> Result<String, CompoundError> {
        let mut value = String::new();
        while !matches!(self.chars.peek(), None | Some(',' | ';')) {
            match self.next()? {
                Some(Token::Text(text)) => value.push_str(&text),
                Some(Token::Mark(mark)) => value.push(mark),
                None => break,
            }
        }
        Ok(value)
    }

    /// The rest of a quoted text, with the escapes of Go's string literals.
    fn quoted(&mut self, quote: char) -> Result<String, CompoundError> {
        let mut text = String::new();
        loop {
            match self.chars.next().ok_or(CompoundError::Quote)? {
                c if c == quote => break,
                '\\' => text.push(self.escape(quote)?),
                c => text.push(c),
            }
        }
        // In Go these are characters, not strings.
        if quote == '\'' && text.chars().count() != 1 {
            return Err(CompoundError::Escape);
        }
        Ok(text)
    }

    fn escape(&mut self, quote: char) -> Result<char, CompoundError> {
        let digits = match self.chars.next().ok_or(CompoundError::Quote)? {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'a' => return Ok('\u{7}'),
            'b' => return Ok('\u{8}'),
            'f' => return Ok('\u{c}'),
            'v' => return Ok('\u{b}'),
            '\\' => return Ok('\\'),
            c if c == quote => return Ok(c),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(CompoundError::Escape),
        };
        let mut code: u32 = 0;
        for _ in 0..digits {
            let digit = self
                .chars
                .next()
                .and_then(|c| c.to_digit(16))
                .ok_or(CompoundError::Escape)?;
            code = code
                .checked_mul(16)
                .map(|code| code + digit)
                .ok_or(CompoundError::Escape)?;
        }
        char::from_u32(code).ok_or(CompoundError::Escape)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    #[test]
    fn groups_and_parts() {
        let cases: &[(&str, &[Pairs])] = &[
            ("", &[]),
            (":9999", &[&[("", ":9999")]]),
            (" a , b ", &[&[("", "a")], &[("", "b")]]),
            (
                "a;b=c;d=e,f=g",
                &[&[("", "a"), ("b", "c"), ("d", "e")], &[("f", "g")]],
            ),
            (
                "[::1]:80;proto=tcp",
                &[&[("", "[::1]:80"), ("proto", "tcp")]],
            ),
            ("a;b=c=d", &[&[("", "a"), ("b", "c=d")]]),
            ("a;b=", &[&[("", "a"), ("b", "")]]),
            ("a;b= c ", &[&[("", "a"), ("b", " c ")]]),
            (",,a;;b=c;,;", &[&[("", "a"), ("b", "c")]]),
            (
                "a;b=\"c,d;e=\\\"f\\\"\\\\\"",
                &[&[("", "a"), ("b", "c,d;e=\"f\"\\")]],
            ),
            ("\"a,b\";c=d", &[&[("", "a,b"), ("c", "d")]]),
            ("a;b=\"\\u00e9\\x41\"", &[&[("", "a"), ("b", "\u{e9}A")]]),
            ("cs=a;hdr=Name: v", &[&[("cs", "a"), ("hdr", "Name: v")]]),
            ("a;b=x\"y", &[&[("", "a"), ("b", "x\"y")]]),
        ];
        for (text, expected) in cases {
            let group = |parts: &Pairs| {
                Group(
                    parts
                        .iter()
                        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                        .collect(),
                )
            };
            assert_eq!(
                parse(text),
                Ok(expected.iter().map(group).collect()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases = [
            ("a;b", CompoundError::NoValue("b".to_owned())),
            ("a;b,c", CompoundError::NoValue("b".to_owned())),
            ("=a", CompoundError::Misplaced('=')),
            ("a;=b", CompoundError::Misplaced('=')),
            ("a;b=\"c", CompoundError::Quote),
            ("a;b=\"c\\", CompoundError::Quote),
            ("a;b=\"\\q\"", CompoundError::Escape),
            ("a;b='cd'", CompoundError::Escape),
            ("\"a\"b", CompoundError::Joined("b".to_owned())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Err(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[a-z,;=\"'\\\\ \u{e9}]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_parts_come_back(value in any::<String>()) {
            let quoted = format!("a;b=\"{}\";c=d", value.replace('\\', "\\\\").replace('"', "\\\""));
            let groups = parse(&quoted).unwrap();
            prop_assert_eq!(groups[0].get("b"), Some(value.as_str()));
            prop_assert_eq!(groups[0].get("c"), Some("d"));
        }
    }
}
