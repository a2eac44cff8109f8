//! Writes HCL as people write it: indented, equal signs in one column, as `nomad fmt` would have
//! it.
//!
//! Only what agents' files need: attributes, nested blocks, comments. One attribute a line, which
//! HCL 1 wants.

use std::fmt::Write as _;

use serde_json::Value;

use crate::bootstrap::topology::ExtraTable;

/// First line of every file.
pub(super) const HEAD: &str = "# written by lb bootstrap; changes are overwritten\n";

/// Text under construction.
#[derive(Debug)]
pub(super) struct Hcl {
    out: String,
    depth: usize,
    /// Attributes since the last block or gap, to be aligned with each other.
    run: Vec<(String, String)>,
    /// The last line is a comment, which belongs to what follows.
    commented: bool,
    /// What goes before the attributes of each open block, and what is added to it at its end; the
    /// file's first.
    extra: Vec<ExtraTable>,
}

/// Blocks of Nomad whose keys are labels.
const LABELLED: [&str; 3] = ["plugin", "host_volume", "host_network"];

impl Hcl {
    /// An empty file with the usual head.
    pub(super) fn file() -> Self {
        Self::with_extra(ExtraTable::new())
    }

    /// The same, with this merged into it.
    pub(super) fn with_extra(extra: ExtraTable) -> Self {
        Self {
            out: HEAD.to_owned(),
            depth: 0,
            run: Vec::new(),
            commented: false,
            extra: vec![extra],
        }
    }

    /// `key = "value"`.
    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, quoted(value))
    }

    /// `key = true`.
    pub(super) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, value.to_string())
    }

    /// `key = 3`.
    pub(super) fn number(&mut self, key: &str, value: impl Into<i64>) -> &mut Self {
        self.raw(key, value.into().to_string())
    }

    /// `key = ["a", "b"]`.
    pub(super) fn list(&mut self, key: &str, values: &[String]) -> &mut Self {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.raw(key, format!("[{}]", values.join(", ")))
    }

    fn raw(&mut self, key: &str, value: String) -> &mut Self {
        self.commented = false;
        let own = self
            .extra
            .last_mut()
            .and_then(|extra| extra.remove(bare(key)));
        let value = own.map_or(value, |own| literal(&own));
        self.run.push((key.to_owned(), value));
        self
    }

    /// `header { … }`, set off by an empty line unless it comes first in its block or has a
    /// comment. A header that ends in `=` makes a map.
    pub(super) fn block(&mut self, header: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let path: Vec<&str> = header.trim_end_matches(" =").split(' ').map(bare).collect();
        let extra = self.extra.last_mut().and_then(|extra| take(extra, &path));
        self.block_with(header, extra.unwrap_or_default(), fill)
    }

    fn block_with(
        &mut self,
        header: &str,
        extra: ExtraTable,
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.flush();
        if !std::mem::take(&mut self.commented) {
            self.set_off();
        }
        self.indent();
        let _ = writeln!(self.out, "{header} {{");
        self.depth += 1;
        self.extra.push(extra);
        fill(self);
        self.rest();
        self.extra.pop();
        self.flush();
        self.depth -= 1;
        self.indent();
        self.out.push_str("}\n");
        self
    }

    /// A comment of one line, set off from what is above.
    pub(super) fn comment(&mut self, text: &str) -> &mut Self {
        self.flush();
        self.set_off();
        self.indent();
        let _ = writeln!(self.out, "# {text}");
        self.commented = true;
        self
    }

    /// An empty line: what follows is aligned anew.
    pub(super) fn gap(&mut self) -> &mut Self {
        self.flush();
        self.out.push('\n');
        self
    }

    /// The text.
    pub(super) fn finish(mut self) -> String {
        self.rest();
        self.flush();
        self.out
    }

    /// What of the open block's extra has no place yet.
    fn rest(&mut self) {
        let extra = self
            .extra
            .last_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        let (blocks, attributes): (Vec<_>, Vec<_>) =
            extra.into_iter().partition(|(_, value)| value.is_object());
        if !attributes.is_empty() && self.run.is_empty() && self.out.ends_with("}\n") {
            self.gap();
        }
        for (key, value) in attributes {
            self.raw(&name(&key), literal(&value));
        }
        for (key, value) in blocks {
            let Value::Object(table) = value else {
                continue;
            };
            // What does not fit is written as it is, so that the agent tells.
            let fits = table.values().all(Value::is_object);
            if !(fits && self.depth <= 1 && LABELLED.contains(&key.as_str())) {
                self.block_with(&name(&key), table, |_| {});
                continue;
            }
            for (label, inner) in table {
                let header = format!("{key} {}", quoted(&label));
                if let Value::Object(inner) = inner {
                    self.block_with(&header, inner, |_| {});
                }
            }
        }
    }

    fn flush(&mut self) {
        let width = self
            .run
            .iter()
            .map(|(key, _)| key.chars().count())
            .max()
            .unwrap_or(0);
        for (key, value) in std::mem::take(&mut self.run) {
            self.indent();
            let _ = writeln!(self.out, "{key:width$} = {value}");
        }
    }

    fn set_off(&mut self) {
        if !self.out.ends_with("{\n") {
            self.out.push('\n');
        }
    }

    fn indent(&mut self) {
        self.out.push_str(&"  ".repeat(self.depth));
    }
}

/// A key without its quotes.
fn bare(key: &str) -> &str {
    key.trim_matches('"')
}

/// A key, in quotes where it needs them.
fn name(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_plain = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(plain);
    if is_plain {
        key.to_owned()
    } else {
        quoted(key)
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(table) => {
            let items = table
                .iter()
                .map(|(key, value)| format!("{} = {}", name(key), literal(value)));
            format!("{{ {} }}", items.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Takes the table at this path out, and what is empty after that.
fn take(table: &mut ExtraTable, path: &[&str]) -> Option<ExtraTable> {
    let (first, rest) = path.split_first()?;
    let Value::Object(inner) = table.get_mut(*first)? else {
        return None;
    };
    let found = match rest {
        [] => std::mem::take(inner),
        rest => take(inner, rest)?,
    };
    if inner.is_empty() {
        table.remove(*first);
    }
    Some(found)
}

/// A string as HCL quotes it. The agents read HCL 1, which leaves `${` alone; HCL 2 readers see it
/// escaped alike only when there is none, and there is none in names, addresses and sane paths.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_well() {
        let mut hcl = Hcl::file();
        hcl.text("name", "a")
            .flag("enabled", true)
            .number("port", -1);
        hcl.block("server", |hcl| {
            hcl.block("join", |hcl| {
                hcl.list("retry_join", &["a".into(), "b".into()]);
            });
        });
        let expected = "name    = \"a\"\nenabled = true\nport    = -1\n\nserver {\n  join {\n    retry_join = \
                        [\"a\", \"b\"]\n  }\n}\n";
        assert_eq!(hcl.finish(), format!("{HEAD}{expected}"));
    }

    #[test]
    fn extra_goes_before_what_is_written_and_nothing_of_it_is_lost() {
        for (extra, expected) in [
            ("{}", "a = 1\n\nb {\n  c = \"d\"\n}\n"),
            (
                r#"{ "a": "x", "z": [1, true, { "k": "v" }] }"#,
                "a = \"x\"\n\nb {\n  c = \"d\"\n}\n\nz = [1, true, { k = \"v\" }]\n",
            ),
            (
                r#"{ "b": { "c": false, "e": { "f.g": 1.5 } } }"#,
                "a = 1\n\nb {\n  c = false\n\n  e {\n    \"f.g\" = 1.5\n  }\n}\n",
            ),
            (
                r#"{ "plugin": { "x y": {}, "z": { "k": 1 } } }"#,
                "a = 1\n\nb {\n  c = \"d\"\n}\n\nplugin \"x y\" {\n}\n\nplugin \"z\" {\n  k = 1\n}\n",
            ),
            // The agent has to tell what is wrong with these.
            (
                r#"{ "b": 3, "plugin": { "z": true } }"#,
                "a = 1\n\nb {\n  c = \"d\"\n}\n\nb = 3\n\nplugin {\n  z = true\n}\n",
            ),
        ] {
            let mut hcl = Hcl::with_extra(serde_json::from_str(extra).unwrap());
            hcl.number("a", 1).block("b", |hcl| {
                hcl.text("c", "d");
            });
            assert_eq!(hcl.finish(), format!("{HEAD}{expected}"), "{extra}");
        }
    }

    #[test]
    fn strings_come_back() {
        for text in [
            "",
            "plain",
            "with \"quotes\" and \\ and \n\t\r",
            "ä ü 你",
            "\u{1}\u{7f}",
            "a=b}{][",
        ] {
            let body: hcl_edit::structure::Body =
                format!("a = {}\n", quoted(text)).parse().unwrap();
            let value = body
                .get_attribute("a")
                .unwrap()
                .value
                .as_str()
                .map(str::to_owned);
            assert_eq!(value.as_deref(), Some(text));
        }
    }
}
