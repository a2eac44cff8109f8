//! A cluster as it was applied, for commands that look at it or end it (`status`, `down`): they are
//! about the nodes that there are, whatever the description says by now, and run neither program.
//! Pure.

use anyhow::{Result, bail};

use crate::bootstrap::description::Described;
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::render::{OLDEST_CONSUL, OLDEST_NOMAD, Version, Versions};
use crate::bootstrap::state::Applied;
use crate::bootstrap::topology::{BinarySource, Cluster, Node, Product, Role, Scope};

/// The description with everything in it that was applied, and the versions that were.
pub(super) fn as_applied(described: Described, applied: &Applied) -> (Described, Versions) {
    let mut described = described;
    described.cluster = cluster(described.cluster, applied);
    let version = |product: Product, oldest| {
        applied
            .versions
            .get(product.name())
            .and_then(|text| Version::parse(text).ok())
            .unwrap_or(oldest)
    };
    let versions = Versions {
        consul: version(Product::Consul, OLDEST_CONSUL),
        nomad: (described.scope == Scope::All).then(|| version(Product::Nomad, OLDEST_NOMAD)),
        lb: None,
        privileged: true,
    };
    (described, versions)
}

/// Adds the nodes that were applied and are no longer described: they are part of the cluster until
/// they are removed. Their names.
///
/// # Errors
/// When a node that is described has the address of one of them.
pub(super) fn keep_undescribed(cluster: &mut Cluster, applied: &Applied) -> Result<Vec<String>> {
    let is_described = |name: &str| cluster.nodes.iter().any(|node| node.name == name);
    let left: Vec<Node> = applied
        .nodes
        .iter()
        .filter(|before| !is_described(&before.name))
        .map(Node::from)
        .collect();
    for before in &left {
        if let Some(node) = cluster
            .nodes
            .iter()
            .find(|node| node.address == before.address)
        {
            bail!(UsageError(format!(
                "{} is described at {}, the address of {}, which belongs to the cluster and is no longer described: run \
                 `lb bootstrap remove-node {}` first, or give it its name back",
                node.name, node.address, before.name, before.name
            )));
        }
    }
    let names = left.iter().map(|node| node.name.clone()).collect();
    cluster.nodes.extend(left);
    cluster.nodes.sort_by_key(|node| node.role);
    Ok(names)
}

/// The cluster with what was applied of it. How machines are reached is not noted, and stays as
/// described.
pub(in crate::bootstrap) fn cluster(mut cluster: Cluster, applied: &Applied) -> Cluster {
    let described = std::mem::take(&mut cluster.nodes);
    let node = |before: &crate::bootstrap::state::AppliedNode| {
        let role = Role::from(before.role);
        let known = described
            .iter()
            .find(|node| node.name == before.name && node.role == role);
        let before = Node::from(before);
        let ssh = match known {
            Some(node) => node.ssh.clone(),
            None => before.ssh,
        };
        let dynamic_ports = match known {
            Some(node) => node.dynamic_ports,
            None => before.dynamic_ports,
        };
        Node {
            name: before.name,
            role,
            address: before.address,
            ssh,
            dynamic_ports,
        }
    };
    cluster.nodes = applied.nodes.iter().map(node).collect();
    cluster.name.clone_from(&applied.name);
    cluster.datacenter.clone_from(&applied.datacenter);
    cluster.region.clone_from(&applied.region);
    cluster.domain.clone_from(&applied.domain);
    cluster.acl = applied.acl;
    let source = |product: Product| {
        applied
            .sources
            .get(product.name())
            .cloned()
            .map(BinarySource::from)
    };
    if let Some(consul) = source(Product::Consul) {
        cluster.consul = consul;
    }
    cluster.nomad = source(Product::Nomad).or(cluster.nomad);
    cluster
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::bootstrap::security::pki::tests::cluster as example;

    #[test]
    fn what_is_no_longer_described_stays_until_it_is_removed() {
        let before = example("/state".into());
        let applied = Applied::of(&before, Scope::All, None, SystemTime::UNIX_EPOCH);
        let mut now = before.clone();
        let gone = now.nodes.remove(1);
        assert_eq!(
            keep_undescribed(&mut now, &applied).unwrap(),
            [gone.name.as_str()]
        );
        assert_eq!(now.nodes, before.nodes);
        // Its machine under another name is two nodes in one place.
        let mut renamed = before.clone();
        renamed.nodes[1].name = "newcomer".to_owned();
        let error = keep_undescribed(&mut renamed, &applied).unwrap_err();
        assert!(
            error.is::<UsageError>() && error.to_string().contains(&gone.name),
            "{error}"
        );
    }

    #[test]
    fn what_was_applied_counts_not_what_is_described_by_now() {
        let before = example("/state".into());
        let applied = Applied::of(&before, Scope::All, None, SystemTime::UNIX_EPOCH);
        let mut now = before.clone();
        now.acl = !before.acl;
        now.region = "moon".to_owned();
        now.nodes[0].address = [10, 9, 9, 9].into();
        let newcomer = Node {
            name: "newcomer".to_owned(),
            ..now.nodes[1].clone()
        };
        now.nodes.push(newcomer);
        now.nodes.remove(1);
        let found = cluster(now, &applied);
        let told = |cluster: &Cluster| {
            cluster
                .nodes
                .iter()
                .map(|node| (node.name.clone(), node.role, node.address))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&found), told(&before));
        assert_eq!((found.acl, found.region), (before.acl, before.region));
    }
}
