//! The HTTP/1.1 data path as a whole: the built binary between real sockets.
//!
//! One test binary for all of it, because each one costs its linking.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod abort;
mod auth;
mod between;
mod compression;
mod death;
mod decisions;
mod errors;
mod exchange_table;
mod explained;
mod failover;
mod harness;
mod hostile;
mod kept_clients;
mod one_way;
mod other_services;
mod policies;
mod protocol;
mod record;
mod refusals;
mod request_timeout;
mod routing;
mod silence;
mod slow;
mod streaming;
mod trusted_proxies;
mod ways;
