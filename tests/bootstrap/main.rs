//! `lb bootstrap`: as a user runs it on this machine with a real Consul (what comes up, what a
//! second run does, what a run leaves that was killed, what rotations cost the traffic, what is said
//! when something is wrong), the same over ssh, and its parts by themselves (`api`, `host`).
//!
//! Each test has a cluster of its own and makes as much of it as the order allows. Those of one kind
//! run side by side (`support::turn`).
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]
#![allow(
    unreachable_pub,
    reason = "items of the modules below are for each other"
)]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod away;
mod foreground;
mod host;
mod killed;
mod lifecycle;
mod mistakes;
mod rotation;
mod ssh;
mod systemd;
mod tls;
