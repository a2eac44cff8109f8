//! Configuration of agents that the description adds to what is rendered.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Node, Product, Role};

/// Keys of an agent's configuration.
pub type ExtraTable = Map<String, Value>;

/// What is added, from the widest to the narrowest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// To every Consul agent.
    pub consul: ExtraTable,
    /// To every Nomad agent.
    pub nomad: ExtraTable,
    /// To every Nomad client.
    pub clients: ExtraTable,
    /// To the agents of one node, by its name.
    pub nodes: BTreeMap<String, NodeExtra>,
}

/// What is added to the agents of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeExtra {
    /// To its Consul agent.
    pub consul: ExtraTable,
    /// To its Nomad agent.
    pub nomad: ExtraTable,
}

impl Extras {
    /// All that concerns one agent. Of Nomad's, what is about the other role is left out.
    #[must_use]
    pub fn of(&self, node: &Node, product: Product) -> ExtraTable {
        let is_client = node.role == Role::NomadClient;
        let own = self.nodes.get(&node.name);
        let layers = match product {
            Product::Consul => [Some(&self.consul), None, own.map(|own| &own.consul)],
            Product::Nomad => [
                Some(&self.nomad),
                is_client.then_some(&self.clients),
                own.map(|own| &own.nomad),
            ],
        };
        let mut all = ExtraTable::new();
        for layer in layers.into_iter().flatten() {
            merge(&mut all, layer);
        }
        if product == Product::Nomad {
            all.remove(if is_client { "server" } else { "client" });
        }
        all
    }
}

/// Tables are merged, everything else is replaced.
fn merge(into: &mut ExtraTable, over: &ExtraTable) {
    for (key, value) in over {
        match (into.get_mut(key), value) {
            (Some(Value::Object(known)), Value::Object(value)) => merge(known, value),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(value: Value) -> ExtraTable {
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str, role: Role) -> Node {
        Node {
            name: name.to_owned(),
            role,
            address: [10, 0, 0, 1].into(),
            ssh: None,
            dynamic_ports: None,
        }
    }

    #[test]
    fn the_narrower_goes_before_the_wider() {
        let own = NodeExtra {
            consul: table(json!({ "limits": { "a": 9 } })),
            nomad: table(json!({ "client": { "node_class": "own", "list": [3] } })),
        };
        let extras = Extras {
            consul: table(json!({ "limits": { "a": 1, "b": 2 }, "log_level": "WARN" })),
            nomad: table(json!({
                "log_level": "WARN",
                "client": { "node_class": "all", "list": [1, 2] },
                "server": { "rejoin": true },
            })),
            clients: table(json!({ "client": { "node_class": "clients", "max": 1 } })),
            nodes: [("c".to_owned(), own)].into(),
        };
        for (name, role, product, wanted) in [
            (
                "s",
                Role::ConsulServer,
                Product::Consul,
                json!({ "limits": { "a": 1, "b": 2 }, "log_level": "WARN" }),
            ),
            (
                "c",
                Role::NomadClient,
                Product::Consul,
                json!({ "limits": { "a": 9, "b": 2 }, "log_level": "WARN" }),
            ),
            (
                "n",
                Role::NomadServer,
                Product::Nomad,
                json!({ "log_level": "WARN", "server": { "rejoin": true } }),
            ),
            (
                "d",
                Role::NomadClient,
                Product::Nomad,
                json!({ "log_level": "WARN", "client": { "node_class": "clients", "list": [1, 2], "max": 1 } }),
            ),
            (
                "c",
                Role::NomadClient,
                Product::Nomad,
                json!({ "log_level": "WARN", "client": { "node_class": "own", "list": [3], "max": 1 } }),
            ),
        ] {
            let found = extras.of(&node(name, role), product);
            assert_eq!(Value::Object(found), wanted, "{name} {product}");
        }
    }
}
