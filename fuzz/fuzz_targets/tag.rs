//! [`lb_fuzz::targets::tag`] under libFuzzer: `scripts/fuzz tag`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::tag::run(input));
