//! `lb bootstrap plan`: what `up` would change, node by node. Changes nothing, and shows no
//! content.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use super::invocation::Invocation;
use super::terminal::print;
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge;
use crate::bootstrap::exit::DIFFERS;
use crate::bootstrap::nodes::plan::NodePlan;
use crate::bootstrap::plural::counted;
use crate::bootstrap::progress::Progress;
use crate::bootstrap::security::secrets::{NodePairs, Pair, Secret, Shared};
use crate::bootstrap::state::State;
use crate::bootstrap::topology::{PerProduct, Product};

/// All that would be done.
#[derive(Debug, Serialize)]
pub(super) struct Planned {
    changes: bool,
    /// Of the whole cluster: keys and certificates to be made.
    pub(super) cluster: Vec<String>,
    pub(super) nodes: Vec<NodePlan>,
    /// Nodes that do not respond, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unreachable: BTreeMap<String, String>,
    /// How many nodes were looked at.
    #[serde(skip)]
    pub(super) looked_at: usize,
}

/// Prints it; exit code 3 when something would change.
///
/// # Errors
/// When a node cannot be looked at, or the description does not fit the cluster.
pub(super) async fn run(invocation: &Invocation, json: bool) -> Result<u8> {
    super::up::need_nomad(invocation)?;
    let planned = plan(invocation).await?;
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&planned)?))?,
        false => print(&text(&planned))?,
    }
    Ok(if planned.changes { DIFFERS } else { 0 })
}

/// Holds the nodes against the description.
///
/// # Errors
/// As [`run`].
pub(super) async fn plan(invocation: &Invocation) -> Result<Planned> {
    let described = invocation.described.clone();
    let now = SystemTime::now();
    let dir = described.cluster.state.clone();
    let state = State::open_read_only(&dir)?.unwrap_or_else(|| State::absent(&dir));
    let mut context = Context::new(described, state, Progress::new(false), invocation.limit)?;
    context.skip(&invocation.skip)?;
    context.force = invocation.force;
    compatible::check(&context)?;
    // What `up` would refuse to make a second time is not a plan.
    context.state.check_not_lost()?;
    let mut cluster: Vec<String> = Vec::new();
    for operation in context.state.operations()? {
        cluster.push(operation.told());
    }
    for name in &context.undescribed {
        cluster.push(format!(
            "remove {name}, which is no longer described (with --yes)"
        ));
    }
    if context.state.ca_bundle()?.is_none() {
        cluster.push("make a CA".to_owned());
    }
    if context.state.gossip()?.is_none() {
        cluster.push("make gossip keys".to_owned());
    }
    let due = context.state.due_pairs(&context.cluster, now)?;
    if !due.is_empty() {
        context.state.check_can_sign()?;
    }
    for due in due {
        cluster.push(format!(
            "make a certificate for {} ({})",
            due.what, due.reason
        ));
    }
    if context.read_keys().is_err() {
        context.read_some_keys()?;
        stand_in(&mut context);
    }
    let mut nodes: Vec<NodePlan> = Vec::new();
    for phase in context.phases() {
        let looked = converge::look(&context, phase).await?;
        for (name, why) in looked.silent {
            context.leave_out(&name, &why);
        }
        for work in looked.works {
            match nodes.iter_mut().find(|plan| plan.node == work.plan.node) {
                None => nodes.push(work.plan),
                Some(plan) => {
                    let more = work
                        .plan
                        .steps
                        .into_iter()
                        .filter(|step| !plan.steps.contains(step));
                    let more: Vec<_> = more.collect();
                    plan.steps.extend(more);
                }
            }
        }
    }
    let looked_at = nodes.len();
    nodes.retain(|plan| !plan.is_empty());
    Ok(Planned {
        changes: !nodes.is_empty() || !cluster.is_empty() || !context.left_out.is_empty(),
        cluster,
        nodes,
        unreachable: context.left_out,
        looked_at,
    })
}

/// Empty keys, where there are none yet: enough to see which files there will be.
fn stand_in(context: &mut Context) {
    let pair = || Pair {
        cert: String::new(),
        key: Secret::default(),
    };
    for node in &context.cluster.nodes {
        let nomad = || node.products().contains(&Product::Nomad).then(pair);
        context
            .pairs
            .entry(node.name.clone())
            .or_insert_with(|| NodePairs {
                consul: pair(),
                nomad: nomad(),
                nomad_at_consul: nomad(),
            });
    }
    context.shared.get_or_insert_with(|| Shared {
        trusted: PerProduct::default(),
        consul_gossip: Secret::default(),
        nomad_gossip: Secret::default(),
        lb: pair(),
        acl_open: false,
        nomad_consul_token: None,
        lb_consul_token: None,
    });
}

fn text(planned: &Planned) -> String {
    if !planned.changes {
        return "nothing to change\n".to_owned();
    }
    let mut text = String::new();
    if !planned.cluster.is_empty() {
        text.push_str("cluster\n");
        for line in &planned.cluster {
            let _ = writeln!(text, "  {line}");
        }
    }
    for plan in &planned.nodes {
        let _ = writeln!(text, "{}", plan.node);
        for step in &plan.steps {
            let _ = writeln!(text, "  {step}");
        }
    }
    if !planned.unreachable.is_empty() {
        text.push_str("left out\n");
        for (name, why) in &planned.unreachable {
            let _ = writeln!(text, "  {name}: {why}");
        }
    }
    let steps: usize = planned.nodes.iter().map(|plan| plan.steps.len()).sum();
    let changes = counted(steps + planned.cluster.len(), "change");
    let _ = writeln!(
        text,
        "{changes} on {}",
        counted(planned.nodes.len(), "node")
    );
    text
}
