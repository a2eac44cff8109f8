//! `extra`: configuration of agents in the user's own words. Free, but for what lb decides itself:
//! an agent's identity, where it listens, what it trusts and joins.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use crate::bootstrap::topology::{ExtraTable, NodeExtra, Product};
use crate::config::raw::{Placed, RawValue};
use crate::config::sections::Sections;

/// Keys of Consul's agents that lb writes, or that would undo what it writes. `*`: all that begin
/// so.
const CONSUL_OWNED: &[&str] = &[
    "acl",
    "acl_*",
    "addresses",
    "advertise_*",
    "auto_config",
    "auto_encrypt",
    "bind_addr",
    "bootstrap",
    "bootstrap_expect",
    "ca_file",
    "ca_path",
    "cert_file",
    "client_addr",
    "data_dir",
    "datacenter",
    "disable_keyring_file",
    "domain",
    "encrypt*",
    "key_file",
    "node_id",
    "node_name",
    "non_voting_server",
    "ports",
    "primary_datacenter",
    "read_replica",
    "retry_interval*",
    "retry_join*",
    "serf_lan*",
    "serf_wan*",
    "server",
    "start_join*",
    "tls",
    "tls_*",
    "verify_*",
];

/// The same for Nomad's.
const NOMAD_OWNED: &[&str] = &[
    "acl",
    "addresses",
    "advertise",
    "bind_addr",
    "client.alloc_dir",
    "client.enabled",
    "client.max_dynamic_port",
    "client.meta.bind",
    "client.meta.lb_*",
    "client.min_dynamic_port",
    "client.network_interface",
    "client.server_join",
    "client.servers",
    "client.state_dir",
    "consul.address",
    "consul.auth",
    "consul.ca_file",
    "consul.cert_file",
    "consul.client_auto_join",
    "consul.grpc_*",
    "consul.key_file",
    "consul.name",
    "consul.server_auto_join",
    "consul.share_ssl",
    "consul.ssl",
    "consul.token",
    "consul.verify_ssl",
    "data_dir",
    "datacenter",
    "name",
    "ports",
    "region",
    "server.authoritative_region",
    "server.bootstrap_expect",
    "server.data_dir",
    "server.enabled",
    "server.encrypt",
    "server.non_voting_server",
    "server.retry_*",
    "server.server_join",
    "server.start_join",
    "tls",
];

const OWNED: &str =
    "take it away: the other keys of the description say it, or it holds the cluster together";
const TABLE: &str = "write a table, as in extra = { log_level = \"WARN\" }";

fn owned(product: Product) -> &'static [&'static str] {
    match product {
        Product::Consul => CONSUL_OWNED,
        Product::Nomad => NOMAD_OWNED,
    }
}

/// The table of a section. `key` is what messages call it.
pub(super) fn read(
    sections: &mut Sections<'_>,
    key: &str,
    placed: Option<&Placed>,
    product: Product,
) -> ExtraTable {
    let Some(placed) = placed else {
        return ExtraTable::new();
    };
    let RawValue::Table(table) = &placed.value else {
        sections.wrong_at(key, Some(placed), "is not a table", TABLE);
        return ExtraTable::new();
    };
    let mut walk = Walk {
        sections,
        owned: owned(product),
    };
    walk.table(key, "", table)
}

/// That of one node: a table for each product.
pub(super) fn of_node(
    sections: &mut Sections<'_>,
    key: &str,
    placed: Option<&Placed>,
) -> Option<NodeExtra> {
    let placed = placed?;
    let mut found = NodeExtra::default();
    let advice = "write extra = { consul = { … }, nomad = { … } }";
    let RawValue::Table(table) = &placed.value else {
        sections.wrong_at(key, Some(placed), "is not a table", advice);
        return None;
    };
    for (name, part) in table {
        let path = format!("{key}.{name}");
        match name.as_str() {
            "consul" => found.consul = read(sections, &path, Some(part), Product::Consul),
            "nomad" => found.nomad = read(sections, &path, Some(part), Product::Nomad),
            _ => sections.wrong_at(&path, Some(part), "is neither consul nor nomad", advice),
        }
    }
    Some(found)
}

struct Walk<'a, 'b> {
    sections: &'a mut Sections<'b>,
    owned: &'static [&'static str],
}

impl Walk<'_, '_> {
    /// `key`: what messages call it. `path`: where it is in the agent's configuration, with a dot at
    /// its end.
    fn table(&mut self, key: &str, path: &str, table: &BTreeMap<String, Placed>) -> ExtraTable {
        let mut found = ExtraTable::new();
        for (name, placed) in table {
            let key = format!("{key}.{name}");
            // The agents do not mind case.
            let path = format!("{path}{}", name.to_lowercase());
            let is_owned = |owned: &&str| match owned.strip_suffix('*') {
                Some(begin) => path.starts_with(begin),
                None => path == **owned,
            };
            let below = format!("{path}.");
            let holds_owned = self.owned.iter().any(|owned| owned.starts_with(&below));
            if self.owned.iter().any(is_owned) {
                self.wrong(&key, placed, "is decided by lb", OWNED);
            } else if holds_owned && !matches!(placed.value, RawValue::Table(_)) {
                self.wrong(&key, placed, "is not a table", TABLE);
            } else if let Some(value) = self.value(&key, &below, placed) {
                found.insert(name.clone(), value);
            }
        }
        found
    }

    fn value(&mut self, key: &str, below: &str, placed: &Placed) -> Option<Value> {
        let number = |text: &str| {
            let text = text.replace('_', "");
            let whole = text.parse::<i64>().ok().map(Number::from);
            whole.or_else(|| Number::from_f64(text.parse().ok()?))
        };
        match &placed.value {
            RawValue::Text(text) | RawValue::Bare(text) => Some(Value::from(text.as_str())),
            RawValue::Bool(value) => Some(Value::from(*value)),
            RawValue::List(items) => {
                let each = |item| self.value(key, below, item);
                Some(Value::Array(items.iter().filter_map(each).collect()))
            }
            RawValue::Table(table) => Some(Value::Object(self.table(key, below, table))),
            RawValue::Integer(text) | RawValue::Other(text) => {
                let found = number(text).map(Value::Number);
                if found.is_none() {
                    let advice = "write a text, a number, true or false, a list or a table";
                    self.wrong(key, placed, "is nothing that an agent reads", advice);
                }
                found
            }
        }
    }

    fn wrong(&mut self, key: &str, placed: &Placed, problem: &str, advice: &str) {
        self.sections.wrong_at(key, Some(placed), problem, advice);
    }
}
