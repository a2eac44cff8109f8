//! Tables of 60,000 routes: how long until all of them serve, and how long until one that changed
//! does. A real Consul agent over mTLS, the release binary in front.
//!
//! | source | what holds the routes | what changes |
//! |---|---|---|
//! | `tags` | 1,000 services of one instance with 60 routing tags each | one tag of one service comes and goes |
//! | `kv` | 12 keys of 5,000 `route add` lines each, for 1,000 services | one line of one key comes and goes |
//!
//! Each starts with the agent filled and `lb` not running; *loaded* is when `/ready` says 200 and
//! the table has all routes, counted from the start of the process. A change counts from before it
//! is written until a request shows it. `asked directly` is what the agent alone needs for the
//! response that the change makes `lb` read: the least time that is possible.
//!
//! `cargo bench --bench large_tables`; prints a table and writes `large_tables.json` beside the
//! target folder's profiles. With `QUICK=1` in the environment there are few changes: to see that
//! it works, not for figures.

#![allow(clippy::print_stdout, reason = "what a benchmark is for")]

mod shared;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::api::{Api, NODE, check};
use shared::report::Report;
use support::client::{RawClient, get};
use support::consul::ConsulAgent;
use support::drill::consul_section;
use support::lb::Lb;
use support::process::Process;
use support::upstream::Upstream;
use tokio::runtime::Runtime;

const ROUTES: usize = 60_000;
const SERVICES: usize = 1000;
const KEYS: usize = 12;
const KV_PATH: &str = "fabio/config";
/// Pause between two looks whether traffic has followed.
const LOOK: Duration = Duration::from_micros(500);
/// Pause between two changes: watches may read twice a second in the long run, and the wait for
/// that is not what is measured.
const APART: Duration = Duration::from_millis(600);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Goals: milliseconds until all routes serve, and until a change does.
const LOADED_MS: f64 = 2000.0;
const CHANGED_MS: f64 = 100.0;

fn main() {
    if Command::new("consul").arg("version").output().is_err() {
        println!("SKIPPED large_tables: `consul` is not on PATH");
        return;
    }
    let rounds = if std::env::var_os("QUICK").is_some() {
        3
    } else {
        25
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let mut report = Report::default();
    for source in [Source::Tags, Source::Kv] {
        measure(source, rounds, &runtime, &mut report);
    }
    report.write("large_tables.json");
}

#[derive(Clone, Copy)]
enum Source {
    Tags,
    Kv,
}

fn measure(source: Source, rounds: usize, runtime: &Runtime, report: &mut Report) {
    let agent = ConsulAgent::start();
    let api = Api::connect(runtime, &agent);
    let upstream = Upstream::start("only");
    source.fill(&api, &upstream);
    let (phase, more) = match source {
        Source::Tags => ("tags", String::new()),
        Source::Kv => ("kv", format!("kv_path = {KV_PATH:?}")),
    };
    let listeners = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let section = consul_section(&agent, &more).replace("wait = \"2s\"", "");
    let begun = Instant::now();
    let lb = Lb::start(&format!(
        "{section}{listeners}[log]\nlevel = \"warn,lb::serve=info\"\n"
    ));
    lb.wait_ready();
    let loaded = begun.elapsed();
    let routes = table_routes(&lb);
    assert_eq!(routes, ROUTES, "ready without all routes: {}", lb.stderr());
    report.add(
        phase,
        &format!("loaded, {routes} routes"),
        loaded.as_secs_f64() * 1e3,
        "ms",
        Some(LOADED_MS),
    );
    let process = Process(lb.pid());
    report.add(
        phase,
        "CPU of lb until then",
        process.cpu().as_secs_f64() * 1e3,
        "ms",
        None,
    );
    report.add(
        phase,
        "memory of lb",
        process.resident_bytes() as f64 / f64::from(1 << 20),
        "MiB",
        None,
    );

    let mut client = RawClient::connect(lb.address("http"));
    let mut times = Vec::new();
    let before = process.cpu();
    for round in 0..rounds {
        for present in [true, false] {
            sleep(APART + Duration::from_millis(fastrand::u64(0..50)));
            let written = Instant::now();
            source.change(&api, &upstream, round, present);
            let request = format!("GET /extra-{round} HTTP/1.1\r\nHost: bench\r\n\r\n");
            let status = if present { 200 } else { 404 };
            while client.send(&request).response().expect("a response").status != status {
                assert!(
                    written.elapsed() < PATIENCE,
                    "never {status}: {}",
                    lb.stderr()
                );
                sleep(LOOK);
            }
            times.push(written.elapsed());
        }
    }
    report.percentiles(
        phase,
        "one changed",
        &mut times,
        Some((CHANGED_MS, CHANGED_MS)),
    );
    let cpu = (process.cpu() - before).as_secs_f64() * 1e3 / times.len() as f64;
    report.add(
        phase,
        "CPU of lb per change, looks included",
        cpu,
        "ms",
        None,
    );

    let mut direct: Vec<_> = (0..10).map(|_| source.ask(&api)).collect();
    report.percentiles(phase, "asked directly", &mut direct, None);
    report.add(
        phase,
        "memory of lb at the end",
        process.resident_bytes() as f64 / f64::from(1 << 20),
        "MiB",
        None,
    );
}

impl Source {
    fn fill(self, api: &Api<'_>, upstream: &Upstream) {
        match self {
            Self::Tags => {
                api.put(
                    "/v1/catalog/register",
                    &json!({"Node": NODE, "Address": "127.0.0.1"}),
                );
                let services = (0..SERVICES).flat_map(|service| {
                    let name = service_name(service);
                    [
                        json!({"Service": {"Verb": "set", "Node": NODE, "Service": registration(service, None, upstream)}}),
                        json!({"Check": {"Verb": "set", "Check": check(&name, &name, "passing")}}),
                    ]
                });
                api.transact(&services.collect::<Vec<_>>());
            }
            Self::Kv => {
                (0..KEYS).for_each(|key| api.put_key(&key_name(key), commands(key, None, upstream)))
            }
        }
    }

    /// Adds one route, or takes it away again.
    fn change(self, api: &Api<'_>, upstream: &Upstream, round: usize, present: bool) {
        let extra = present.then_some(round);
        match self {
            Self::Tags => {
                let service = (round * 389) % SERVICES;
                let registration = registration(service, extra, upstream);
                api.put(
                    "/v1/catalog/register",
                    &json!({"Node": NODE, "SkipNodeUpdate": true, "Address": "127.0.0.1",
                    "Service": registration}),
                );
            }
            Self::Kv => {
                let key = (round * 5) % KEYS;
                api.put_key(&key_name(key), commands(key, extra, upstream));
            }
        }
    }

    /// How long the agent takes for what a change makes `lb` read.
    fn ask(self, api: &Api<'_>) -> Duration {
        let begun = Instant::now();
        match self {
            Self::Tags => api.get("/v1/catalog/services"),
            Self::Kv => api.get(&format!("/v1/kv/{KV_PATH}?recurse")),
        };
        begun.elapsed()
    }
}

fn service_name(service: usize) -> String {
    format!("api-{service}")
}

fn registration(service: usize, extra: Option<usize>, upstream: &Upstream) -> serde_json::Value {
    let own = (service..ROUTES)
        .step_by(SERVICES)
        .map(|route| format!("urlprefix-www-{route}.example.com/"));
    let tags: Vec<_> = own
        .chain(extra.map(|number| format!("urlprefix-/extra-{number}")))
        .collect();
    json!({"ID": service_name(service), "Service": service_name(service), "Address": upstream.address.ip(),
        "Port": upstream.address.port(), "Tags": tags})
}

fn key_name(key: usize) -> String {
    format!("{KV_PATH}/part-{key:02}")
}

fn commands(key: usize, extra: Option<usize>, upstream: &Upstream) -> String {
    let add = |service: usize, place: String| {
        format!(
            "route add {} {place} http://{}/\n",
            service_name(service),
            upstream.address
        )
    };
    let own = (key..ROUTES)
        .step_by(KEYS)
        .map(|route| add(route % SERVICES, format!("www-{route}.example.com/")));
    own.chain(extra.map(|number| add(number, format!("/extra-{number}"))))
        .collect()
}

fn table_routes(lb: &Lb) -> usize {
    let text = get(lb.address("admin"), "bench", "/metrics").text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("lb_table_routes "))
        .expect("lb_table_routes");
    value.trim().parse().expect("a number")
}
