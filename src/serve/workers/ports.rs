//! Which ports the `tcp-dynamic` listeners shall have open: decided from the table alone, without
//! opening any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::catalog::options::Proto;
use crate::config::{ListenerConfig, ListenerProtocol, overlap};
use crate::table::{Route, RouteTable};

/// A listener that has a port already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) address: SocketAddr,
    pub(super) holder: Holder,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A configured listener's.
    Listener(ListenerProtocol),
    /// One of the control thread, by its name.
    Beside(&'static str),
}

impl Holder {
    fn name(self) -> &'static str {
        match self {
            Self::Listener(protocol) => protocol.as_str(),
            Self::Beside(name) => name,
        }
    }
}

/// Why a route's port stays closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no tcp-dynamic listener may open it (key listener.N.ports)")]
    NotAllowed,
    #[error("{0} is another listener's ({1})")]
    Taken(SocketAddr, &'static str),
}

/// What is to be open.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// One set for each of the listeners, in their order.
    pub(super) ports: Vec<BTreeSet<u16>>,
    /// Ports of TCP routes that no listener serves.
    pub(super) refused: BTreeMap<u16, Refusal>,
}

/// Decides. A route counts while it has targets and all of them are TCP.
pub(super) fn plan(table: &RouteTable, listeners: &[&ListenerConfig], taken: &[Taken]) -> Plan {
    let mut plan = Plan {
        ports: vec![BTreeSet::new(); listeners.len()],
        ..Plan::default()
    };
    // Then no ports are expected to be opened.
    if listeners.is_empty() {
        return plan;
    }
    for (ip, port, _) in table.tcp_routes().filter(|(_, _, route)| is_tcp(route)) {
        match place(ip, port, listeners, taken) {
            Ok(Some(at)) => {
                plan.ports[at].insert(port);
            }
            Ok(None) => {}
            Err(refusal) => {
                plan.refused.insert(port, refusal);
            }
        }
    }
    // A second route for the same port, of another address, may be served.
    plan.refused
        .retain(|port, _| !plan.ports.iter().any(|ports| ports.contains(port)));
    plan
}

fn is_tcp(route: &Route) -> bool {
    !route.targets.is_empty()
        && route
            .targets
            .iter()
            .all(|target| target.options.proto == Proto::Tcp)
}

/// Which of the listeners opens the port; none when a TCP listener of the configuration has it.
fn place(
    ip: Option<IpAddr>,
    port: u16,
    listeners: &[&ListenerConfig],
    taken: &[Taken],
) -> Result<Option<usize>, Refusal> {
    let serves = |at: IpAddr| ip.is_none_or(|ip| overlap(ip, at));
    let tcp = Holder::Listener(ListenerProtocol::Tcp);
    if taken.iter().any(|other| {
        other.holder == tcp && other.address.port() == port && serves(other.address.ip())
    }) {
        return Ok(None);
    }
    let found = listeners
        .iter()
        .position(|listener| listener.ports.contains(port) && serves(listener.address.ip()));
    let at = found.ok_or(Refusal::NotAllowed)?;
    let has = |other: &&Taken| {
        other.address.port() == port && overlap(other.address.ip(), listeners[at].address.ip())
    };
    match taken.iter().find(has) {
        Some(Taken { address, holder }) => Err(Refusal::Taken(*address, holder.name())),
        None => Ok(Some(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::command::parse_commands;
    use crate::catalog::options::Strategy;
    use crate::metrics::Metrics;
    use crate::table::{Matcher, TableBuilder};

    fn table(text: &str) -> RouteTable {
        let (commands, errors) = parse_commands(text);
        assert!(errors.is_empty(), "{errors:?}");
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
        builder.apply_commands("static", commands.into(), 0);
        builder.build()
    }

    fn dynamic(ip: &str, ports: &str) -> ListenerConfig {
        ListenerConfig {
            address: SocketAddr::new(ip.parse().unwrap(), 0),
            protocol: ListenerProtocol::TcpDynamic,
            ports: ports.parse().unwrap(),
            ..ListenerConfig::default()
        }
    }

    fn taken(address: &str, protocol: ListenerProtocol) -> Taken {
        Taken {
            address: address.parse().unwrap(),
            holder: Holder::Listener(protocol),
        }
    }

    #[test]
    fn ports_of_tcp_routes_inside_the_range_that_no_other_listener_has() {
        let table = table(
            "route add a :1000 tcp://10.0.0.1:1\n\
             route add a :1001 http://10.0.0.1:1\n\
             route add a :1002 tcp://10.0.0.1:1\n\
             route add b :1002 http://10.0.0.1:1\n\
             route add a 127.0.0.1:1003 tcp://10.0.0.1:1\n\
             route add a 127.0.0.9:1004 tcp://10.0.0.1:1\n\
             route add a :1005 tcp://10.0.0.1:1\n\
             route add a :1006 tcp://10.0.0.1:1\n\
             route add a :1007 tcp://10.0.0.1:1\n\
             route add a :2000 tcp://10.0.0.1:1\n\
             route add a :3000 tcp://10.0.0.1:1\n\
             route add a www/ tcp://10.0.0.1:1\n",
        );
        let listeners = [
            dynamic("127.0.0.1", "1000-1999"),
            dynamic("0.0.0.0", "2000"),
        ];
        let others = [
            taken("0.0.0.0:1005", ListenerProtocol::Tcp),
            taken("0.0.0.0:1006", ListenerProtocol::Http),
            taken("127.0.0.2:1000", ListenerProtocol::Http),
            Taken {
                address: "127.0.0.1:1007".parse().unwrap(),
                holder: Holder::Beside("admin"),
            },
        ];
        let plan = plan(&table, &listeners.each_ref(), &others);
        assert_eq!(
            plan.ports,
            [BTreeSet::from([1000, 1003]), BTreeSet::from([2000])]
        );
        let at = |address: &str, what| Refusal::Taken(address.parse().unwrap(), what);
        let refused = [
            (1004, Refusal::NotAllowed),
            (1006, at("0.0.0.0:1006", "http")),
            (1007, at("127.0.0.1:1007", "admin")),
            (3000, Refusal::NotAllowed),
        ];
        assert_eq!(plan.refused, BTreeMap::from(refused));
        assert_eq!(super::plan(&table, &[], &others), Plan::default());
    }

    #[test]
    fn a_port_with_routes_of_two_addresses_is_served_if_one_of_them_is() {
        let table = table(
            "route add a 10.0.0.9:1000 tcp://10.0.0.1:1\nroute add a :1000 tcp://10.0.0.1:1\n",
        );
        let plan = plan(&table, &[&dynamic("127.0.0.1", "1000")], &[]);
        assert_eq!(
            plan,
            Plan {
                ports: vec![BTreeSet::from([1000])],
                refused: BTreeMap::new()
            }
        );
    }
}
