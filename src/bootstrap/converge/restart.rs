//! Restarting what runs already, such that nothing is lost by it: servers keep their quorum,
//! services their instances.
//!
//! What is to be restarted is decided by `plan`, what is well by `gates`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::batches::{self, batches};
use super::many::{each, each_result};
use super::phase_gate::{gate, gate_result, told, with_gates};
use super::work::{Work, start};
use super::{checks, lost};
use crate::bootstrap::context::Context;
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::progress::PhaseProgress;
use crate::bootstrap::topology::{Node, Phase, Product};

/// Key in `tokens.json` of the token that Nomad shows to Consul.
const NOMAD_AT_CONSUL: &str = "nomad_consul";
/// How long a daemon may take to end on SIGINT.
pub(in crate::bootstrap) const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How long a living cluster may take to show that it is whole before the first of its servers is
/// restarted.
const BEFORE_RESTART: Duration = Duration::from_secs(30);
/// How long a product may have no leader before that is believed: elections take 3 s, on busy
/// machines more.
const LEADERLESS: Duration = Duration::from_secs(15);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

async fn restart(context: &Context, work: &Work, product: Product) -> Result<()> {
    let (host, name) = (context.host(&work.node), &work.node.name);
    let daemon = work.part.daemon(product).with_context(|| name.clone())?;
    context.changes.note(name, "restarted");
    host.stop(daemon, STOP_PATIENCE).await.of_node(name)?;
    let tokens = context.state.tokens()?;
    let change = context.state.acl_change()?.is_some() || !tokens.retired.is_empty();
    if let (Product::Consul, true, Some(token)) = (product, change, &tokens.nomad_consul) {
        // What Nomad registered before it had this token would be lost to the catalog.
        let old = tokens
            .retired
            .iter()
            .filter(|old| old.name == NOMAD_AT_CONSUL);
        let old: Vec<_> = old.map(|old| &old.token.secret).collect();
        host.give_service_token(&token.secret, &old)
            .await
            .of_node(name)?;
    }
    start(context, work, product).await
}

/// Servers one after the other behind a gate, the leader last; all at once where nothing leads and
/// nothing can be lost. Clients in batches.
///
/// `started`: servers that were started just now, which have to be back before the next one goes.
pub(super) async fn restart_all(
    context: &mut Context,
    phase: Phase,
    works: Vec<&Work>,
    started: &[Node],
    bar: &PhaseProgress,
) -> Result<()> {
    let product = phase.product();
    let serving = works.iter().any(|work| work.node.is_server(product));
    let leader = if serving {
        leader(context, product).await?
    } else {
        None
    };
    if serving && leader.is_none() {
        context.progress.note(&format!(
            "{product} has no leader: all its servers are restarted at once"
        ));
        return restart_at_once(context, works, product).await;
    }
    let mut works = restart_sick(context, phase, works, bar).await?;
    for node in started.iter().filter(|_| serving) {
        rolling_gate(context, product, node).await?;
    }
    if !serving {
        return restart_clients(context, phase, works, bar).await;
    }
    works.sort_by_key(|work| Some(&work.node.name) == leader.as_ref());
    for (done, work) in works.iter().enumerate() {
        bar.set(done, &format!("restarting {}", work.node.name));
        let passing = checks::passing(context, &work.node).await?;
        restart(context, work, product).await?;
        rolling_gate(context, product, &work.node).await?;
        if product == Product::Consul {
            checks::wait_passing(context, &work.node, &passing).await?;
        }
    }
    Ok(())
}

/// How many nodes of a phase of clients are restarted at a time.
pub(super) fn batch_size(context: &Context, phase: Phase) -> usize {
    batches::size(context.of_phase(phase).len(), context.batch)
}

/// Batch after batch, a gate after each. Those that drop out are left out of the run.
async fn restart_clients(
    context: &mut Context,
    phase: Phase,
    works: Vec<&Work>,
    bar: &PhaseProgress,
) -> Result<()> {
    let product = phase.product();
    let size = batch_size(context, phase);
    let services = match (product, size) {
        (Product::Consul, 2..) => {
            let looks = works
                .iter()
                .map(|work| checks::services(context, &work.node));
            each(context, looks).await?
        }
        // Tasks outlive Nomad's agent, and stay in the catalog.
        _ => vec![BTreeSet::new(); works.len()],
    };
    let mut done = 0;
    for batch in batches(works.into_iter().zip(services).collect(), size) {
        let names: Vec<&str> = batch.iter().map(|work| &*work.node.name).collect();
        bar.set(done, &format!("restarting {}", names.join(", ")));
        done += batch.len();
        let restarts = batch.iter().map(|work| async {
            let passing = checks::passing(context, &work.node).await?;
            restart(context, work, product).await?;
            Ok(passing)
        });
        let results = each_result(context, restarts).await;
        let mut back = Vec::new();
        for (work, result) in batch.iter().zip(results) {
            match result {
                Ok(passing) => back.push((*work, passing)),
                Err(error) => match lost::why(context, &work.node, &error) {
                    Some(why) => context.leave_out(&work.node.name, &why),
                    None => return Err(error),
                },
            }
        }
        if back.is_empty() {
            continue;
        }
        gate(context, phase, bar, context.limit).await?;
        if product == Product::Consul {
            let waits = back
                .iter()
                .map(|(work, passing)| checks::wait_passing(context, &work.node, passing));
            each(context, waits).await?;
        }
    }
    Ok(())
}

/// The leader. One silence proves nothing: it may be an election, or a machine that is busy.
async fn leader(context: &Context, product: Product) -> Result<Option<String>> {
    let view = context.cluster_view()?;
    let deadline = Instant::now() + LEADERLESS;
    loop {
        let found = view.leader(product).await;
        if found.is_some() || Instant::now() > deadline {
            return Ok(found.map(|node| node.name.clone()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn restart_at_once(context: &Context, works: Vec<&Work>, product: Product) -> Result<()> {
    each(
        context,
        works
            .into_iter()
            .map(|work| restart(context, work, product)),
    )
    .await
    .map(drop)
}

/// Holds the gate before the first restart. Where it stays shut because of nodes that are to be
/// restarted, and no quorum hangs on them, these go first, for the restart may be what heals them:
/// a Nomad client with an expired certificate is not ready until then. Those that are left, to be
/// restarted one by one.
async fn restart_sick<'w>(
    context: &mut Context,
    phase: Phase,
    works: Vec<&'w Work>,
    bar: &PhaseProgress,
) -> Result<Vec<&'w Work>> {
    let Err(failure) = gate_result(context, phase, bar, context.limit.min(BEFORE_RESTART)).await?
    else {
        return Ok(works);
    };
    let is_sick = |work: &&Work| {
        failure
            .reasons
            .iter()
            .any(|reason| reason.node == work.node.name)
    };
    let (sick, well): (Vec<_>, Vec<_>) = works.into_iter().partition(is_sick);
    let servers = sick
        .iter()
        .filter(|work| work.node.is_server(phase.product()))
        .count();
    let spare = context
        .cluster
        .servers(phase.product())
        .count()
        .saturating_sub(1)
        / 2;
    // Those that are away have used up some of what can be spared.
    let away = context
        .cluster
        .servers(phase.product())
        .filter(|node| context.absent.contains(&node.name))
        .count();
    if sick.len() < failure.reasons.len() || servers > spare.saturating_sub(away) {
        told(Err(failure)).context("not restarted, because not all is well")?;
    }
    bar.set(0, "restarting what is not well");
    restart_at_once(context, sick, phase.product()).await?;
    gate(context, phase, bar, context.limit).await?;
    Ok(well)
}

/// Waits until a server that was started, or started anew, has caught up and votes.
pub(in crate::bootstrap) async fn rolling_gate(
    context: &Context,
    product: Product,
    node: &Node,
) -> Result<()> {
    let absent = &context.absent;
    let waited = with_gates(context, absent, &|_, _| {}, context.limit, async |gates| {
        gates.rolling(product, node).await
    });
    told(waited.await?)
}
