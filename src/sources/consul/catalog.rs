//! From Consul's health responses to the catalog's own types, in one canonical form: two responses
//! that mean the same for routing give equal snapshots, whatever their order, check output or
//! modify indexes.

use std::sync::Arc;

use super::mesh::not_a_target;
use super::wire::{self, HealthEntry};
use crate::catalog::{
    Check, CheckScope, CheckStatus, Endpoint, Instance, InstanceId, Registration, ServiceName,
    ServiceSnapshot, Weights,
};
use crate::journal::CheckKey;
use crate::sources::endpoint;

/// An instance that cannot be dialled, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which one.
    pub id: InstanceId,
    /// Why, with the offending value.
    pub reason: String,
}

/// Leaves only the instances of the service of this very name. Consul keeps names in their letter
/// case but looks them up without regard to it, so that the response for `Shop` holds the instances
/// of `shop` too. An entry without a name is taken to be right.
pub fn retain_own(name: &ServiceName, entries: &mut Vec<HealthEntry>) {
    entries.retain(|entry| entry.service.service.is_empty() || entry.service.service == **name);
}

/// Makes the snapshot of one service. Instances that cannot be dialled are left out and reported;
/// those that are parts of the service mesh stay, as what they are.
#[must_use]
pub fn snapshot(name: &ServiceName, entries: &[HealthEntry]) -> (ServiceSnapshot, Vec<Rejected>) {
    let mut instances = Vec::with_capacity(entries.len());
    let mut rejected = Vec::new();
    for entry in entries {
        let id = InstanceId {
            node: entry.node.node.as_str().into(),
            id: entry.service.id.as_str().into(),
        };
        if let Some(reason) = not_a_target(&entry.service) {
            let reason: Arc<str> = reason.into();
            let endpoint = undialled(entry, &reason);
            instances.push(instance(
                id,
                endpoint,
                Registration::NotATarget { reason },
                entry,
            ));
            continue;
        }
        match endpoint(entry) {
            Ok(endpoint) => instances.push(instance(id, endpoint, Registration::Confirmed, entry)),
            Err(reason) => rejected.push(Rejected { id, reason }),
        }
    }
    // Stable, so of two with one id the first stays.
    instances.sort_by(|a: &Instance, b| a.id.cmp(&b.id));
    instances.dedup_by(|second, first| {
        let twice = first.id == second.id;
        if twice {
            rejected.push(Rejected {
                id: second.id.clone(),
                reason: "registered twice in one response".to_owned(),
            });
        }
        twice
    });
    rejected.sort_by(|a, b| a.id.cmp(&b.id));
    let datacenter = entries
        .iter()
        .map(|entry| entry.node.datacenter.as_str())
        .find(|name| !name.is_empty());
    (
        ServiceSnapshot {
            name: name.clone(),
            datacenter: datacenter.map(Arc::from),
            instances,
        },
        rejected,
    )
}

fn instance(
    id: InstanceId,
    endpoint: Endpoint,
    registration: Registration,
    entry: &HealthEntry,
) -> Instance {
    let mut checks: Vec<Check> = entry
        .checks
        .iter()
        .filter(|check| concerns(check, &entry.service.id))
        .map(check)
        .collect();
    checks.sort_by(|a, b| (&a.id, a.scope).cmp(&(&b.id, b.scope)));
    let tags = entry
        .service
        .tags
        .iter()
        .map(|tag| Arc::from(tag.as_str()))
        .collect();
    Instance {
        id,
        endpoint,
        tags,
        checks,
        weights: weights(entry.service.weights),
        registration,
    }
}

/// What the checks that do not pass say of themselves: for reasons, and not part of the snapshot.
pub(super) fn outputs(entries: &[HealthEntry]) -> impl Iterator<Item = (CheckKey, String)> {
    entries.iter().flat_map(|entry| {
        let says = |check: &wire::Check| {
            let maintained = matches!(
                scope(check),
                CheckScope::NodeMaintenance | CheckScope::ServiceMaintenance
            );
            let text = if maintained || check.output.trim().is_empty() {
                &check.notes
            } else {
                &check.output
            };
            (!text.trim().is_empty()).then(|| text.clone())
        };
        let of = |check: &wire::Check| {
            (
                entry.node.node.as_str().into(),
                entry.service.id.as_str().into(),
                check.id.as_str().into(),
            )
        };
        let failing = |check: &&wire::Check| {
            concerns(check, &entry.service.id) && status(&check.status) != CheckStatus::Passing
        };
        entry
            .checks
            .iter()
            .filter(failing)
            .filter_map(move |check| Some((of(check), says(check)?)))
    })
}

/// Checks of the node, and of this very instance.
fn concerns(check: &wire::Check, service_id: &str) -> bool {
    check.service_id.is_empty() || check.service_id == service_id
}

fn check(check: &wire::Check) -> Check {
    Check {
        id: check.id.as_str().into(),
        scope: scope(check),
        status: status(&check.status),
    }
}

fn scope(check: &wire::Check) -> CheckScope {
    if check.id == "_node_maintenance" {
        CheckScope::NodeMaintenance
    } else if check.id.starts_with("_service_maintenance:") {
        CheckScope::ServiceMaintenance
    } else if check.service_id.is_empty() {
        CheckScope::Node
    } else {
        CheckScope::Service
    }
}

fn status(word: &str) -> CheckStatus {
    match word {
        "passing" => CheckStatus::Passing,
        "warning" => CheckStatus::Warning,
        "maintenance" => CheckStatus::Maintenance,
        // A state that this program does not know is not a reason to send traffic.
        _ => CheckStatus::Critical,
    }
}

fn weights(weights: Option<wire::Weights>) -> Weights {
    let weights = weights.unwrap_or_default();
    let bounded = |weight: i64| u32::try_from(weight.max(0)).unwrap_or(u32::MAX);
    Weights {
        passing: bounded(weights.passing),
        warning: bounded(weights.warning),
    }
}

/// Where an instance listens that is never dialled: its name is not worth a lookup, and it may have
/// no port.
fn undialled(entry: &HealthEntry, reason: &Arc<str>) -> Endpoint {
    let nowhere = |host: &str, port| Endpoint::Unresolved {
        host: host.into(),
        port,
        reason: Arc::clone(reason),
    };
    match endpoint(entry) {
        Ok(Endpoint::Name { host, port }) => nowhere(&host, port),
        Ok(endpoint) => endpoint,
        Err(_) => nowhere(&entry.service.address.trim().escape_debug().to_string(), 0),
    }
}

/// Where the instance listens: its own address, or its node's when it gave none.
fn endpoint(entry: &HealthEntry) -> Result<Endpoint, String> {
    if entry.service.id.is_empty() {
        return Err("no service id".to_owned());
    }
    let port = endpoint::port(entry.service.port)?;
    let own = entry.service.address.trim();
    let host = if own.is_empty() {
        entry.node.address.trim()
    } else {
        own
    };
    endpoint::of(host, port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> (ServiceSnapshot, Vec<Rejected>) {
        snapshot(
            &"web".into(),
            &serde_json::from_str::<Vec<HealthEntry>>(text).unwrap(),
        )
    }

    fn entry(id: &str, service: &str, port: i64, node: &str) -> String {
        format!(
            r#"{{"Node":{{"Node":"n1","Address":"{node}"}},"Service":{{"ID":"{id}","Address":"{service}","Port":{port}}}}}"#
        )
    }

    #[test]
    fn endpoints() {
        let addr = |text: &str| Ok(Endpoint::Addr(text.parse().unwrap()));
        let name = |host: &str| {
            Ok(Endpoint::Name {
                host: host.into(),
                port: 80,
            })
        };
        let cases: [(&str, i64, &str, Result<Endpoint, &str>); 17] = [
            ("10.0.0.1", 80, "10.0.0.9", addr("10.0.0.1:80")),
            ("", 80, "10.0.0.9", addr("10.0.0.9:80")),
            (" ", 80, "10.0.0.9", addr("10.0.0.9:80")),
            ("fd00::1", 80, "10.0.0.9", addr("[fd00::1]:80")),
            ("[fd00::1]", 80, "10.0.0.9", addr("[fd00::1]:80")),
            ("", 80, "::1", addr("[::1]:80")),
            ("web.Example.org", 80, "10.0.0.9", name("web.example.org")),
            ("a_b", 80, "10.0.0.9", name("a_b")),
            ("10.0.0.1", 0, "10.0.0.9", Err("port 0")),
            ("10.0.0.1", -1, "10.0.0.9", Err("port -1")),
            ("10.0.0.1", 65536, "10.0.0.9", Err("port 65536")),
            ("0.0.0.0", 80, "10.0.0.9", Err("0.0.0.0")),
            ("::", 80, "10.0.0.9", Err("::")),
            ("", 80, "0.0.0.0", Err("0.0.0.0")),
            ("", 80, "", Err("no address")),
            ("10.0.0.300", 80, "10.0.0.9", Err("10.0.0.300")),
            ("a b", 80, "10.0.0.9", Err("a b")),
        ];
        for (service, port, node, expected) in cases {
            let (snapshot, rejected) = parse(&format!("[{}]", entry("a", service, port, node)));
            match expected {
                Ok(endpoint) => {
                    assert_eq!(
                        snapshot.instances[0].endpoint, endpoint,
                        "{service} {port} {node}"
                    );
                    assert!(rejected.is_empty());
                }
                Err(part) => {
                    assert!(snapshot.instances.is_empty(), "{service} {port} {node}");
                    assert!(
                        rejected[0].reason.contains(part),
                        "{} lacks {part}",
                        rejected[0].reason
                    );
                }
            }
        }
    }

    #[test]
    fn one_bad_instance_costs_no_other() {
        let text = format!(
            "[{},{}]",
            entry("bad", "0.0.0.0", 80, ""),
            entry("good", "10.0.0.1", 80, "")
        );
        let (snapshot, rejected) = parse(&text);
        assert_eq!(snapshot.instances.len(), 1);
        assert_eq!(rejected.len(), 1);
        assert_eq!(&*rejected[0].id.id, "bad");
    }

    #[test]
    fn parts_of_the_mesh_stay_as_what_they_are_wherever_they_say_they_listen() {
        let of = |kind: &str, address: &str, port: i64| {
            let entry = entry("a", address, port, "10.0.0.9")
                .replace(r#""ID""#, &format!(r#"{kind},"ID""#));
            let (snapshot, rejected) = parse(&format!("[{entry}]"));
            assert!(rejected.is_empty(), "{rejected:?}");
            snapshot.instances[0].clone()
        };
        let sidecar = r#""Kind":"connect-proxy""#;
        let usual = of(r#""Kind":"""#, "10.0.0.1", 80);
        assert_eq!(usual.registration, Registration::Confirmed);
        // The last two cannot be dialled, which is worth no warning; and no name is looked up.
        for (address, port, shown) in [
            ("10.0.0.1", 80, "10.0.0.1:80"),
            ("", 80, "10.0.0.9:80"),
            ("proxy.test", 80, "proxy.test:80"),
            ("a b", 80, "a b:0"),
            ("10.0.0.1", 0, "10.0.0.1:0"),
        ] {
            let instance = of(sidecar, address, port);
            let Registration::NotATarget { reason } = &instance.registration else {
                panic!("{instance:?}")
            };
            assert!(reason.starts_with("Connect proxy (sidecar)"), "{reason}");
            assert_eq!(instance.endpoint.to_string(), shown);
            assert!(!matches!(instance.endpoint, Endpoint::Name { .. }));
        }
    }

    #[test]
    fn only_instances_under_the_very_name_are_the_services_own() {
        let entry = |name: &str, id: &str| {
            format!(r#"{{"Service":{{"ID":"{id}","Service":"{name}","Port":1}}}}"#)
        };
        let text = format!(
            "[{},{},{}]",
            entry("Shop", "a"),
            entry("shop", "b"),
            entry("", "c")
        );
        for (name, expected) in [("Shop", ["a", "c"]), ("shop", ["b", "c"])] {
            let mut entries: Vec<HealthEntry> = serde_json::from_str(&text).unwrap();
            retain_own(&name.into(), &mut entries);
            let ids: Vec<_> = entries
                .iter()
                .map(|entry| entry.service.id.as_str())
                .collect();
            assert_eq!(ids, expected, "{name}");
        }
    }

    #[test]
    fn checks_are_scoped_and_sorted() {
        let (snapshot, _) = parse(
            r#"[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":1,"Weights":{"Passing":9,"Warning":-2}},
            "Checks":[
              {"CheckID":"service:a","Status":"warning","ServiceID":"a"},
              {"CheckID":"serfHealth","Status":"passing","ServiceID":""},
              {"CheckID":"_node_maintenance","Status":"critical"},
              {"CheckID":"_service_maintenance:a","Status":"critical","ServiceID":"a"},
              {"CheckID":"other","Status":"passing","ServiceID":"b"},
              {"CheckID":"new","Status":"dancing","ServiceID":"a"}]}]"#,
        );
        let instance = &snapshot.instances[0];
        let checks: Vec<_> = instance
            .checks
            .iter()
            .map(|check| (&*check.id, check.scope, check.status))
            .collect();
        assert_eq!(
            checks,
            [
                (
                    "_node_maintenance",
                    CheckScope::NodeMaintenance,
                    CheckStatus::Critical
                ),
                (
                    "_service_maintenance:a",
                    CheckScope::ServiceMaintenance,
                    CheckStatus::Critical
                ),
                ("new", CheckScope::Service, CheckStatus::Critical),
                ("serfHealth", CheckScope::Node, CheckStatus::Passing),
                ("service:a", CheckScope::Service, CheckStatus::Warning),
            ]
        );
        assert_eq!(
            instance.weights,
            Weights {
                passing: 9,
                warning: 0
            }
        );
    }

    #[test]
    fn order_and_check_output_make_no_difference() {
        let one = r#"{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":1,"ModifyIndex":3},
            "Checks":[{"CheckID":"x","Status":"passing","ServiceID":"a","Output":"took 3 ms"},{"CheckID":"serfHealth","Status":"passing"}]}"#;
        let same = r#"{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":1,"ModifyIndex":9},
            "Checks":[{"CheckID":"serfHealth","Status":"passing"},{"CheckID":"x","Status":"passing","ServiceID":"a","Output":"took 9 ms"}]}"#;
        let other = entry("b", "10.0.0.2", 2, "");
        assert_eq!(
            parse(&format!("[{one},{other}]")),
            parse(&format!("[{other},{same}]"))
        );
        let moved = entry("b", "10.0.0.2", 3, "");
        assert_ne!(
            parse(&format!("[{one},{other}]")),
            parse(&format!("[{one},{moved}]"))
        );
    }

    #[test]
    fn failing_checks_say_why_beside_the_snapshot() {
        let text = r#"[{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":1},"Checks":[
            {"CheckID":"x","Status":"critical","ServiceID":"a","Output":"connection refused","Notes":"the web check"},
            {"CheckID":"y","Status":"passing","ServiceID":"a","Output":"fine"},
            {"CheckID":"z","Status":"warning","ServiceID":"a","Output":" ","Notes":null},
            {"CheckID":"b","Status":"critical","ServiceID":"b","Output":"of another instance"},
            {"CheckID":"serfHealth","Status":"critical","Output":"Agent not live or unreachable"},
            {"CheckID":"_node_maintenance","Status":"critical","Output":"","Notes":"new disk"},
            {"CheckID":"_service_maintenance:a","Status":"critical","ServiceID":"a","Output":"no","Notes":"why"}]}]"#;
        let entries: Vec<HealthEntry> = serde_json::from_str(text).unwrap();
        let shown: Vec<_> = outputs(&entries)
            .map(|((_, _, check), text)| format!("{check}: {text}"))
            .collect();
        let expected = [
            "x: connection refused",
            "serfHealth: Agent not live or unreachable",
            "_node_maintenance: new disk",
            "_service_maintenance:a: why",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_first_of_two_with_one_id_stays() {
        let text = format!(
            "[{},{}]",
            entry("a", "10.0.0.1", 80, ""),
            entry("a", "10.0.0.2", 80, "")
        );
        let (snapshot, rejected) = parse(&text);
        assert_eq!(snapshot.instances.len(), 1);
        assert_eq!(
            snapshot.instances[0].endpoint,
            Endpoint::Addr("10.0.0.1:80".parse().unwrap())
        );
        assert_eq!(rejected.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_is_registered_no_endpoint_is_undialable(address in ".{0,40}", node in ".{0,40}", port: i64) {
            let entry = HealthEntry {
                node: wire::Node { node: "n".into(), datacenter: "dc1".into(), address: node },
                service: wire::Service { id: "a".into(), address, port, ..Default::default() },
                checks: Vec::new(),
            };
            let (snapshot, rejected) = snapshot(&"web".into(), &[entry]);
            prop_assert_eq!(snapshot.instances.len() + rejected.len(), 1);
            for instance in snapshot.instances {
                match instance.endpoint {
                    Endpoint::Addr(addr) => prop_assert!(addr.port() != 0 && !addr.ip().is_unspecified()),
                    Endpoint::Unresolved { host, .. } => prop_assert!(false, "{host}: not looked up here"),
                    Endpoint::Name { host, port } => prop_assert!(port != 0 && endpoint::is_dns_name(&host)),
                }
            }
        }
    }
}
