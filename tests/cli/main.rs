//! What people and their tools are shown: the command line, and the admin listener.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

mod admin;
mod commands;
