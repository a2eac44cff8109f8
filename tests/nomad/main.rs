//! Real Nomad. The whole cluster, three Consul servers, three Nomad servers and three Nomad clients,
//! as a user makes it by the binary and as a driver then uses it: jobs, updates and drains under
//! load, machines that die, certificates, keys, programs and nodes that change. Nothing of that may
//! fail one request. `deployments` has one agent, and applications that die at once;
//! `native` has one without Consul.
//!
//! Skipped, loudly, where `nomad` (on PATH or in NOMAD_BIN) is missing.
#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

#[path = "../support/mod.rs"]
mod support;

mod away;
mod backup;
mod cluster;
mod credentials;
mod deployments;
mod jobs;
mod native;
mod scrape;
mod secured;
mod used;
