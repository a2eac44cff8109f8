//! [`lb_fuzz::targets::h1_request`] under libFuzzer: `scripts/fuzz h1_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::h1_request::run(input));
