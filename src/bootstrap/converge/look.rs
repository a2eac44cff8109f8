//! What the nodes of a phase have, and what differs from what they shall have.

use anyhow::Result;

use super::many::each_result;
use super::work::Work;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::Unreachable;
use crate::bootstrap::nodes::plan::compare;
use crate::bootstrap::nodes::spec::{Effect, FileSpec, NodeSpec};
use crate::bootstrap::of_node::{OfNode as _, without_node};
use crate::bootstrap::topology::{Layout, Node, Phase, Product};

/// Nodes of a phase, and those that do not respond, with what was seen of them.
pub(in crate::bootstrap) struct Looked {
    /// Nodes that respond.
    pub(in crate::bootstrap) works: Vec<Work>,
    /// Names of those that do not, and why.
    pub(in crate::bootstrap) silent: Vec<(String, String)>,
}

/// What belongs to a product on a node: its folder, its files, its program and its daemon. What
/// belongs to neither (lb's files) comes with the node's last product.
fn part(spec: &NodeSpec, layout: &Layout, node: &Node, product: Product) -> NodeSpec {
    let last = node.products().last() == Some(&product);
    let owner_of = |path: &str| {
        [Product::Consul, Product::Nomad]
            .into_iter()
            .find(|&product| {
                path.starts_with(&format!("{}/", layout.config(product)))
                    || path.starts_with(layout.data(product))
            })
    };
    let mine = |path: &str| owner_of(path).map_or(last, |owner| owner == product);
    let of_file = |file: &FileSpec| match file.effect {
        Effect::Restart(owner) | Effect::Reload(owner) => owner == product,
        Effect::Resolver => product == Product::Consul,
        Effect::None => mine(&file.path),
    };
    NodeSpec {
        users: spec.users.clone(),
        directories: spec.directories.clone(),
        packages: (spec.packages.iter().copied())
            .filter(|_| product == Product::Nomad)
            .collect(),
        gone: match product {
            Product::Consul => spec.gone.clone(),
            Product::Nomad => Vec::new(),
        },
        binaries: (spec.binaries.iter())
            .filter(|binary| binary.name == product.name() || (last && binary.name == "lb"))
            .cloned()
            .collect(),
        files: spec
            .files
            .iter()
            .filter(|file| of_file(file))
            .cloned()
            .collect(),
        daemons: spec
            .daemons
            .iter()
            .filter(|daemon| daemon.product == product)
            .cloned()
            .collect(),
    }
}

/// Observes all nodes of a phase at once and tells what differs.
///
/// # Errors
/// A node that responds and cannot be observed.
pub(in crate::bootstrap) async fn look(context: &Context, phase: Phase) -> Result<Looked> {
    let nodes = context.of_phase(phase);
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let all = nodes
        .into_iter()
        .map(|node| async move { observe(context, node, phase).await });
    let mut looked = Looked {
        works: Vec::new(),
        silent: Vec::new(),
    };
    let mut failed = Vec::new();
    for (name, result) in names.into_iter().zip(each_result(context, all).await) {
        match result {
            Ok(work) => looked.works.push(work),
            Err(error) => match silence(&name, &error) {
                Some(why) => looked.silent.push((name, why)),
                None => failed.push(error),
            },
        }
    }
    super::many::fail_together(failed)?;
    Ok(looked)
}

async fn observe(context: &Context, node: Node, phase: Phase) -> Result<Work> {
    let part = part(
        &context.spec(&node)?,
        &context.cluster.layout(&node),
        &node,
        phase.product(),
    );
    let seen = context.observe(&node, &part).await.of_node(&node.name)?;
    let plan = compare(&node.name, &part, &seen, context.ownership());
    Ok(Work {
        node,
        part,
        seen,
        plan,
    })
}

/// What there is to say of a node that does not respond; None: the error is another one.
pub(in crate::bootstrap) fn silence(name: &str, error: &anyhow::Error) -> Option<String> {
    let text = format!("{error:#}");
    let why = without_node(&text, name).unwrap_or(&text).to_owned();
    error.is::<Unreachable>().then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::nodes::spec::Owner;
    use crate::bootstrap::topology::Role;

    #[test]
    fn each_file_belongs_to_one_product() {
        let layout = Layout::system();
        let file = |path: &str, effect| FileSpec {
            path: path.to_owned(),
            content: Vec::new(),
            mode: 0o600,
            owner: Owner::Root,
            effect,
            secret: false,
        };
        let spec = NodeSpec {
            files: vec![
                file("/etc/consul.d/consul.hcl", Effect::Restart(Product::Consul)),
                file("/etc/consul.d/encrypt.hcl", Effect::None),
                file("/etc/nomad.d/encrypt.hcl", Effect::None),
                file(
                    "/etc/systemd/system/nomad.service",
                    Effect::Restart(Product::Nomad),
                ),
                file("/etc/lb/lb.toml", Effect::None),
            ],
            ..NodeSpec::default()
        };
        let node = Node {
            name: "nomad-client-0".to_owned(),
            role: Role::NomadClient,
            address: [10, 0, 0, 1].into(),
            ssh: None,
            dynamic_ports: None,
        };
        let names = |product| {
            let part = part(&spec, &layout, &node, product);
            part.files
                .iter()
                .map(|file| file.path.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(Product::Consul),
            ["/etc/consul.d/consul.hcl", "/etc/consul.d/encrypt.hcl"]
        );
        assert_eq!(
            names(Product::Nomad),
            [
                "/etc/nomad.d/encrypt.hcl",
                "/etc/systemd/system/nomad.service",
                "/etc/lb/lb.toml"
            ]
        );
    }
}
