//! What agents tell of their cluster, read from their JSON: members, raft peers, the verdict of
//! autopilot, Nomad's nodes. Pure.
//!
//! Versions leave fields out, and Go writes an empty list as `null`. What identifies a thing has to
//! be there; whatever else is absent counts as what makes a gate wait: not alive, not healthy, not
//! a voter, not leading.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::bootstrap::topology::Node;

/// How gossip takes a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Value")]
pub enum MemberStatus {
    /// It responds.
    Alive,
    /// It has said that it goes.
    Leaving,
    /// It has gone, or was made to.
    Left,
    /// It was lost without a word.
    Failed,
    /// Nothing of the kind was told.
    #[default]
    Unknown,
}

impl MemberStatus {
    /// The word that the command lines of both products use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for MemberStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl From<Value> for MemberStatus {
    /// Consul gives Serf's number, Nomad its word.
    fn from(value: Value) -> Self {
        match (value.as_u64(), value.as_str()) {
            (Some(1), _) | (_, Some("alive")) => Self::Alive,
            (Some(2), _) | (_, Some("leaving")) => Self::Leaving,
            (Some(3), _) | (_, Some("left")) => Self::Left,
            (Some(4), _) | (_, Some("failed")) => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// A member of a gossip pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// Name; of Nomad with the region behind a dot.
    pub name: String,
    /// How the agent that was called takes it.
    #[serde(default)]
    pub status: MemberStatus,
    #[serde(default)]
    tags: Option<Tags>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Tags {
    #[serde(default)]
    build: Option<String>,
}

impl Member {
    /// A member of which no version is known.
    #[must_use]
    pub fn new(name: &str, status: MemberStatus) -> Self {
        Self {
            name: name.to_owned(),
            status,
            tags: None,
        }
    }

    /// The version it runs. Consul has the commit behind a colon.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.tags.as_ref()?.build.as_deref()?.split(':').next()
    }
}

/// The response to `/v1/agent/members`: a list of Consul, an object with a list of Nomad.
#[derive(Debug)]
pub(super) struct Members(pub(super) Vec<Member>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = match Value::deserialize(deserializer)? {
            Value::Object(mut told) => told.remove("Members").unwrap_or_default(),
            list => list,
        };
        let members = Option::<Vec<Member>>::deserialize(list).map_err(serde::de::Error::custom)?;
        Ok(Self(members.unwrap_or_default()))
    }
}

/// A raft peer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftPeer {
    /// Its raft id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of its node; of Nomad with the region, until `without_region` was called. `(unknown)`
    /// for one that gossip does not know.
    pub node: String,
    /// Address of its RPC.
    pub address: String,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
}

impl RaftPeer {
    /// Whether it is at the node's address.
    #[must_use]
    pub fn is_at(&self, node: &Node) -> bool {
        self.address
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip() == node.address)
    }

    /// Whether it is the node's, by its name or its address.
    #[must_use]
    pub fn is_of(&self, node: &Node) -> bool {
        self.node == node.name || self.is_at(node)
    }

    /// With the name that the description has for its node.
    #[must_use]
    pub(super) fn without_region(mut self, region: &str) -> Self {
        let name = self.node.strip_suffix(region);
        if let Some(name) = name.and_then(|name| name.strip_suffix('.')) {
            self.node = name.to_owned();
        }
        self
    }
}

/// The response to `/v1/operator/raft/configuration`.
#[derive(Debug, Deserialize)]
pub(super) struct RaftConfiguration {
    #[serde(rename = "Servers", deserialize_with = "or_empty")]
    pub(super) servers: Vec<RaftPeer>,
}

/// The verdict of autopilot on the servers of a product.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotHealth {
    /// Whether all are healthy.
    #[serde(default)]
    pub healthy: bool,
    /// How many may be lost.
    #[serde(default)]
    pub failure_tolerance: i64,
    /// Each server.
    #[serde(default, deserialize_with = "or_empty")]
    pub servers: Vec<ServerHealth>,
}

/// The verdict of autopilot on one server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerHealth {
    /// Its raft id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of its node; of Nomad with the region.
    pub name: String,
    /// Address of its RPC.
    pub address: String,
    /// How gossip takes it, as a word; empty where that is not told.
    #[serde(default)]
    pub serf_status: String,
    /// Whether it is well.
    #[serde(default)]
    pub healthy: bool,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
}

impl From<ServerHealth> for RaftPeer {
    fn from(server: ServerHealth) -> Self {
        Self {
            id: server.id,
            node: server.name,
            address: server.address,
            voter: server.voter,
            leader: server.leader,
        }
    }
}

/// A client in Nomad's list of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NomadNode {
    /// Id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name.
    pub name: String,
    /// `ready`, `down`, `initializing`…; `unknown` where it is not told.
    #[serde(default = "unknown")]
    pub status: String,
    /// What there is to say about the status.
    #[serde(default)]
    pub status_description: String,
    /// `eligible` or `ineligible`.
    #[serde(default)]
    pub scheduling_eligibility: Option<String>,
    /// Whether it is being drained.
    #[serde(default)]
    pub drain: Option<bool>,
    /// The version it runs.
    #[serde(default)]
    pub version: Option<String>,
    /// Its drivers by name.
    #[serde(default)]
    pub drivers: Option<BTreeMap<String, Driver>>,
}

/// What runs tasks on a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Driver {
    /// Whether it works.
    pub healthy: bool,
    /// Why, or why not.
    pub health_description: String,
}

impl NomadNode {
    /// The client of this name. One that was made anew leaves its former self behind as `down`.
    #[must_use]
    pub fn of_name<'n>(nodes: &'n [Self], name: &str) -> Option<&'n Self> {
        let rank = |node: &&Self| match node.status.as_str() {
            "ready" => 0,
            "down" => 2,
            _ => 1,
        };
        nodes
            .iter()
            .filter(|node| node.name == name)
            .min_by_key(rank)
    }

    /// Why it takes no allocations, although it may be well; None: it takes them.
    #[must_use]
    pub fn idle(&self) -> Option<&'static str> {
        if self.drain == Some(true) {
            return Some("is being drained");
        }
        let word = self.scheduling_eligibility.as_deref();
        (word != Some("eligible")).then_some("takes no allocations (ineligible)")
    }

    /// Whether it is neither down nor forgotten.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.status != "down"
    }
}

/// What Nomad tells of one client beside what is in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NomadNodeDetails {
    /// What it has found out about its machine.
    #[serde(rename = "Attributes")]
    pub attributes: Option<BTreeMap<String, String>>,
    /// Where its agent listens.
    #[serde(rename = "HTTPAddr")]
    pub http_address: String,
}

fn unknown() -> String {
    MemberStatus::Unknown.word().to_owned()
}

fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_both_products_are_read_alike() {
        use MemberStatus::{Alive, Failed, Leaving, Left, Unknown};
        let all = "a alive 1.8.7, b failed -";
        for (text, expected) in [
            // Both products, with the tags that they send.
            (
                r#"[{"Name":"a","Status":1,"Tags":{"build":"1.8.7:abc","role":"node"}},{"Name":"b","Status":4,"Tags":{}}]"#,
                all,
            ),
            (
                r#"{"ServerName":"x","Members":[{"Name":"a","Status":"alive","Tags":{"build":"1.8.7"}},{"Name":"b","Status":"failed"}]}"#,
                all,
            ),
            // A token without rights, and a list that was never filled.
            ("[]", ""),
            ("null", ""),
            (r#"{"Members":null}"#, ""),
            ("{}", ""),
            // Fields that are absent or null.
            (r#"[{"Name":"a"}]"#, "a unknown -"),
            (r#"[{"Name":"a","Status":null,"Tags":null}]"#, "a unknown -"),
            (
                r#"[{"Name":"a","Status":1,"Tags":{"build":null}}]"#,
                "a alive -",
            ),
        ] {
            let Members(members) = serde_json::from_str(text).unwrap();
            let found: Vec<String> = members
                .iter()
                .map(|member| {
                    let version = member.version().unwrap_or("-");
                    format!("{} {} {version}", member.name, member.status)
                })
                .collect();
            assert_eq!(found.join(", "), expected, "{text}");
        }
        for (number, word, expected) in [
            (0, "none", Unknown),
            (1, "alive", Alive),
            (2, "leaving", Leaving),
            (3, "left", Left),
            (4, "failed", Failed),
            (5, "reaped", Unknown),
        ] {
            assert_eq!(MemberStatus::from(Value::from(number)), expected);
            assert_eq!(MemberStatus::from(Value::from(word)), expected);
        }
        for text in [r#"[{"Status":1}]"#, r#""members""#, "7", r#"{"Members":3}"#] {
            assert!(serde_json::from_str::<Members>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn peers_are_the_same_from_raft_and_from_autopilot() {
        let raft = r#"{"Index":7,"Servers":[{"ID":"i","Node":"a.global","Address":"10.0.0.1:4647","Leader":true,"Voter":true,"RaftProtocol":3}]}"#;
        let autopilot = r#"{"Healthy":true,"FailureTolerance":1,"Servers":[{"ID":"i","Name":"a.global","Address":"10.0.0.1:4647",
            "SerfStatus":"alive","Leader":true,"Healthy":true,"Voter":true}]}"#;
        let raft: RaftConfiguration = serde_json::from_str(raft).unwrap();
        let autopilot: AutopilotHealth = serde_json::from_str(autopilot).unwrap();
        let peers: Vec<RaftPeer> = autopilot.servers.into_iter().map(RaftPeer::from).collect();
        assert_eq!(peers, raft.servers);
        assert_eq!(peers[0].clone().without_region("global").node, "a");
        assert_eq!(peers[0].clone().without_region("moon").node, "a.global");
    }

    #[test]
    fn what_is_absent_asks_for_patience() {
        let health: AutopilotHealth = serde_json::from_str(r#"{"Servers":null}"#).unwrap();
        assert_eq!(
            (health.healthy, health.failure_tolerance, health.servers),
            (false, 0, vec![])
        );
        let server: ServerHealth =
            serde_json::from_str(r#"{"ID":"i","Name":"a","Address":"x"}"#).unwrap();
        assert!(!server.healthy && !server.voter && !server.leader);
        let node: NomadNode = serde_json::from_str(r#"{"ID":"i","Name":"a"}"#).unwrap();
        assert_eq!(
            (node.status.as_str(), node.drain, node.version),
            ("unknown", None, None)
        );
        // What it is called by must be there: a peer is removed by its id.
        for text in [r#"{"Name":"a","Address":"x"}"#, r#"{"ID":"i","Name":"a"}"#] {
            assert!(
                serde_json::from_str::<ServerHealth>(text).is_err(),
                "{text}"
            );
        }
        assert!(serde_json::from_str::<NomadNode>(r#"{"ID":"i"}"#).is_err());
        assert!(serde_json::from_str::<RaftConfiguration>("{}").is_err());
    }

    #[test]
    fn of_several_clients_of_a_name_the_living_one_counts() {
        let node = |id: &str, name: &str, status: &str| NomadNode {
            id: id.to_owned(),
            name: name.to_owned(),
            status: status.to_owned(),
            ..NomadNode::default()
        };
        for (nodes, expected) in [
            (vec![], None),
            (vec![node("1", "b", "ready")], None),
            (vec![node("1", "a", "down")], Some("1")),
            (
                vec![node("1", "a", "down"), node("2", "a", "ready")],
                Some("2"),
            ),
            (
                vec![node("1", "a", "down"), node("2", "a", "initializing")],
                Some("2"),
            ),
            (
                vec![node("1", "a", "disconnected"), node("2", "a", "ready")],
                Some("2"),
            ),
            (
                vec![node("1", "a", "down"), node("2", "a", "down")],
                Some("1"),
            ),
        ] {
            let found = NomadNode::of_name(&nodes, "a").map(|node| node.id.as_str());
            assert_eq!(found, expected, "{nodes:?}");
        }
    }
}
