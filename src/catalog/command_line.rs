//! The shape of one line of the route command language: words, quotes, and the order of clauses.
//!
//! What the words mean is left to `command`.

/// A line of the right shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// `route add SERVICE SRC URL [weight W] [tags "…"] [opts "…"]`.
    Add {
        service: &'a str,
        source: &'a str,
        url: &'a str,
        weight: Option<&'a str>,
        tags: &'a str,
        opts: &'a str,
    },
    /// `route del SERVICE [SRC [URL]] [tags "…"]`, or `route del tags "…"`.
    Del {
        service: Option<&'a str>,
        source: Option<&'a str>,
        url: Option<&'a str>,
        tags: &'a str,
    },
    /// `route weight SERVICE SRC weight W [tags "…"]`, or `route weight SRC weight W tags "…"`.
    Weight {
        service: Option<&'a str>,
        source: &'a str,
        weight: &'a str,
        tags: &'a str,
    },
}

const ADD: &str = r#"write route add SERVICE SRC URL [weight W] [tags "a,b"] [opts "k=v …"]"#;
const DEL: &str = r#"write route del SERVICE [SRC [URL]] or route del [SERVICE] tags "a,b""#;
const WEIGHT: &str = r#"write route weight SERVICE SRC weight W [tags "a,b"] or route weight SRC weight W tags "a,b""#;

/// Splits a trimmed line into its parts; the error is a reason in words.
pub(super) fn parse(line: &str) -> Result<Line<'_>, String> {
    let rest = strip_word(line, "route")
        .ok_or("a command begins with route add, route del or route weight")?;
    let (verb, rest) = next_word(rest);
    let (usage, words) = match verb {
        "add" => (ADD, 3),
        "del" => (DEL, 3),
        "weight" => (WEIGHT, 2),
        _ => {
            return Err(format!(
                "unknown command `{verb}`: write route add, route del or route weight"
            ));
        }
    };
    let parts = Parts::read(rest, words).map_err(|reason| format!("{reason}; {usage}"))?;
    parts.into_line(verb).ok_or_else(|| usage.to_owned())
}

/// Positional words, then clauses in any order.
#[derive(Default)]
struct Parts<'a> {
    words: Vec<&'a str>,
    weight: Option<&'a str>,
    tags: Option<&'a str>,
    opts: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Reads at most `words_max` positional words, then clauses until the end.
    fn read(mut rest: &'a str, words_max: usize) -> Result<Self, String> {
        let mut parts = Self::default();
        while !rest.is_empty() {
            let (word, after) = next_word(rest);
            let slot = match word {
                "weight" if !parts.words.is_empty() => &mut parts.weight,
                "tags" if after.starts_with('"') => &mut parts.tags,
                "opts" if after.starts_with('"') => &mut parts.opts,
                _ if parts.words.len() < words_max && parts.no_clause() => {
                    parts.words.push(word);
                    rest = after;
                    continue;
                }
                _ => return Err(format!("`{word}` is not expected here")),
            };
            if slot.is_some() {
                return Err(format!("`{word}` is given twice"));
            }
            let (value, after) = if word == "weight" {
                next_word(after)
            } else {
                quoted(after)?
            };
            *slot = Some(value);
            rest = after;
        }
        Ok(parts)
    }

    fn no_clause(&self) -> bool {
        self.weight.is_none() && self.tags.is_none() && self.opts.is_none()
    }

    fn into_line(self, verb: &str) -> Option<Line<'a>> {
        let tags = self.tags.unwrap_or("");
        match (verb, &*self.words, self.weight, self.opts) {
            ("add", &[service, source, url], weight, opts) => Some(Line::Add {
                service,
                source,
                url,
                weight,
                tags,
                opts: opts.unwrap_or(""),
            }),
            ("del", words, None, None) => {
                let (service, source, url) = (words.first(), words.get(1), words.get(2));
                // Without this, `route del` would empty the table, as would tags that hold only
                // commas.
                let selective =
                    service.is_some() || tags.split(',').any(|tag| !tag.trim().is_empty());
                selective.then_some(Line::Del {
                    service: service.copied(),
                    source: source.copied(),
                    url: url.copied(),
                    tags,
                })
            }
            ("weight", &[service, source], Some(weight), None) => Some(Line::Weight {
                service: Some(service),
                source,
                weight,
                tags,
            }),
            ("weight", &[source], Some(weight), None)
                if tags.split(',').any(|tag| !tag.trim().is_empty()) =>
            {
                Some(Line::Weight {
                    service: None,
                    source,
                    weight,
                    tags,
                })
            }
            _ => None,
        }
    }
}

/// What follows `word` and at least one blank.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = next_word(text);
    (first == word).then_some(rest)
}

/// The first word, and the rest without its leading blanks.
fn next_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// The text between the quote at the start and the next one, and what follows.
fn quoted(text: &str) -> Result<(&str, &str), String> {
    let inner = text.strip_prefix('"').unwrap_or(text);
    let (value, rest) = inner.split_once('"').ok_or("a quote is not closed")?;
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return Err(format!("text after the quote that ends `{value}`"));
    }
    Ok((value, rest.trim_start()))
}
