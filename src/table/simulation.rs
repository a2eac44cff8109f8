//! A seeded simulation of table, balancer and health under churn: instances come, go, fall sick and
//! fail, requests run and end, tables are swapped, all on a made-up clock. After each step the
//! invariants are checked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::health::HealthConfig;
use super::{
    Admission, Contribution, InFlight, Matcher, PickContext, PickState, RouteTable, Scheme,
    TableBuilder,
};
use crate::catalog::InstanceId;
use crate::catalog::options::{HashKey, Strategy};
use crate::catalog::tag::RouteKey;
use crate::metrics::Metrics;

const INSTANCES: u16 = 12;
const STEPS: usize = 3_000;

/// What the world knows of one instance.
#[derive(Clone, Copy, Default, PartialEq)]
struct Real {
    registered: bool,
    passing: bool,
    answers: bool,
}

struct World {
    rng: fastrand::Rng,
    now_ms: u64,
    real: Vec<Real>,
    builder: TableBuilder,
    table: RouteTable,
    pick: PickState,
    running: Vec<InFlight>,
    health: HealthConfig,
    /// Key of each registered instance's state, from its registration on.
    keys: HashMap<u16, u64>,
    used_keys: HashSet<u64>,
}

impl World {
    fn new(seed: u64, strategy: Strategy) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now_ms: 1,
            real: vec![Real::default(); usize::from(INSTANCES)],
            builder: TableBuilder::new(Matcher::Prefix, strategy, Metrics::default()),
            table: RouteTable::default(),
            pick: PickState::new(seed),
            running: Vec::new(),
            health: HealthConfig {
                slow_start_ms: 500,
                ..HealthConfig::default()
            },
            keys: HashMap::new(),
            used_keys: HashSet::new(),
        }
    }

    fn step(&mut self) {
        self.now_ms += self.rng.u64(0..200);
        match self.rng.u8(0..20) {
            0 => self.flip(|real| real.registered = !real.registered),
            1 => self.flip(|real| real.passing = !real.passing),
            2 => self.flip(|real| real.answers = !real.answers),
            3..=6 => self.running.truncate(self.running.len() / 2),
            _ => self.request(),
        }
        self.check();
    }

    fn flip(&mut self, change: impl Fn(&mut Real)) {
        let at = self.rng.usize(..self.real.len());
        change(&mut self.real[at]);
        let contributions = (0..INSTANCES)
            .filter(|n| self.real[usize::from(*n)].registered)
            .map(|n| self.contribution(n));
        let contributions: Vec<_> = contributions.collect();
        self.builder
            .apply_service("simulation", &"s".into(), contributions, self.now_ms);
        self.table = self.builder.build();
        self.builder.retire();
    }

    fn contribution(&self, n: u16) -> Contribution {
        Contribution {
            key: RouteKey {
                host: String::new(),
                path: "/".into(),
            },
            instance: InstanceId {
                node: "n".into(),
                id: n.to_string().into(),
            },
            addr: ([127, 0, 0, 1], 1000 + n).into(),
            options: Arc::default(),
            tags: Arc::default(),
            admission: if self.real[usize::from(n)].passing {
                Admission::Eligible {
                    weight: 1 + u32::from(n % 3),
                }
            } else {
                Admission::Excluded {
                    reason: "critical".into(),
                }
            },
        }
    }

    /// One request with up to three attempts, as the proxy makes them.
    fn request(&mut self) {
        let Some(route) = self
            .table
            .lookup(Scheme::Http, "any", "/", |_| true)
            .cloned()
        else {
            assert!(
                self.real.iter().all(|real| !real.registered),
                "registered, but no route"
            );
            return;
        };
        let mut tried = Vec::new();
        for _ in 0..3 {
            let hash = self.rng.u64(..);
            let context = PickContext {
                now_ms: self.now_ms,
                tried: &tried,
                hash,
                slow_start_ms: 500,
            };
            let Some(target) = self.pick.pick(&route, context) else {
                let all_tried = route
                    .targets
                    .iter()
                    .all(|target| tried.contains(&target.state.key));
                assert!(all_tried, "gave up though targets were left");
                return;
            };
            let state = &target.state;
            let n = state.addr.port() - 1000;
            let real = self.real[usize::from(n)];
            assert!(
                real.registered && real.passing,
                "picked an instance that is out"
            );
            assert!(!tried.contains(&state.key), "picked one twice");
            assert!(!state.retired.load(Relaxed));
            let open = |target: &&super::Target| {
                target.state.is_open(self.now_ms) && !tried.contains(&target.state.key)
            };
            if state.is_ejected(self.now_ms) {
                assert!(
                    !route.targets.iter().any(|target| open(&target)),
                    "an ejected one, though others were open"
                );
            }
            let guard = InFlight::new(Arc::clone(state));
            if real.answers {
                state.record_success(self.now_ms, 100);
                self.running.push(guard);
                return;
            }
            let (ejected, total) = (route.ejected_count(self.now_ms), route.targets.len());
            if state.record_failure(self.now_ms, &self.health, ejected, total) {
                let share = route.ejected_count(self.now_ms) * 100;
                assert!(
                    share <= total * self.health.eject_max_percent as usize,
                    "{share} of {total}"
                );
            }
            tried.push(state.key);
        }
    }

    fn check(&mut self) {
        let mut running: HashMap<u64, u32> = HashMap::new();
        self.running
            .iter()
            .for_each(|guard| *running.entry(guard.state().key).or_default() += 1);
        for guard in &self.running {
            let counted = guard.state().in_flight.load(Relaxed);
            assert_eq!(
                counted,
                running[&guard.state().key],
                "requests in flight are miscounted"
            );
        }
        for n in 0..INSTANCES {
            let id = InstanceId {
                node: "n".into(),
                id: n.to_string().into(),
            };
            let state = self.builder.state(&id, ([127, 0, 0, 1], 1000 + n).into());
            assert_eq!(state.is_some(), self.real[usize::from(n)].registered);
            match state.map(|state| state.key) {
                Some(key) => match self.keys.get(&n) {
                    Some(known) => assert_eq!(*known, key, "a registered instance lost its state"),
                    None => {
                        assert!(self.used_keys.insert(key), "a key was given twice");
                        self.keys.insert(n, key);
                    }
                },
                None => drop(self.keys.remove(&n)),
            }
        }
        let route = self.table.lookup(Scheme::Http, "any", "/", |_| true);
        if let Some(route) = route.filter(|route| !route.targets.is_empty()) {
            let sum: f64 = route.targets.iter().map(|target| target.share).sum();
            assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}

#[test]
fn invariants_hold_under_churn() {
    let strategies = [
        Strategy::P2c,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Least,
        Strategy::Ewma,
        Strategy::Hash(HashKey::Path),
    ];
    for strategy in strategies {
        for seed in 0..5 {
            let mut world = World::new(seed, strategy.clone());
            (0..STEPS).for_each(|_| world.step());
            assert!(
                world.used_keys.len() > 10,
                "seed {seed}: too little happened"
            );
        }
    }
}
