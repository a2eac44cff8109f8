//! The jobs that `up --with-sample` runs: the files of `deploy/nomad`, with this cluster's names filled in.
//!
//! Nomad itself turns the text into a job (`/v1/jobs/parse`), so that there is one source for people and for us.

use serde_json::{Value, json};

use crate::bootstrap::topology::Cluster;

const HELLO: &str = include_str!("../../../deploy/nomad/hello.nomad.hcl");
const LB: &str = include_str!("../../../deploy/nomad/lb.nomad.hcl");

/// Body for `POST /v1/jobs/parse` that gives the sample service. The answer goes to `PUT /v1/jobs` as `{"Job": …}`.
/// Source: <https://developer.hashicorp.com/nomad/api-docs/jobs#parse-job>.
#[must_use]
pub fn hello(cluster: &Cluster) -> Value {
    parse_request(HELLO, cluster)
}

/// Body for `POST /v1/jobs/parse` that gives lb itself as a system job.
#[must_use]
pub fn lb_system(cluster: &Cluster) -> Value {
    parse_request(LB, cluster)
}

fn parse_request(text: &str, cluster: &Cluster) -> Value {
    let variables = format!("datacenters = [{}]\n", super::hcl::quoted(&cluster.datacenter));
    json!({ "JobHCL": text, "Variables": variables, "Canonicalize": true })
}
