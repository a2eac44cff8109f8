//! `lb bootstrap env`: the exports for `consul` and `nomad`; beside them the files for the browser
//! and for `lb run`.

use anyhow::Result;

use super::invocation::{Invocation, no_cluster};
use super::terminal::{print, say};
use crate::bootstrap::context::access::{self, Access};
use crate::bootstrap::context::applied;
use crate::bootstrap::state::State;
use crate::bootstrap::topology::Scope;

/// Prints the exports, and writes what is missing or old of `env`, `client.pfx` and `lb.toml`.
///
/// # Errors
/// When there is no such cluster.
pub(super) fn run(invocation: &Invocation, json: bool) -> Result<u8> {
    let dir = &invocation.described.cluster.state;
    let Some(state) = State::open_read_only(dir)? else {
        anyhow::bail!(no_cluster(dir))
    };
    let Some(applied) = state.cluster()? else {
        anyhow::bail!(no_cluster(dir))
    };
    let cluster = &applied::cluster(invocation.described.cluster.clone(), &applied);
    let scope = if applied.consul_only {
        Scope::ConsulOnly
    } else {
        invocation.described.scope
    };
    let access = Access::new(cluster, scope, &state)?;
    match json {
        true => print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&access.json())?
        ))?,
        false => print(&access.shell())?,
    }
    drop(state);
    // `up` has written the files; a run that holds the state at this moment writes them itself.
    match State::open(dir) {
        Ok(Some(mut state)) => {
            for path in access::write_all(&mut state, cluster, scope)? {
                say(&format!("# wrote {}", path.display()));
            }
        }
        Ok(None) => {}
        Err(error) => say(&format!("# files not looked at: {error:#}")),
    }
    Ok(0)
}
