//! All that has to be known before a run changes anything: whether the nodes can be worked on, and
//! what those hold up that do not respond.

use anyhow::Result;

use super::look::look;
use super::work::{Work, start};
use super::{dead_servers, install, lost, preflight};
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::plan::DaemonAction;
use crate::bootstrap::topology::{Phase, Product};

/// Looks at all nodes, and leaves those out that do not respond. `restarts`: products whose servers
/// the command restarts in any case.
///
/// # Errors
/// Everything that is in the way; nothing was changed then.
pub(in crate::bootstrap) async fn run(
    context: &mut Context,
    known: bool,
    restarts: &[Product],
) -> Result<()> {
    preflight::run(context, known).await?;
    if known && context.cluster.is_local() {
        for &product in restarts {
            start_servers(context, product).await?;
        }
    }
    for phase in [Phase::ConsulServers, Phase::NomadServers] {
        let product = phase.product();
        let is_dead = |name: &String| context.left_out.contains_key(name);
        let any_dead = context
            .cluster
            .servers(product)
            .any(|node| is_dead(&node.name));
        if !any_dead || !context.phases().contains(&phase) {
            continue;
        }
        let looked = look(context, phase).await?;
        for (name, why) in &looked.silent {
            context.leave_out(name, why);
        }
        let restarts = restarts.contains(&product);
        dead_servers::check(context, product, &looked.works, restarts)?;
    }
    Ok(())
}

/// Starts the servers of a product that are down while others run, as the walk would: on this machine
/// nothing else tells whether one is dead.
async fn start_servers(context: &mut Context, product: Product) -> Result<()> {
    let phase = match product {
        Product::Consul => Phase::ConsulServers,
        Product::Nomad => Phase::NomadServers,
    };
    let mut works = look(context, phase).await?.works;
    let is_down = |work: &Work| work.plan.daemon(product) == Some(DaemonAction::Start);
    if works.iter().all(is_down) {
        return Ok(());
    }
    works.retain(is_down);
    let mut results = Vec::new();
    for work in &mut works {
        let started = match install(context, work).await {
            Ok(_) => start(context, work, product).await,
            Err(error) => Err(error),
        };
        results.push((work.node.clone(), started));
    }
    lost::sort_out(context, &mut works, results).map(drop)
}
