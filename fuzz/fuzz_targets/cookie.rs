//! [`lb_fuzz::targets::cookie`] under libFuzzer: `scripts/fuzz cookie`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::cookie::run(input));
