//! Other tokens in the place of those in use, and taking the old ones back.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::store::{CONSUL_MANAGEMENT, NOMAD_MANAGEMENT, STEP, TokenMade, is_valid};
use crate::bootstrap::cluster::api::LIMIT;
use crate::bootstrap::cluster::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::Product;

/// Makes another management token of Consul, with an accessor and a secret that were saved before.
/// Again does no harm. The view carries the one in use.
///
/// # Errors
/// When Consul refuses, or not all servers know it by the deadline.
pub async fn consul_management(
    view: &ClusterView<'_>,
    accessor: &str,
    secret: &Secret,
    deadline: Duration,
) -> anyhow::Result<()> {
    let server = view.answering_server(Product::Consul, None).await?;
    let api = view.api(server, Product::Consul);
    if is_valid(&api.with_token(Some(secret.clone())))
        .await?
        .is_none()
    {
        let body = json!({
            "AccessorID": accessor,
            "SecretID": secret.reveal(),
            "Description": format!("{CONSUL_MANAGEMENT}, made by lb bootstrap"),
            "Policies": [{ "Name": "global-management" }],
        });
        api.put("/v1/acl/token", Some(&body), LIMIT).await?.good()?;
    }
    wait_known(view, Product::Consul, secret, deadline).await
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "AccessorID")]
    accessor_id: String,
    #[serde(rename = "Name", default)]
    name: String,
}

/// Makes another management token of Nomad, which chooses accessor and secret. One that a run made
/// which was killed before it could save it is found by its name: no token but those of `known`
/// accessors may bear it. The view carries the one in use.
///
/// # Errors
/// When Nomad refuses, or not all servers know it by the deadline.
pub async fn nomad_management(
    view: &ClusterView<'_>,
    known: &[&str],
    deadline: Duration,
) -> anyhow::Result<(String, Secret)> {
    let (node, listed): (_, Vec<Listed>) =
        view.any_server(Product::Nomad, "/v1/acl/tokens").await?;
    let api = view.api(node, Product::Nomad);
    let is_left = |token: &Listed| {
        token.name == NOMAD_MANAGEMENT && !known.contains(&token.accessor_id.as_str())
    };
    let made: TokenMade = match listed.into_iter().find(is_left) {
        Some(token) => {
            let path = format!("/v1/acl/token/{}", token.accessor_id);
            api.get(&path, LIMIT).await?.json()?
        }
        None => {
            let body = json!({ "Name": NOMAD_MANAGEMENT, "Type": "management", "Global": true });
            api.put("/v1/acl/token", Some(&body), LIMIT).await?.json()?
        }
    };
    let secret = Secret::new(made.secret_id);
    wait_known(view, Product::Nomad, &secret, deadline).await?;
    Ok((made.accessor_id, secret))
}

/// Revokes a token. It is not an error if the product does not have it any more.
///
/// # Errors
/// When the product refuses.
pub async fn revoke(
    view: &ClusterView<'_>,
    product: Product,
    accessor: &str,
) -> anyhow::Result<()> {
    let server = view.answering_server(product, None).await?;
    let path = format!("/v1/acl/token/{accessor}");
    let reply = view.api(server, product).delete(&path, None, LIMIT).await?;
    let text = reply.text().to_lowercase();
    if text.contains("not found") || text.contains("does not exist") {
        return Ok(());
    }
    reply.good()?;
    Ok(())
}

/// Servers hear of a token one after the other.
async fn wait_known(
    view: &ClusterView<'_>,
    product: Product,
    secret: &Secret,
    deadline: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    for node in view.cluster.servers(product) {
        let api = view.api(node, product).with_token(Some(secret.clone()));
        while !matches!(is_valid(&api).await, Ok(Some(_))) {
            anyhow::ensure!(
                Instant::now() < end,
                "{}: {product} does not know the new token",
                node.name
            );
            tokio::time::sleep(STEP).await;
        }
    }
    Ok(())
}
