//! Texts of strangers, made harmless.

/// Longest text of a stranger (a check's output, an error) inside a reason, in characters.
pub const TEXT_MAX: usize = 200;

/// A stranger's text as it may stand in a log line, a terminal or a page: no control characters, no
/// characters that turn the direction of what follows, and at most `max` characters.
#[must_use]
pub fn bounded(text: &str, max: usize) -> String {
    let text = text.trim();
    let mut shown = String::with_capacity(text.len().min(max + 8));
    for (count, character) in text.chars().enumerate() {
        if count >= max {
            shown.push('…');
            break;
        }
        if is_unsafe(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Control characters, line separators, and marks that turn the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_strangers_are_bounded_and_escaped() {
        for (text, max, expected) in [
            (
                "dial tcp 127.0.0.1:1: connection refused\n",
                200,
                "dial tcp 127.0.0.1:1: connection refused",
            ),
            (
                "a\r\nWARN fake\u{1b}[2J\t",
                200,
                "a\\r\\nWARN fake\\u{1b}[2J",
            ),
            (
                "a\u{202e}b\u{2028}c\u{0}d",
                200,
                "a\\u{202e}b\\u{2028}c\\u{0}d",
            ),
            ("äöü 漢字", 200, "äöü 漢字"),
            ("abcdef", 3, "abc…"),
            ("abc", 3, "abc"),
            ("", 3, ""),
        ] {
            assert_eq!(bounded(text, max), expected, "{text:?}");
        }
    }
}
