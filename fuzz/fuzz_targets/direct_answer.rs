//! [`lb_fuzz::targets::direct_answer`] under libFuzzer: `scripts/fuzz direct_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::direct_answer::run(input));
