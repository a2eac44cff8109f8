//! [`lb_fuzz::targets::direct_request`] under libFuzzer: `scripts/fuzz direct_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::direct_request::run(input));
