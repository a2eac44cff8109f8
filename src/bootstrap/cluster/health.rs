//! What `doctor` makes of what it found: ports between nodes, clocks, packet sizes, versions. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::status::ClusterStatus;
use crate::bootstrap::nodes::{Probe, Reached};
use crate::bootstrap::plural::counted;
use crate::bootstrap::topology::{Cluster, Node, Product, Scope};

/// Clocks further apart than this mislead logs, and soon more.
const SKEW_MAX_MS: i64 = 1_000;
/// Our own clock may be off by this.
const OWN_SKEW_MAX_MS: i64 = 5_000;

/// Something that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Whether the nodes respond.
    Nodes,
    /// Whether they reach each other's ports.
    Ports,
    /// Whether their clocks agree.
    Clocks,
    /// Whether their interfaces take packets of the same size.
    Mtu,
    /// Whether agents of one product have one version.
    Versions,
    /// Whether the nodes are as described.
    Drift,
}

impl Check {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Nodes,
        Self::Ports,
        Self::Clocks,
        Self::Mtu,
        Self::Versions,
        Self::Drift,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Ports => "ports",
            Self::Clocks => "clocks",
            Self::Mtu => "mtu",
            Self::Versions => "versions",
            Self::Drift => "drift",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check found it.
    pub check: Check,
    /// On which node; None: on none in particular.
    pub node: Option<String>,
    /// What happened.
    pub problem: String,
    /// The value that was seen.
    pub value: String,
    /// What to do.
    pub advice: String,
}

/// A port of another node that a node has to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name of the other node.
    pub to: String,
    /// Which port.
    pub target: SocketAddr,
    /// What it is for.
    pub what: &'static str,
}

/// TCP ports that a node has to reach on the others. Of gossip the same ports go by UDP, of which
/// nothing can be told without the agents.
#[must_use]
pub fn links(cluster: &Cluster, scope: Scope, from: &Node) -> Vec<Link> {
    let mut links = Vec::new();
    let with_nomad = scope.includes(Product::Nomad);
    for to in cluster.nodes.iter().filter(|to| to.name != from.name) {
        let mut add = |port: u16, what| {
            links.push(Link {
                to: to.name.clone(),
                target: SocketAddr::new(to.address, port),
                what,
            });
        };
        add(8301, "Consul gossip");
        if to.is_server(Product::Consul) {
            add(8300, "Consul RPC");
            if from.is_server(Product::Consul) {
                add(8302, "Consul gossip between datacenters");
            }
        }
        let has_nomad = from.products().contains(&Product::Nomad);
        if with_nomad && has_nomad && to.is_server(Product::Nomad) {
            add(4647, "Nomad RPC");
            if from.is_server(Product::Nomad) {
                add(4648, "Nomad gossip");
            }
        }
    }
    links
}

/// Ports that a node did not reach.
#[must_use]
pub fn judge_ports(from: &str, links: &[Link], probe: &Probe) -> Vec<Finding> {
    let Some(ports) = &probe.ports else {
        return vec![Finding {
            check: Check::Ports,
            node: Some(from.to_owned()),
            problem: "ports of other nodes were not tried".to_owned(),
            value: "no bash, or no timeout".to_owned(),
            advice: "install bash and coreutils there".to_owned(),
        }];
    };
    let tried = links.iter().zip(ports);
    let finding = |(link, reached): (&Link, &Reached)| {
        let (value, advice) = match reached {
            Reached::Yes => return None,
            Reached::Refused => (
                "refused",
                "nothing listens there: `lb bootstrap status` tells whether the agent runs, `up` starts it; else a \
                 firewall rejects it",
            ),
            Reached::Silent => (
                "no answer",
                "a firewall on the way drops it, or the machine is away: let the port through between these nodes",
            ),
            Reached::Unreachable => (
                "no route",
                "see to the routes between these nodes, and to the addresses in the description",
            ),
        };
        Some(Finding {
            check: Check::Ports,
            node: Some(from.to_owned()),
            problem: format!(
                "does not reach {} of {} ({})",
                link.target, link.to, link.what
            ),
            value: value.to_owned(),
            advice: advice.to_owned(),
        })
    };
    tried.filter_map(finding).collect()
}

/// Clocks that differ from those of most nodes; and ours, where all of them differ from it.
#[must_use]
pub fn judge_clocks(probes: &BTreeMap<String, Probe>) -> Vec<Finding> {
    let mut skews: Vec<i64> = probes.values().map(|probe| probe.clock_skew_ms).collect();
    skews.sort_unstable();
    let Some(&middle) = skews.get(skews.len() / 2) else {
        return Vec::new();
    };
    let seconds = |ms: i64| format!("{:+.1} s", ms as f64 / 1000.0);
    let mut found: Vec<Finding> = probes
        .iter()
        .filter(|(_, probe)| (probe.clock_skew_ms - middle).abs() > SKEW_MAX_MS)
        .map(|(name, probe)| Finding {
            check: Check::Clocks,
            node: Some(name.clone()),
            problem: "its clock differs from those of most nodes".to_owned(),
            value: seconds(probe.clock_skew_ms - middle),
            advice: "let it keep time (NTP): `timedatectl` there tells whether it does".to_owned(),
        })
        .collect();
    if middle.abs() > OWN_SKEW_MAX_MS {
        found.push(Finding {
            check: Check::Clocks,
            node: None,
            problem: "the clock of this machine differs from those of most nodes".to_owned(),
            value: seconds(-middle),
            advice: "let this machine keep time: certificates that it makes may not be valid yet"
                .to_owned(),
        });
    }
    found
}

/// Interfaces that take packets of another size than most.
#[must_use]
pub fn judge_mtu(probes: &BTreeMap<String, Probe>) -> Vec<Finding> {
    let sizes = probes.values().filter_map(|probe| probe.mtu);
    let Some(common) = most_common(sizes) else {
        return Vec::new();
    };
    let finding = |(name, probe): (&String, &Probe)| {
        let mtu = probe.mtu.filter(|mtu| *mtu != common)?;
        let interface = probe.interface.as_deref().unwrap_or("?");
        Some(Finding {
            check: Check::Mtu,
            node: Some(name.clone()),
            problem: format!("the MTU of {interface} is not that of most nodes, {common}"),
            value: mtu.to_string(),
            advice: format!(
                "large packets may be lost on the way: `ip link set {interface} mtu {common}` there, and in its network \
                 configuration, or the same on the others"
            ),
        })
    };
    probes.iter().filter_map(finding).collect()
}

/// Agents of another version than most of their product.
#[must_use]
pub fn judge_versions(status: &ClusterStatus) -> Vec<Finding> {
    let mut found = Vec::new();
    for product in Product::ALL {
        let versions: Vec<(&str, &str)> = (status.nodes.iter())
            .filter_map(|node| {
                let agent = match product {
                    Product::Consul => Some(&node.consul),
                    Product::Nomad => node.nomad.as_ref(),
                };
                Some((node.name.as_str(), agent?.version.as_deref()?))
            })
            .collect();
        let Some(common) = most_common(versions.iter().map(|(_, version)| *version)) else {
            continue;
        };
        let strange = versions.iter().filter(|(_, version)| *version != common);
        found.extend(strange.map(|(name, version)| Finding {
            check: Check::Versions,
            node: Some((*name).to_owned()),
            problem: format!("{product} there is not of the version of most nodes, {common}"),
            value: (*version).to_owned(),
            advice: "finish the upgrade: `lb bootstrap upgrade`, or `up`".to_owned(),
        }));
    }
    found
}

/// The value that is there most often; of several the greatest.
fn most_common<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(value, _)| value)
}

/// As people read it.
#[must_use]
pub fn render(looked_at: &BTreeMap<Check, String>, findings: &[Finding]) -> String {
    let mut text = String::new();
    for check in Check::ALL {
        let Some(what) = looked_at.get(&check) else {
            continue;
        };
        let of_check: Vec<&Finding> = findings.iter().filter(|one| one.check == check).collect();
        let verdict = match of_check.len() {
            0 => "well".to_owned(),
            count => counted(count, "problem"),
        };
        text.push_str(&format!("{:<10} {verdict:<12} {what}\n", check.name()));
        for Finding {
            node,
            problem,
            value,
            advice,
            ..
        } in of_check
        {
            let node = node
                .as_deref()
                .map(|node| format!("{node}: "))
                .unwrap_or_default();
            text.push_str(&format!(
                "  {node}{problem}: {value}\n    what to do: {advice}\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::cluster::status::{AgentStatus, NodeStatus};
    use crate::bootstrap::security::pki::tests::cluster;
    use crate::bootstrap::topology::Role;

    fn probes(all: &[(&str, i64, u32)]) -> BTreeMap<String, Probe> {
        let probe = |&(name, clock_skew_ms, mtu): &(&str, i64, u32)| {
            let probe = Probe {
                clock_skew_ms,
                interface: Some("eth0".to_owned()),
                mtu: Some(mtu),
                ports: None,
            };
            (name.to_owned(), probe)
        };
        all.iter().map(probe).collect()
    }

    fn told(findings: &[Finding]) -> Vec<String> {
        let told = findings.iter();
        told.map(|one| format!("{} {}", one.node.as_deref().unwrap_or("-"), one.value))
            .collect()
    }

    #[test]
    fn clocks_are_held_against_those_of_most_nodes() {
        for (skews, expected) in [
            (&[("a", 0, 1), ("b", 900, 1), ("c", -900, 1)][..], &[][..]),
            (&[("a", 0, 1), ("b", 0, 1), ("c", -1500, 1)], &["c -1.5 s"]),
            (&[("a", 4_000, 1), ("b", 4_000, 1)], &[]),
            (
                &[("a", -9_000, 1), ("b", -9_000, 1), ("c", -9_000, 1)],
                &["- +9.0 s"],
            ),
            (
                &[("a", 60_000, 1), ("b", 60_000, 1), ("c", 0, 1)],
                &["c -60.0 s", "- -60.0 s"],
            ),
            (&[], &[]),
        ] {
            assert_eq!(told(&judge_clocks(&probes(skews))), expected, "{skews:?}");
        }
    }

    #[test]
    fn an_mtu_is_held_against_that_of_most_nodes() {
        let found = judge_mtu(&probes(&[("a", 0, 1500), ("b", 0, 1450), ("c", 0, 1500)]));
        assert_eq!(told(&found), ["b 1450"]);
        assert!(found[0].advice.contains("`ip link set eth0 mtu 1500`"));
        assert!(judge_mtu(&probes(&[("a", 0, 9000), ("b", 0, 9000)])).is_empty());
    }

    #[test]
    fn each_node_reaches_what_its_agents_talk_to() {
        let cluster = cluster("/s".into());
        let of = |role| cluster.of_role(role).next().unwrap();
        let consul_servers = cluster.servers(Product::Consul).count();
        let nomad_servers = cluster.servers(Product::Nomad).count();
        let all = cluster.nodes.len();
        for (role, scope, expected) in [
            (
                Role::ConsulServer,
                Scope::All,
                all - 1 + 2 * (consul_servers - 1),
            ),
            (
                Role::NomadServer,
                Scope::All,
                all - 1 + consul_servers + 2 * (nomad_servers - 1),
            ),
            (
                Role::NomadClient,
                Scope::All,
                all - 1 + consul_servers + nomad_servers,
            ),
            (
                Role::NomadClient,
                Scope::ConsulOnly,
                all - 1 + consul_servers,
            ),
        ] {
            assert_eq!(links(&cluster, scope, of(role)).len(), expected, "{role:?}");
        }
    }

    #[test]
    fn a_port_that_is_not_reached_is_told_with_both_ends() {
        let link = |port: u16| Link {
            to: "b".to_owned(),
            target: SocketAddr::new([10, 0, 0, 2].into(), port),
            what: "Consul RPC",
        };
        let links = [link(1), link(2), link(3), link(4)];
        let mut probe = Probe {
            ports: Some(vec![
                Reached::Yes,
                Reached::Refused,
                Reached::Silent,
                Reached::Unreachable,
            ]),
            ..Probe::default()
        };
        let found = judge_ports("a", &links, &probe);
        assert_eq!(told(&found), ["a refused", "a no answer", "a no route"]);
        assert_eq!(
            found[0].problem,
            "does not reach 10.0.0.2:2 of b (Consul RPC)"
        );
        probe.ports = None;
        assert_eq!(
            told(&judge_ports("a", &links, &probe)),
            ["a no bash, or no timeout"]
        );
    }

    #[test]
    fn an_agent_of_another_version_is_told() {
        let node = |name: &str, consul: Option<&str>, nomad: Option<&str>| NodeStatus {
            name: name.to_owned(),
            consul: AgentStatus {
                version: consul.map(str::to_owned),
                ..AgentStatus::default()
            },
            nomad: nomad.map(|version| AgentStatus {
                version: Some(version.to_owned()),
                ..AgentStatus::default()
            }),
            ..NodeStatus::default()
        };
        let status = ClusterStatus {
            nodes: vec![
                node("a", Some("1.8.7"), None),
                node("b", Some("1.8.7"), Some("2.0.5")),
                node("c", Some("1.9.0"), Some("2.0.5")),
                node("d", None, Some("2.0.6")),
            ],
            ..ClusterStatus::default()
        };
        assert_eq!(told(&judge_versions(&status)), ["c 1.9.0", "d 2.0.6"]);
    }

    #[test]
    fn what_is_shown_has_a_line_per_check_and_what_to_do() {
        let looked_at = [
            (Check::Clocks, "of 3 nodes".to_owned()),
            (Check::Mtu, "of 3 nodes".to_owned()),
        ];
        let findings = judge_mtu(&probes(&[("a", 0, 1500), ("b", 0, 1450), ("c", 0, 1500)]));
        assert_eq!(
            render(&looked_at.into(), &findings),
            "clocks     well         of 3 nodes\n\
             mtu        1 problem    of 3 nodes\n  \
             b: the MTU of eth0 is not that of most nodes, 1500: 1450\n    \
             what to do: large packets may be lost on the way: `ip link set eth0 mtu 1500` there, and in its network \
             configuration, or the same on the others\n"
        );
    }
}
