//! What integration tests share. Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub, reason = "every test binary compiles all of it and uses some")]

pub mod certs;
pub mod client;
pub mod consul;
pub mod fake_consul;
pub mod lb;
pub mod upstream;
