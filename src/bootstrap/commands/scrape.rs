//! `lb bootstrap scrape`: the configuration with which Prometheus scrapes the cluster.

use anyhow::{Result, bail};

use super::invocation::{Invocation, no_cluster};
use super::terminal::{print, say};
use crate::bootstrap::context::{applied, scrape};
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::state::State;
use crate::bootstrap::topology::Scope;

/// Prints it, and writes what is missing or old of the files that it names.
///
/// # Errors
/// When there is no such cluster, or it tells no metrics.
pub(super) fn run(invocation: &Invocation) -> Result<u8> {
    let dir = &invocation.described.cluster.state;
    let Some(state) = State::open_read_only(dir)? else {
        bail!(no_cluster(dir))
    };
    let Some(applied) = state.cluster()? else {
        bail!(no_cluster(dir))
    };
    let cluster = &applied::cluster(invocation.described.cluster.clone(), &applied);
    if !cluster.telemetry {
        bail!(UsageError(
            "telemetry = false: the agents tell Prometheus nothing; take the line away and run `lb bootstrap up`"
                .to_owned()
        ));
    }
    let scope = if applied.consul_only {
        Scope::ConsulOnly
    } else {
        invocation.described.scope
    };
    let has_token = scrape::consul_token(cluster, &state.tokens()?).is_some();
    if cluster.acl && !has_token {
        say(
            "lb: Consul's agents answer only with a token, and none was made yet: run `lb bootstrap up`",
        );
    }
    let folder = scrape::folder(&state);
    print(&scrape::document(cluster, scope, &folder, has_token))?;
    drop(state);
    // A run that holds the state at this moment writes them itself.
    match State::open(dir) {
        Ok(Some(mut state)) => {
            for path in scrape::write(&mut state, cluster, scope)? {
                say(&format!("# wrote {}", path.display()));
            }
        }
        Ok(None) => {}
        Err(error) => say(&format!("# files not looked at: {error:#}")),
    }
    Ok(0)
}
