//! What benchmarks against a real agent share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every benchmark compiles all of it and uses some"
)]

pub mod api;
pub mod report;
