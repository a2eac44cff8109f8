//! `lb bootstrap` over ssh, as a user runs it, on machines made of namespaces. What needs tools or
//! rights that are missing is skipped, loudly.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]
#![allow(
    unreachable_pub,
    reason = "items of the modules below are for each other"
)]

mod support;

#[path = "bootstrap_ssh/away.rs"]
mod away;
#[path = "bootstrap_ssh/nine.rs"]
mod nine;
#[path = "bootstrap_ssh/obstacles.rs"]
mod obstacles;
#[path = "bootstrap_ssh/site.rs"]
mod site;
#[path = "bootstrap_ssh/three.rs"]
mod three;
