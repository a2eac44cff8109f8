//! The cost of picking a target, by strategy, with equal and unequal shares.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb::catalog::InstanceId;
use lb::catalog::options::{HashKey, RouteOptions, Strategy};
use lb::catalog::tag::RouteKey;
use lb::metrics::Metrics;
use lb::table::{
    Admission, Contribution, Matcher, PickContext, PickState, Route, Scheme, TableBuilder,
};

fn route(strategy: Strategy, targets: u16, weighted: bool) -> Arc<Route> {
    let mut builder = TableBuilder::new(Matcher::Prefix, strategy, Metrics::default());
    let contribution = |n: u16| Contribution {
        key: RouteKey {
            host: String::new(),
            path: "/".into(),
        },
        instance: InstanceId {
            node: "node".into(),
            id: format!("i{n}").into(),
        },
        addr: ([10, 0, 0, 1], 1000 + n).into(),
        options: Arc::new(RouteOptions {
            weight: (weighted && n == 0).then_some(0.2),
            ..RouteOptions::default()
        }),
        tags: Arc::default(),
        admission: Admission::Eligible { weight: 1 },
    };
    builder.apply_service(
        "bench",
        &"service".into(),
        (0..targets).map(contribution).collect(),
        0,
    );
    let table = builder.build();
    Arc::clone(
        table
            .lookup(Scheme::Http, "", "/", |_| true)
            .expect("one route was built"),
    )
}

fn pick(c: &mut Criterion) {
    let strategies = [
        Strategy::P2c,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Least,
        Strategy::Ewma,
        Strategy::Hash(HashKey::Ip),
    ];
    for (shares, weighted) in [("equal", false), ("weighted", true)] {
        let mut group = c.benchmark_group(format!("pick/{shares}"));
        for strategy in &strategies {
            for targets in [5, 50] {
                let route = route(strategy.clone(), targets, weighted);
                let mut state = PickState::new(1);
                let mut hash = 0u64;
                group.bench_function(BenchmarkId::new(strategy.to_string(), targets), |b| {
                    b.iter(|| {
                        hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
                        let context = PickContext {
                            now_ms: 1,
                            tried: &[],
                            hash,
                            slow_start_ms: 0,
                        };
                        black_box(state.pick(&route, context).map(|target| target.state.key))
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
