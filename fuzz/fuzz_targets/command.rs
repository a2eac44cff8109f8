//! Route commands: parsing never panics, each line gives commands or an error, and printed commands stay what they
//! are. Run with `cargo +nightly fuzz run command`.
#![no_main]

use lb::catalog::command::parse_commands;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for command in parse_commands(text).0 {
        let printed = command.to_string();
        let (again, _) = parse_commands(&printed);
        assert_eq!(again.len(), 1, "{printed}");
        assert_eq!(again[0].to_string(), printed);
    }
});
