//! When the next server may be restarted.
//!
//! Autopilot lags by up to two seconds: right after a stop it still calls all healthy. So it is not
//! believed alone: the restarted server must itself know the leader that all others know, and must
//! have caught up with the leader's log.

use futures_util::future::join_all;
use serde_json::Value;

use super::{Finding, Gates, failed_request, servers_of};
use crate::bootstrap::cluster::acl;
use crate::bootstrap::cluster::api::{Api, LIMIT};
use crate::bootstrap::cluster::facts::AutopilotHealth;
use crate::bootstrap::topology::{Node, Product};

impl<'a> Gates<'a> {
    pub(super) async fn restarted_server(
        &self,
        product: Product,
        restarted: &Node,
    ) -> Vec<Finding<'a>> {
        let mut findings = servers_of(self, product).await;
        if findings.iter().any(|(_, finding)| finding.is_err()) {
            return findings;
        }
        let verdict = self.is_back(product, restarted).await;
        if let Some((_, finding)) = findings
            .iter_mut()
            .find(|(node, _)| node.name == restarted.name)
        {
            *finding = verdict;
        }
        findings
    }

    async fn is_back(&self, product: Product, restarted: &Node) -> Result<(), String> {
        let api = self.view.api(restarted, product);
        let health = match self.view.autopilot_seen_by(restarted, product).await {
            Ok(health) => health,
            // Before the bootstrap of ACLs no token allows this; nothing is restarted then but what
            // has just been started.
            Err(error) if acl::is_before_bootstrap(&error, &api).await => return Ok(()),
            Err(error) => return Err(failed_request(&error)),
        };
        let servers = self.view.cluster.servers(product).count();
        let absent = servers - self.present_servers(product).len();
        judge_health(&health, product, restarted, servers, absent)?;
        self.has_caught_up(product, &api).await
    }

    async fn has_caught_up(&self, product: Product, restarted: &Api) -> Result<(), String> {
        let servers = self.present_servers(product);
        let others = join_all(servers.iter().map(|node| {
            let api = self.view.api(node, product);
            async move { raft_index(&api, "commit_index").await }
        }))
        .await;
        // Invocation after the others: its index may only be higher by then.
        let own = raft_index(restarted, "applied_index").await;
        match (others.into_iter().flatten().max(), own) {
            (Some(committed), Some(applied)) if applied < committed => Err(format!(
                "its log is behind: applied {applied}, the servers have {committed}"
            )),
            _ => Ok(()),
        }
    }
}

/// None where it cannot be had: the token may not read agents, or the version does not tell.
async fn raft_index(api: &Api, key: &str) -> Option<u64> {
    let own: Value = api.get("/v1/agent/self", LIMIT).await.ok()?.json().ok()?;
    let stats = own.get("Stats").or_else(|| own.get("stats"))?;
    stats.get("raft")?.get(key)?.as_str()?.parse().ok()
}

pub(super) fn judge_health(
    health: &AutopilotHealth,
    product: Product,
    restarted: &Node,
    servers: usize,
    absent: usize,
) -> Result<(), String> {
    let Some(own) = health
        .servers
        .iter()
        .find(|server| restarted.is_rpc(product, &server.address))
    else {
        return Err("autopilot does not know it yet".to_owned());
    };
    if own.serf_status != "alive" && !own.serf_status.is_empty() {
        return Err(format!("autopilot sees it as {}", own.serf_status));
    }
    if !own.healthy {
        return Err("autopilot does not call it healthy yet".to_owned());
    }
    if !own.voter {
        return Err(
            "it is not a voter yet; autopilot makes a new server one after 10 s".to_owned(),
        );
    }
    // With a server away on purpose the rest can be neither all healthy nor as tolerant.
    let wanted = i64::try_from(servers.saturating_sub(1) / 2).unwrap_or(i64::MAX);
    if absent == 0 && !health.healthy {
        return Err("autopilot does not call all servers healthy yet".to_owned());
    }
    if absent == 0 && health.failure_tolerance < wanted {
        return Err(format!(
            "the cluster could lose {} servers, {wanted} when all of them are healthy",
            health.failure_tolerance
        ));
    }
    Ok(())
}
