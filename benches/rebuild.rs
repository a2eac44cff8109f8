//! One instance of one service comes or goes in a table of 100,000 routes: from the service's new
//! contributions to the published table, the old one dropped. Prints the memory of such a table as
//! well.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::print_stdout, reason = "the memory figure is a result")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use lb::catalog::InstanceId;
use lb::catalog::options::Strategy;
use lb::catalog::tag::RouteKey;
use lb::metrics::Metrics;
use lb::table::{Admission, Contribution, Matcher, SharedTable, TableBuilder};

const SIZE: usize = 100_000;

/// The place of the route with this number.
type KeyOf = fn(usize) -> RouteKey;

fn contributions(key: &RouteKey, n: usize, instances: usize) -> Vec<Contribution> {
    let contribution = |i: usize| Contribution {
        key: key.clone(),
        instance: InstanceId {
            node: "node".into(),
            id: format!("i{n}-{i}").into(),
        },
        addr: (
            [10, (n >> 16) as u8, (n >> 8) as u8, n as u8],
            8080 + i as u16,
        )
            .into(),
        options: Arc::default(),
        tags: Arc::default(),
        admission: Admission::Eligible { weight: 1 },
    };
    (0..instances).map(contribution).collect()
}

fn rebuild(c: &mut Criterion) {
    let keys: [(&str, KeyOf); 2] = [
        ("hosts", |n| RouteKey {
            host: format!("service-{n}.example.com"),
            path: "/".into(),
        }),
        ("paths", |n| RouteKey {
            host: "example.com".into(),
            path: format!("/service-{n}"),
        }),
    ];
    for (name, key) in keys {
        let before = resident_bytes();
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
        for n in 0..SIZE {
            builder.apply_service(
                "bench",
                &format!("service-{n}").into(),
                contributions(&key(n), n, 2),
                0,
            );
        }
        let shared = SharedTable::default();
        shared.publish(builder.build());
        let used = resident_bytes().saturating_sub(before);
        println!(
            "{name}: {SIZE} routes of 2 targets, builder included: {} bytes a route",
            used / SIZE as u64
        );
        let mut n = 0usize;
        c.bench_function(&format!("rebuild/{name}/{SIZE}"), |b| {
            b.iter(|| {
                n += 1;
                let at = n.wrapping_mul(7919) % SIZE;
                let instances = if n.is_multiple_of(2) { 1 } else { 3 };
                builder.apply_service(
                    "bench",
                    &format!("service-{at}").into(),
                    contributions(&key(at), at, instances),
                    1,
                );
                shared.publish(black_box(builder.build()));
                builder.retire();
            });
        });
    }
}

/// Memory of this process in RAM; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}

criterion_group!(benches, rebuild);
criterion_main!(benches);
