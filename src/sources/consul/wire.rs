//! Consul's JSON, as far as routing needs it. Unknown fields are skipped, and `null` reads as the
//! empty value: Go writes a nil slice or map that way.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Deserialize;

use crate::catalog::definitions::null_is_default;

/// Where the list of services is read.
pub(super) const SERVICES: &str = "/v1/catalog/services";

/// Characters that may stand in a segment of a path as they are; a slash may not, though the
/// agent's server decodes it again before it judges the path (see `watch::is_readable`).
pub(super) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `/v1/catalog/services`: names, and all tags that any instance of it carries.
pub type ServiceList = BTreeMap<String, Option<Vec<String>>>;

/// Reads the list of services.
pub(super) fn decode_services(body: &[u8]) -> Result<ServiceList, serde_json::Error> {
    serde_json::from_slice(body)
}

/// One element of `/v1/health/service/NAME`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthEntry {
    /// The node that carries the registration.
    #[serde(deserialize_with = "null_is_default")]
    pub node: Node,
    /// The registration.
    #[serde(deserialize_with = "null_is_default")]
    pub service: Service,
    /// Checks of both.
    #[serde(deserialize_with = "null_is_default")]
    pub checks: Vec<Check>,
}

/// A node of the catalog.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// Its name.
    #[serde(deserialize_with = "null_is_default")]
    pub node: String,
    /// Its datacenter.
    #[serde(deserialize_with = "null_is_default")]
    pub datacenter: String,
    /// Its address: an IP as a rule, yet any text may be registered.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
}

/// A registered instance.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    /// Id, unique on its node.
    #[serde(rename = "ID", deserialize_with = "null_is_default")]
    pub id: String,
    /// Name of the service, in its own letter case; Consul looks names up without regard to case.
    #[serde(deserialize_with = "null_is_default")]
    pub service: String,
    /// What it is in the service mesh: `connect-proxy`, `mesh-gateway` and the like; empty: a usual
    /// instance.
    #[serde(deserialize_with = "null_is_default")]
    pub kind: String,
    /// Whether it takes part in the mesh without a proxy.
    #[serde(deserialize_with = "null_is_default")]
    pub connect: Connect,
    /// What it is a proxy for.
    #[serde(deserialize_with = "null_is_default")]
    pub proxy: Proxy,
    /// The same in Consul 1.2.
    #[serde(deserialize_with = "null_is_default")]
    pub proxy_destination: String,
    /// Address; empty: the node's.
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
    /// Port; 0: none given.
    #[serde(deserialize_with = "null_is_default")]
    pub port: i64,
    /// Tags in their order.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Weights, absent before Consul 1.2.3.
    pub weights: Option<Weights>,
}

/// `Connect` of an instance.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Connect {
    /// It speaks the mesh's mutual TLS itself.
    #[serde(deserialize_with = "null_is_default")]
    pub native: bool,
}

/// `Proxy` of an instance.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Proxy {
    /// The service it stands in front of.
    #[serde(deserialize_with = "null_is_default")]
    pub destination_service_name: String,
}

/// Weights of an instance.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// While passing.
    pub passing: i64,
    /// While warning.
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

/// A health check. Its output and notes are for reasons only (the snapshot leaves them out): a
/// change of them builds no table.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// Id, unique on its node.
    #[serde(rename = "CheckID", deserialize_with = "null_is_default")]
    pub id: String,
    /// `passing`, `warning`, `critical` (or `maintenance`).
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    /// The instance it belongs to; empty for checks of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_is_default")]
    pub service_id: String,
    /// What it said when it last ran.
    #[serde(deserialize_with = "null_is_default")]
    pub output: String,
    /// What was written about it when it was made; of maintenance, the reason.
    #[serde(deserialize_with = "null_is_default")]
    pub notes: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_unknown_fields_are_tolerated() {
        let text = r#"[{"Node":null,"Service":{"ID":"a","Tags":null,"Port":null,"Weights":null,"New":{}},"Checks":null},
            {"Service":{"Kind":null,"Connect":null,"Proxy":{"DestinationServiceName":null}}}, {"Service":null}, {}]"#;
        let entries: Vec<HealthEntry> = serde_json::from_str(text).unwrap();
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[0].service.id, "a");
        assert!(entries[0].checks.is_empty());
    }

    #[test]
    fn a_cut_or_wrong_response_is_an_error() {
        for text in [
            "",
            "[{\"Node\":{",
            "{}",
            "\"rpc error\"",
            "[{\"Service\":{\"Port\":\"80\"}}]",
        ] {
            assert!(
                serde_json::from_str::<Vec<HealthEntry>>(text).is_err(),
                "{text}"
            );
        }
        assert!(serde_json::from_str::<ServiceList>("[]").is_err());
    }
}
