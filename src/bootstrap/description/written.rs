//! The nodes as written: counts, addresses, tables. What they amount to is the business of `nodes`.

use std::net::IpAddr;

use super::names;
use super::raw::{Spanned, Value};
use super::reader::Reader;
use crate::bootstrap::topology::Role;
use crate::config::error::nearest;

/// Keys of a node's table.
const NODE_KEYS: [&str; 4] = ["name", "address", "ssh", "dynamic_ports"];

/// Ports that the agents listen on.
const AGENT_PORTS: [u16; 8] = [4646, 4647, 4648, 8300, 8301, 8302, 8501, 8600];

/// A node as written.
pub(super) struct Written {
    pub(super) role: Role,
    /// Where it stands: `consul_servers[1]`, for messages.
    pub(super) key: String,
    pub(super) spanned: Option<Spanned>,
    pub(super) name: Option<String>,
    pub(super) address: Given,
    pub(super) ssh: Option<String>,
    pub(super) ports: Option<(u16, u16)>,
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
    pub(super) fn derived(role: Role, key: &str, spanned: Option<Spanned>) -> Self {
        Self {
            role,
            key: key.to_owned(),
            spanned,
            name: None,
            address: Given::Absent,
            ssh: None,
            ports: None,
        }
    }

    /// Where the node stands, with its address as the value.
    pub(super) fn spanned_address(&self, address: IpAddr) -> Option<Spanned> {
        self.spanned.clone().map(|spanned| Spanned {
            value: Value::Text(address.to_string()),
            place: spanned.place,
        })
    }
}

pub(super) fn listed(reader: &mut Reader<'_>, role: Role, key: &str) -> Listed {
    let Some(spanned) = reader.spanned(key) else {
        return Listed::Nothing;
    };
    match &spanned.value {
        Value::Integer(count) => match usize::try_from(*count) {
            Ok(count) => Listed::Count(count),
            Err(_) => {
                reader.wrong(
                    key,
                    "is no number of nodes",
                    "write how many there are to be",
                );
                Listed::Wrong
            }
        },
        Value::List(items) => {
            let each = |(at, item)| entry(reader, role, format!("{key}[{at}]"), item);
            Listed::Nodes(items.iter().enumerate().map(each).collect())
        }
        _ => {
            let advice =
                "write a list of addresses, [\"10.0.0.11\", …], or a count for the local target";
            reader.wrong(key, "is neither a list nor a number", advice);
            Listed::Wrong
        }
    }
}

fn entry(reader: &mut Reader<'_>, role: Role, key: String, spanned: &Spanned) -> Written {
    let mut written = Written::derived(role, &key, Some(spanned.clone()));
    match &spanned.value {
        Value::Text(text) => written.address = address(reader, &key, spanned, text),
        Value::Table(keys) => {
            for (word, value) in keys {
                let path = format!("{key}.{word}");
                match (word.as_str(), &value.value) {
                    ("address", Value::Text(text)) => {
                        written.address = address(reader, &path, value, text)
                    }
                    ("name", Value::Text(text)) => match names::label(text) {
                        Ok(()) => written.name = Some(text.clone()),
                        Err(problem) => {
                            let advice = "use lower-case letters, digits and -: it is part of certificates and of DNS";
                            reader.wrong_at(&path, Some(value), problem, advice);
                        }
                    },
                    ("ssh", Value::Text(text)) => match names::ssh_word(text) {
                        Ok(()) => written.ssh = Some(text.clone()),
                        Err(problem) => {
                            let advice = "write a host, or an alias of your ssh configuration";
                            reader.wrong_at(&path, Some(value), problem, advice);
                        }
                    },
                    ("dynamic_ports", Value::Text(text)) => {
                        written.ports = ports(reader, &path, value, text)
                    }
                    (known, _) if NODE_KEYS.contains(&known) => {
                        if known == "address" {
                            written.address = Given::Wrong;
                        }
                        reader.wrong_at(
                            &path,
                            Some(value),
                            "is not a text",
                            "put it in double quotes",
                        );
                    }
                    (unknown, _) => {
                        let advice = match nearest(unknown, NODE_KEYS) {
                            Some(near) => format!("did you mean {near}?"),
                            None => format!("a node has {}", NODE_KEYS.join(", ")),
                        };
                        reader.wrong_at(&path, Some(value), "is not a known key", advice);
                    }
                }
            }
        }
        _ => {
            written.address = Given::Wrong;
            let advice =
                "write \"10.0.0.11\", or { name = \"…\", address = \"10.0.0.11\", ssh = \"…\" }";
            reader.wrong_at(&key, Some(spanned), "is not a node", advice);
        }
    }
    written
}

fn address(reader: &mut Reader<'_>, key: &str, spanned: &Spanned, text: &str) -> Given {
    if let Ok(address) = text.parse() {
        return Given::Is(address);
    }
    let advice = "agents bind an address, not a name: write the address, and the name as ssh in { address = \"…\", ssh = \"…\" }";
    reader.wrong_at(key, Some(spanned), "is not an IP address", advice);
    Given::Wrong
}

fn ports(reader: &mut Reader<'_>, key: &str, spanned: &Spanned, text: &str) -> Option<(u16, u16)> {
    let Some((first, last)) = names::ports(text) else {
        reader.wrong_at(
            key,
            Some(spanned),
            "is not a range of ports above 1023",
            "write it like \"20000-32000\"",
        );
        return None;
    };
    if let Some(port) = AGENT_PORTS
        .iter()
        .find(|port| (first..=last).contains(*port))
    {
        let problem = format!("holds port {port}, which an agent listens on");
        reader.wrong_at(
            key,
            Some(spanned),
            problem,
            "take a range above 8600, like \"20000-32000\"",
        );
        return None;
    }
    Some((first, last))
}
