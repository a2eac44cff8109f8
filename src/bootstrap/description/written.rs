//! The nodes as written: counts, addresses, tables. What they amount to is the business of `nodes`.

use std::net::IpAddr;

use super::keys::{ADDRESS, NodeSettings, TopSettings};
use super::{extra, names};
use crate::bootstrap::topology::{NodeExtra, Role};
use crate::config::raw::{Placed, RawValue};
use crate::config::sections::Sections;

/// A node as written.
pub(super) struct Written {
    pub(super) role: Role,
    /// Where it stands: `consul_servers[1]`, for messages.
    pub(super) key: String,
    pub(super) placed: Option<Placed>,
    pub(super) name: Option<String>,
    pub(super) address: Given,
    pub(super) ssh: Option<String>,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) extra: Option<NodeExtra>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Given {
    Absent,
    /// A mistake, noted already.
    Wrong,
    Is(IpAddr),
}

/// What stands at the key of a role.
pub(super) enum Listed {
    Nothing,
    /// A mistake, noted already.
    Wrong,
    Count(usize),
    Nodes(Vec<Written>),
}

impl Written {
    /// A node of which nothing is written but that there is one.
    pub(super) fn derived(role: Role, key: &str, placed: Option<Placed>) -> Self {
        Self {
            role,
            key: key.to_owned(),
            placed,
            name: None,
            address: Given::Absent,
            ssh: None,
            ports: None,
            extra: None,
        }
    }

    /// Notes a mistake about the node, or about its `.key`.
    pub(super) fn wrong(
        &self,
        sections: &mut Sections<'_>,
        key: &str,
        problem: &str,
        advice: &str,
    ) {
        let path = format!("{}{key}", self.key);
        sections.wrong_at(&path, self.placed.as_ref(), problem, advice);
    }

    /// Notes a mistake about its address, with that as the value.
    pub(super) fn wrong_address(
        &self,
        sections: &mut Sections<'_>,
        address: IpAddr,
        problem: &str,
        advice: &str,
    ) {
        let placed = self.placed.as_ref().map(|placed| Placed {
            value: RawValue::Text(address.to_string()),
            place: placed.place.clone(),
        });
        sections.wrong_at(&self.key, placed.as_ref(), problem, advice);
    }
}

pub(super) fn listed(
    sections: &mut Sections<'_>,
    role: Role,
    key: &str,
    placed: Option<&Placed>,
) -> Listed {
    let Some(placed) = placed else {
        return Listed::Nothing;
    };
    let (problem, advice) = match &placed.value {
        RawValue::Integer(count) => match count.replace('_', "").parse() {
            Ok(count) => return Listed::Count(count),
            Err(_) => ("is not a number of nodes", "write how many there are to be"),
        },
        RawValue::List(items) => {
            let each = |(at, item)| entry(sections, role, format!("{key}[{at}]"), item);
            return Listed::Nodes(items.iter().enumerate().map(each).collect());
        }
        _ => (
            "is neither a list nor a number",
            "write a list of addresses, [\"10.0.0.11\", …], or a count for the local target",
        ),
    };
    sections.wrong::<TopSettings>(key, problem, advice);
    Listed::Wrong
}

fn entry(sections: &mut Sections<'_>, role: Role, key: String, placed: &Placed) -> Written {
    let mut written = Written::derived(role, &key, Some(placed.clone()));
    match &placed.value {
        RawValue::Text(text) => match names::address(text) {
            Ok(()) => written.address = given(Some(text), true),
            Err(problem) => {
                written.address = Given::Wrong;
                sections.wrong_at(&key, Some(placed), problem, ADDRESS);
            }
        },
        RawValue::Table(table) => {
            let node: NodeSettings = sections.table(&key, &placed.place, table);
            written.address = given(node.address.as_deref(), table.contains_key("address"));
            written.name = node.name;
            written.ssh = node.ssh;
            let extra = format!("{key}.extra");
            written.extra = extra::of_node(sections, &extra, node.extra.as_ref());
            written.ports = node.dynamic_ports.as_deref().and_then(names::ports);
        }
        _ => {
            written.address = Given::Wrong;
            let advice =
                "write \"10.0.0.11\", or { name = \"…\", address = \"10.0.0.11\", ssh = \"…\" }";
            sections.wrong_at(&key, Some(placed), "is not a node", advice);
        }
    }
    written
}

/// An address that passed its check; none: it did not, or was not written.
fn given(text: Option<&str>, is_written: bool) -> Given {
    match text.and_then(|text| text.parse().ok()) {
        Some(address) => Given::Is(address),
        None if is_written => Given::Wrong,
        None => Given::Absent,
    }
}
