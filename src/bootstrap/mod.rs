//! `lb bootstrap`: a Consul and Nomad cluster from nothing, and its care afterwards.
//!
//! ```text
//!   cluster.toml ─▶ description ─┐                       ┌─▶ nodes ─▶ sh, or ssh ─▶ the nodes
//!                                ├─▶ render ─▶ spec ─▶ plan
//!   state (CA, keys, tokens) ────┘               ▲       └─▶ cluster ─▶ HTTPS of the agents
//!                                                └── what `nodes` observed
//! ```
//!
//! What a node shall have is computed (`description`, `render`), what it has is observed (`nodes`),
//! and only the difference is carried out (`converge`), one server at a time once the cluster lives,
//! with a gate after each step (`cluster`). So the first run, the second, a resumed one, a rotation
//! and an upgrade are the same walk with another starting point. Each of the `commands` opens a
//! `context`, which holds all of this together.

pub mod backup;
pub mod cluster;
pub mod description;
pub mod nodes;
pub mod progress;
pub mod render;
pub mod security;
pub mod state;
pub mod topology;

mod changes;
mod commands;
mod context;
mod converge;
mod exit;
mod of_node;
mod plural;

pub use commands::run;
