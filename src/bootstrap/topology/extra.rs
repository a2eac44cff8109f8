//! Configuration of agents that the description adds to what is rendered.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

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
    /// All that concerns a node's Consul agent.
    pub(super) fn of_consul(&self, node: &str) -> ExtraTable {
        let own = self.nodes.get(node).map(|own| &own.consul);
        merged([Some(&self.consul), own])
    }

    /// All that concerns a node's Nomad agent; what is about the other role is left out.
    pub(super) fn of_nomad(&self, node: &str, is_client: bool) -> ExtraTable {
        let own = self.nodes.get(node).map(|own| &own.nomad);
        let clients = is_client.then_some(&self.clients);
        let mut all = merged([Some(&self.nomad), clients, own]);
        all.remove(if is_client { "server" } else { "client" });
        all
    }
}

/// From the widest to the narrowest.
fn merged<const N: usize>(layers: [Option<&ExtraTable>; N]) -> ExtraTable {
    let mut all = ExtraTable::new();
    for layer in layers.into_iter().flatten() {
        merge(&mut all, layer);
    }
    all
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
        let wide = json!({ "limits": { "a": 1, "b": 2 }, "log_level": "WARN" });
        assert_eq!(Value::Object(extras.of_consul("s")), wide);
        let narrow = json!({ "limits": { "a": 9, "b": 2 }, "log_level": "WARN" });
        assert_eq!(Value::Object(extras.of_consul("c")), narrow);
        for (name, is_client, wanted) in [
            (
                "n",
                false,
                json!({ "log_level": "WARN", "server": { "rejoin": true } }),
            ),
            (
                "d",
                true,
                json!({ "log_level": "WARN", "client": { "node_class": "clients", "list": [1, 2], "max": 1 } }),
            ),
            (
                "c",
                true,
                json!({ "log_level": "WARN", "client": { "node_class": "own", "list": [3], "max": 1 } }),
            ),
        ] {
            let found = extras.of_nomad(name, is_client);
            assert_eq!(Value::Object(found), wanted, "{name}");
        }
    }
}
