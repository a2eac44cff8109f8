//! `lb bootstrap up`: from whatever there is to the cluster as described.

use std::fs;
use std::pin::pin;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::foreground;
use super::invocation::{Invocation, ended};
use super::{one_node, remove_node, sample};
use crate::bootstrap::context::{Context, access, compatible};
use crate::bootstrap::converge::{self, preflight, survey};
use crate::bootstrap::description;
use crate::bootstrap::exit::{DIFFERS, INTERRUPTED, UsageError};
use crate::bootstrap::nodes::plan::NodePlan;
use crate::bootstrap::plural::counted;
use crate::bootstrap::topology::{Product, Role, Scope};
use crate::cli::UpArgs;

/// Brings the cluster up.
///
/// # Errors
/// What is in the way, or the gate that did not open.
pub(super) async fn run(invocation: &Invocation, args: UpArgs) -> Result<u8> {
    need_nomad(invocation)?;
    let begun = Instant::now();
    let fresh = !invocation.described.cluster.state.exists();
    let mut context = invocation.open_for_change()?;
    let start = Start {
        known: context.state.cluster()?.is_some(),
        fresh,
        with_sample: args.with_sample,
        removes: args.yes,
    };
    compatible::check(&context)?;
    // A local cluster in the foreground belongs to this command: Ctrl-C at any time ends what it
    // has begun.
    let foreground = if context.cluster.is_local() && !args.detach {
        foreground::take(&context)?
    } else {
        None
    };
    context.applied.detached |= args.detach;
    // One for all of the time: between two a signal would be caught and lost.
    let mut stop = pin!(foreground::asked_to_stop());
    let walked = tokio::select! {
        walked = walk(&mut context, invocation, start) => walked,
        () = &mut stop => {
            if foreground.is_none() {
                context.progress.note("interrupted; the same command goes on from here");
                return Ok(INTERRUPTED);
            }
            context.progress.note("stopping what was started");
            foreground::stop_all_unless_asked_again(&mut context).await?;
            return Ok(INTERRUPTED);
        }
    };
    let (plans, sample) = walked?;
    if let Some(url) = &sample {
        context
            .progress
            .note(&format!("\nsample service behind lb: {url}"));
    }
    context.progress.note(&told(&context, &plans, begun));
    let code = ended(&context).max(tell_undescribed(&context));
    if foreground.is_none() {
        return Ok(code);
    }
    // Rotations and the like are for other commands to do meanwhile.
    context.state.release();
    context
        .progress
        .note("running in the foreground; Ctrl-C stops all nodes (--detach leaves them running)");
    foreground::until_stopped(&mut context, stop).await
}

/// Where a walk starts from.
#[derive(Clone, Copy)]
struct Start {
    /// The cluster was begun before.
    known: bool,
    /// The state folder was made just now.
    fresh: bool,
    /// `--sample` was given.
    with_sample: bool,
    /// What is no longer described may go.
    removes: bool,
}

/// All of it. Dropped at any point, it can be begun again.
async fn walk(
    context: &mut Context,
    invocation: &Invocation,
    start: Start,
) -> Result<(Vec<NodePlan>, Option<String>)> {
    context.make_keys(&invocation.passphrase)?;
    context.tell_about_ca()?;
    if let Err(problems) = survey::run(context, start.known, &[]).await {
        if start.fresh {
            // Keys that were never used would be in the way of the folder that has to be brought
            // back.
            let dir = context.state.dir();
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        return Err(problems);
    }
    // From here on there is a cluster: nothing that it shares is made a second time.
    context.save_applied()?;
    preflight::claim(context).await?;
    let plans = converge::converge(context).await?;
    if start.removes {
        remove_undescribed(context).await?;
    }
    context.write_access()?;
    // Only with `--sample`: an operator who stopped the jobs since does not want them back with
    // every `up`.
    let sample = if start.with_sample {
        Some(sample::run(context).await?)
    } else {
        None
    };
    Ok((plans, sample))
}

/// Removes what is no longer described, one node after the other, as far as the rest can do without.
async fn remove_undescribed(context: &mut Context) -> Result<()> {
    let all = context.undescribed.clone();
    for name in &all {
        let mut nodes = context.cluster.nodes.iter();
        let Some(node) = nodes.find(|node| node.name == *name).cloned() else {
            continue;
        };
        context.take_in(name);
        match remove_node::look_ahead(context, &node, false).await {
            Ok(()) => remove_node::remove(context, &node, false).await?,
            Err(why) => {
                let why = format!("{name} is not removed: {why:#}");
                context.progress.note(&why);
            }
        }
    }
    if !all.is_empty() {
        one_node::tell_others(context).await;
    }
    Ok(())
}

/// Tells which nodes are no longer described; the exit code for them.
fn tell_undescribed(context: &Context) -> u8 {
    if context.undescribed.is_empty() {
        return 0;
    }
    context.progress.note(&format!(
        "no longer described in {}, and still part of the cluster: {}\n`lb bootstrap up{} --yes` removes what is no \
         longer described; or describe it again",
        context.source,
        context.undescribed.join(", "),
        context.flags
    ));
    DIFFERS
}

/// What happened, and what can be done now.
fn told(context: &Context, plans: &[NodePlan], begun: Instant) -> String {
    let cluster = &context.cluster;
    let count = |role| {
        let nodes = cluster.of_role(role);
        nodes.filter(|node| context.is_worked_on(node)).count()
    };
    let what = match plans.is_empty() {
        true => "nothing to change".to_owned(),
        false => format!("{} changed", counted(changed_nodes(plans), "node")),
    };
    let mut text = format!(
        "\n{}: {what}; {} Consul servers, {} Nomad servers, {} Nomad clients are up ({:.1} s)\n",
        cluster.name,
        count(Role::ConsulServer),
        if context.scope == Scope::All {
            count(Role::NomadServer)
        } else {
            0
        },
        if context.scope == Scope::All {
            count(Role::NomadClient)
        } else {
            0
        },
        begun.elapsed().as_secs_f64()
    );
    let flags = &context.flags;
    text.push_str(&format!(
        "\n  eval \"$(lb bootstrap env{flags})\"   then: consul members"
    ));
    if context.scope == Scope::All {
        text.push_str(", nomad node status");
    }
    text.push_str(&format!("\n  lb bootstrap status{flags}"));
    text.push_str(&format!(
        "\n  lb run --config {}",
        access::quoted(&context.state.dir().join("lb.toml").to_string_lossy())
    ));
    for product in Product::ALL {
        let server = cluster
            .servers(product)
            .next()
            .filter(|_| context.scope.includes(product));
        if let Some(server) = server {
            text.push_str(&format!(
                "\n  https://{}/ui   ({product}; the browser needs client.pfx)",
                server.https(product)
            ));
        }
    }
    text.push('\n');
    text
}

pub(super) fn changed_nodes(plans: &[NodePlan]) -> usize {
    plans
        .iter()
        .map(|plan| &plan.node)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// Fails where the command is about Nomad and it is not there.
pub(super) fn need_nomad(invocation: &Invocation) -> Result<()> {
    if invocation.described.scope == Scope::All && invocation.needs_nomad() {
        bail!(UsageError(description::no_nomad(
            &invocation.described.cluster
        )));
    }
    Ok(())
}
