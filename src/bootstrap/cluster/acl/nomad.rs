//! Nomad's policy and token for the operator.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::store::{NOMAD_OPERATOR, TokenMade, TokenStore, is_valid};
use crate::bootstrap::cluster::api::{Api, LIMIT};
use crate::bootstrap::cluster::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::Product;

/// Everything but ACLs.
const OPERATOR_RULES: &str = r#"agent { policy = "write" }
host_volume "*" { policy = "write" }
namespace "*" { policy = "write" }
node { policy = "write" }
operator { policy = "write" }
plugin { policy = "read" }
quota { policy = "write" }
"#;

#[derive(Deserialize)]
struct Policy {
    #[serde(rename = "Rules", default)]
    rules: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "AccessorID")]
    accessor_id: String,
    #[serde(rename = "Name", default)]
    name: String,
}

/// The operator's policy and token of Nomad. The view carries the management token.
///
/// # Errors
/// When Nomad refuses.
pub async fn tokens(
    view: &ClusterView<'_>,
    tokens: &mut (dyn TokenStore + '_),
) -> anyhow::Result<()> {
    let retired = tokens.retired();
    let (node, listed): (_, Vec<Listed>) =
        view.any_server(Product::Nomad, "/v1/acl/tokens").await?;
    let api = view.api(node, Product::Nomad);
    ensure_policy(&api).await?;
    if let Some(secret) = tokens.get(NOMAD_OPERATOR)
        && is_valid(&api.with_token(Some(secret))).await?.is_some()
    {
        return Ok(());
    }
    // Nomad chooses the secret. One that an earlier run made and could not save any more is found
    // by its name.
    let made: TokenMade = match listed
        .into_iter()
        .find(|token| token.name == NOMAD_OPERATOR && !retired.contains(&token.accessor_id))
    {
        Some(token) => api
            .get(&format!("/v1/acl/token/{}", token.accessor_id), LIMIT)
            .await?
            .json()?,
        None => {
            let body = json!({ "Name": NOMAD_OPERATOR, "Type": "client", "Policies": [NOMAD_OPERATOR], "Global": true });
            api.put("/v1/acl/token", Some(&body), LIMIT).await?.json()?
        }
    };
    tokens.put(
        NOMAD_OPERATOR,
        &made.accessor_id,
        &Secret::new(made.secret_id),
    )
}

async fn ensure_policy(api: &Api) -> anyhow::Result<()> {
    let path = format!("/v1/acl/policy/{NOMAD_OPERATOR}");
    let reply = api.get(&path, LIMIT).await?;
    if reply.status != StatusCode::NOT_FOUND && reply.json::<Policy>()?.rules == OPERATOR_RULES {
        return Ok(());
    }
    let body = json!({ "Name": NOMAD_OPERATOR, "Description": "Made by lb bootstrap", "Rules": OPERATOR_RULES });
    api.put(&path, Some(&body), LIMIT).await?.good()?;
    Ok(())
}
