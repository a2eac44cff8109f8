//! The cost of a lookup as the table grows: by hosts (one route each), by paths (all on one host),
//! among globs, and for a host that is not there. Requests go around 1,024 places spread over the
//! whole table, so that a larger table also pays for the caches it does not fit into.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb::catalog::InstanceId;
use lb::catalog::options::Strategy;
use lb::catalog::tag::RouteKey;
use lb::metrics::Metrics;
use lb::table::{Admission, Contribution, Matcher, RouteTable, Scheme, TableBuilder};

const SIZES: [usize; 3] = [10, 1_000, 100_000];

fn table(size: usize, key: impl Fn(usize) -> (String, String)) -> RouteTable {
    let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
    for n in 0..size {
        let (host, path) = key(n);
        let contribution = Contribution {
            key: RouteKey { host, path },
            instance: InstanceId {
                node: "node".into(),
                id: format!("i{n}").into(),
            },
            addr: ([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 8080).into(),
            options: Arc::default(),
            tags: Arc::default(),
            admission: Admission::Eligible { weight: 1 },
        };
        builder.apply_service(
            "bench",
            &format!("service-{n}").into(),
            vec![contribution],
            0,
        );
    }
    builder.build()
}

/// Requests around the table, in no order a prefetcher would like.
fn requests(size: usize, key: impl Fn(usize) -> (String, String)) -> Vec<(String, String)> {
    (0..1024usize)
        .map(|n| key(n.wrapping_mul(7919) % size))
        .collect()
}

fn bench(
    c: &mut Criterion,
    name: &str,
    stored: fn(usize) -> (String, String),
    asked: fn(usize) -> (String, String),
) {
    let mut group = c.benchmark_group(name);
    for size in SIZES {
        let (table, requests) = (table(size, stored), requests(size, asked));
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                at = (at + 1) % requests.len();
                let (host, path) = &requests[at];
                black_box(
                    table
                        .lookup(Scheme::Http, black_box(host), black_box(path), |_| true)
                        .is_some(),
                )
            });
        });
        // The same few over and over, as most traffic is.
        group.bench_function(BenchmarkId::new("hot", size), |b| {
            b.iter(|| {
                at = (at + 1) % 8;
                let (host, path) = &requests[at];
                black_box(
                    table
                        .lookup(Scheme::Http, black_box(host), black_box(path), |_| true)
                        .is_some(),
                )
            });
        });
    }
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let host = |n: usize| (format!("service-{n}.example.com"), "/".to_owned());
    bench(c, "lookup/hosts", host, |n| {
        (
            format!("service-{n}.example.com"),
            "/some/path?x".to_owned(),
        )
    });
    bench(c, "lookup/absent", host, |n| {
        (format!("absent-{n}.example.com"), "/some/path".to_owned())
    });
    let path = |n: usize| ("example.com".to_owned(), format!("/service-{n}"));
    bench(c, "lookup/paths", path, |n| {
        ("example.com".to_owned(), format!("/service-{n}/some/path"))
    });
    let glob = |n: usize| (format!("*.service-{n}.example.com"), "/".to_owned());
    bench(c, "lookup/globs", glob, |n| {
        (
            format!("x.service-{n}.example.com"),
            "/some/path".to_owned(),
        )
    });
}

criterion_group!(benches, lookup);
criterion_main!(benches);
