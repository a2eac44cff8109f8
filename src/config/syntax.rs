//! Where something stands in a text, and what the parser of TOML says about it.

use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, Location};

/// Most syntax errors reported: later ones usually follow from the first.
const SYNTAX_ERRORS_MAX: usize = 10;

/// The lines of a file. Looked through once, so that a file of many values costs no more than its
/// length.
pub(crate) struct Lines {
    path: Arc<Path>,
    /// Offset of each line end, in bytes.
    ends: Vec<usize>,
}

impl Lines {
    /// Of the text that is the content of the file.
    pub(crate) fn of(path: Arc<Path>, text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { path, ends }
    }

    /// The place of a byte offset.
    pub(crate) fn location(&self, offset: usize) -> Location {
        let line = 1 + self.ends.partition_point(|end| *end < offset);
        Location::File(Arc::clone(&self.path), line)
    }
}

/// Adds the parser's errors, each with its line.
pub(crate) fn note(errors: &[toml::de::Error], lines: &Lines, mistakes: &mut Vec<ConfigError>) {
    let noted = errors.iter().take(SYNTAX_ERRORS_MAX);
    mistakes.extend(noted.map(|error| {
        let place = lines.location(error.span().map_or(0, |span| span.start));
        ConfigError::new("", place, error.message().replace('\n', ", "), "")
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_the_line_they_are_in() {
        let lines = Lines::of(Path::new("a").into(), "ab\n\nc");
        let found = [0, 2, 3, 4, 5, 99].map(|offset| lines.location(offset).to_string());
        assert_eq!(found, ["a:1", "a:1", "a:2", "a:3", "a:3", "a:3"]);
    }
}
