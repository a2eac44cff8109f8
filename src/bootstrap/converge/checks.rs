//! Checks of the services on a node, over the restart of its Consul agent.
//!
//! An agent that comes back counts every check as critical until it has run again, although the
//! services served all the time (seen with 1.8.7: 0.6 to 2.8 s with checks each second, and longer
//! with slower ones). Were the next agent restarted meanwhile, a service could lose all of its
//! instances at once. So the checks that passed before are waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::bootstrap::cluster::api::{Api, LIMIT};
use crate::bootstrap::context::Context;
use crate::bootstrap::topology::{Node, Product};

/// Longest wait: some services are sick for reasons of their own, and then nothing is gained by
/// waiting.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
    #[serde(default)]
    service_name: String,
}

/// What passed before the restart.
#[derive(Debug, Default)]
pub(super) struct Passing(BTreeSet<String>);

/// Looks at the checks of a node's agent; at none where it does not respond.
pub(super) async fn passing(context: &Context, node: &Node) -> anyhow::Result<Passing> {
    let found = ask(&context.cluster_client()?.api(node, Product::Consul))
        .await
        .unwrap_or_default();
    Ok(Passing(
        found
            .into_iter()
            .filter(|(_, check)| check.status == "passing")
            .map(|(id, _)| id)
            .collect(),
    ))
}

/// The services of a node of which a check passes, by name.
///
/// # Errors
/// When the operator has no certificate.
pub(super) async fn services(context: &Context, node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let api = context.cluster_client()?.api(node, Product::Consul);
    let found = ask(&api).await.unwrap_or_default();
    Ok(found
        .into_values()
        .filter(|check| check.status == "passing" && !check.service_name.is_empty())
        .map(|check| check.service_name)
        .collect())
}

/// Waits until those that passed before pass again, or are gone. Tells when some do not, and lets
/// it be.
///
/// # Errors
/// When the operator has no certificate.
pub(super) async fn wait_passing(
    context: &Context,
    node: &Node,
    before: &Passing,
) -> anyhow::Result<()> {
    let api = context.cluster_client()?.api(node, Product::Consul);
    let deadline = Instant::now() + context.limit.min(PATIENCE);
    loop {
        let waiting = match ask(&api).await {
            Some(now) => waiting(before, &now),
            None => before.0.iter().cloned().collect(),
        };
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let waiting = waiting.join(", ");
            context.progress.note(&format!(
                "{}: passed before the restart and do not yet: {waiting}",
                node.name
            ));
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn ask(api: &Api) -> Option<BTreeMap<String, Check>> {
    api.get("/v1/agent/checks", LIMIT).await.ok()?.json().ok()
}

fn waiting(before: &Passing, now: &BTreeMap<String, Check>) -> Vec<String> {
    let is_waited_for = |id: &&String| now.get(*id).is_some_and(|check| check.status != "passing");
    before.0.iter().filter(is_waited_for).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passed_before_and_is_still_there_is_waited_for() {
        let before = Passing(["a", "b", "gone"].map(str::to_owned).into());
        let now =
            r#"{"a":{"Status":"passing"},"b":{"Status":"critical"},"sick":{"Status":"critical"}}"#;
        let now: BTreeMap<String, Check> = serde_json::from_str(now).unwrap();
        assert_eq!(waiting(&before, &now), ["b"]);
        assert!(waiting(&Passing::default(), &now).is_empty());
    }
}
