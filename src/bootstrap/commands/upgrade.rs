//! `lb bootstrap upgrade`: other versions of Consul and Nomad, one node at a time. A walk of `up`,
//! with the versions looked at first.

use anyhow::Result;

use super::invocation::Asked;
use crate::bootstrap::context::{World, compatible};
use crate::bootstrap::converge::{self, preflight};
use crate::bootstrap::plural::counted;
use crate::bootstrap::render::Version;
use crate::bootstrap::topology::Product;

/// Upgrades.
///
/// # Errors
/// When it would be a step back, or too far a step; when a node does not come back well.
pub(super) async fn run(asked: &Asked) -> Result<u8> {
    super::up::need_nomad(asked)?;
    let mut world = asked.world_to_upgrade()?;
    compatible::check(&world)?;
    let mut changes = 0;
    for (product, new) in [
        (Product::Consul, Some(world.versions.consul)),
        (Product::Nomad, world.versions.nomad),
    ] {
        let old = world
            .applied
            .versions
            .get(product.name())
            .and_then(|text| Version::parse(text).ok());
        if let (Some(old), Some(new)) = (old, new) {
            changes += usize::from(old != new);
            world.progress.note(&match old == new {
                true => format!("{product} stays {old}"),
                false => format!("{product} {old} becomes {new}"),
            });
        }
    }
    world.make_keys(&asked.passphrase)?;
    preflight::run(&world, true).await?;
    let plans = converge::converge(&mut world).await?;
    finish(&mut world)?;
    world.progress.note(&match (plans.is_empty(), changes) {
        (true, _) => "nothing to change".to_owned(),
        (false, 0) => format!(
            "{} changed, versions stay",
            counted(super::up::changed_nodes(&plans), "node")
        ),
        (false, _) => "upgraded, one node at a time".to_owned(),
    });
    Ok(0)
}

fn finish(world: &mut World) -> Result<()> {
    world.save_applied()?;
    world.write_access()?;
    Ok(())
}
