//! Whether the nodes can be worked on, before anything is touched: what `nodes` found, judged.
//! Nodes that do not respond are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use futures_util::stream::{self, StreamExt as _};

use super::look::silence;
use super::many::each;
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::{Facts, Preflight};
use crate::bootstrap::of_node::without_node;
use crate::bootstrap::topology::{Node, Product, Role, Runner, Target};

/// Clocks further apart than this make fresh certificates invalid and logs misleading.
const CLOCK_SKEW_MAX_MS: i64 = 5_000;
/// Less room than this does not last for the raft logs of a day.
const DISK_MIN_BYTES: u64 = 500 << 20;

/// Looks at all nodes at once. Those that do not respond are left out of the run; a cluster that is
/// not `known` yet needs all of its servers.
///
/// # Errors
/// Everything that is in the way, node by node.
pub(in crate::bootstrap) async fn run(context: &mut Context, known: bool) -> Result<()> {
    let silent = look(context, known).await?;
    for (name, why) in silent {
        context.leave_out(&name, &why);
    }
    Ok(())
}

/// The nodes that do not respond, and why.
async fn look(context: &Context, known: bool) -> Result<Vec<(String, String)>> {
    let bar = context.progress.phase("Nodes", context.cluster.nodes.len());
    let looks = context
        .cluster
        .nodes
        .iter()
        .filter(|node| context.is_worked_on(node))
        .map(|node| async move {
            let ask = Preflight {
                cluster_id: context.applied.id.clone(),
                ports: ports(context, node),
            };
            let spec = context.spec(node)?;
            let facts = context.host(node).preflight(&spec, &ask).await;
            anyhow::Ok((node, facts))
        });
    let found: Vec<_> = stream::iter(looks)
        .buffered(context.parallel())
        .collect()
        .await;
    let mut problems = String::new();
    let (mut good, mut is_bad, mut silent) = (0, false, Vec::new());
    for look in found {
        let (node, facts) = look?;
        let here = match &facts {
            Ok(facts) => judge(context, node, facts, known),
            Err(error) => {
                let text = format!("{error:#}");
                let why = without_node(&text, &node.name).unwrap_or(&text).to_owned();
                if silence(&node.name, error).is_some() {
                    is_bad |= !known && node.role != Role::NomadClient;
                    silent.push((node.name.clone(), why.clone()));
                } else {
                    is_bad = true;
                }
                vec![why]
            }
        };
        is_bad |= facts.is_ok() && !here.is_empty();
        good += usize::from(here.is_empty());
        bar.set(good, "looking");
        for problem in here {
            let _ = write!(problems, "\n  {}: {problem}", node.name);
        }
    }
    if is_bad {
        bail!("{}, because of this:{problems}", context.told_unchanged());
    }
    match silent.len() {
        0 => bar.done(&format!("{good} can be worked on")),
        count => bar.done(&format!("{good} can be worked on, {count} do not respond")),
    }
    Ok(silent)
}

fn ports(context: &Context, node: &Node) -> Vec<u16> {
    let wanted = |product: &&Product| context.scope.includes(**product);
    node.products()
        .iter()
        .filter(wanted)
        .flat_map(|&product| node.ports(product))
        .copied()
        .collect()
}

fn judge(context: &Context, node: &Node, facts: &Facts, known: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |problem: String| problems.push(problem);
    let systemd =
        matches!(&context.cluster.target, Target::Ssh(ssh) if ssh.runner == Runner::Systemd);
    if !facts.missing_tools.is_empty() {
        say(format!(
            "lacks {}: install it there",
            facts.missing_tools.join(", ")
        ));
    }
    if systemd && !facts.systemd {
        say("is not run by systemd: set `runner = \"process\"` in [ssh] to do without".to_owned());
    }
    if !facts.has_address {
        say(format!(
            "{} is not an address of that machine: correct it in {}",
            node.address, context.source
        ));
    }
    if facts.clock_skew_ms.abs() > CLOCK_SKEW_MAX_MS {
        let seconds = facts.clock_skew_ms as f64 / 1000.0;
        say(format!(
            "its clock is {seconds:+.1} s from ours: certificates would not be valid; let it keep time (NTP)"
        ));
    }
    let mut taken: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for port in &facts.ports_taken {
        taken
            .entry(port.by.as_deref().unwrap_or("another program"))
            .or_default()
            .push(port.port.to_string());
    }
    for (by, ports) in taken {
        let ours = Product::ALL
            .iter()
            .any(|product| by.starts_with(product.name()));
        let advice = match ours && !known {
            true => {
                "it looks like a cluster whose state folder is gone: bring the folder back, or stop that cluster"
            }
            false if context.cluster.is_local() => {
                "stop it, or choose other addresses with --network"
            }
            false => "stop it there",
        };
        let (word, verb) = if ports.len() == 1 {
            ("port", "is")
        } else {
            ("ports", "are")
        };
        say(format!(
            "{word} {} of {} {verb} taken by {by}: {advice}",
            ports.join(", "),
            node.address
        ));
    }
    if let Some(id) = facts
        .cluster_id
        .as_ref()
        .filter(|id| **id != context.applied.id)
    {
        say(format!(
            "belongs to the cluster {id}, whose keys are not in {}: bring that state folder back (--state), or run \
             `lb bootstrap down --purge` with it first. New keys for a cluster that lives would cut it in two",
            context.state.dir().display()
        ));
    } else {
        for unit in &facts.foreign_units {
            let name = unit.split(' ').next().unwrap_or(unit);
            say(format!(
                "{unit} runs there already, and not of this cluster: stop it first, nothing of it is taken over \
                 (`systemctl disable --now {name}`)"
            ));
        }
        if !facts.foreign.is_empty() {
            say(format!(
                "{} is there already, and not of this cluster: move it away first, nothing of it is taken over",
                facts.foreign.join(", ")
            ));
        }
    }
    for what in &facts.unobtainable {
        say(format!(
            "{what}: give it a repository that has one, install it there by hand, or take docker or cni out of [clients]"
        ));
    }
    for what in &facts.resolver {
        say(format!(
            "{what}: put that right there, or take [dns] consul = true out"
        ));
    }
    if facts.free_disk_bytes < DISK_MIN_BYTES {
        say(format!(
            "has only {} MB of room for data: 500 MB are needed",
            facts.free_disk_bytes >> 20
        ));
    }
    problems
}

/// Writes our mark on all nodes.
///
/// # Errors
/// A node that carries another mark.
pub(in crate::bootstrap) async fn claim(context: &Context) -> Result<()> {
    let nodes = context
        .cluster
        .nodes
        .iter()
        .filter(|node| context.is_worked_on(node));
    each(
        context,
        nodes.map(|node| context.host(node).claim(&context.applied.id)),
    )
    .await
    .map(drop)
}
