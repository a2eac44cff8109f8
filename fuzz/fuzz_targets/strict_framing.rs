//! [`lb_fuzz::targets::strict_framing`] under libFuzzer: `scripts/fuzz strict_framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::strict_framing::run(input));
