//! Writes HCL as people write it: indented, equal signs in one column, as `nomad fmt` would have
//! it.
//!
//! Only what agents' files need: attributes, nested blocks, comments. One attribute a line, which
//! HCL 1 wants.

use std::fmt::Write as _;

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
}

impl Hcl {
    /// An empty file with the usual head.
    pub(super) fn file() -> Self {
        Self {
            out: HEAD.to_owned(),
            depth: 0,
            run: Vec::new(),
            commented: false,
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
        self.run.push((key.to_owned(), value));
        self
    }

    /// `header { … }`, set off by an empty line unless it comes first in its block or has a
    /// comment. A header that ends in `=` makes a map.
    pub(super) fn block(&mut self, header: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.flush();
        if !std::mem::take(&mut self.commented) {
            self.set_off();
        }
        self.indent();
        let _ = writeln!(self.out, "{header} {{");
        self.depth += 1;
        fill(self);
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
        self.flush();
        self.out
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
