//! `lb bootstrap`: a Consul and Nomad cluster from nothing, and its care afterwards.
//!
//! ```text
//!   cluster.toml ─▶ topology ─┐                        ┌─▶ host ─▶ sh, or ssh ─▶ the nodes
//!                             ├─▶ render ─▶ spec ─▶ plan
//!   state (CA, keys, tokens) ─┘                ▲       └─▶ gates ─▶ api ─▶ HTTPS of the nodes
//!                                              └── what `host` observed
//! ```
//!
//! What a node shall have is computed (`topology`, `render`), what it has is observed (`host`), and only the difference
//! is carried out (`plan`), one server at a time once the cluster lives, with a gate after each step (`gates`). So the
//! first run, the second, a resumed one, a rotation and an upgrade are the same walk with another starting point.

pub mod file;
pub mod inventory;
pub mod passphrase;
pub mod secrets;
pub mod spec;
pub mod topology;

use crate::cli::BootstrapArgs;

/// Does what `lb bootstrap` was asked for; the exit code. `json`: results in that form.
///
/// # Errors
/// What could not be done, and why.
pub fn run(args: &BootstrapArgs, json: bool) -> anyhow::Result<u8> {
    let _ = (args, json);
    anyhow::bail!("lb bootstrap is not built yet")
}
