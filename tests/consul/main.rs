//! `lb` and real Consul agents: the source by itself, and the whole binary under load.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod drills;
mod fleet;
mod watch;
