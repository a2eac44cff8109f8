//! What of a living cluster cannot be changed by describing it otherwise. Pure.

use anyhow::{Result, bail};

use super::{Context, step};
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::render::Version;
use crate::bootstrap::state::{Applied, AppliedRole};
use crate::bootstrap::topology::{Cluster, Product};

/// Holds the description against what was applied.
///
/// # Errors
/// Everything that cannot be changed so, and how it can.
pub(in crate::bootstrap) fn check(context: &Context) -> Result<()> {
    check_with(context, |_, _| Vec::new(), None)
}

/// The same for commands that go through all nodes without bringing new ones up. The address of the
/// node that is being replaced may be another.
///
/// # Errors
/// As [`check`], and nodes that were never brought up.
pub(in crate::bootstrap) fn check_known(context: &Context, replaced: Option<&str>) -> Result<()> {
    check_with(context, newcomers, replaced)
}

fn check_with(
    context: &Context,
    more: fn(&Applied, &Cluster) -> Vec<String>,
    replaced: Option<&str>,
) -> Result<()> {
    let Some(applied) = context.state.cluster()? else {
        return Ok(());
    };
    let mut problems = problems(&applied, &context.cluster, replaced);
    problems.extend(more(&applied, &context.cluster));
    for (product, new) in [
        (Product::Consul, Some(context.versions.consul)),
        (Product::Nomad, context.versions.nomad),
    ] {
        let old = applied
            .versions
            .get(product.name())
            .and_then(|text| Version::parse(text).ok());
        if let (Some(old), Some(new)) = (old, new) {
            problems.extend(step::refusal(product, old, new, context.force));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let (source, dir) = (&context.source, context.state.dir().display());
    bail!(UsageError(format!(
        "{source} is not the cluster in {dir}:\n  {}",
        problems.join("\n  ")
    )))
}

fn newcomers(applied: &Applied, cluster: &Cluster) -> Vec<String> {
    let is_new = |name: &str| applied.nodes.iter().all(|before| before.name != name);
    let new = cluster.nodes.iter().filter(|node| is_new(&node.name));
    new.map(|node| {
        format!(
            "{} was never brought up: run `lb bootstrap up` first",
            node.name
        )
    })
    .collect()
}

fn problems(applied: &Applied, cluster: &Cluster, replaced: Option<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, before, now) in [
        ("datacenter", &applied.datacenter, &cluster.datacenter),
        ("region", &applied.region, &cluster.region),
        ("domain", &applied.domain, &cluster.domain),
    ] {
        if before != now {
            problems.push(format!(
                "{what} was {before:?} and cannot become {now:?}: certificates and data carry it"
            ));
        }
    }
    if applied.acl != cluster.acl {
        let (before, now) = if applied.acl {
            ("on", "off")
        } else {
            ("off", "on")
        };
        problems.push(format!(
            "ACLs are {before} and cannot be switched {now} so: {}",
            if applied.acl {
                "write acl = true"
            } else {
                "run `lb bootstrap acl enable` without --acl and acl = true"
            }
        ));
    }
    for before in &applied.nodes {
        match cluster.nodes.iter().find(|node| node.name == before.name) {
            // It stays a part of the cluster until it is removed.
            None => {}
            Some(node) if AppliedRole::from(node.role) != before.role => {
                problems.push(format!(
                    "{} had another role: give the new one another name",
                    node.name
                ));
            }
            Some(node) if node.address != before.address && replaced != Some(&node.name) => {
                problems.push(format!(
                    "{} was {} and is now {}: run `lb bootstrap replace-node {}`",
                    node.name, before.address, node.address, node.name
                ))
            }
            Some(_) => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::bootstrap::security::pki::tests::cluster as example;
    use crate::bootstrap::topology::{Node, Scope};

    #[test]
    fn what_cannot_be_described_away_is_told() {
        let before = example("/state".into());
        let applied = Applied::of(&before, Scope::All, None, SystemTime::UNIX_EPOCH);
        assert!(
            problems(&applied, &before, None).is_empty() && newcomers(&applied, &before).is_empty()
        );
        let mut now = before.clone();
        now.acl = !before.acl;
        now.datacenter = "dc9".to_owned();
        now.nodes[0].address = [10, 9, 9, 9].into();
        now.nodes.push(Node {
            name: "newcomer".to_owned(),
            ..now.nodes[1].clone()
        });
        now.nodes.remove(1);
        let told = problems(&applied, &now, None).join("\n");
        for word in ["dc9", "ACLs are", "replace-node"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(
            !problems(&applied, &now, Some(&before.nodes[0].name))
                .join("\n")
                .contains("replace-node")
        );
        assert_eq!(
            newcomers(&applied, &now),
            ["newcomer was never brought up: run `lb bootstrap up` first"]
        );
    }
}
