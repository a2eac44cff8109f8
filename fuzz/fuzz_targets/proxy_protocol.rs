//! [`lb_fuzz::targets::proxy_protocol`] under libFuzzer: `scripts/fuzz proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_fuzz::targets::proxy_protocol::run(input));
