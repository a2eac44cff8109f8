//! `lb bootstrap` over ssh on machines that a real systemd runs. What needs tools or rights that are
//! missing is skipped, loudly.
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

mod drift;
mod life;
mod machine;
mod refused;
mod site;
mod trouble;
