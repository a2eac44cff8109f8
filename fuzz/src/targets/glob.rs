//! Globs: neither compiling nor matching panics or takes long, and a pattern without special
//! characters matches itself.

use lb::catalog::glob::Glob;

use super::pair;

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"*.example.com\nwww.example.com",
    b"{a,b*}.[a-z]?.**\nb.x.y.z",
    b"/static/**/*.{js,css}\n/static/a/b/c.js",
    b"a*a*a*a*a*a*a*a*a*b\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    b"[!x]\\*\n\xc3\xa4*",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    "*", "**", "?", "[a-z]", "[!a]", "{a,b}", "{", "}", "[", "]", "\\", ",", "-", "a*", "\n", "ä",
];

/// A pattern, a line break, a text.
pub fn run(input: &[u8]) {
    let (pattern, text) = pair(input);
    let (Ok(pattern), Ok(text)) = (std::str::from_utf8(pattern), std::str::from_utf8(text)) else {
        return;
    };
    if let Ok(glob) = Glob::new(pattern) {
        let matches = glob.matches(text);
        assert!(
            !matches
                || (text.starts_with(glob.literal_prefix())
                    && text.ends_with(glob.literal_suffix()))
        );
        assert!(!Glob::is_literal(pattern) || matches == (pattern == text));
    }
}
