//! `lb bootstrap reboot`: machines are started anew, one after the other, and each has to be back
//! before the next one goes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::invocation::{Invocation, ended};
use super::one_node::{self, phase_of_servers, products};
use super::terminal::confirm;
use crate::bootstrap::cluster::facts::NomadNode;
use crate::bootstrap::cluster::peers;
use crate::bootstrap::cluster::view::Consistency;
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::restart::rolling_gate;
use crate::bootstrap::converge::{phase_gate, survey};
use crate::bootstrap::exit::{INTERRUPTED, UsageError};
use crate::bootstrap::of_node::OfNode as _;
use crate::bootstrap::progress::PhaseProgress;
use crate::bootstrap::state::{Operation, OperationKind};
use crate::bootstrap::topology::{Node, Product, Role, Scope};
use crate::cli::RebootArgs;

/// Pause between two looks at a machine that starts.
const LOOK: Duration = Duration::from_secs(1);

/// Reboots. Goes on with one that was interrupted.
///
/// # Errors
/// When a machine does not come back; those after it are left alone.
pub(super) async fn run(invocation: &Invocation, args: &RebootArgs) -> Result<u8> {
    if invocation.described.cluster.is_local() {
        bail!(UsageError(
            "reboot is for machines behind ssh, and all nodes of this cluster are processes of this machine: \
             `lb bootstrap down` and `up` start them anew"
                .to_owned()
        ));
    }
    let mut context = invocation.open_whole()?;
    compatible::check_known(&context, None)?;
    for name in &args.nodes {
        one_node::find(&mut context, name)?;
    }
    context.read_keys()?;
    let begun = context.state.operation(OperationKind::Reboot, None)?;
    let asked = nodes(&context, args);
    let (names, done) = match begun {
        Some(begun) if args.nodes.is_empty() || begun.nodes == asked => (begun.nodes, begun.done),
        Some(begun) => {
            context.state.end_operation(&begun)?;
            (asked, Vec::new())
        }
        None => (asked, Vec::new()),
    };
    let left: Vec<Node> = (context.cluster.nodes.iter())
        .filter(|node| names.contains(&node.name) && !done.contains(&node.name))
        .cloned()
        .collect();
    let servers = |product: Product| left.iter().any(|node| node.is_server(product));
    let restarts: Vec<Product> = Product::ALL
        .into_iter()
        .filter(|&product| servers(product))
        .collect();
    survey::run(&mut context, true, &restarts).await?;
    let question = format!(
        "Start {} machines of {} anew, one after the other?",
        left.len(),
        context.cluster.name
    );
    if !confirm(&question, args.yes)? {
        return Ok(INTERRUPTED);
    }
    let command = match args.nodes.is_empty() {
        true => "reboot".to_owned(),
        false => format!("reboot {}", args.nodes.join(" ")),
    };
    let mut operation =
        context
            .state
            .begin_operation(OperationKind::Reboot, command, names, SystemTime::now())?;
    while let Some(node) = next(&context, &operation).await? {
        one(&mut context, &node, &mut operation)
            .await
            .with_context(|| {
                format!(
                    "`{}` is not over; the same command goes on from here",
                    operation.command
                )
            })?;
    }
    context.state.end_operation(&operation)?;
    let count = operation.done.len();
    context
        .progress
        .note(&format!("{count} machines were started anew"));
    Ok(ended(&context))
}

/// Names of the nodes to be rebooted: those of the command line, or all.
fn nodes(context: &Context, args: &RebootArgs) -> Vec<String> {
    let all = context.cluster.nodes.iter().map(|node| node.name.clone());
    let is_asked = |name: &String| args.nodes.is_empty() || args.nodes.contains(name);
    all.filter(is_asked).collect()
}

/// The node that is next: clients, then Nomad's servers, then Consul's, those that lead last.
async fn next(context: &Context, operation: &Operation) -> Result<Option<Node>> {
    let view = context.cluster_view()?;
    let mut leaders = Vec::new();
    for product in Product::ALL {
        if context.scope.includes(product) {
            leaders.extend(view.leader(product).await.map(|node| node.name.clone()));
        }
    }
    let left = context.cluster.nodes.iter().filter(|node| {
        let is_asked = operation.nodes.contains(&node.name);
        is_asked && !operation.done.contains(&node.name) && context.is_worked_on(node)
    });
    Ok(left.min_by_key(|node| rank(node, &leaders)).cloned())
}

fn rank(node: &Node, leaders: &[String]) -> (u8, bool) {
    let place = match node.role {
        Role::NomadClient => 0,
        Role::NomadServer => 1,
        Role::ConsulServer => 2,
    };
    (place, leaders.contains(&node.name))
}

async fn one(context: &mut Context, node: &Node, operation: &mut Operation) -> Result<()> {
    let name = &node.name;
    well(context, node)
        .await
        .context("not rebooted, because not all is well")?;
    // A client that an operator had taken out of use before stays so.
    let was_drained = operation.drained.as_deref() == Some(name);
    if !was_drained && is_in_use(context, node).await? {
        operation.drained = Some(name.clone());
        context.state.save_operation(operation)?;
    }
    one_node::drain(context, node).await?;
    for product in products(context, node) {
        if node.is_server(product) {
            one_node::hand_over(context, product, node).await?;
        }
    }
    let bar = context.progress.phase(&format!("{name} reboots"), 1);
    let before = context.host(node).boot().await.of_node(name)?;
    context.changes.note(name, "rebooted");
    context.host(node).reboot().await.of_node(name)?;
    comes_back(context, node, &before).await?;
    for daemon in &context.spec(node)?.daemons {
        // A unit has begun by itself; what no unit keeps has not.
        context.host(node).start(daemon).await.of_node(name)?;
    }
    bar.set(0, "waiting for its agents");
    is_of_use(context, node, &bar).await?;
    if operation.drained.as_deref() == Some(name) {
        peers::undrain(&context.cluster_view()?, node).await?;
        operation.drained = None;
    }
    operation.done.push(name.clone());
    context.state.save_operation(operation)?;
    bar.done("is back");
    Ok(())
}

/// Whether a Nomad client takes allocations.
async fn is_in_use(context: &Context, node: &Node) -> Result<bool> {
    if node.role != Role::NomadClient || context.scope != Scope::All {
        return Ok(false);
    }
    let view = context.cluster_view()?;
    let (_, clients) = view.nomad_nodes(Consistency::Default).await?;
    let client = NomadNode::of_name(&clients, &node.name);
    Ok(client.is_some_and(|client| client.is_up() && client.idle().is_none()))
}

/// Waits until all servers are well that the node is one of.
async fn well(context: &mut Context, node: &Node) -> Result<()> {
    for product in products(context, node) {
        if node.is_server(product) {
            let phase = phase_of_servers(product);
            let title = phase_gate::title(phase);
            let bar = context.progress.phase(title, 1);
            phase_gate::gate(context, phase, &bar, context.limit).await?;
            bar.done("well");
        }
    }
    Ok(())
}

/// Waits until the machine has started anew.
async fn comes_back(context: &Context, node: &Node, before: &str) -> Result<()> {
    let deadline = Instant::now() + context.limit;
    loop {
        let why = match context.host(node).boot().await {
            Ok(boot) if boot != before => return Ok(()),
            Ok(_) => "it has not gone down yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!(
                "{}: is not back {} s after its reboot: {why}",
                node.name,
                context.limit.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the node does what it is there for.
async fn is_of_use(context: &mut Context, node: &Node, bar: &PhaseProgress) -> Result<()> {
    context.only = Some(node.name.clone());
    let waited = async {
        for phase in context.phases() {
            if phase.includes(node) {
                phase_gate::gate(context, phase, bar, context.limit).await?;
            }
        }
        for product in products(context, node) {
            if node.is_server(product) {
                peers::wait_voter(&context.cluster_view()?, product, node, context.limit).await?;
                rolling_gate(context, product, node).await?;
            }
        }
        if context.left_out.contains_key(&node.name) {
            bail!("{}: {}", node.name, context.left_out[&node.name]);
        }
        anyhow::Ok(())
    }
    .await;
    context.only = None;
    waited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_go_first_and_leaders_last() {
        let node = |name: &str, role| Node {
            name: name.to_owned(),
            role,
            address: [10, 0, 0, 1].into(),
            ssh: None,
            dynamic_ports: None,
        };
        let mut nodes = [
            node("consul-0", Role::ConsulServer),
            node("consul-1", Role::ConsulServer),
            node("server-0", Role::NomadServer),
            node("server-1", Role::NomadServer),
            node("client-0", Role::NomadClient),
        ];
        let leaders = ["consul-0".to_owned(), "server-0".to_owned()];
        nodes.sort_by_key(|node| rank(node, &leaders));
        let names = nodes.map(|node| node.name);
        assert_eq!(
            names,
            ["client-0", "server-1", "server-0", "consul-1", "consul-0"]
        );
    }
}
