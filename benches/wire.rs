//! The cost of Consul's responses: from JSON to what routing needs of it, and on to the catalog's
//! snapshot.
//!
//! | response | is |
//! |---|---|
//! | `health/5` | one service with five instances, each with a check of its node and one of its own |
//! | `health/5x1000` | the same for 1,000 services: what a start reads |
//! | `list/1000` | the list of 1,000 services with their tags: what every change of the catalog brings along |
//!
//! The bytes are what an agent sends, with the fields that are skipped, and the output of the
//! checks.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb::sources::consul::catalog::snapshot;
use lb::sources::consul::wire::{HealthEntry, ServiceList};
use serde_json::{Value, json};

const SERVICES: usize = 1_000;
const INSTANCES: usize = 5;

/// `/v1/health/service/NAME` of service number `service`.
fn health(service: usize) -> Vec<u8> {
    let entries: Vec<Value> = (0..INSTANCES)
        .map(|instance| entry(service, instance))
        .collect();
    serde_json::to_vec(&entries).expect("JSON")
}

fn entry(service: usize, instance: usize) -> Value {
    let (node, name) = (format!("client-{instance}"), format!("api-{service}"));
    let address = format!("10.0.{instance}.7");
    let id = format!(
        "_nomad-task-5b1c3f52-0a77-4c0e-9d3b-{service:012x}-group-web-{name}-http-{instance}"
    );
    let check = |check: &str,
                 title: &str,
                 service_id: &str,
                 service_name: &str,
                 kind: &str,
                 output: &str| {
        json!({"Node": node, "CheckID": check, "Name": title, "Status": "passing", "Notes": "", "Output": output,
            "ServiceID": service_id, "ServiceName": service_name, "ServiceTags": [], "Type": kind, "Definition": {},
            "CreateIndex": 1712 + service, "ModifyIndex": 90213 + service})
    };
    json!({
        "Node": {"ID": format!("7f5c3f52-0a77-4c0e-9d3b-{instance:012x}"), "Node": node, "Address": address,
            "Datacenter": "dc1", "TaggedAddresses": {"lan": address, "lan_ipv4": address, "wan": address,
            "wan_ipv4": address}, "Meta": {"consul-network-segment": ""}, "CreateIndex": 12, "ModifyIndex": 14},
        "Service": {"ID": id, "Service": name, "Tags": tags(service), "Address": address,
            "TaggedAddresses": {"lan_ipv4": {"Address": address, "Port": 23_000 + instance},
                "wan_ipv4": {"Address": address, "Port": 23_000 + instance}},
            "Meta": {"external-source": "nomad"}, "Port": 23_000 + instance, "Weights": {"Passing": 1, "Warning": 1},
            "EnableTagOverride": false, "Proxy": {"MeshGateway": {}, "Expose": {}}, "Connect": {},
            "CreateIndex": 1712 + service, "ModifyIndex": 1712 + service},
        "Checks": [
            check("serfHealth", "Serf Health Status", "", "", "", "Agent alive and reachable"),
            check(&format!("_nomad-check-{service:040x}"), "alive", &id, &name, "http",
                "HTTP GET http://10.0.0.7:23000/health: 200 OK Output: {\"status\":\"ok\",\"uptime_seconds\":86213}"),
        ],
    })
}

fn tags(service: usize) -> Vec<String> {
    vec![
        format!("urlprefix-api-{service}.example.com/"),
        format!("urlprefix-/api-{service} strip=/api-{service}"),
        "traffic=internal".to_owned(),
    ]
}

/// `/v1/catalog/services` of all of them.
fn list() -> Vec<u8> {
    let list: ServiceList = (0..SERVICES)
        .map(|service| (format!("api-{service}"), Some(tags(service))))
        .collect();
    serde_json::to_vec(&list).expect("JSON")
}

fn decoded(body: &[u8]) -> Vec<HealthEntry> {
    serde_json::from_slice(body).expect("a response of Consul")
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");

    let (name, body) = ("api-7".into(), health(7));
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("health/5/decode", |b| {
        b.iter(|| decoded(black_box(&body)).len())
    });
    let entries = decoded(&body);
    let (whole, rejected) = snapshot(&name, &entries);
    assert_eq!((whole.instances.len(), rejected.len()), (INSTANCES, 0));
    group.bench_function("health/5/snapshot", |b| {
        b.iter(|| snapshot(&name, black_box(&entries)))
    });

    let bodies: Vec<Vec<u8>> = (0..SERVICES).map(health).collect();
    group.throughput(Throughput::Bytes(
        bodies.iter().map(|body| body.len() as u64).sum(),
    ));
    group.bench_function("health/5x1000", |b| {
        b.iter(|| {
            bodies
                .iter()
                .map(|body| snapshot(&name, &decoded(black_box(body))).0.instances.len())
                .sum::<usize>()
        });
    });

    let body = list();
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("list/1000", |b| {
        b.iter(|| {
            serde_json::from_slice::<ServiceList>(black_box(&body))
                .expect("a list")
                .len()
        });
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
