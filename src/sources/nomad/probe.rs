//! `lb check --live`: one attempt to read each namespace.

use std::time::Duration;

use super::api::{Answer, Api};
use super::error::NomadError;
use super::wire::ListedNamespace;
use crate::config::NomadConfig;
use crate::sources::probe_step::ProbeStep;

/// Limit for one read.
const LIMIT: Duration = Duration::from_secs(10);

/// Tries to read every namespace, and tells what of it is routed.
pub(super) async fn probe(config: &NomadConfig, tag_prefix: &str) -> Vec<ProbeStep> {
    let api = match Api::load(config) {
        Ok(api) => api,
        Err(error) => return vec![ProbeStep::failed("config", error.to_string(), None)],
    };
    let mut steps = Vec::new();
    for namespace in &config.namespaces {
        let query = [("namespace", namespace.as_str())];
        let read: Result<Answer<Vec<ListedNamespace>>, _> =
            api.get("/v1/services", &query, LIMIT).await;
        steps.push(match read {
            Ok(answer) => {
                let services = answer.body.iter().flat_map(|it| &it.services);
                let tags = services.clone().filter(|it| {
                    let mut tags = it.tags.iter().flatten();
                    tags.any(|tag| tag.trim().starts_with(tag_prefix))
                });
                let detail = format!(
                    "namespace {namespace}: {} of {} services carry a tag that begins with {tag_prefix}",
                    tags.count(),
                    services.count(),
                );
                ProbeStep::good("first read", detail)
            }
            Err(error) => {
                let name = match error.kind() {
                    "tls" => "tls",
                    "connect" => "connect",
                    "token" => "token",
                    _ => "first read",
                };
                ProbeStep::failed(name, format!("namespace {namespace}: {error}"), hint(&error))
            }
        });
    }
    steps
}

fn hint(error: &NomadError) -> Option<String> {
    let text = match error.kind() {
        "connect" => "is this the address of an agent's HTTP API (nomad.address)?",
        "tls" => "is nomad.ca_file the CA of the agents, and does nomad.server_name fit them?",
        "token" => "the policy of the token: namespace \"NAME\" { capabilities = [\"read-job\"] }",
        _ => return None,
    };
    Some(text.to_owned())
}
