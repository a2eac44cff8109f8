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

pub mod access;
pub mod acl;
pub mod api;
pub mod causes;
pub mod file;
pub mod gates;
pub mod gossip;
pub mod host;
pub mod inventory;
pub mod members;
pub mod passphrase;
pub mod peers;
pub mod pki;
pub mod plan;
pub mod progress;
pub mod reach;
pub mod render;
pub mod secrets;
pub mod spec;
pub mod state;
pub mod topology;

mod checks;
mod commands;
mod compatible;
mod converge;
mod exit;
mod hold;
mod keys;
mod many;
mod phase_gate;
mod preflight;
mod programs;
mod recall;
mod restart;
mod sample;
mod tokens;
mod words;
mod work;
mod world;

pub use commands::run;
