//! What the two gates of Nomad look at.

use futures_util::future::join_all;
use http::StatusCode;
use serde::Deserialize;

use super::{Finding, Gates, failed_request, servers_of};
use crate::bootstrap::cluster::acl;
use crate::bootstrap::cluster::api::{Api, ApiError, LIMIT};
use crate::bootstrap::cluster::facts::{Member, MemberStatus, NomadNode};
use crate::bootstrap::cluster::view::Consistency;
use crate::bootstrap::topology::{Node, Product, Role};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    /// Absent in the versions that have had `Active` only.
    #[serde(default)]
    state: String,
    #[serde(default)]
    active: bool,
}

impl<'a> Gates<'a> {
    /// Servers with a leader, all peers and members, and the key that clients need to register.
    pub(super) async fn nomad_servers(&self) -> Vec<Finding<'a>> {
        let findings = servers_of(self, Product::Nomad).await;
        join_all(findings.into_iter().map(|(node, finding)| async move {
            let finding = match finding {
                Ok(()) => self.nomad_server(node).await,
                bad => bad,
            };
            (node, finding)
        }))
        .await
    }

    async fn nomad_server(&self, node: &Node) -> Result<(), String> {
        let api = self.view.api(node, Product::Nomad);
        let (members, keys) = tokio::join!(
            self.view.members_seen_by(node, Product::Nomad),
            keyring_keys(&api)
        );
        if let Some(members) = if_shown(members, &api).await? {
            for server in self.present_servers(Product::Nomad) {
                let name = self.view.member_name(server, Product::Nomad);
                judge_member(&members, &name)?;
            }
        }
        // Versions before 1.4 have no such keys, and no need for them.
        if let Some(keys) = if_shown(keys, &api).await?
            && !keys.iter().any(|key| key.state == "active" || key.active)
        {
            return Err("its keyring has no active key yet: clients could not register".to_owned());
        }
        Ok(())
    }

    /// Clients that are ready, can run processes and have found their Consul
    /// agent.
    pub(super) async fn nomad_clients(&self) -> Vec<Finding<'a>> {
        let nodes: Vec<&Node> = self
            .view
            .cluster
            .of_role(Role::NomadClient)
            .filter(|node| self.is_present(node))
            .collect();
        if nodes.is_empty() {
            return Vec::new();
        }
        let listed = match self.view.nomad_nodes(Consistency::Default).await {
            Ok(listed) => listed,
            Err(error) => {
                let text = format!("no server tells the nodes: {error:#}");
                return nodes
                    .into_iter()
                    .map(|node| (node, Err(text.clone())))
                    .collect();
            }
        };
        let (server, clients) = &listed;
        join_all(nodes.into_iter().map(|node| async move {
            let finding = match judge_client(clients, &node.name, self.view.cluster.raw_exec) {
                Ok(client) => self.has_found_consul(server, client).await,
                Err(error) => Err(error),
            };
            (node, finding)
        }))
        .await
    }

    async fn has_found_consul(&self, server: &Node, client: &NomadNode) -> Result<(), String> {
        let details = self.view.nomad_node(server, &client.id).await;
        let attributes = details
            .map_err(|error| failed_request(&error))?
            .attributes
            .unwrap_or_default();
        if attributes.contains_key("consul.version") {
            return Ok(());
        }
        Err("ready, but it has not found its Consul agent (no attribute consul.version): services could not be placed"
            .to_owned())
    }
}

/// The keys that servers sign and encrypt with for clients.
async fn keyring_keys(api: &Api) -> Result<Vec<Key>, ApiError> {
    let reply = api.get("/v1/operator/keyring/keys", LIMIT).await?;
    Ok(reply.json::<Option<Vec<Key>>>()?.unwrap_or_default())
}

/// None: not shown (no token that counts yet), or a version that does not have it.
async fn if_shown<T>(found: Result<T, ApiError>, api: &Api) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) if acl::is_before_bootstrap(&error, api).await => Ok(None),
        Err(error) => Err(failed_request(&error)),
    }
}

fn judge_member(members: &[Member], name: &str) -> Result<(), String> {
    match members.iter().find(|member| member.name == name) {
        Some(member) if member.status == MemberStatus::Alive => Ok(()),
        Some(member) => Err(format!("sees {name} as {}", member.status)),
        None => Err(format!("does not see {name} among its members")),
    }
}

pub(super) fn judge_client<'n>(
    nodes: &'n [NomadNode],
    name: &str,
    raw_exec: bool,
) -> Result<&'n NomadNode, String> {
    let Some(client) = NomadNode::of_name(nodes, name) else {
        return Err("has not registered with Nomad's servers".to_owned());
    };
    if client.status != "ready" {
        return Err(format!(
            "Nomad sees it as {} {}",
            client.status, client.status_description
        )
        .trim_end()
        .to_owned());
    }
    if !raw_exec {
        return Ok(client);
    }
    // Whether it takes allocations is its operator's business: it is worked on all the same.
    match client
        .drivers
        .as_ref()
        .and_then(|drivers| drivers.get("raw_exec"))
    {
        Some(driver) if driver.healthy => Ok(client),
        Some(driver) => Err(format!(
            "ready, but its driver raw_exec is not healthy: {}",
            driver.health_description
        )),
        None => Err("ready, but it has no driver raw_exec".to_owned()),
    }
}
