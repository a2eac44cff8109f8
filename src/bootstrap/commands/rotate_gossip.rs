//! `lb bootstrap rotate-gossip`: new gossip keys, while everything runs.

use anyhow::{Context as _, Result};

use super::invocation::{Invocation, ended};
use crate::bootstrap::cluster::gossip::{self, Step};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge;
use crate::bootstrap::state::{GossipKeys, GossipStep, NextKey};
use crate::bootstrap::topology::Product;

/// Rotates, product by product.
///
/// # Errors
/// When a member has failed, or does not take the key; what was done stays, and the next run goes
/// on from there.
pub(super) async fn run(invocation: &Invocation) -> Result<u8> {
    let wanted_scope = invocation.described.scope;
    let mut context = invocation.open_existing()?;
    context.as_applied();
    compatible::check_known(&context, None)?;
    context.read_keys()?;
    context.dial().await;
    let is_wanted = |product: &Product| {
        let is_meant = wanted_scope.includes(*product) && context.scope.includes(*product);
        is_meant && context.cluster.servers(*product).next().is_some()
    };
    let products: Vec<Product> = Product::ALL.into_iter().filter(is_wanted).collect();
    // Before a new key is noted: a change that cannot begin is not under way.
    for &product in &products {
        gossip::check(&context.cluster_view()?, product).await?;
    }
    for product in products {
        rotate(&mut context, product).await?;
    }
    // Only the files change, for nodes that are yet to come: agents keep their keys with their
    // data.
    converge::converge(&mut context).await?;
    context.progress.note("gossip keys are rotated");
    Ok(ended(&context))
}

async fn rotate(context: &mut Context, product: Product) -> Result<()> {
    let bar = context.progress.phase(&format!("{product} gossip key"), 3);
    let mut keys = context
        .state
        .gossip()?
        .context("the state folder has no gossip keys: run `lb bootstrap up` first")?;
    let current = keys.of(product).current.clone();
    let next = match &keys.of(product).next {
        Some(next) => next.key.clone(),
        None => {
            // Kept before any agent gets it: with the key lost between two steps the cluster could
            // not be joined.
            let key = GossipKeys::key()?;
            keys.of_mut(product).next = Some(NextKey {
                key: key.clone(),
                step: GossipStep::Install,
            });
            context.state.save_gossip(&keys)?;
            key
        }
    };
    let done = |step| bar.set(step as usize + 1, word(step));
    gossip::rotate(
        &context.cluster_view()?,
        product,
        &current,
        &next,
        context.limit,
        &done,
    )
    .await
    .with_context(|| {
        format!("{product}: the change is not over; the same command goes on from here")
    })?;
    let away = context.cluster.nodes.iter().filter(|node| {
        let is_member = product == Product::Consul || node.is_server(product);
        is_member && context.absent.contains(&node.name)
    });
    let keys_of = keys.of_mut(product);
    keys_of.missed.extend(away.map(|node| node.name.clone()));
    (keys_of.current, keys_of.next) = (next, None);
    context.state.save_gossip(&keys)?;
    context.read_shared()?;
    bar.done("all members use the new one, the old one is gone");
    Ok(())
}

fn word(step: Step) -> &'static str {
    match step {
        Step::Install => "all know the new one",
        Step::Use => "all use the new one",
        Step::Remove => "the old one is gone",
    }
}
