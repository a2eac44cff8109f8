//! How families and their samples are written in the text format.

use std::fmt::Write as _;

use super::names::{Family, Kind};

/// The text under way.
pub(super) struct Exposition {
    pub(super) text: String,
}

impl Exposition {
    pub(super) fn family(&mut self, family: Family) -> FamilyWriter<'_> {
        self.named(family.name, family.kind, family.help)
    }

    /// A family whose name is made at run time. No two may have the same.
    pub(super) fn named<'a>(
        &'a mut self,
        name: &'a str,
        kind: Kind,
        help: &'a str,
    ) -> FamilyWriter<'a> {
        FamilyWriter {
            text: &mut self.text,
            name,
            kind,
            help,
            begun: false,
        }
    }

    pub(super) fn one(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        self.family(family).sample(labels, value);
    }
}

/// Writes the samples of one family; the header comes with the first.
pub(super) struct FamilyWriter<'a> {
    text: &'a mut String,
    name: &'a str,
    kind: Kind,
    help: &'a str,
    begun: bool,
}

impl FamilyWriter<'_> {
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.suffixed("", labels, value);
    }

    /// The series of a histogram. `bounds` are the upper ones, in seconds; of `buckets` there is
    /// one more, and each counts what is in it alone.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        bounds: &[f64],
        buckets: &[u64],
        sum_seconds: f64,
    ) {
        let mut bucket = |le: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", le)]).collect();
            self.suffixed("_bucket", &labels, count as f64);
        };
        let mut cumulative = 0;
        for (bound, count) in bounds.iter().zip(buckets) {
            cumulative += count;
            bucket(&bound.to_string(), cumulative);
        }
        // The last bucket and the count are made from the same reads: they have to agree while
        // requests go on.
        let total = buckets.iter().sum::<u64>();
        bucket("+Inf", total);
        self.suffixed("_sum", labels, sum_seconds);
        self.suffixed("_count", labels, total as f64);
    }

    pub(super) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let Self {
            name, kind, help, ..
        } = *self;
        if !self.begun {
            self.begun = true;
            let _ = write!(
                self.text,
                "# HELP {name} {help}\n# TYPE {name} {}\n",
                kind.word()
            );
        }
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            push_escaped(self.text, value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        push_number(self.text, value);
        self.text.push('\n');
    }
}

/// Label values: backslash, quote and line feed are escaped, and nothing else may be (format
/// 0.0.4).
fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn push_number(text: &mut String, value: f64) {
    let _ = if value.is_infinite() {
        text.write_str(if value > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        write!(text, "{value}")
    };
}
