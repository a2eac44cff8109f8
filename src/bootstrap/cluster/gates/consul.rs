//! What the two gates of Consul look at.

use futures_util::future::join_all;
use serde::Deserialize;

use super::{Finding, Gates, leader, servers_of};
use crate::bootstrap::topology::{Node, Product};

/// A member of Consul's gossip pool.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member {
    pub(super) name: String,
    /// 1 alive, 2 leaving, 3 left, 4 failed.
    pub(super) status: u8,
}

impl<'a> Gates<'a> {
    pub(super) async fn consul_servers(&self) -> Vec<Finding<'a>> {
        servers_of(self, Product::Consul).await
    }

    /// All agents, those of the servers as well: alive, and able to reach the servers by RPC.
    pub(super) async fn consul_agents(&self) -> Vec<Finding<'a>> {
        let nodes: Vec<&Node> = self
            .cluster
            .nodes
            .iter()
            .filter(|node| self.is_present(node))
            .collect();
        let members = self.cluster_client.any_server::<Vec<Member>>(
            self.cluster,
            Product::Consul,
            "/v1/agent/members",
        );
        let leaders = join_all(nodes.iter().map(|node| {
            let api = self.api(node, Product::Consul);
            async move { leader(&api).await }
        }));
        let (members, leaders) = tokio::join!(members, leaders);
        let (seer, members) = match members {
            Ok((seer, members)) => (seer.name.as_str(), Ok(members)),
            Err(error) => ("", Err(format!("no server tells the members: {error:#}"))),
        };
        let judge = |node: &Node, leader: Result<String, String>| match &members {
            Ok(members) => judge_agent(seer, members, &node.name, leader),
            Err(error) => Err(error.clone()),
        };
        nodes
            .into_iter()
            .zip(leaders)
            .map(|(node, leader)| (node, judge(node, leader)))
            .collect()
    }
}

pub(super) fn judge_agent(
    seer: &str,
    members: &[Member],
    node: &str,
    leader: Result<String, String>,
) -> Result<(), String> {
    let Some(member) = members.iter().find(|member| member.name == node) else {
        let empty = members
            .is_empty()
            .then_some(" (it names none at all: the token has no right to see them)");
        let own = leader
            .err()
            .map(|error| format!("; {error}"))
            .unwrap_or_default();
        return Err(format!(
            "not among the members that {seer} sees{}{own}",
            empty.unwrap_or_default()
        ));
    };
    match (member.status, leader) {
        (1, Ok(_)) => Ok(()),
        (1, Err(error)) => Err(format!(
            "member alive, but its RPC to the servers fails: {error}"
        )),
        (status, own) => {
            let own = own
                .err()
                .map(|error| format!("; {error}"))
                .unwrap_or_default();
            Err(format!("{seer} sees it as {}{own}", member_status(status)))
        }
    }
}

/// Serf's number as Consul's command line puts it.
pub(super) fn member_status(status: u8) -> &'static str {
    match status {
        1 => "alive",
        2 => "leaving",
        3 => "left",
        4 => "failed",
        _ => "unknown",
    }
}
