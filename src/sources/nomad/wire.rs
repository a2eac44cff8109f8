//! What is read of Nomad's responses. Fields that are not used are not named.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// One namespace of `/v1/services`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedNamespace {
    #[serde(default)]
    pub namespace: String,
    pub services: Vec<ListedService>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedService {
    pub service_name: String,
    /// Those of all its instances together.
    pub tags: Option<Vec<String>>,
}

/// One instance of `/v1/service/NAME`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Registration {
    #[serde(rename = "ID")]
    pub id: String,
    pub service_name: String,
    #[serde(rename = "NodeID", default)]
    pub node_id: String,
    #[serde(rename = "AllocID", default)]
    pub alloc_id: String,
    #[serde(default)]
    pub datacenter: String,
    pub tags: Option<Vec<String>>,
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub port: i64,
}

/// `/v1/allocation/ID`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Allocation {
    #[serde(default)]
    pub client_status: String,
    #[serde(rename = "DeploymentID", default)]
    pub deployment_id: String,
    pub deployment_status: Option<DeploymentStatus>,
    #[serde(default)]
    pub task_group: String,
    pub task_states: Option<HashMap<String, TaskState>>,
    pub job: Option<Job>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeploymentStatus {
    pub healthy: Option<bool>,
    pub timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskState {
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub restarts: u64,
    pub last_restart: Option<String>,
    pub started_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Job {
    pub task_groups: Option<Vec<TaskGroup>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskGroup {
    #[serde(default)]
    pub name: String,
    pub services: Option<Vec<Service>>,
    pub tasks: Option<Vec<Task>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Task {
    pub services: Option<Vec<Service>>,
}

/// A service as the job describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(default)]
    pub name: String,
    pub checks: Option<Vec<IgnoredAny>>,
}

/// One check of `/v1/client/allocation/ID/checks`, which maps ids to them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CheckResult {
    #[serde(default)]
    pub service: String,
    #[serde(default)]
    pub check: String,
    /// `success`, `failure` or `pending`.
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub output: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub timestamp: i64,
}

/// A line of `/v1/event/stream`; one without events says that the stream is alive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Line {
    #[serde(default)]
    pub index: u64,
    #[serde(default)]
    pub events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(default)]
    pub topic: String,
    #[serde(rename = "Type", default)]
    pub kind: String,
    #[serde(default)]
    pub key: String,
    pub payload: Option<Payload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Payload {
    pub service: Option<ListedService>,
}
