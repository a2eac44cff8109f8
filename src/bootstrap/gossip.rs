//! Another gossip key for a living cluster: install it everywhere, use it, remove the old one.
use std::time::Duration;

use super::reach::Reach;
use super::secrets::Secret;
use super::topology::{Cluster, Product};

/// Steps of a change, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// All know the new key.
    Install,
    /// All encrypt with it.
    Use,
    /// None knows the old one.
    Remove,
}

/// Goes from the old key to the new one, from wherever an earlier run stopped; told each step once it is done.
///
/// # Errors
/// When a member has failed (it would come back with the old key only), or a step is not done everywhere in time.
pub async fn rotate(
    cluster: &Cluster,
    reach: &Reach,
    product: Product,
    old: &Secret,
    new: &Secret,
    deadline: Duration,
    done: &(dyn Fn(Step) + Send + Sync),
) -> anyhow::Result<()> {
    let _ = (cluster, reach, product, old, new, deadline, done);
    anyhow::bail!("not yet")
}
