//! Snapshots of both products: taken from and put into a living cluster, and what has to be seen to
//! afterwards.
//!
//! Checked with Consul 1.8.7 and Nomad 2.0.6: a snapshot replaces all data of the product, its ACL
//! tokens among it; the raft peers stay those of the cluster that it is put into. Nomad 1.9 and later
//! keep the keys of variables and workload identities in it as well.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::acl::is_valid;
use super::api::LIMIT;
use super::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Node, Product, Role};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(200);

fn path(product: Product) -> &'static str {
    match product {
        Product::Consul => "/v1/snapshot",
        Product::Nomad => "/v1/operator/snapshot",
    }
}

/// The server that leads: the others would have to pass everything on.
async fn server<'a>(view: &ClusterView<'a>, product: Product) -> Result<&'a Node> {
    match view.leader(product).await {
        Some(node) => Ok(node),
        None => bail!("{product}: no server leads: `lb bootstrap status` tells more"),
    }
}

/// Takes a snapshot, and hands it over as it comes. Its length in bytes. The view carries the
/// management token.
///
/// # Errors
/// When no server leads, it refuses or breaks off, or `sink` fails.
pub async fn save(
    view: &ClusterView<'_>,
    product: Product,
    sink: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<u64> {
    let server = server(view, product).await?;
    let length = view
        .api(server, product)
        .download(path(product), sink)
        .await
        .with_context(|| format!("{product}'s snapshot"))?;
    if length == 0 {
        bail!("{product}'s snapshot is empty");
    }
    Ok(length)
}

/// Puts a snapshot into the living cluster. The view carries the management token. Good again.
///
/// # Errors
/// When no server leads, or it refuses.
pub async fn restore(
    view: &ClusterView<'_>,
    product: Product,
    limit: Duration,
    blocks: impl Iterator<Item = std::io::Result<Vec<u8>>> + Send + 'static,
) -> Result<()> {
    let server = server(view, product).await?;
    view.api(server, product)
        .upload(path(product), limit, blocks)
        .await
        .with_context(|| format!("{product}'s snapshot cannot be put back"))
}

/// Whether any server of the product knows a token.
pub async fn is_known(view: &ClusterView<'_>, product: Product, token: &Secret) -> bool {
    known(view, product, token).await.into_iter().any(|it| it)
}

/// Waits until all servers know a token: followers take a snapshot over a moment later.
///
/// # Errors
/// When one does not by the deadline.
pub async fn wait_known(
    view: &ClusterView<'_>,
    product: Product,
    token: &Secret,
    limit: Duration,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !known(view, product, token).await.into_iter().all(|it| it) {
        if Instant::now() >= end {
            bail!(
                "{product}: the management token of the backup is not known to all servers after {limit:?}: is the \
                 snapshot of another time than the state folder?"
            );
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

async fn known(view: &ClusterView<'_>, product: Product, token: &Secret) -> Vec<bool> {
    let servers = view.cluster.servers(product);
    join_all(servers.map(|node| async move {
        let api = view.api(node, product).with_token(Some(token.clone()));
        matches!(is_valid(&api).await, Ok(Some(_)))
    }))
    .await
}

#[derive(Deserialize)]
struct Own {
    #[serde(rename = "Config")]
    config: OwnConfig,
}

#[derive(Deserialize)]
struct OwnConfig {
    #[serde(rename = "NodeID")]
    node_id: String,
}

#[derive(Deserialize)]
struct Catalogued {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Node")]
    node: String,
}

/// Takes nodes out of Consul's catalog that the snapshot knows by another id than the agents of their
/// names have by now: such an agent is not let in until its former self is gone, and registers itself
/// then.
///
/// # Errors
/// When no server tells the catalog, or it refuses.
pub async fn forget_former_ids(view: &ClusterView<'_>) -> Result<()> {
    let (_, catalog): (_, Vec<Catalogued>) = view
        .any_server(Product::Consul, "/v1/catalog/nodes")
        .await?;
    let agents = join_all(view.cluster.nodes.iter().map(|node| async move {
        let reply = view
            .api(node, Product::Consul)
            .get("/v1/agent/self", LIMIT)
            .await;
        let own: Option<Own> = reply.ok().and_then(|reply| reply.json().ok());
        own.map(|own| (node.name.clone(), own.config.node_id))
    }))
    .await;
    let server = server(view, Product::Consul).await?;
    for name in of_former_ids(&catalog, &agents.into_iter().flatten().collect()) {
        let body = json!({ "Datacenter": view.cluster.datacenter, "Node": name });
        view.api(server, Product::Consul)
            .put("/v1/catalog/deregister", Some(&body), LIMIT)
            .await?
            .good()?;
    }
    Ok(())
}

fn of_former_ids<'c>(catalog: &'c [Catalogued], agents: &BTreeMap<String, String>) -> Vec<&'c str> {
    let is_former = |known: &&Catalogued| {
        let own = agents.get(&known.node);
        own.is_some_and(|own| !known.id.is_empty() && *own != known.id)
    };
    let former = catalog.iter().filter(is_former);
    former.map(|known| known.node.as_str()).collect()
}

#[derive(Deserialize)]
struct NodeServices {
    #[serde(rename = "Services")]
    services: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Takes services out of Consul's catalog that the snapshot knows on nodes whose agents have them no
/// more: what ran there was placed anew. With ACLs an agent may not do so itself (Consul 1.8.7 uses
/// the anonymous token for it), so that they would be called healthy for ever. How many there were.
///
/// # Errors
/// When the catalog cannot be read, or a server refuses.
pub async fn forget_services(view: &ClusterView<'_>) -> Result<usize> {
    let server = server(view, Product::Consul).await?;
    let api = view.api(server, Product::Consul);
    let mut gone = 0;
    for node in &view.cluster.nodes {
        let path = format!("/v1/catalog/node/{}", node.name);
        let known: Option<NodeServices> = api.get(&path, LIMIT).await?.json()?;
        // The catalog first: what is registered meanwhile is in the second list alone.
        let own = view.api(node, Product::Consul);
        let own = own.get("/v1/agent/services", LIMIT).await;
        let own = own.and_then(|reply| reply.json::<BTreeMap<String, serde::de::IgnoredAny>>());
        let (Some(known), Ok(own)) = (known.and_then(|node| node.services), own) else {
            continue;
        };
        for id in former_services(known.keys(), &own) {
            let body = json!({
                "Datacenter": view.cluster.datacenter, "Node": node.name, "ServiceID": id,
            });
            let done = api.put("/v1/catalog/deregister", Some(&body), LIMIT);
            done.await?.good()?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Servers register `consul` in the catalog themselves.
fn former_services<'k, T>(
    known: impl Iterator<Item = &'k String>,
    own: &BTreeMap<String, T>,
) -> Vec<&'k str> {
    let is_former = |id: &&String| *id != "consul" && !own.contains_key(*id);
    known.filter(is_former).map(String::as_str).collect()
}

/// An allocation of one client.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocation {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    desired_status: String,
    #[serde(default)]
    client_status: String,
}

/// Has Nomad place anew what the snapshot calls running on clients, by their ids, that have nothing
/// of it: a client that is handed such an allocation waits for ever for its tasks to be pending
/// (Nomad 2.0.6, `tasklifecycle.Coordinator`).
///
/// # Errors
/// When no server does it by the deadline.
pub async fn place_anew(view: &ClusterView<'_>, clients: &[String], limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    for client in clients {
        // For a moment after the snapshot the servers have no leader.
        while let Err(error) = stop_running(view, client).await {
            if Instant::now() >= end {
                return Err(error.context(format!(
                    "allocations of Nomad's client {client} cannot be placed anew"
                )));
            }
            tokio::time::sleep(STEP).await;
        }
    }
    Ok(())
}

async fn stop_running(view: &ClusterView<'_>, client: &str) -> Result<()> {
    let path = format!("/v1/node/{client}/allocations");
    let (server, all): (_, Option<Vec<Allocation>>) =
        view.any_server(Product::Nomad, &path).await?;
    let api = view.api(server, Product::Nomad);
    for one in all.unwrap_or_default() {
        if one.desired_status == "run" && one.client_status == "running" {
            let path = format!("/v1/allocation/{}/stop", one.id);
            api.post(&path, None, LIMIT).await?.good()?;
        }
    }
    Ok(())
}

/// A client in Nomad's list, and when it last changed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    modify_index: u64,
}

/// Clients as the snapshot has them, whether they are there or not: id, and when it last changed.
pub type Remembered = BTreeMap<String, u64>;

/// The clients as the snapshot has them: to be read before a client is started.
///
/// # Errors
/// When no server tells.
pub async fn remembered_clients(view: &ClusterView<'_>) -> Result<Remembered> {
    let (_, listed): (_, Vec<Listed>) = view.any_server(Product::Nomad, "/v1/nodes").await?;
    let pairs = listed.into_iter().map(|node| (node.id, node.modify_index));
    Ok(pairs.collect())
}

/// Waits until every client has registered since: the snapshot calls those ready that were so when it
/// was taken.
///
/// # Errors
/// When one has not by the deadline.
pub async fn wait_registered(
    view: &ClusterView<'_>,
    remembered: &Remembered,
    limit: Duration,
) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let (_, listed): (_, Vec<Listed>) = view.any_server(Product::Nomad, "/v1/nodes").await?;
        let clients = view.cluster.of_role(Role::NomadClient);
        let missing: Vec<&str> = clients
            .map(|node| node.name.as_str())
            .filter(|name| !has_registered(name, &listed, remembered))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!(
                "{}: not registered with Nomad since its snapshot was put back; if its log says that permission is \
                 denied, run `lb bootstrap replace-node` with its name",
                missing.join(", ")
            );
        }
        tokio::time::sleep(STEP).await;
    }
}

fn has_registered(name: &str, listed: &[Listed], remembered: &Remembered) -> bool {
    let is_fresh = |node: &Listed| {
        remembered
            .get(&node.id)
            .is_none_or(|&before| node.modify_index > before)
    };
    listed
        .iter()
        .any(|node| node.name == name && node.status == "ready" && is_fresh(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_an_agent_has_no_more_are_former_ones() {
        let known = ["consul", "web", "gone"].map(str::to_owned);
        let own = BTreeMap::from([("web".to_owned(), ()), ("new".to_owned(), ())]);
        assert_eq!(former_services(known.iter(), &own), ["gone"]);
    }

    #[test]
    fn only_agents_of_another_id_are_taken_out() {
        let catalog: Vec<Catalogued> = serde_json::from_str(
            r#"[{"ID":"1","Node":"same"},{"ID":"2","Node":"changed"},{"ID":"3","Node":"away"},{"ID":"","Node":"old"}]"#,
        )
        .unwrap();
        let agents = [("same", "1"), ("changed", "9"), ("old", "4"), ("new", "5")];
        let agents = agents.map(|(name, id)| (name.to_owned(), id.to_owned()));
        assert_eq!(of_former_ids(&catalog, &agents.into()), ["changed"]);
    }

    #[test]
    fn a_client_of_the_snapshot_does_not_count_until_it_registers() {
        let remembered = Remembered::from([("1".to_owned(), 7)]);
        for (text, expected) in [
            (
                r#"[{"ID":"1","Name":"a","Status":"ready","ModifyIndex":7}]"#,
                false,
            ),
            (
                r#"[{"ID":"1","Name":"a","Status":"ready","ModifyIndex":8}]"#,
                true,
            ),
            (
                r#"[{"ID":"1","Name":"a","Status":"down","ModifyIndex":8}]"#,
                false,
            ),
            (
                r#"[{"ID":"2","Name":"a","Status":"ready","ModifyIndex":3}]"#,
                true,
            ),
            (
                r#"[{"ID":"2","Name":"b","Status":"ready","ModifyIndex":9}]"#,
                false,
            ),
            ("[]", false),
        ] {
            let listed: Vec<Listed> = serde_json::from_str(text).unwrap();
            assert_eq!(
                has_registered("a", &listed, &remembered),
                expected,
                "{text}"
            );
        }
    }
}
