//! From `cluster.toml`, an inventory and flags to a `Cluster`, with every mistake at once.
//!
//! ```text
//! cluster.toml ─▶ keys (as declared) ┐
//! inventory ─▶ roles ────────────────┼─▶ build ─▶ Cluster, or ConfigErrors
//! flags (Request) ───────────────────┘     └─ nodes, names, binaries
//! ```
//! The engine that reads `lb.toml` reads `cluster.toml`, too: `keys` declares what stands in it.
//! All of it is pure but `locate`, which reads files and what the process inherited, and the
//! look-up of programs.

mod binaries;
mod build;
mod build_context;
mod extra;
mod inventory;
mod keys;
mod locate;
mod names;
mod nodes;
mod request;
mod written;

pub use binaries::no_nomad;
pub use locate::describe;
pub use request::{Described, Request};

#[cfg(test)]
mod tests;
