//! What of a living cluster cannot be changed by describing it otherwise. Pure.

use anyhow::{Result, bail};

use super::render::Version;
use super::state::{Applied, AppliedRole};
use super::topology::{Cluster, Product};
use super::world::World;

/// Holds the description against what was applied.
///
/// # Errors
/// Everything that cannot be changed so, and how it can.
pub(super) fn check(world: &World) -> Result<()> {
    let Some(applied) = world.state.cluster()? else { return Ok(()) };
    let mut problems = problems(&applied, &world.cluster);
    for (product, new) in [(Product::Consul, Some(world.versions.consul)), (Product::Nomad, world.versions.nomad)] {
        let old = applied.versions.get(product.name()).and_then(|text| Version::parse(text).ok());
        if let (Some(old), Some(new)) = (old, new) {
            problems.extend(step(product, old, new));
        }
    }
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

/// Why a version cannot follow another. Neither product goes back, and neither promises to go over more than one major
/// version at once. <https://developer.hashicorp.com/consul/docs/upgrade>,
/// <https://developer.hashicorp.com/nomad/docs/upgrade>
fn step(product: Product, old: Version, new: Version) -> Option<String> {
    if new < old {
        let why = format!("its data may be of a form that {new} does not read");
        return Some(format!("{product} {old} cannot go back to {new}: {why}; name {old} or a later one"));
    }
    let too_far = new.major > old.major + 1;
    too_far.then(|| format!("{product} {old} cannot go to {new} at once: go by way of {}.x", old.major + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_go_forward_and_not_too_far() {
        let version = |text| Version::parse(text).unwrap();
        for (old, new, good) in [
            ("1.8.7", "1.8.7", true),
            ("1.8.7", "1.22.1", true),
            ("1.10.2", "2.0.6", true),
            ("1.9.0", "1.8.7", false),
            ("1.9.0", "3.0.0", false),
        ] {
            assert_eq!(step(Product::Consul, version(old), version(new)).is_none(), good, "{old} to {new}");
        }
    }
}
