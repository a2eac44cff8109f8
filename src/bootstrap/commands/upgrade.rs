//! `lb bootstrap upgrade`: other versions of Consul and Nomad, one node at a time. A walk of `up`,
//! with the versions looked at first.

use anyhow::Result;

use super::invocation::{Invocation, ended};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::{self, survey};
use crate::bootstrap::plural::counted;
use crate::bootstrap::render::Version;
use crate::bootstrap::topology::Product;

/// Upgrades.
///
/// # Errors
/// When it would be a step back, or too far a step; when a node does not come back well.
pub(super) async fn run(invocation: &Invocation) -> Result<u8> {
    super::up::need_nomad(invocation)?;
    let mut context = invocation.open_for_upgrade()?;
    compatible::check(&context)?;
    let mut changes = 0;
    for (product, new) in [
        (Product::Consul, Some(context.versions.consul)),
        (Product::Nomad, context.versions.nomad),
    ] {
        let old = context
            .applied
            .versions
            .get(product.name())
            .and_then(|text| Version::parse(text).ok());
        if let (Some(old), Some(new)) = (old, new) {
            changes += usize::from(old != new);
            context.progress.note(&match old == new {
                true => format!("{product} stays {old}"),
                false => format!("{product} {old} becomes {new}"),
            });
        }
    }
    context.make_keys(&invocation.passphrase)?;
    survey::run(&mut context, true, &[]).await?;
    let plans = converge::converge(&mut context).await?;
    finish(&mut context)?;
    context.progress.note(&match (plans.is_empty(), changes) {
        (true, _) => "nothing to change".to_owned(),
        (false, 0) => format!(
            "{} changed, versions stay",
            counted(super::up::changed_nodes(&plans), "node")
        ),
        (false, _) => "upgraded, one node at a time".to_owned(),
    });
    Ok(ended(&context))
}

fn finish(context: &mut Context) -> Result<()> {
    context.save_applied()?;
    context.write_access()?;
    Ok(())
}
