//! `lb bootstrap`: a Consul and Nomad cluster from nothing, and its care afterwards.
//!
//! ```text
//!   cluster.toml ─▶ topology ─┐                        ┌─▶ host ─▶ sh, or ssh ─▶ the nodes
//!                             ├─▶ render ─▶ spec ─▶ plan
//!   state (CA, keys, tokens) ─┘                ▲       └─▶ gates ─▶ api ─▶ HTTPS of the nodes
//!                                              └── what `host` observed
//! ```
//!
//! What a node shall have is computed (`topology`, `render`), what it has is observed (`host`), and
//! only the difference is carried out (`plan`), one server at a time once the cluster lives, with a
//! gate after each step (`gates`). So the first run, the second, a resumed one, a rotation and an
//! upgrade are the same walk with another starting point.

pub mod cluster;
pub mod description;
pub mod nodes;
pub mod progress;
pub mod render;
pub mod security;
pub mod state;
pub mod topology;

mod commands;
mod context;
mod converge;
mod exit;
mod plural;

pub use commands::run;
