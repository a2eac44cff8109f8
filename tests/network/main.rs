//! What happens on the wire, with the whole binary: HTTP/2, gRPC, TLS, TCP, and the life of the
//! process.
//!
//! One test binary of several files: linking it is most of what a test binary costs.
#![allow(
    unreachable_pub,
    reason = "its files share things through `pub`; there is no outside"
)]
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

#[path = "../support/mod.rs"]
mod support;

mod acme;
mod certificates;
mod client_certificates;
mod connection_log;
mod dynamic;
mod exhausted;
mod grpc;
mod h2;
mod jwt;
mod lifecycle;
mod matchers;
mod mesh;
mod panics;
mod passthrough;
mod policies;
mod readme;
mod registration;
mod reload;
mod resting;
mod rights;
mod scrape;
mod seeing;
mod server_name;
mod sharing;
mod slow;
mod startup;
mod stuck;
mod support_works;
mod tcp;
mod tls;
mod wire;
