//! The framing guard: no panic, and one verdict however the bytes are cut.
#![no_main]

use lb::proxy::http::strict::{Guard, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (bytes, width) = input;
    let limits = Limits { head_bytes_max: 1024, fields_max: 16, h2_preface: false };
    let whole = Guard::new(limits).feed(&bytes);
    let mut guard = Guard::new(limits);
    let cut = bytes.chunks(usize::from(width).max(1)).try_for_each(|piece| guard.feed(piece));
    assert_eq!(whole, cut);
});
