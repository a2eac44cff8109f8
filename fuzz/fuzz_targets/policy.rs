//! [`lb_fuzz::targets::policy`] under libFuzzer: `scripts/fuzz policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::policy::run(input));
