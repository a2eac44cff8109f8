//! What the two gates of Nomad look at.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Finding, Gates, asked, servers_of};
use crate::bootstrap::cluster::api::{Api, LIMIT};
use crate::bootstrap::topology::{Node, Product, Role};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members {
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    name: String,
    status: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    /// Absent in the versions that have had `Active` only.
    #[serde(default)]
    state: String,
    #[serde(default)]
    active: bool,
}

/// A client in the list of nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Client {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) status_description: String,
    pub(super) scheduling_eligibility: String,
    pub(super) drivers: Option<BTreeMap<String, Driver>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Driver {
    pub(super) healthy: bool,
    pub(super) health_description: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    #[serde(default)]
    attributes: Option<BTreeMap<String, String>>,
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
        let api = self.api(node, Product::Nomad);
        let members = ask::<Members>(&api, "/v1/agent/members");
        let keys = ask::<Option<Vec<Key>>>(&api, "/v1/operator/keyring/keys");
        let (members, keys) = tokio::try_join!(members, keys)?;
        if let Some(members) = members {
            for server in self.present_servers(Product::Nomad) {
                self.judge_member(&members.members, &server.name)?;
            }
        }
        // Versions before 1.4 have no such keys, and no need for them.
        if let Some(keys) = keys
            && !keys
                .iter()
                .flatten()
                .any(|key| key.state == "active" || key.active)
        {
            return Err("its keyring has no active key yet: clients could not register".to_owned());
        }
        Ok(())
    }

    fn judge_member(&self, members: &[Member], server: &str) -> Result<(), String> {
        let name = format!("{server}.{}", self.cluster.region);
        match members.iter().find(|member| member.name == name) {
            Some(member) if member.status == "alive" => Ok(()),
            Some(member) => Err(format!("sees {name} as {}", member.status)),
            None => Err(format!("does not see {name} among its members")),
        }
    }

    /// Clients that are ready, take allocations, can run processes and have found their Consul
    /// agent.
    pub(super) async fn nomad_clients(&self) -> Vec<Finding<'a>> {
        let nodes: Vec<&Node> = self
            .cluster
            .of_role(Role::NomadClient)
            .filter(|node| self.is_present(node))
            .collect();
        if nodes.is_empty() {
            return Vec::new();
        }
        let listed = match self
            .cluster_client
            .any_server::<Vec<Client>>(self.cluster, Product::Nomad, "/v1/nodes")
            .await
        {
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
            let finding = match judge_client(clients, &node.name) {
                Ok(client) => self.has_found_consul(server, client).await,
                Err(error) => Err(error),
            };
            (node, finding)
        }))
        .await
    }

    async fn has_found_consul(&self, server: &Node, client: &Client) -> Result<(), String> {
        let path = format!("/v1/node/{}", client.id);
        let details = self
            .api(server, Product::Nomad)
            .get(&path, LIMIT)
            .await
            .and_then(|reply| reply.json::<Details>());
        let attributes = details
            .map_err(|error| asked(&error))?
            .attributes
            .unwrap_or_default();
        if attributes.contains_key("consul.version") {
            return Ok(());
        }
        Err("ready, but it has not found its Consul agent (no attribute consul.version): services could not be placed"
            .to_owned())
    }
}

/// None: not asked (no token yet), or a version that does not have it.
async fn ask<T: DeserializeOwned>(api: &Api, path: &str) -> Result<Option<T>, String> {
    let reply = api.get(path, LIMIT).await.map_err(|error| asked(&error))?;
    match reply.status {
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::FORBIDDEN if !api.has_token() => Ok(None),
        _ => reply.json::<T>().map(Some).map_err(|error| asked(&error)),
    }
}

/// The client of this name. One that was made anew leaves its former self behind as `down`.
pub(super) fn judge_client<'l>(clients: &'l [Client], name: &str) -> Result<&'l Client, String> {
    let mut own: Vec<&Client> = clients
        .iter()
        .filter(|client| client.name == name)
        .collect();
    own.sort_by_key(|client| client.status != "ready");
    let Some(&client) = own.first() else {
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
    if client.scheduling_eligibility != "eligible" {
        return Err(format!(
            "ready, but {}: it takes no allocations; `nomad node eligibility -enable {}` if nobody works on it",
            client.scheduling_eligibility, client.id
        ));
    }
    match client
        .drivers
        .iter()
        .flatten()
        .find(|(driver, _)| *driver == "raw_exec")
    {
        Some((_, driver)) if driver.healthy => Ok(client),
        Some((_, driver)) => Err(format!(
            "ready, but its driver raw_exec is not healthy: {}",
            driver.health_description
        )),
        None => Err("ready, but it has no driver raw_exec".to_owned()),
    }
}
