//! The three lists of nodes: names, addresses and port ranges, given or derived; everything that
//! would collide is told.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::build_context::{Kind, Recorded};
use super::reader::Reader;
use super::written::{Given, Listed, Written, listed};
use crate::bootstrap::topology::{Node, Role, Scope};
use crate::config::Location as SourceLocation;

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

/// All nodes, and how they are reached.
pub(super) fn read(
    reader: &mut Reader<'_>,
    recorded: &Recorded,
    scope: Scope,
) -> (Kind, Vec<Node>) {
    let listed = ROLES.map(|(role, key, _)| listed(reader, role, key));
    let kind = kind(reader, &listed);
    check_counts(reader, kind, scope, &listed, recorded);
    // In a file the key may wait for another target; whoever writes the flag means it now.
    if kind == Kind::Ssh
        && reader
            .spanned("local.network")
            .is_some_and(|spanned| matches!(spanned.place, SourceLocation::Flag(_)))
    {
        reader.wrong(
            "local.network",
            "is for the local target, and these are machines behind ssh",
            "take it away",
        );
    }
    let total = listed
        .iter()
        .filter_map(|listed| count(kind, listed))
        .fold(0, usize::saturating_add);
    if total > NODES_MAX {
        reader.wrong(
            "nomad_clients",
            format!("makes {total} nodes in all"),
            format!("{NODES_MAX} are the most"),
        );
        return (kind, Vec::new());
    }
    let written: Vec<(String, Written)> = listed
        .into_iter()
        .zip(ROLES)
        .flat_map(|(listed, role)| named(reader, kind, listed, role))
        .collect();
    let addresses = addresses(reader, kind, &written, recorded);
    let mut nodes = Vec::with_capacity(total);
    for ((name, written), address) in written.into_iter().zip(addresses) {
        check_node(reader, kind, &written);
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
    share_ports(reader, kind, &mut nodes);
    check_collisions(reader, &nodes);
    (kind, nodes.into_iter().map(|(node, _)| node).collect())
}

/// The nodes of a role, each with its name; a count becomes as many nodes of which nothing else is
/// written.
fn named(
    reader: &Reader<'_>,
    kind: Kind,
    listed: Listed,
    (role, key, prefix): (Role, &str, &str),
) -> Vec<(String, Written)> {
    let derived = |_| Written::derived(role, key, reader.spanned(key).cloned());
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
    reader: &mut Reader<'_>,
    kind: Kind,
    nodes: &[(String, Written)],
    recorded: &Recorded,
) -> Vec<Option<IpAddr>> {
    let network = if kind == Kind::Local {
        network(reader, recorded)
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
            (Given::Is(address), _) => check_address(reader, kind, written, address),
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
                    reader.wrong_at(
                        &written.key,
                        written.spanned.as_ref(),
                        "has no address",
                        advice,
                    );
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
        reader.wrong(
            "local.network",
            problem,
            "take a wider one, like \"127.1.0.0/16\"",
        );
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
fn kind(reader: &mut Reader<'_>, listed: &[Listed; 3]) -> Kind {
    let named = reader.one_of("target", &[("local", Kind::Local), ("ssh", Kind::Ssh)]);
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
    reader: &mut Reader<'_>,
    kind: Kind,
    scope: Scope,
    listed: &[Listed; 3],
    recorded: &Recorded,
) {
    // One that lives may pass through an even number, when a server dies or leaves.
    for (listed, (role, key, _)) in listed.iter().zip(ROLES) {
        if kind == Kind::Ssh && matches!(listed, Listed::Count(1..)) {
            let advice = "list the addresses of the machines, or write target = \"local\"";
            reader.wrong(key, "is a number, and machines have to be named", advice);
        }
        let Some(count) = count(kind, listed) else {
            continue;
        };
        match (role, count) {
            (Role::NomadClient, _) | (Role::NomadServer, 0) | (_, 1 | 3 | 5) => {}
            (_, 2 | 4) if recorded.is_living => {}
            (Role::ConsulServer, 0) => {
                reader.wrong(
                    key,
                    "names no node",
                    "a cluster needs 1, 3 or 5 Consul servers; 3 outlive the loss of one",
                );
            }
            (_, even) if even % 2 == 0 && even < 6 => {
                let problem = format!(
                    "makes {even} servers: an even number outlives no more failures than {}",
                    even - 1
                );
                reader.wrong(key, problem, "take 1, 3 or 5");
            }
            (_, many) => {
                let problem =
                    format!("makes {many} servers: each voter more slows every write down");
                reader.wrong(key, problem, "take 1, 3 or 5");
            }
        }
    }
    // Their Consul agents do without Nomad's servers.
    if scope == Scope::All
        && let (Some(0), Some(clients @ 1..)) = (count(kind, &listed[1]), count(kind, &listed[2]))
    {
        let problem = format!("names no node, and nomad_clients has {clients}");
        reader.wrong(
            "nomad_servers",
            problem,
            "clients need servers: take 1, 3 or 5, or leave the clients away, too",
        );
    }
}

fn network(reader: &mut Reader<'_>, recorded: &Recorded) -> Option<Ipv4Net> {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let text = match reader.spanned("local.network") {
        Some(_) => reader.text("local.network")?,
        None => {
            network_of(recorded).map_or_else(|| NETWORK.to_owned(), |network| network.to_string())
        }
    };
    let network = text.parse::<Ipv4Net>().ok().map(|network| network.trunc());
    let found = network.filter(|network| loopback.contains(network));
    if found.is_none() {
        let problem = if network.is_some() {
            "is not within 127.0.0.0/8"
        } else {
            "is not an IPv4 network"
        };
        reader.wrong(
            "local.network",
            problem,
            format!("write it like \"{NETWORK}\""),
        );
    }
    found
}

/// Address of the node at this position, if the network reaches so far.
fn host(network: Ipv4Net, position: usize) -> Option<Ipv4Addr> {
    let offset = u32::try_from(position).ok()?.checked_add(FIRST_HOST)?;
    let address = u32::from(network.network()).checked_add(offset)?;
    (address < u32::from(network.broadcast())).then(|| Ipv4Addr::from(address))
}

fn check_address(
    reader: &mut Reader<'_>,
    kind: Kind,
    written: &Written,
    address: IpAddr,
) -> Option<IpAddr> {
    let of_a_node = "write the address that the other nodes reach it by";
    let (problem, advice) = match (kind, address) {
        (_, address) if address.is_unspecified() => ("is no address of a machine", of_a_node),
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
    reader.wrong_at(
        &written.key,
        written.spanned_address(address).as_ref(),
        problem,
        advice,
    );
    None
}

/// Keys of a node that its role or target has no use for.
fn check_node(reader: &mut Reader<'_>, kind: Kind, written: &Written) {
    if written.ports.is_some() && written.role != Role::NomadClient {
        let key = format!("{}.dynamic_ports", written.key);
        reader.wrong_at(
            &key,
            written.spanned.as_ref(),
            "is for Nomad clients",
            "take it away: no task runs on this node",
        );
    }
    if written.ssh.is_some() && kind == Kind::Local {
        let key = format!("{}.ssh", written.key);
        let advice = "take it away, or write target = \"ssh\"";
        reader.wrong_at(
            &key,
            written.spanned.as_ref(),
            "is not for nodes of the local target",
            advice,
        );
    }
}

/// Gives ports to the clients that have none: on one machine, each a part of the range for itself.
fn share_ports(reader: &mut Reader<'_>, kind: Kind, nodes: &mut [(Node, Written)]) {
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
            let key = format!("{}.dynamic_ports", written.key);
            reader.wrong_at(
                &key,
                written.spanned.as_ref(),
                problem,
                "give every client a range of its own, or none a range",
            );
        }
    }
}

/// Names and addresses that two nodes have, and families that do not reach each other.
fn check_collisions(reader: &mut Reader<'_>, nodes: &[(Node, Written)]) {
    let mut names: HashMap<&str, &Written> = HashMap::new();
    let mut addresses: HashMap<IpAddr, &Node> = HashMap::new();
    for (node, written) in nodes {
        if let Some(first) = names.insert(&node.name, written) {
            let problem = format!("is called {}, and so is {}", node.name, first.key);
            reader.wrong_at(
                &written.key,
                written.spanned.as_ref(),
                problem,
                "give each node a name of its own",
            );
        }
        if let Some(first) = addresses.insert(node.address, node) {
            let spanned = written.spanned_address(node.address);
            let problem = format!("is the address of {}, too", first.name);
            reader.wrong_at(
                &written.key,
                spanned.as_ref(),
                problem,
                "each node needs a machine of its own",
            );
        }
    }
    let first_v4 = nodes.iter().find(|(node, _)| node.address.is_ipv4());
    let first_v6 = nodes.iter().find(|(node, _)| node.address.is_ipv6());
    if let (Some((v4, _)), Some((v6, written))) = (first_v4, first_v6) {
        let problem = format!(
            "is IPv6, and {} has the IPv4 address {}",
            v6.name, v4.address
        );
        let spanned = written.spanned_address(v6.address);
        reader.wrong_at(
            &written.key,
            spanned.as_ref(),
            problem,
            "agents bind one address each: take one family for all nodes",
        );
    }
}
