//! Globs: neither compiling nor matching panics or takes long, and a pattern without special characters matches
//! itself. Run with `cargo +nightly fuzz run glob -- -timeout=1`.
#![no_main]

use lb::catalog::glob::Glob;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, text) = input;
    if let Ok(glob) = Glob::new(pattern) {
        let matches = glob.matches(text);
        assert!(!matches || (text.starts_with(glob.literal_prefix()) && text.ends_with(glob.literal_suffix())));
        assert!(!Glob::is_literal(pattern) || matches == (pattern == text));
    }
});
