//! Where something stands in a TOML text, and what the parser says about it.

use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, Location};

/// Most syntax errors reported: later ones usually follow from the first.
const SYNTAX_ERRORS_MAX: usize = 10;

/// The line of a byte offset.
pub(crate) fn location(path: &Arc<Path>, text: &str, offset: usize) -> Location {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    Location::File(Arc::clone(path), line)
}

/// Adds the parser's errors, each with its line.
pub(crate) fn note(
    errors: &[toml::de::Error],
    path: &Arc<Path>,
    text: &str,
    mistakes: &mut Vec<ConfigError>,
) {
    let noted = errors.iter().take(SYNTAX_ERRORS_MAX);
    mistakes.extend(noted.map(|error| ConfigError {
        key: String::new(),
        value: None,
        place: location(path, text, error.span().map_or(0, |span| span.start)),
        problem: error.message().replace('\n', ", "),
        advice: String::new(),
    }));
}
