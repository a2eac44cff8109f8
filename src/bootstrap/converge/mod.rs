//! The walk from what the nodes have to what they shall have, phase by phase, each behind its gate.
//!
//! ```text
//!   for each phase:  observe all its nodes ─▶ plan each
//!     down?          prepare and start all of them at once
//!     certificates?  write and reload, one node after the other
//!     restart?       gate, then one node after the other, leader last, a gate after each
//!     gate
//! ```
//! See docs/decisions/0006-bootstrap-converges.md for what makes it safe to kill at any point.

mod checks;
pub(super) mod many;
pub(super) mod phase_gate;
pub(super) mod preflight;
pub(super) mod restart;
mod tokens;
mod work;

use anyhow::{Context as _, Result};

use super::progress::PhaseProgress;
use super::state::Program;
use super::topology::{BinarySource, Layout, Node, Phase, Product};
use crate::bootstrap::cluster::peers;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::plan::{DaemonAction, NodePlan, compare, wanted_stamps};
use crate::bootstrap::nodes::spec::{Effect, FileSpec, NodeSpec};
use many::each;
use phase_gate::{gate, title};
use restart::restart_all;
use work::{Work, start, write};

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
        Effect::None => mine(&file.path),
    };
    NodeSpec {
        users: spec.users.clone(),
        directories: spec.directories.clone(),
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
/// A node that cannot be observed.
pub(in crate::bootstrap) async fn look(context: &Context, phase: Phase) -> Result<Vec<Work>> {
    let nodes = context.of_phase(phase);
    let all = nodes.into_iter().map(|node| async move {
        let part = part(
            &context.spec(&node)?,
            &context.cluster.layout(&node),
            &node,
            phase.product(),
        );
        let seen = context
            .observe(&node, &part)
            .await
            .with_context(|| node.name.clone())?;
        let plan = compare(&node.name, &part, &seen, context.ownership());
        anyhow::Ok(Work {
            node,
            part,
            seen,
            plan,
        })
    });
    each(context, all).await
}

/// Goes through all phases. The plans that were carried out; all empty when nothing differed.
///
/// # Errors
/// What could not be done, or the gate that did not open, with a reason per node.
pub(in crate::bootstrap) async fn converge(context: &mut Context) -> Result<Vec<NodePlan>> {
    converge_with(context, async |_, _| Ok(false)).await
}

/// The same, with something between the phases. It says whether it put other data into the phase's
/// product, whose tokens are then seen to once more.
///
/// # Errors
/// As [`converge`], and what it fails with.
pub(in crate::bootstrap) async fn converge_with(
    context: &mut Context,
    mut between: impl AsyncFnMut(&mut Context, Phase) -> Result<bool>,
) -> Result<Vec<NodePlan>> {
    let mut done: Vec<NodePlan> = Vec::new();
    for phase in context.phases() {
        done.extend(run_phase(context, phase).await?);
        let mut again = tokens::after(context, phase).await?.then_some("with ACLs");
        if between(context, phase).await? {
            tokens::after(context, phase).await?;
            again = Some("with their data");
        }
        if let Some(word) = again {
            // Some of what the gate asks for is shown only to who has a token: now there is one.
            let bar = context.progress.phase(
                &format!("{} {word}", title(phase)),
                context.of_phase(phase).len(),
            );
            gate(context, phase, &bar, context.limit).await?;
            bar.done("well");
        }
    }
    done.retain(|plan| !plan.is_empty());
    Ok(done)
}

/// One phase, from looking to its gate.
///
/// # Errors
/// As [`converge`].
async fn run_phase(context: &mut Context, phase: Phase) -> Result<Vec<NodePlan>> {
    let mut works = look(context, phase).await?;
    let bar = context.progress.phase(title(phase), works.len());
    let product = phase.product();
    let wanted =
        |action: DaemonAction| move |work: &&Work| work.plan.daemon(product) == Some(action);

    // Programs come first: what a release hashes to is known only when it is there.
    let installed = each(context, works.iter_mut().map(|work| install(context, work))).await?;
    let releases: Vec<Installed> = installed.into_iter().flatten().collect();
    if !releases.is_empty() {
        for (node, name, program) in releases {
            context
                .applied
                .programs
                .entry(node)
                .or_default()
                .insert(name, program);
        }
        context.save_applied()?;
    }
    bar.set(0, "starting");
    let down: Vec<&Work> = works.iter().filter(wanted(DaemonAction::Start)).collect();
    each(
        context,
        down.into_iter().map(|work| start(context, work, product)),
    )
    .await?;
    for work in works
        .iter()
        .filter(|work| !work.plan.is_empty() && work.plan.daemon(product).is_none())
    {
        write(context, work).await?;
    }
    for work in works.iter().filter(wanted(DaemonAction::Reload)) {
        bar.set(0, &format!("{} reads its certificates", work.node.name));
        reload(context, work, product).await?;
    }
    let restarts: Vec<&Work> = works.iter().filter(wanted(DaemonAction::Restart)).collect();
    if !restarts.is_empty() {
        restart_all(context, phase, restarts, &bar).await?;
    }
    gate(context, phase, &bar, context.limit).await?;
    wait_voters(context, &works, product, &bar).await?;
    bar.done(&summary(&works, product));
    Ok(works.into_iter().map(|work| work.plan).collect())
}

/// Waits until servers that came to others vote: autopilot lets them after 10 s, and until then
/// they bear no loss. Those that are all new have begun as voters.
async fn wait_voters(
    context: &Context,
    works: &[Work],
    product: Product,
    bar: &PhaseProgress,
) -> Result<()> {
    let started = |work: &&Work| {
        work.node.is_server(product) && work.plan.daemon(product) == Some(DaemonAction::Start)
    };
    let new: Vec<&Node> = works
        .iter()
        .filter(started)
        .map(|work| &work.node)
        .collect();
    // Before the bootstrap of ACLs nobody may ask.
    let may_ask = !context.cluster.acl || context.state.tokens()?.management(product).is_some();
    if new.len() == works.len() || !may_ask {
        return Ok(());
    }
    for node in new {
        bar.set(
            works.len(),
            &format!("waiting for the vote of {}", node.name),
        );
        peers::wait_voter(&context.cluster_view()?, product, node, context.limit).await?;
    }
    Ok(())
}

/// A program that was installed from a release: node, name, and what it is.
type Installed = (String, String, Program);

/// Makes users and folders, and installs programs; afterwards the plan knows their digests.
async fn install(context: &Context, work: &mut Work) -> Result<Vec<Installed>> {
    let (host, name) = (context.host(&work.node), work.node.name.clone());
    if work.plan.is_empty() {
        return Ok(Vec::new());
    }
    host.ensure_users(&work.part.users)
        .await
        .with_context(|| name.clone())?;
    host.ensure_directories(&work.part.directories)
        .await
        .with_context(|| name.clone())?;
    let mut installed = Vec::new();
    if context.cluster.is_local() {
        return Ok(installed);
    }
    for binary in work
        .part
        .binaries
        .iter_mut()
        .filter(|binary| work.plan.writes(&binary.path))
    {
        let digest = host
            .install(binary, &context.releases)
            .await
            .with_context(|| name.clone())?;
        if let BinarySource::Release(version) = &binary.source {
            let program = Program {
                version: version.clone(),
                sha256: digest.clone(),
            };
            installed.push((name.clone(), binary.name.clone(), program));
        }
        binary.sha256 = Some(digest);
    }
    work.plan.decide_daemons(&work.part, &work.seen);
    Ok(installed)
}

async fn reload(context: &Context, work: &Work, product: Product) -> Result<()> {
    let (host, name) = (context.host(&work.node), || work.node.name.clone());
    let daemon = work.part.daemon(product).with_context(name)?;
    write(context, work).await?;
    host.reload(daemon).await.with_context(name)?;
    host.stamp(product, &wanted_stamps(&work.part, &work.seen, product))
        .await
        .with_context(name)
}

fn summary(works: &[Work], product: Product) -> String {
    let count = |action| {
        works
            .iter()
            .filter(|work| work.plan.daemon(product) == Some(action))
            .count()
    };
    let parts: Vec<String> = [
        (count(DaemonAction::Start), "started"),
        (count(DaemonAction::Restart), "restarted"),
        (count(DaemonAction::Reload), "reloaded"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let written = works.iter().filter(|work| !work.plan.is_empty()).count();
    match (parts.is_empty(), written) {
        (false, _) => format!("{} up, {}", works.len(), parts.join(", ")),
        (true, 0) => format!("{} up, unchanged", works.len()),
        (true, written) => format!("{} up, files of {written} written", works.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::Role;
    use super::*;
    use crate::bootstrap::nodes::spec::Owner;

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
