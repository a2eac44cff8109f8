//! [`lb_fuzz::targets::command`] under libFuzzer: `scripts/fuzz command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::command::run(input));
