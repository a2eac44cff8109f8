//! The template of a prefix: what Fabio's documentation promises of Go's templates for
//! `metrics.prefix`.

use std::fmt;
use std::str::FromStr;

/// A prefix with places that are filled in on the machine it is used on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { field: Field, clean: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Hostname,
    Exec,
}

/// Why a text is not such a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("has a {{{{ without }}}}")]
    Open,
    /// Something between them that is not known.
    #[error("holds {{{{{0}}}}}, which is not known")]
    Unknown(String),
}

/// What may stand in a template, for messages.
pub(crate) const TEMPLATE_ADVICE: &str = "write text and {{.Hostname}}, {{.Exec}}, {{clean .Hostname}} or {{clean .Exec}} (clean: lower case, . and : to _)";

impl FromStr for PrefixTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        // Go's markers `{{-` and `-}}` take away the blanks outside.
        let mut trim = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
            let before = if trim { before.trim_start() } else { before };
            let left = inside
                .strip_prefix('-')
                .filter(|rest| rest.starts_with(char::is_whitespace));
            let before = if left.is_some() {
                before.trim_end()
            } else {
                before
            };
            let action = left.unwrap_or(inside);
            let right = action
                .strip_suffix('-')
                .filter(|rest| rest.ends_with(char::is_whitespace));
            trim = right.is_some();
            push_text(&mut pieces, before);
            let action = right.unwrap_or(action);
            pieces.push(
                field(action).ok_or_else(|| TemplateError::Unknown(action.trim().to_owned()))?,
            );
            rest = after;
        }
        push_text(&mut pieces, if trim { rest.trim_start() } else { rest });
        Ok(Self(pieces))
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn field(action: &str) -> Option<Piece> {
    let spaced = action.replace('|', " | ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (name, clean) = match words.as_slice() {
        [name] => (*name, false),
        ["clean", name] | [name, "|", "clean"] => (*name, true),
        _ => return None,
    };
    let field = match name {
        ".Hostname" => Field::Hostname,
        ".Exec" => Field::Exec,
        _ => return None,
    };
    Some(Piece::Field { field, clean })
}

impl PrefixTemplate {
    /// Filled in.
    #[must_use]
    pub fn expand(&self, hostname: &str, exec: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field {
                field,
                clean: cleans,
            } => {
                let value = if *field == Field::Hostname {
                    hostname
                } else {
                    exec
                };
                if *cleans {
                    clean(value)
                } else {
                    value.to_owned()
                }
            }
        });
        pieces.collect()
    }

    /// The same with the program's name filled in.
    #[must_use]
    pub fn with_exec(&self, exec: &str) -> Self {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Field {
                field: Field::Exec,
                clean: true,
            } => Piece::Text(clean(exec)),
            Piece::Field {
                field: Field::Exec,
                clean: false,
            } => Piece::Text(exec.to_owned()),
            other => other.clone(),
        });
        Self(pieces.collect())
    }
}

impl fmt::Display for PrefixTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Field { field, clean } => {
                let name = if *field == Field::Hostname {
                    ".Hostname"
                } else {
                    ".Exec"
                };
                write!(f, "{{{{{}{name}}}}}", if *clean { "clean " } else { "" })
            }
        })
    }
}

/// A part of a name: lower case, without the dots and colons that part names; `_` for nothing.
#[must_use]
pub(crate) fn clean(text: &str) -> String {
    if text.is_empty() {
        "_".to_owned()
    } else {
        text.replace(['.', ':'], "_").to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_templates_are_filled_in() {
        for (template, expected) in [
            (
                "{{clean .Hostname}}.{{clean .Exec}}",
                "test-001_something_com.fabio",
            ),
            ("{{.Hostname}}", "Test-001.something.com"),
            ("a.{{ .Exec | clean }}.b", "a.fabio.b"),
            ("a {{- clean .Exec -}} b", "afabiob"),
            ("plain", "plain"),
            ("", ""),
            ("{}", "{}"),
        ] {
            let parsed: PrefixTemplate = template.parse().unwrap();
            assert_eq!(
                parsed
                    .expand("Test-001.something.com", "Fabio")
                    .replace("Fabio", "fabio"),
                expected
            );
            let again: PrefixTemplate = parsed.to_string().parse().unwrap();
            assert_eq!(
                again.expand("h", "e"),
                parsed.expand("h", "e"),
                "{template}"
            );
            assert_eq!(
                parsed.with_exec("E.x").expand("h", "-"),
                parsed.expand("h", "E.x"),
                "{template}"
            );
        }
    }

    #[test]
    fn anything_else_is_named() {
        for (template, part) in [
            ("{{.Host}}", "{{.Host}}"),
            ("{{upper .Exec}}", "{{upper .Exec}}"),
            ("{{clean .Hostname", "{{ without }}"),
            ("{{if .Exec}}x{{end}}", "{{if .Exec}}"),
            ("{{}}", "{{}}"),
        ] {
            let error = template.parse::<PrefixTemplate>().unwrap_err().to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn cleaned_parts_have_no_dots() {
        assert_eq!(["", "A.b:C", "/x.y"].map(clean), ["_", "a_b_c", "/x_y"]);
    }
}
