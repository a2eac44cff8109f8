//! The status as tables, after the manner of `consul members`, `nomad server members` and `nomad
//! node status`. Pure.

use super::{AgentStatus, ClusterStatus, NodeStatus};
use crate::bootstrap::plural::counted;

/// The tables for people, and below them what is wrong.
#[must_use]
pub fn render(status: &ClusterStatus) -> String {
    let mut text = String::from("Consul\n");
    let rows = status.nodes.iter().map(|node| {
        let kind = if node.role == "consul-server" {
            "server"
        } else {
            "client"
        };
        let agent = &node.consul;
        row(
            node,
            agent,
            [kind.to_owned(), yes(agent.voter), yes(agent.leader)],
        )
    });
    text.push_str(&table(
        [
            "Node",
            "Address",
            "Status",
            "Type",
            "Voter",
            "Leader",
            "Build",
            "Certificate",
        ],
        rows,
    ));
    let of_nomad = |role: &'static str| {
        status
            .nodes
            .iter()
            .filter(move |node| node.role == role)
            .filter_map(|node| Some((node, node.nomad.as_ref()?)))
    };
    if of_nomad("nomad-server").next().is_some() {
        text.push_str("\nNomad servers\n");
        let rows = of_nomad("nomad-server")
            .map(|(node, agent)| row(node, agent, [yes(agent.voter), yes(agent.leader)]));
        text.push_str(&table(
            [
                "Node",
                "Address",
                "Status",
                "Voter",
                "Leader",
                "Build",
                "Certificate",
            ],
            rows,
        ));
    }
    if of_nomad("nomad-client").next().is_some() {
        text.push_str("\nNomad clients\n");
        let rows = of_nomad("nomad-client").map(|(node, agent)| {
            let eligibility = agent.eligibility.clone().unwrap_or_else(|| "-".to_owned());
            row(node, agent, [eligibility, yes(agent.drain)])
        });
        text.push_str(&table(
            [
                "Node",
                "Address",
                "Status",
                "Eligibility",
                "Drain",
                "Build",
                "Certificate",
            ],
            rows,
        ));
    }
    text.push_str(&problems(status));
    text
}

/// Name, address and status; what is special; version and certificate.
fn row<const N: usize>(
    node: &NodeStatus,
    agent: &AgentStatus,
    special: [String; N],
) -> Vec<String> {
    let mut row = vec![
        node.name.clone(),
        node.address.clone(),
        agent.status.clone(),
    ];
    row.extend(special);
    row.push(agent.version.clone().unwrap_or_else(|| "-".to_owned()));
    row.push(match agent.certificate_days {
        None => "-".to_owned(),
        Some(days) if days < 0 => "expired".to_owned(),
        Some(days) => counted(days, "day"),
    });
    row
}

fn yes(value: Option<bool>) -> String {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
    .to_owned()
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut all = vec![head.map(ToOwned::to_owned).to_vec()];
    all.extend(rows);
    let width = |column: usize| {
        all.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

fn problems(status: &ClusterStatus) -> String {
    let of_nodes = status.nodes.iter().flat_map(|node| {
        node.problems
            .iter()
            .map(move |one| format!("{}: {one}", node.name))
    });
    let lines: Vec<String> = status.problems.iter().cloned().chain(of_nodes).collect();
    if lines.is_empty() {
        return "\nAll is well.\n".to_owned();
    }
    format!(
        "\nDegraded:\n{}",
        lines
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect::<String>()
    )
}
