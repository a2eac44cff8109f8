//! Consul's policies and tokens.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::{
    CONSUL_LB, CONSUL_NOMAD, CONSUL_OPERATOR, CONSUL_SCRAPE, STEP, TokenStore, consul_agent,
    is_valid, new_secret,
};
use crate::bootstrap::cluster::api::{Api, LIMIT};
use crate::bootstrap::cluster::view::ClusterView;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Cluster, Product};

/// Everything but ACLs: a token that may write those may do all.
const OPERATOR_RULES: &str = r#"agent_prefix "" { policy = "write" }
event_prefix "" { policy = "write" }
key_prefix "" { policy = "write" }
keyring = "write"
node_prefix "" { policy = "write" }
operator = "write"
query_prefix "" { policy = "write" }
service_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
"#;

/// Of Nomad's servers and clients: they find each other and register services.
const NOMAD_RULES: &str = r#"agent_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "write" }
"#;

/// Of lb: it reads the catalog and its own keys.
const LB_RULES: &str = r#"key_prefix "lb/" { policy = "read" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }
"#;

/// Of Prometheus: it reads the metrics of agents.
const SCRAPE_RULES: &str = "agent_prefix \"\" { policy = \"read\" }\n";

/// Of what shows no token, where nodes look up Consul's domain: DNS knows no tokens.
const DNS: &str = "lb-dns";
const DNS_RULES: &str = r#"node_prefix "" { policy = "read" }
query_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }
"#;
/// Accessor of the token that Consul takes what shows none for.
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// A policy of one token each.
struct Wanted {
    /// Name of both.
    name: String,
    rules: String,
}

fn wanted(cluster: &Cluster) -> Vec<Wanted> {
    let fixed = [
        (CONSUL_OPERATOR, OPERATOR_RULES),
        (CONSUL_NOMAD, NOMAD_RULES),
        (CONSUL_LB, LB_RULES),
        (CONSUL_SCRAPE, SCRAPE_RULES),
    ];
    let mut all: Vec<Wanted> = fixed
        .iter()
        .map(|(name, rules)| Wanted {
            name: (*name).to_owned(),
            rules: (*rules).to_owned(),
        })
        .collect();
    all.extend(cluster.nodes.iter().map(|node| Wanted {
        name: consul_agent(node),
        rules: format!(
            "node \"{}\" {{ policy = \"write\" }}\nservice_prefix \"\" {{ policy = \"read\" }}\n",
            node.name
        ),
    }));
    all
}

#[derive(Deserialize)]
struct Policy {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
    /// Absent in the list.
    #[serde(rename = "Rules", default)]
    rules: String,
}

/// All policies and tokens of Consul; makes what is missing. The view carries the management token.
///
/// # Errors
/// When Consul refuses.
pub async fn tokens(
    view: &ClusterView<'_>,
    tokens: &mut (dyn TokenStore + '_),
) -> anyhow::Result<()> {
    let (node, policies): (_, Vec<Policy>) =
        view.any_server(Product::Consul, "/v1/acl/policies").await?;
    // One server for all: another might not have seen yet what was just made.
    let api = view.api(node, Product::Consul);
    let policies: BTreeMap<String, String> = policies
        .into_iter()
        .map(|policy| (policy.name, policy.id))
        .collect();
    for Wanted { name, rules } in wanted(view.cluster) {
        ensure_policy(&api, &name, &rules, policies.get(&name).map(String::as_str)).await?;
        ensure_token(&api, &name, tokens).await?;
    }
    let id = policies.get(DNS).map(String::as_str);
    if view.cluster.features.consul_dns {
        ensure_policy(&api, DNS, DNS_RULES, id).await?;
        give_anonymous(&api, true).await?;
    } else if id.is_some() {
        give_anonymous(&api, false).await?;
    }
    Ok(())
}

/// Gives the anonymous token the policy for DNS, or takes it away; what else it has, it keeps.
async fn give_anonymous(api: &Api, wanted: bool) -> anyhow::Result<()> {
    let path = format!("/v1/acl/token/{ANONYMOUS}");
    let mut token: serde_json::Value = api.get(&path, LIMIT).await?.json()?;
    let mut policies = token["Policies"].as_array().cloned().unwrap_or_default();
    let is_ours = |policy: &serde_json::Value| policy["Name"] == DNS;
    if policies.iter().any(is_ours) == wanted {
        return Ok(());
    }
    policies.retain(|policy| !is_ours(policy));
    if wanted {
        policies.push(json!({ "Name": DNS }));
    }
    token["Policies"] = policies.into();
    api.put(&path, Some(&token), LIMIT).await?.good()?;
    Ok(())
}

async fn ensure_policy(api: &Api, name: &str, rules: &str, id: Option<&str>) -> anyhow::Result<()> {
    let path = match id {
        None => "/v1/acl/policy".to_owned(),
        Some(id) => {
            let path = format!("/v1/acl/policy/{id}");
            let policy: Policy = api.get(&path, LIMIT).await?.json()?;
            if policy.rules == rules {
                return Ok(());
            }
            path
        }
    };
    let mut body = json!({ "Name": name, "Rules": rules, "Description": "Made by lb bootstrap" });
    if let Some(id) = id {
        body["ID"] = id.into();
    }
    api.put(&path, Some(&body), LIMIT).await?.good()?;
    Ok(())
}

async fn ensure_token(
    api: &Api,
    name: &str,
    tokens: &mut (dyn TokenStore + '_),
) -> anyhow::Result<()> {
    let saved = tokens.get(name);
    if let Some(secret) = &saved
        && is_valid(&api.with_token(Some(secret.clone())))
            .await?
            .is_some()
    {
        return Ok(());
    }
    let accessor = Uuid::new_v4().to_string();
    let secret = saved.unwrap_or_else(new_secret);
    tokens.put(name, &accessor, &secret)?;
    let body = json!({
        "AccessorID": accessor,
        "SecretID": secret.reveal(),
        "Description": format!("{name}, made by lb bootstrap"),
        "Policies": [{ "Name": name }],
    });
    api.put("/v1/acl/token", Some(&body), LIMIT).await?.good()?;
    Ok(())
}

/// An agent that has just joined may not know the management token yet.
pub(super) async fn give_agent_token(
    api: &Api,
    token: &Secret,
    end: Instant,
) -> anyhow::Result<()> {
    let body = json!({ "Token": token.reveal() });
    loop {
        let result = api
            .put("/v1/agent/token/agent", Some(&body), LIMIT)
            .await
            .and_then(|reply| reply.good());
        match result {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= end => return Err(error.into()),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}
