//! [`lb_fuzz::targets::glob`] under libFuzzer: `scripts/fuzz glob`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::glob::run(input));
