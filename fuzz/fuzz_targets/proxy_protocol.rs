//! The PROXY parser: no panic, a verdict within its bound, and a header no longer than the bytes at hand.
#![no_main]

use lb::proxy::proxy_protocol::{HEADER_BYTES_MAX, Received, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Received::NeedMore) => assert!(bytes.len() < HEADER_BYTES_MAX),
        Ok(Received::Header { len, .. }) => assert!(len <= bytes.len()),
        _ => {}
    }
});
