//! `lb bootstrap doctor`: what `status` cannot see, because no agent tells it: ports between nodes,
//! clocks, packet sizes, other versions than described, drift. Only reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::Result;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::invocation::Invocation;
use super::plan;
use super::terminal::print;
use crate::bootstrap::cluster::health::{self, Check, Finding, Link};
use crate::bootstrap::cluster::status;
use crate::bootstrap::context::Context;
use crate::bootstrap::exit::DIFFERS;
use crate::bootstrap::nodes::Probe;
use crate::bootstrap::of_node::without_node;
use crate::bootstrap::plural::counted;
use crate::bootstrap::topology::Node;

/// All that was looked at, and what is wrong.
#[derive(Debug, Serialize)]
struct Diagnosis {
    /// Whether nothing is wrong.
    well: bool,
    /// What each check was about.
    checks: BTreeMap<Check, String>,
    problems: Vec<Finding>,
}

/// Prints it; exit code 3 when anything is wrong.
///
/// # Errors
/// When there is no such cluster, or no certificate for requests to it.
pub(super) async fn run(invocation: &Invocation, json: bool) -> Result<u8> {
    let mut context = invocation.open_to_read()?;
    context.skip(&invocation.skip)?;
    let mut diagnosis = Diagnosis {
        well: true,
        checks: BTreeMap::new(),
        problems: Vec::new(),
    };
    let probed = probe(&context).await;
    nodes(&mut diagnosis, probed);
    versions(&context, &mut diagnosis).await?;
    drift(invocation, &mut diagnosis).await;
    diagnosis.problems.sort_by_key(|problem| problem.check);
    diagnosis.well = diagnosis.problems.is_empty();
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&diagnosis)?))?,
        false => print(&health::render(&diagnosis.checks, &diagnosis.problems))?,
    }
    Ok(if diagnosis.well { 0 } else { DIFFERS })
}

/// What one node was to reach, and what was found there.
struct Probed {
    node: Node,
    links: Vec<Link>,
    result: Result<Probe>,
}

async fn probe(context: &Context) -> Vec<Probed> {
    let nodes = context.cluster.nodes.iter();
    let looks = nodes
        .filter(|node| context.is_worked_on(node))
        .map(|node| async move {
            let mut links = health::links(&context.cluster, context.scope, node);
            links.retain(|link| !context.absent.contains(&link.to));
            let targets: Vec<SocketAddr> = links.iter().map(|link| link.target).collect();
            Probed {
                node: node.clone(),
                links,
                result: context.host(node).probe(&targets).await,
            }
        });
    stream::iter(looks)
        .buffered(context.parallel())
        .collect()
        .await
}

fn nodes(diagnosis: &mut Diagnosis, probed: Vec<Probed>) {
    let (mut probes, mut tried) = (BTreeMap::new(), 0);
    let count = probed.len();
    for one in probed {
        let name = one.node.name;
        match one.result {
            Ok(probe) => {
                tried += one.links.len();
                let found = health::judge_ports(&name, &one.links, &probe);
                diagnosis.problems.extend(found);
                probes.insert(name, probe);
            }
            Err(error) => {
                let text = format!("{error:#}");
                diagnosis.problems.push(Finding {
                    check: Check::Nodes,
                    problem: "cannot be looked at".to_owned(),
                    value: without_node(&text, &name).unwrap_or(&text).to_owned(),
                    advice: format!(
                        "see that `ssh {}` works, and the machine runs; what will not be back: `lb bootstrap replace-node \
                         {name}`, or `remove-node {name} --dead`",
                        one.node.ssh.unwrap_or_else(|| one.node.address.to_string())
                    ),
                    node: Some(name),
                });
            }
        }
    }
    diagnosis.problems.extend(health::judge_clocks(&probes));
    diagnosis.problems.extend(health::judge_mtu(&probes));
    let of = format!("of {}", counted(probes.len(), "node"));
    diagnosis.checks.extend([
        (Check::Nodes, format!("{} of {count} answer", probes.len())),
        (
            Check::Ports,
            format!("{} between nodes, by TCP", counted(tried, "connection")),
        ),
        (Check::Clocks, of.clone()),
        (Check::Mtu, of),
    ]);
}

async fn versions(context: &Context, diagnosis: &mut Diagnosis) -> Result<()> {
    context.dial().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.map_or(0, |since| since.as_secs())).unwrap_or(i64::MAX);
    let status = status::look(&context.cluster_view()?, context.scope, now, 0).await;
    let agents = (status.nodes.iter())
        .flat_map(|node| [Some(&node.consul), node.nomad.as_ref()])
        .flatten();
    let known = agents.filter(|agent| agent.version.is_some()).count();
    diagnosis.problems.extend(health::judge_versions(&status));
    let of = format!("of {}", counted(known, "agent"));
    diagnosis.checks.insert(Check::Versions, of);
    Ok(())
}

async fn drift(invocation: &Invocation, diagnosis: &mut Diagnosis) {
    let mut add = |node: Option<String>, problem: &str, value: String, advice: String| {
        diagnosis.problems.push(Finding {
            check: Check::Drift,
            node,
            problem: problem.to_owned(),
            value,
            advice,
        });
    };
    let flags = &invocation.flags;
    let mut looked_at = 0;
    match plan::plan(invocation).await {
        Ok(planned) => {
            looked_at = planned.looked_at;
            for line in planned.cluster {
                let advice =
                    format!("`lb bootstrap up{flags}` does it, where no other command is named");
                add(None, "the cluster is not as described", line, advice);
            }
            for plan in planned.nodes {
                let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
                let advice = format!(
                    "`lb bootstrap plan{flags}` shows it with the rest, `up` mends it; or change the description"
                );
                add(
                    Some(plan.node),
                    "is not as described",
                    steps.join("; "),
                    advice,
                );
            }
        }
        Err(error) => add(
            None,
            "the nodes cannot be held against the description",
            format!("{error:#}"),
            "put that right, then run it again".to_owned(),
        ),
    }
    let of = format!("of {}", counted(looked_at, "node"));
    diagnosis.checks.insert(Check::Drift, of);
}
