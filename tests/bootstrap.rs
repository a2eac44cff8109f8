//! `lb bootstrap` as a user runs it, on this machine, with a real Consul: what comes up, what a
//! second run does, what a run leaves that was killed, what rotations cost the traffic, and what is
//! said when something is wrong.
//!
//! Each test has a cluster of its own and makes as much of it as the order allows; they run side by
//! side.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

mod support;

#[path = "bootstrap/away.rs"]
mod away;
#[path = "bootstrap/foreground.rs"]
mod foreground;
#[path = "bootstrap/killed.rs"]
mod killed;
#[path = "bootstrap/lifecycle.rs"]
mod lifecycle;
#[path = "bootstrap/mistakes.rs"]
mod mistakes;
#[path = "bootstrap/rotation.rs"]
mod rotation;
#[path = "bootstrap/tls.rs"]
mod tls;
