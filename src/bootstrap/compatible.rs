//! What of a living cluster cannot be changed by describing it otherwise. Pure.

use anyhow::{Result, bail};

use super::state::{Applied, AppliedRole};
use super::topology::Cluster;
use super::world::World;

/// Holds the description against what was applied.
///
/// # Errors
/// Everything that cannot be changed so, and how it can.
pub(super) fn check(world: &World) -> Result<()> {
    let Some(applied) = world.state.cluster()? else { return Ok(()) };
    let problems = problems(&applied, &world.cluster);
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{} is not the cluster in {}:\n  {}", world.source, world.state.dir().display(), problems.join("\n  "))
}

fn problems(applied: &Applied, cluster: &Cluster) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, before, now) in [
        ("datacenter", &applied.datacenter, &cluster.datacenter),
        ("region", &applied.region, &cluster.region),
        ("domain", &applied.domain, &cluster.domain),
    ] {
        if before != now {
            problems.push(format!("{what} was {before:?} and cannot become {now:?}: certificates and data carry it"));
        }
    }
    if applied.acl != cluster.acl {
        let (before, now) = if applied.acl { ("on", "off") } else { ("off", "on") };
        problems.push(format!(
            "ACLs were {before} and cannot be switched {now} without an interruption: keep acl = {}",
            applied.acl
        ));
    }
    for before in &applied.nodes {
        match cluster.nodes.iter().find(|node| node.name == before.name) {
            None => problems.push(format!(
                "{} is not described any more: put it back (nodes are not removed by leaving them out)",
                before.name
            )),
            Some(node) if AppliedRole::from(node.role) != before.role => {
                problems.push(format!("{} had another role: give the new one another name", node.name));
            }
            Some(node) if node.address != before.address => problems.push(format!(
                "{} was {} and is now {}: run `lb bootstrap replace-node {}`",
                node.name, before.address, node.address, node.name
            )),
            Some(_) => {}
        }
    }
    problems
}
