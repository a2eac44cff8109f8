//! What the two gates of Consul look at.

use futures_util::future::join_all;

use super::{Finding, Gates, servers_of};
use crate::bootstrap::cluster::facts::{Member, MemberStatus};
use crate::bootstrap::topology::{Node, Product};

impl<'a> Gates<'a> {
    pub(super) async fn consul_servers(&self) -> Vec<Finding<'a>> {
        servers_of(self, Product::Consul).await
    }

    /// All agents, those of the servers as well: alive, and able to reach the servers by RPC.
    pub(super) async fn consul_agents(&self) -> Vec<Finding<'a>> {
        let nodes: Vec<&Node> = self
            .view
            .cluster
            .nodes
            .iter()
            .filter(|node| self.is_present(node))
            .collect();
        let members = self.view.members(Product::Consul);
        let leaders = join_all(
            nodes
                .iter()
                .map(|node| self.leader_seen_by(node, Product::Consul)),
        );
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
        (MemberStatus::Alive, Ok(_)) => Ok(()),
        (MemberStatus::Alive, Err(error)) => Err(format!(
            "member alive, but its RPC to the servers fails: {error}"
        )),
        (status, own) => {
            let own = own
                .err()
                .map(|error| format!("; {error}"))
                .unwrap_or_default();
            Err(format!("{seer} sees it as {status}{own}"))
        }
    }
}
