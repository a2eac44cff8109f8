//! From `cluster.toml`, an inventory and flags to a `Cluster`, with every mistake at once.
//!
//! ```text
//! cluster.toml ─▶ raw (keys, lines) ─┐
//! inventory ─▶ roles ────────────────┼─▶ build ─▶ Cluster, or ConfigErrors
//! flags (Request) ───────────────────┘     └─ nodes, names, binaries
//! ```
//! All of it is pure but `locate`, which reads files and what the process inherited, and the
//! look-up of programs.

mod binaries;
mod build;
mod build_context;
mod inventory;
mod locate;
mod names;
mod nodes;
mod raw;
mod reader;
mod request;
mod written;

pub use binaries::no_nomad;
pub use locate::describe;
pub use request::{Described, Request};

#[cfg(test)]
mod tests;
