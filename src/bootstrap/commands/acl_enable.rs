//! `lb bootstrap acl enable`: ACLs in a cluster that was made without them, while everything runs.
//!
//! First Consul's agents take tokens but let through what shows none, and all get theirs: Consul's
//! and Nomad's agents, the operator, lb. Only then is what shows none refused. Nomad knows no such
//! middle; from its part on its API wants a token. See docs/decisions/0019.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::invocation::Invocation;
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge;
use crate::bootstrap::description;
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::state::{AclChange, AclStep};
use crate::bootstrap::topology::{Role, Scope};

/// How long an lb may take to see its changed files and to show Consul its token. It looks each
/// second, and waits up to 5 s until they are quiet (`serve::files`).
const TAKEN_UP: Duration = Duration::from_secs(10);

/// Switches them on.
///
/// # Errors
/// When an agent does not take what it is given; what was done stays, and the next run goes on from
/// there.
pub(super) async fn run(invocation: &Invocation) -> Result<u8> {
    let mut context = invocation.open_whole()?;
    let applied = context.state.cluster()?.is_some_and(|before| before.acl);
    let under_way = context.state.acl_change()?;
    context.cluster.acl = applied;
    compatible::check_known(&context, None)?;
    if context.scope == Scope::All && context.cluster.nomad.is_none() {
        bail!(UsageError(description::no_nomad(&context.cluster)));
    }
    if applied && under_way.is_none() {
        context.progress.note("ACLs are on already");
        return Ok(0);
    }
    if under_way.is_none() {
        step(&mut context, Some(AclStep::Open))?;
    }
    context.cluster.acl = true;
    context.applied.acl = true;
    context.make_keys(&invocation.passphrase)?;
    // From here on `up` makes tokens as well, should this be cut off.
    context.save_applied()?;
    let not_over =
        "ACLs are not all on yet: what was done stays, and the same command goes on from here";
    if context.state.acl_change()?.map(|change| change.step) == Some(AclStep::Open) {
        context
            .progress
            .note("step 1 of 2: a token for each, and what shows none is let through");
        converge::converge(&mut context).await.context(not_over)?;
        context.write_access()?;
        wait_taken_up(&context).await;
        step(&mut context, Some(AclStep::Close))?;
        context.read_shared()?;
    }
    context
        .progress
        .note("step 2 of 2: what shows no token is refused");
    converge::converge(&mut context).await.context(not_over)?;
    step(&mut context, None)?;
    context.write_access()?;
    context.progress.note(
        "ACLs are on, default deny: each request to Consul or Nomad needs a token, `lb bootstrap env` has the operator's",
    );
    Ok(0)
}

fn step(context: &mut Context, step: Option<AclStep>) -> Result<()> {
    let change = step.map(|step| AclChange { step });
    context.state.save_acl_change(change)
}

/// An lb that still sent no token, or one that is taken back, would be shown an empty catalog.
pub(super) async fn wait_taken_up(context: &Context) {
    let clients = match context.scope {
        Scope::All => context.cluster.of_role(Role::NomadClient).count(),
        Scope::ConsulOnly => 0,
    };
    let bar = context.progress.phase("lb", clients);
    bar.set(0, "takes up its token");
    tokio::time::sleep(TAKEN_UP).await;
    bar.done("has its token");
}
