//! [`lb_fuzz::targets::config`] under libFuzzer: `scripts/fuzz config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::config::run(input));
