//! [`lb_fuzz::targets::h1_stream`] under libFuzzer: `scripts/fuzz h1_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::h1_stream::run(input));
