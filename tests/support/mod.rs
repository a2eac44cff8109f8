//! What integration tests share. Each test binary uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary compiles all of it and uses some"
)]
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

pub mod certs;
pub mod client;
pub mod cluster;
pub mod consul;
pub mod drill;
pub mod fake_consul;
pub mod lb;
pub mod loopback;
pub mod nomad;
pub mod nomad_alone;
pub mod operator;
pub mod pebble;
pub mod process;
pub mod promtool;
pub mod release_server;
pub mod sshd;
pub mod systemd_machine;
pub mod turn;
pub mod upstream;
pub mod vault;
pub mod wait;
pub mod web;
