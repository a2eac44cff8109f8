//! From registrations and decisions to the catalog's own types. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::admission::Admission;
use super::wire;
use crate::catalog::{
    Check, CheckScope, CheckStatus, Instance, InstanceId, Registration, ServiceName,
    ServiceSnapshot, Weights,
};
use crate::sources::endpoint;

/// Id of the check that an admitted instance has: rules that want a check find one.
const ADMISSION: &str = "admission";

/// What is decided by allocation and registration.
pub(super) type Admissions = HashMap<(String, String), Admission>;

/// The key of a registration among [`Admissions`].
pub(super) fn key(registration: &wire::Registration) -> (String, String) {
    (registration.alloc_id.clone(), registration.id.clone())
}

/// An instance that cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub id: InstanceId,
    pub reason: String,
}

/// Identity of an instance: another namespace, and another source, has others.
fn id(namespace: &str, registration: &wire::Registration) -> InstanceId {
    InstanceId {
        node: format!("nomad/{namespace}/{}", registration.node_id).into(),
        id: registration.id.as_str().into(),
    }
}

/// Makes the snapshot of one service, in one canonical form. What cannot be dialled is left out and
/// reported.
pub(super) fn snapshot(
    name: &ServiceName,
    namespace: &str,
    registrations: &[wire::Registration],
    admissions: &Admissions,
) -> (ServiceSnapshot, Vec<Rejected>) {
    let (mut instances, mut rejected) = (Vec::with_capacity(registrations.len()), Vec::new());
    for registration in registrations {
        let id = id(namespace, registration);
        let endpoint = match registration.address.trim() {
            "" => Err("registered without an address".to_owned()),
            address => {
                endpoint::port(registration.port).and_then(|port| endpoint::of(address, port))
            }
        };
        let endpoint = match endpoint {
            Ok(endpoint) => endpoint,
            Err(reason) => {
                rejected.push(Rejected { id, reason });
                continue;
            }
        };
        let (status, registered) = match admissions.get(&key(registration)) {
            Some(Admission::Admitted { .. }) => (CheckStatus::Passing, Registration::Confirmed),
            Some(Admission::Waiting(reason)) => (
                CheckStatus::Critical,
                Registration::NotAdmitted {
                    reason: reason.as_str().into(),
                },
            ),
            None => (
                CheckStatus::Critical,
                Registration::NotAdmitted {
                    reason: "nothing is known of its allocation yet".into(),
                },
            ),
        };
        let tags = registration.tags.iter().flatten();
        instances.push(Instance {
            id,
            endpoint,
            tags: tags.map(|tag| Arc::from(tag.as_str())).collect(),
            checks: vec![Check {
                id: ADMISSION.into(),
                scope: CheckScope::Service,
                status,
            }],
            weights: Weights::default(),
            registration: registered,
        });
    }
    instances.sort_by(|one, other| one.id.cmp(&other.id));
    instances.dedup_by(|second, first| first.id == second.id);
    rejected.sort_by(|one, other| one.id.cmp(&other.id));
    let mut datacenters = registrations.iter().map(|it| it.datacenter.as_str());
    let datacenter = datacenters.find(|name| !name.is_empty());
    let snapshot = ServiceSnapshot {
        name: name.clone(),
        datacenter: datacenter.map(Arc::from),
        instances,
    };
    (snapshot, rejected)
}

/// What a service is called. Those of the first namespace have their plain names: most have one
/// namespace, and namespaces must not be taken for one another. No name of a service in Nomad has
/// an `@`.
pub(super) fn name_of(service: &str, namespace: &str, is_first: bool) -> ServiceName {
    match is_first {
        true => service.into(),
        false => format!("{service}@{namespace}").into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn registration(id: &str, address: &str, port: i64) -> wire::Registration {
        let value = json!({"ID": id, "ServiceName": "web", "NodeID": "n", "AllocID": "a", "Datacenter": "dc1",
            "Tags": ["urlprefix-/"], "Address": address, "Port": port});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_instance_is_what_its_namespace_and_its_admission_make_it() {
        let all = [
            registration("b", "10.0.0.1", 80),
            registration("a", "host.test", 81),
            registration("c", "10.0.0.1", 82),
            registration("d", "", 80),
            registration("e", "10.0.0.1", 0),
        ];
        let admissions: Admissions = [
            (key(&all[0]), Admission::Admitted { restarted: None }),
            (key(&all[1]), Admission::Waiting("why".to_owned())),
        ]
        .into();
        let (of_one, rejected) = snapshot(&"web".into(), "default", &all, &admissions);
        let seen: Vec<_> = of_one
            .instances
            .iter()
            .map(|it| {
                (
                    it.id.to_string(),
                    it.endpoint.to_string(),
                    it.registration.clone(),
                )
            })
            .collect();
        let waiting = |reason: &str| Registration::NotAdmitted {
            reason: reason.into(),
        };
        let unknown = waiting("nothing is known of its allocation yet");
        let place = |id: &str| format!("nomad/default/n/{id}");
        assert_eq!(
            seen,
            [
                (place("a"), "host.test:81".to_owned(), waiting("why")),
                (
                    place("b"),
                    "10.0.0.1:80".to_owned(),
                    Registration::Confirmed
                ),
                (place("c"), "10.0.0.1:82".to_owned(), unknown),
            ]
        );
        assert_eq!(of_one.datacenter.as_deref(), Some("dc1"));
        let reasons: Vec<_> = rejected.iter().map(|it| it.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "registered without an address",
                "port 0: registered without a port"
            ]
        );

        let (of_other, _) = snapshot(&"web".into(), "apps", &all, &admissions);
        assert!(
            of_other
                .instances
                .iter()
                .all(|it| &*it.id.node == "nomad/apps/n")
        );
    }

    #[test]
    fn services_of_the_first_namespace_have_plain_names() {
        assert_eq!(&*name_of("web", "apps", true), "web");
        assert_eq!(&*name_of("web", "apps", false), "web@apps");
    }
}
