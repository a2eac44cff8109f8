//! [`lb_fuzz::targets::h1_response`] under libFuzzer: `scripts/fuzz h1_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::h1_response::run(input));
