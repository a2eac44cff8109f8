//! What of a source file is code that the program runs: comments, literals and tests are blanked
//! out.

/// The same text with blanks for comments, for the contents of strings and characters, and for
/// every item under `#[cfg(test)]`. Lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    without_tests(&without_comments(text))
}

/// Names of modules that are declared under `#[cfg(test)]`.
pub(crate) fn test_modules(text: &str) -> Vec<String> {
    let text = without_comments(text);
    let declared = text.match_indices(TEST).filter_map(|(at, _)| {
        let rest = text[at + TEST.len()..].trim_start();
        let rest = rest.strip_prefix("pub").map_or(rest, str::trim_start);
        rest.strip_prefix("mod ").map(identifier)
    });
    declared.collect()
}

/// The identifier at the begin of a text; empty where there is none.
pub(crate) fn identifier(text: &str) -> String {
    text.chars().take_while(|c| is_of_word(*c)).collect()
}

/// Whether a character may stand in an identifier.
pub(crate) fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

const TEST: &str = "#[cfg(test)]";

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (kind, piece) in pieces(text) {
        if kind == Piece::Code {
            out.push_str(piece);
        } else {
            blank(piece, &mut out);
        }
    }
    out
}

/// What a piece of a source file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Code,
    Comment,
    /// A string with its quotes.
    Text,
    Character,
}

/// The pieces of a source file, in their order; together they are the whole text.
pub(crate) fn pieces(text: &str) -> Vec<(Piece, &str)> {
    let mut found = Vec::new();
    let (mut code_from, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let follows_word = text[code_from..at].ends_with(is_of_word);
        let (kind, length) = if rest.starts_with("//") {
            (Piece::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (Piece::Comment, block_comment(rest))
        } else if let Some(length) = (!follows_word).then(|| raw_string(rest)).flatten() {
            (Piece::Text, length)
        } else if c == '"' {
            (Piece::Text, string(rest))
        } else if let Some(length) = character(rest) {
            (Piece::Character, length)
        } else {
            at += c.len_utf8();
            continue;
        };
        if code_from < at {
            found.push((Piece::Code, &text[code_from..at]));
        }
        found.push((kind, &text[at..at + length]));
        at += length;
        code_from = at;
    }
    if code_from < at {
        found.push((Piece::Code, &text[code_from..at]));
    }
    found
}

/// Length of a comment `/* … */`, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a string without escapes (`r"…"`, `br#"…"#`), if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let body = hashes.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(hashes.len() - body.len()));
    let body = body.strip_prefix('"')?;
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

/// Length of a string with escapes.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character, if one begins here; `'a` without an end is a lifetime.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        let escaped = body.chars().nth(1)?.len_utf8();
        return body[1 + escaped..]
            .find('\'')
            .map(|at| 1 + 1 + escaped + at + 1);
    }
    body[first.len_utf8()..]
        .starts_with('\'')
        .then_some(1 + first.len_utf8() + 1)
}

fn without_tests(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TEST) {
        let (before, item) = rest.split_at(at);
        out.push_str(before);
        let (item, after) = item.split_at(item_length(item));
        blank(item, &mut out);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Length of an item with its attributes: to the `;` or the closing brace that ends it.
fn item_length(text: &str) -> usize {
    let (mut round, mut braces) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                // Braces of `use a::{b};` end no item.
                if braces == 0 && round == 0 && !text[at + 1..].starts_with(';') {
                    return at + 1;
                }
            }
            ';' if braces == 0 && round == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn blank(piece: &str, out: &mut String) {
    out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
}

#[test]
fn only_code_is_left() {
    let text = "let a = \"crate::x \\\" // y\"; // crate::z\n/* a /* b */ c */ let b = r#\"q\"q\"#;\n\
                fn f<'a>(c: &'a str) { g('\"', '\\'', 'ß'); }\n#[cfg(test)]\n#[allow(x)]\nfn only() -> [u8; 2] { {} }\n\
                #[cfg(test)]\nmod fixture;\n#[cfg(test)]\nuse a::{b};\nfn last() {}\n#[cfg(test)]\nmod tests {\n}\n";
    let words: Vec<String> = code(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(
        words.join(" "),
        "let a = ; let b = ; fn f<'a>(c: &'a str) { g( , , ); } fn last() {}"
    );
    assert_eq!(code(text).lines().count(), text.lines().count());
    assert_eq!(test_modules(text), ["fixture", "tests"]);
}
