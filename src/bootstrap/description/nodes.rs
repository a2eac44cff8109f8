//! The three lists of nodes: names, addresses and port ranges, given or derived; everything that
//! would collide is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::build_context::{Kind, Recorded};
use super::keys::{LocalSettings, TopSettings};
use super::written::{Given, Listed, Written, listed};
use crate::bootstrap::topology::{Node, NodeExtra, Role, Scope};
use crate::config::Location as SourceLocation;
use crate::config::raw::Entry;
use crate::config::sections::Sections;

/// The roles with their key and what the default names begin with; in the order in which nodes are
/// listed.
pub(crate) const ROLES: [(Role, &str, &str); 3] = [
    (Role::ConsulServer, "consul_servers", "consul"),
    (Role::NomadServer, "nomad_servers", "nomad-server"),
    (Role::NomadClient, "nomad_clients", "nomad-client"),
];

/// Loopback network of local nodes, unless another is named.
pub(crate) const NETWORK: &str = "127.0.1.0/24";

/// Nodes of each role on the local target, unless another count is named.
const LOCAL_COUNT: usize = 3;

/// The first local node gets this address of the network.
const FIRST_HOST: u32 = 11;

/// Ports that local clients share out among themselves: above what daemons use, below Linux's
/// ephemeral ports (32768).
const LOCAL_PORTS: (u16, u16) = (20_000, 32_767);

/// Most ports that a local client gets.
const LOCAL_PORTS_EACH: u16 = 1_000;

/// Ports of a client that has its machine for itself.
const SSH_PORTS: (u16, u16) = (20_000, 32_000);

/// Most nodes: far above need, and below it every local client still has ports.
const NODES_MAX: usize = 1_000;

/// All nodes, how they are reached, and what is added to the agents of each.
pub(super) fn read(
    sections: &mut Sections<'_>,
    top: &TopSettings,
    local: &LocalSettings,
    recorded: &Recorded,
    scope: Scope,
) -> (Kind, Vec<Node>, BTreeMap<String, NodeExtra>) {
    let written = [&top.consul_servers, &top.nomad_servers, &top.nomad_clients];
    let mut written = written.into_iter();
    let listed = ROLES.map(|(role, key, _)| {
        let placed = written.next().and_then(Option::as_ref);
        listed(sections, role, key, placed)
    });
    let kind = kind(top.target, &listed);
    check_counts(sections, kind, scope, &listed, recorded);
    // In a file the key may wait for another target; the flag is meant now.
    let network = sections.settings.entry("local.network");
    if kind == Kind::Ssh
        && network.is_some_and(|entry| matches!(entry.place, SourceLocation::Flag(_)))
    {
        let problem = "is for the local target, and these are machines behind ssh";
        sections.wrong::<LocalSettings>("network", problem, "take it away");
    }
    let total = listed
        .iter()
        .filter_map(|listed| count(kind, listed))
        .fold(0, usize::saturating_add);
    if total > NODES_MAX {
        let problem = format!("makes {total} nodes in all");
        let advice = format!("{NODES_MAX} are the most");
        sections.wrong::<TopSettings>("nomad_clients", &problem, &advice);
        return (kind, Vec::new(), BTreeMap::new());
    }
    let written: Vec<(String, Written)> = listed
        .into_iter()
        .zip(ROLES)
        .flat_map(|(listed, role)| named(sections, kind, listed, role))
        .collect();
    let addresses = addresses(sections, kind, local, &written, recorded);
    let mut nodes = Vec::with_capacity(total);
    let extras = written
        .iter()
        .filter_map(|(name, written)| Some((name.clone(), written.extra.clone()?)))
        .collect();
    for ((name, written), address) in written.into_iter().zip(addresses) {
        check_node(sections, kind, &written);
        if let Some(address) = address {
            let (role, ssh, dynamic_ports) = (written.role, written.ssh.clone(), written.ports);
            nodes.push((
                Node {
                    name,
                    role,
                    address,
                    ssh,
                    dynamic_ports,
                },
                written,
            ));
        }
    }
    share_ports(sections, kind, &mut nodes);
    check_collisions(sections, &nodes);
    let nodes = nodes.into_iter().map(|(node, _)| node).collect();
    (kind, nodes, extras)
}

/// The nodes of a role, each with its name; a count becomes as many nodes of which nothing else is
/// written.
fn named(
    sections: &Sections<'_>,
    kind: Kind,
    listed: Listed,
    (role, key, prefix): (Role, &str, &str),
) -> Vec<(String, Written)> {
    let derived = |_| Written::derived(role, key, sections.settings.entry(key).map(Entry::placed));
    let written = match listed {
        Listed::Nodes(written) => written,
        counted => (0..count(kind, &counted).unwrap_or_default())
            .map(derived)
            .collect(),
    };
    let name = |(at, written): (usize, Written)| {
        (
            written
                .name
                .clone()
                .unwrap_or_else(|| format!("{prefix}-{at}")),
            written,
        )
    };
    written.into_iter().enumerate().map(name).collect()
}

/// The address of each node: given, or what it had before, or the next free one of the loopback
/// network from its position on; None after a mistake.
fn addresses(
    sections: &mut Sections<'_>,
    kind: Kind,
    local: &LocalSettings,
    nodes: &[(String, Written)],
    recorded: &Recorded,
) -> Vec<Option<IpAddr>> {
    let network = if kind == Kind::Local {
        network(sections, local, recorded)
    } else {
        None
    };
    let before = |name: &str| {
        let address = recorded.addresses.get(name)?;
        network?.contains(&v4(*address)?).then_some(*address)
    };
    // Nodes that are there keep their addresses when others come; those go where there is room.
    let mut taken: HashSet<IpAddr> = nodes
        .iter()
        .filter_map(|(name, written)| match written.address {
            Given::Is(address) => Some(address),
            Given::Absent => before(name),
            Given::Wrong => None,
        })
        .collect();
    let mut full = false;
    let mut found = Vec::with_capacity(nodes.len());
    for (position, (name, written)) in nodes.iter().enumerate() {
        found.push(match (written.address, network) {
            (Given::Is(address), _) => check_address(sections, kind, written, address),
            (Given::Wrong, _) => None,
            (Given::Absent, Some(network)) => before(name).or_else(|| {
                let mut free = (position..)
                    .map_while(|at| host(network, at))
                    .map(IpAddr::V4);
                let free = free.find(|address| !taken.contains(address));
                full |= free.is_none();
                taken.extend(free);
                free
            }),
            (Given::Absent, None) => {
                if kind == Kind::Ssh {
                    let advice = "add address = \"…\", the one that the other nodes reach it by";
                    written.wrong(sections, "", "has no address", advice);
                }
                None
            }
        });
    }
    if let Some(network) = network.filter(|_| full) {
        let total = nodes.len();
        let room = (0..total)
            .take_while(|position| host(network, *position).is_some())
            .count();
        let problem = format!(
            "is too small: {network} has room for {room} nodes from .{FIRST_HOST} on, and {total} are described"
        );
        let advice = "take a wider one, like \"127.1.0.0/16\"";
        sections.wrong::<LocalSettings>("network", &problem, advice);
    }
    found
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The smallest of the usual networks that holds all nodes that were there before.
fn network_of(recorded: &Recorded) -> Option<Ipv4Net> {
    let all: Vec<Ipv4Addr> = recorded
        .addresses
        .values()
        .filter_map(|address| v4(*address))
        .collect();
    let first = all.first().filter(|first| first.is_loopback())?;
    let networks = [24, 16, 8].map(|length| Ipv4Net::new_assert(*first, length).trunc());
    networks
        .into_iter()
        .find(|network| all.iter().all(|address| network.contains(address)))
}

/// As named, else by the addresses: whatever is not on loopback is another machine.
fn kind(named: Option<Kind>, listed: &[Listed; 3]) -> Kind {
    let remote =
        |written: &Written| matches!(written.address, Given::Is(address) if !address.is_loopback());
    let any_remote = listed
        .iter()
        .any(|listed| matches!(listed, Listed::Nodes(nodes) if nodes.iter().any(remote)));
    named.unwrap_or(if any_remote { Kind::Ssh } else { Kind::Local })
}

/// How many nodes; None when that was a mistake.
fn count(kind: Kind, listed: &Listed) -> Option<usize> {
    match (listed, kind) {
        (Listed::Nothing, Kind::Local) => Some(LOCAL_COUNT),
        (Listed::Nothing | Listed::Count(0), Kind::Ssh) => Some(0),
        (Listed::Count(count), Kind::Local) => Some(*count),
        (Listed::Count(_), Kind::Ssh) | (Listed::Wrong, _) => None,
        (Listed::Nodes(nodes), _) => Some(nodes.len()),
    }
}

fn check_counts(
    sections: &mut Sections<'_>,
    kind: Kind,
    scope: Scope,
    listed: &[Listed; 3],
    recorded: &Recorded,
) {
    // One that lives may pass through an even number, when a server dies or leaves.
    for (listed, (role, key, _)) in listed.iter().zip(ROLES) {
        if kind == Kind::Ssh && matches!(listed, Listed::Count(1..)) {
            let problem = "is a number, and machines have to be named";
            let advice = "list the addresses of the machines, or write target = \"local\"";
            sections.wrong::<TopSettings>(key, problem, advice);
        }
        let Some(count) = count(kind, listed) else {
            continue;
        };
        let (problem, advice) = match (role, count) {
            (Role::NomadClient, _) | (Role::NomadServer, 0) | (_, 1 | 3 | 5) => continue,
            (_, 2 | 4) if recorded.is_living => continue,
            (Role::ConsulServer, 0) => (
                "names no node".to_owned(),
                "a cluster needs 1, 3 or 5 Consul servers; 3 outlive the loss of one",
            ),
            (_, even) if even % 2 == 0 && even < 6 => {
                let less = even - 1;
                let problem = format!(
                    "makes {even} servers: an even number outlives no more failures than {less}"
                );
                (problem, "take 1, 3 or 5")
            }
            (_, many) => {
                let problem =
                    format!("makes {many} servers: each voter more slows every write down");
                (problem, "take 1, 3 or 5")
            }
        };
        sections.wrong::<TopSettings>(key, &problem, advice);
    }
    // Their Consul agents do without Nomad's servers.
    if scope == Scope::All
        && let (Some(0), Some(clients @ 1..)) = (count(kind, &listed[1]), count(kind, &listed[2]))
    {
        let problem = format!("names no node, and nomad_clients has {clients}");
        let advice = "clients need servers: take 1, 3 or 5, or leave the clients away, too";
        sections.wrong::<TopSettings>("nomad_servers", &problem, advice);
    }
}

fn network(sections: &Sections<'_>, local: &LocalSettings, recorded: &Recorded) -> Option<Ipv4Net> {
    let network = match &local.network {
        Some(written) => written.parse().ok(),
        // A mistake, noted already.
        None if sections.settings.has("local.network") => None,
        None => network_of(recorded).or_else(|| NETWORK.parse().ok()),
    };
    network.map(|network: Ipv4Net| network.trunc())
}

/// Address of the node at this position, if the network reaches so far.
fn host(network: Ipv4Net, position: usize) -> Option<Ipv4Addr> {
    let offset = u32::try_from(position).ok()?.checked_add(FIRST_HOST)?;
    let address = u32::from(network.network()).checked_add(offset)?;
    (address < u32::from(network.broadcast())).then(|| Ipv4Addr::from(address))
}

fn check_address(
    sections: &mut Sections<'_>,
    kind: Kind,
    written: &Written,
    address: IpAddr,
) -> Option<IpAddr> {
    let of_a_node = "write the address that the other nodes reach it by";
    let (problem, advice) = match (kind, address) {
        (_, address) if address.is_unspecified() => ("is not the address of a machine", of_a_node),
        (_, address) if address.is_multicast() => ("is a multicast address", of_a_node),
        (_, IpAddr::V4(Ipv4Addr::BROADCAST)) => ("is the broadcast address", of_a_node),
        (_, IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            ("is an IPv4 address in disguise", "write it as IPv4")
        }
        (_, IpAddr::V6(v6)) if v6.is_unicast_link_local() => (
            "is link-local, and means nothing without an interface",
            of_a_node,
        ),
        (Kind::Local, IpAddr::V4(v4)) if v4.is_loopback() => return Some(address),
        (Kind::Local, _) => {
            let advice = "leave the addresses away, or write target = \"ssh\"";
            (
                "is not in 127.0.0.0/8, where the nodes of the local target live",
                advice,
            )
        }
        (Kind::Ssh, address) if address.is_loopback() => {
            let advice = "write the address of its network, or target = \"local\" when all nodes are on this machine";
            (
                "is a loopback address, on which other machines cannot reach it",
                advice,
            )
        }
        (Kind::Ssh, _) => return Some(address),
    };
    written.wrong_address(sections, address, problem, advice);
    None
}

/// Keys of a node that its role or target has no use for.
fn check_node(sections: &mut Sections<'_>, kind: Kind, written: &Written) {
    if written.ports.is_some() && written.role != Role::NomadClient {
        let advice = "take it away: no task runs on this node";
        written.wrong(sections, ".dynamic_ports", "is for Nomad clients", advice);
    }
    if written.ssh.is_some() && kind == Kind::Local {
        let problem = "is not for nodes of the local target";
        let advice = "take it away, or write target = \"ssh\"";
        written.wrong(sections, ".ssh", problem, advice);
    }
}

/// Gives ports to the clients that have none: on one machine, each a part of the range for itself.
fn share_ports(sections: &mut Sections<'_>, kind: Kind, nodes: &mut [(Node, Written)]) {
    let mut clients: Vec<_> = nodes
        .iter_mut()
        .filter(|(node, _)| node.role == Role::NomadClient)
        .collect();
    let all = LOCAL_PORTS.1 - LOCAL_PORTS.0 + 1;
    let each =
        (all / u16::try_from(clients.len().max(1)).unwrap_or(u16::MAX)).min(LOCAL_PORTS_EACH);
    let mut first = LOCAL_PORTS.0;
    for (node, _) in &mut clients {
        let derived = match kind {
            Kind::Ssh => SSH_PORTS,
            Kind::Local => (first, first + (each.max(1) - 1)),
        };
        node.dynamic_ports.get_or_insert(derived);
        first = first.saturating_add(each);
    }
    if kind == Kind::Ssh {
        return;
    }
    let mut ranges: Vec<_> = clients
        .iter()
        .map(|(node, written)| (node.dynamic_ports, node, written))
        .collect();
    ranges.sort_by_key(|(ports, _, _)| *ports);
    for pair in ranges.windows(2) {
        let [(Some(before), earlier, one), (Some(after), later, two)] = pair else {
            continue;
        };
        if after.0 <= before.1 {
            // The derived range cannot be blamed.
            let (node, written, other) = if two.ports.is_some() {
                (later, two, earlier)
            } else {
                (earlier, one, later)
            };
            let problem = format!(
                "of {} overlaps with that of {} on the same machine",
                node.name, other.name
            );
            let advice = "give every client a range of its own, or none a range";
            written.wrong(sections, ".dynamic_ports", &problem, advice);
        }
    }
}

/// Names and addresses that two nodes have, and families that do not reach each other.
fn check_collisions(sections: &mut Sections<'_>, nodes: &[(Node, Written)]) {
    let mut names: HashMap<&str, &Written> = HashMap::new();
    let mut addresses: HashMap<IpAddr, &Node> = HashMap::new();
    for (node, written) in nodes {
        if let Some(first) = names.insert(&node.name, written) {
            let problem = format!("is called {}, and so is {}", node.name, first.key);
            written.wrong(sections, "", &problem, "give each node a name of its own");
        }
        if let Some(first) = addresses.insert(node.address, node) {
            let problem = format!("is the address of {}, too", first.name);
            let advice = "each node needs a machine of its own";
            written.wrong_address(sections, node.address, &problem, advice);
        }
    }
    let first_v4 = nodes.iter().find(|(node, _)| node.address.is_ipv4());
    let first_v6 = nodes.iter().find(|(node, _)| node.address.is_ipv6());
    if let (Some((v4, _)), Some((v6, written))) = (first_v4, first_v6) {
        let problem = format!(
            "is IPv6, and {} has the IPv4 address {}",
            v6.name, v4.address
        );
        let advice = "agents bind one address each: take one family for all nodes";
        written.wrong_address(sections, v6.address, &problem, advice);
    }
}
