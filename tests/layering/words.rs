//! Holds the words of docs/style.md: comments, error texts, log lines and the messages of
//! assertions speak of things as things, and in the terms of the field.

use std::fs;
use std::path::Path;

use crate::rust_files;
use crate::text::{Piece, pieces};

/// Folders without any of these words.
const CLEAN: &[&str] = &["benches", "fuzz/fuzz_targets", "src", "tests"];

/// Words, and what to write in their place.
const INSTEAD: &[(&[&str], &str)] = &[
    (
        &["who", "whom", "whoever", "whomever"],
        "a thing is not a person: `which`, `that`, `every client that …` (behind a word for people, like \
         `an operator who …`, it may stay)",
    ),
    (
        &["nobody", "somebody", "anybody", "everybody"],
        "`nothing`, `no client`, `another process`, `every target`, …",
    ),
    (
        &["ask", "asks", "asked", "asking"],
        "`request`, `send a request to`, `call`, `poll`; for what is configured, `configured`",
    ),
    (
        &["answer", "answers", "answered", "answering", "unanswered"],
        "`response`, `respond`",
    ),
];

/// Words behind which `who` may stand.
const PEOPLE: &[&str] = &[
    "author",
    "authors",
    "operator",
    "operators",
    "people",
    "person",
    "reader",
    "readers",
    "user",
    "users",
];

/// What the parentheses of a text to be held to these rules follow, and how many arguments come
/// before the text: those of an assertion are values, which may hold any word.
const HELD: &[(&str, usize)] = &[
    ("#[error", 0),
    ("trace!", 0),
    ("debug!", 0),
    ("info!", 0),
    ("warn!", 0),
    ("error!", 0),
    ("bail!", 0),
    ("anyhow!", 0),
    (".context", 0),
    (".with_context", 0),
    (".expect", 0),
    (".expect_err", 0),
    ("panic!", 0),
    ("assert!", 1),
    ("assert_eq!", 2),
    ("assert_ne!", 2),
];

#[test]
fn what_is_clean_stays_clean() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for clean in CLEAN {
        let files = rust_files(&top.join(clean));
        assert!(!files.is_empty(), "{clean}: nothing to look at");
        for file in files {
            let shown = file.strip_prefix(top).unwrap().display();
            for found in findings(&fs::read_to_string(&file).unwrap()) {
                wrong.push(format!(
                    "{shown}:{}: `{}`: write {}",
                    found.line, found.words, found.instead
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} words that docs/style.md has better ones for:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
}

#[derive(Debug, PartialEq)]
struct Finding {
    line: usize,
    words: String,
    instead: &'static str,
}

/// One word of a comment or a text.
#[derive(Debug)]
struct Word {
    line: usize,
    /// In lower case.
    text: String,
    /// Nothing but blanks and line ends are between it and the word before.
    follows: bool,
}

/// Words that are not to be used, in everything of a source file that is held to the rules.
fn findings(source: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    // The lines of a comment are read as one text.
    let mut comment = Vec::new();
    let mut held = Parentheses::default();
    let mut line = 1;
    for (kind, piece) in pieces(source) {
        match kind {
            Piece::Code => {
                held.read(piece);
                if !piece.trim().is_empty() {
                    judge(&std::mem::take(&mut comment), &mut found);
                }
            }
            Piece::Comment => words(piece, line, &mut comment),
            Piece::Text if held.is_inside() => {
                let mut text = Vec::new();
                words(piece, line, &mut text);
                judge(&text, &mut found);
            }
            Piece::Text | Piece::Character => {}
        }
        line += piece.matches('\n').count();
    }
    judge(&comment, &mut found);
    found.sort_by_key(|finding| finding.line);
    found
}

/// The open parentheses of code, brackets and braces among them.
#[derive(Debug, Default)]
struct Parentheses {
    open: Vec<Open>,
    /// The code so far, as far as it may name what a parenthesis follows.
    before: String,
}

#[derive(Debug)]
struct Open {
    /// From which argument on texts are held to the rules. None: never.
    held_from: Option<usize>,
    /// Commas so far, so the number of the argument.
    commas: usize,
}

impl Parentheses {
    fn read(&mut self, code: &str) {
        for c in code.chars() {
            match c {
                '(' => {
                    let held = HELD.iter().find(|(name, _)| self.before.ends_with(name));
                    self.open.push(Open {
                        held_from: held.map(|(_, from)| *from),
                        commas: 0,
                    });
                }
                '[' | '{' => self.open.push(Open {
                    held_from: None,
                    commas: 0,
                }),
                ')' | ']' | '}' => drop(self.open.pop()),
                ',' => {
                    if let Some(open) = self.open.last_mut() {
                        open.commas += 1;
                    }
                }
                _ => {}
            }
            if !c.is_whitespace() {
                self.before.push(c);
            }
        }
    }

    fn is_inside(&self) -> bool {
        let is_held = |open: &Open| open.held_from.is_some_and(|from| open.commas >= from);
        self.open.iter().any(is_held)
    }
}

/// Appends the words of a comment or a text. What stands between backticks or braces is code.
fn words(piece: &str, first_line: usize, out: &mut Vec<Word>) {
    let mut line = first_line;
    let mut word = String::new();
    let (mut follows, mut code_until) = (true, None);
    let mut characters = piece.chars().chain([' ']).peekable();
    while let Some(c) = characters.next() {
        if c == '\n' {
            // A code span ends with its line: an odd backtick must not hide all that follows.
            code_until = None;
            line += 1;
        }
        if let Some(end) = code_until {
            if c == end {
                code_until = None;
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            word.extend(c.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            let text = std::mem::take(&mut word);
            out.push(Word {
                line: line - usize::from(c == '\n'),
                text,
                follows,
            });
            follows = true;
        }
        match c {
            '`' | '{' => {
                code_until = Some(if c == '{' { '}' } else { c });
                follows = false;
            }
            // `\n`, or the end of a line of the source.
            '\\' => {
                if characters.next() == Some('\n') {
                    line += 1;
                }
            }
            '/' | '!' | '"' => {}
            c => follows &= c.is_whitespace(),
        }
    }
}

fn judge(words: &[Word], found: &mut Vec<Finding>) {
    for (at, word) in words.iter().enumerate() {
        let before = |count: usize| {
            let first = at.checked_sub(count)?;
            words[first + 1..=at]
                .iter()
                .all(|word| word.follows)
                .then(|| words[first].text.as_str())
        };
        let after = words.get(at + 1).filter(|next| next.follows);
        let rule = INSTEAD
            .iter()
            .find(|(forbidden, _)| forbidden.contains(&word.text.as_str()));
        if let Some((_, instead)) = rule {
            let of_people = matches!(word.text.as_str(), "who" | "whom")
                && before(1).is_some_and(|word| PEOPLE.contains(&word));
            if !of_people {
                found.push(Finding {
                    line: word.line,
                    words: word.text.clone(),
                    instead,
                });
            }
        }
        if word.text == "no"
            && let Some(verb) = before(1).filter(|verb| ["is", "are", "was", "were"].contains(verb))
            && before(2) != Some("there")
            && !after.is_some_and(|next| ["longer", "more", "other"].contains(&next.text.as_str()))
        {
            found.push(Finding {
                line: word.line,
                words: format!("{verb} no"),
                instead: "`is not a …` (`there is no …` may stay)",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::findings;

    fn found(source: &str) -> Vec<(usize, String)> {
        findings(source)
            .into_iter()
            .map(|finding| (finding.line, finding.words))
            .collect()
    }

    #[test]
    fn each_forbidden_word_is_found_wherever_it_stands() {
        let forbidden = [
            "who",
            "whom",
            "whoever",
            "whomever",
            "nobody",
            "somebody",
            "anybody",
            "everybody",
            "ask",
            "asks",
            "asked",
            "asking",
            "answer",
            "answers",
            "answered",
            "answering",
            "unanswered",
            "is no",
            "are no",
            "was no",
            "were no",
        ];
        let places = [
            "// a WORD b",
            "//! a WORD b",
            "    /// WORD",
            "let a = 1; // WORD, b",
            "/* a WORD b */",
            "#[error(\"a WORD b: {0}\")]",
            "#[error(\"{} WORD b\", .0.len())]",
            "tracing::warn!(a = f(b), \"a WORD b\");",
            "info!(\"WORD b\");",
            "f().expect(\"a WORD b\")",
            "bail!(\"{x}: a WORD b\", x = [1, 2]);",
            "f().with_context(|| format!(\"a WORD b\"))",
            "assert!(f(1, 2), \"a WORD b\");",
            "assert_eq!(f(1, 2), [3, 4], \"{} WORD b\", 1);",
        ];
        for word in forbidden {
            for place in places {
                let source = place.replace("WORD", word);
                assert_eq!(found(&source), [(1, word.to_owned())], "{source}");
                let capital = word[..1].to_uppercase() + &word[1..];
                let source = place.replace("WORD", &capital);
                assert_eq!(found(&source), [(1, word.to_owned())], "{source}");
            }
        }
    }

    #[test]
    fn words_are_found_across_lines() {
        assert_eq!(
            found("fn f() {}\n/// what is\n/// no instance, and\n/// nobody\nfn g() {}\n"),
            [(3, "is no".to_owned()), (4, "nobody".to_owned())]
        );
        assert_eq!(
            found("warn!(\n    \"what is \\\n     no instance\\nwho\"\n);\n"),
            [(3, "is no".to_owned()), (3, "who".to_owned())]
        );
    }

    #[test]
    fn what_may_stay_is_not_found() {
        for source in [
            "// whose, whole, task, basket, masked; an operator who waits, people who wait",
            "// there is no instance; There are no instances; it is no longer, are no more, is no other",
            "// is that so? no. That is it: no instance. it is, no doubt",
            "// `nobody`, [`Self::into_answer`], `ask`",
            "/// there\n/// are\n/// no instances",
            "let nobody = answer(who); let text = \"nobody asks\"; f(\"who\");",
            "warn!(\"{answer} came\", answer = who);",
            "// a\n\nfn is() {}\n\n// no",
            "let c = '\"'; // nothing\nlet who = '\\'';",
            "assert!(text.contains(\"nobody\"), \"{text}\"); assert_eq!(text, [\"who\", \"asked\"]);",
        ] {
            assert_eq!(found(source), [], "{source}");
        }
    }

    #[test]
    fn a_text_behind_the_parentheses_is_free() {
        assert_eq!(found("warn!(\"fine\"); f(\"nobody\");"), []);
        assert_eq!(
            found("warn!(a = f(\"nobody\"), \"fine\"); g(\"who\");"),
            [(1, "nobody".to_owned())]
        );
    }
}
