//! The whole cluster, three Consul servers, three Nomad servers and three Nomad clients, as a user
//! makes it by the binary and as a driver then uses it: jobs, updates and drains under load,
//! machines that die, certificates, keys, programs and nodes that change. Nothing of that may fail
//! one request.
//!
//! Skipped, loudly, where `nomad` (on PATH or in NOMAD_BIN) is missing.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

mod support;

#[path = "bootstrap_nomad/cluster.rs"]
mod cluster;
#[path = "bootstrap_nomad/credentials.rs"]
mod credentials;
#[path = "bootstrap_nomad/jobs.rs"]
mod jobs;
#[path = "bootstrap_nomad/secured.rs"]
mod secured;
#[path = "bootstrap_nomad/used.rs"]
mod used;
