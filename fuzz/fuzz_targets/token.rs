//! [`lb_fuzz::targets::token`] under libFuzzer: `scripts/fuzz token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::token::run(input));
