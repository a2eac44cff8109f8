//! From a write to the catalog until traffic follows it, at scale: a real Consul agent over mTLS,
//! 1,000 services of five instances, the release binary in front.
//!
//! | phase | what it tells |
//! |---|---|
//! | start | time to the first whole table, connections to the agent, memory |
//! | latency | time from each write to the first response that shows it: instance added, check flipped twice, removed |
//! | cost | CPU of both processes per change, without traffic |
//! | churn | failed requests at 50 changes a second: instances start, register, leave and die at once |
//! | idle | CPU of both with every watch waiting |
//! | TRANSPORT-N | over both transports and with N services: how soon single changes, changes back to back, a burst of new services and changes amid others' are seen, what one costs, connections |
//!
//! `cargo bench --bench catalog_change`, or `-- freshness` for the last row alone; prints a table
//! and writes `catalog_change.json` beside the target folder's profiles. With `QUICK=1` in the
//! environment phases are short: to see that it works, not for figures.

#![allow(clippy::print_stdout, reason = "what a benchmark is for")]

mod freshness;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::api::{Api, NODE, check};
use shared::report::Report;
use support::client::{Load, Outcome, RawClient};
use support::consul::ConsulAgent;
use support::drill::consul_section;
use support::lb::Lb;
use support::process::Process;
use support::upstream::Upstream;
use tokio::runtime::Runtime;

const SERVICES: usize = 1000;
const INSTANCES: usize = 5;
/// Pause between two looks whether traffic has followed.
const LOOK: Duration = Duration::from_micros(500);
const CHURN_PER_SECOND: u32 = 50;
const REQUESTS_PER_SECOND: u32 = 500;
/// Services under load while they churn.
const LOADED: usize = 50;

/// How long the phases take.
struct Plan {
    /// Each is four changes.
    latency_rounds: usize,
    cost_changes: u32,
    churn: Duration,
    idle: Duration,
}

fn main() {
    if Command::new("consul").arg("version").output().is_err() {
        println!("SKIPPED catalog_change: `consul` is not on PATH");
        return;
    }
    let second = Duration::from_secs(1);
    let plan = if std::env::var_os("QUICK").is_some() {
        Plan {
            latency_rounds: 10,
            cost_changes: 20,
            churn: second * 5,
            idle: second * 5,
        }
    } else {
        // The idle time is above the wait of a blocking query, so that every watch comes back once.
        Plan {
            latency_rounds: 60,
            cost_changes: 200,
            churn: second * 60,
            idle: second * 60,
        }
    };
    let only_freshness = std::env::args().any(|word| word == "freshness");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let mut report = Report::default();
    if !only_freshness {
        let stage = Stage::set(&runtime);
        stage.start(&mut report);
        stage.latency(&plan, &mut report);
        stage.cost(&plan, &mut report);
        stage.churn(&plan, &mut report);
        stage.idle(&plan, &mut report);
    }
    freshness::run(&runtime, plan.latency_rounds, &mut report);
    report.write("catalog_change.json");
}

struct Stage<'a> {
    agent: ConsulAgent,
    api: Api<'a>,
    lb: Lb,
    synced_after: Duration,
    upstreams: Vec<Upstream>,
}

impl<'a> Stage<'a> {
    fn set(runtime: &'a Runtime) -> Self {
        let agent = ConsulAgent::start();
        let api = Api::connect(runtime, &agent);
        let upstreams: Vec<_> = (0..INSTANCES)
            .map(|number| Upstream::start(&format!("u{number}")))
            .collect();
        fill(&api, &upstreams);
        let listeners =
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
        // The usual wait, not the tests' short one: it decides what watches cost at rest.
        let section = consul_section(&agent, "").replace("wait = \"2s\"", "");
        let begun = Instant::now();
        let lb = Lb::start(&format!(
            "{section}{listeners}[log]\nlevel = \"warn,lb::serve=info\"\n"
        ));
        lb.wait_ready();
        let synced_after = begun.elapsed();
        Self {
            agent,
            api,
            lb,
            synced_after,
            upstreams,
        }
    }

    fn processes(&self) -> [Process; 2] {
        [Process(self.lb.pid()), Process(self.agent.pid())]
    }

    fn start(&self, report: &mut Report) {
        report.add(
            "start",
            "first whole table",
            self.synced_after.as_secs_f64() * 1e3,
            "ms",
            None,
        );
        let agent = SocketAddr::new(self.agent.ip.parse::<IpAddr>().expect("an address"), 8501);
        let connections = self.processes()[0].connections_to(agent);
        report.add(
            "start",
            "connections to the agent",
            connections as f64,
            "",
            Some(6.0),
        );
    }

    /// A service gets one instance more, under a path of its own: the status at the path tells
    /// whether it arrived.
    fn latency(&self, plan: &Plan, report: &mut Report) {
        let address = self.upstreams[0].address;
        let mut client = RawClient::connect(self.lb.address("http"));
        let kinds = [
            "instance added",
            "check critical",
            "check passing",
            "instance removed",
        ];
        let mut times = [const { Vec::new() }; 4];
        for round in 0..plan.latency_rounds {
            let service = (round * 613) % SERVICES;
            let extra = Extra {
                service,
                number: round,
                address,
                path: format!("/extra-{round}"),
            };
            for ((change, status), times) in
                [200, 503, 200, 404].into_iter().enumerate().zip(&mut times)
            {
                // Apart from each other, and out of step with anything periodic.
                sleep(Duration::from_millis(20 + fastrand::u64(0..30)));
                let written = Instant::now();
                match change {
                    0 | 2 => extra.register(&self.api, "passing"),
                    1 => extra.register(&self.api, "critical"),
                    _ => extra.deregister(&self.api),
                }
                let request = format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", extra.path);
                while client.send(&request).response().expect("a response").status != status {
                    assert!(
                        written.elapsed() < Duration::from_secs(10),
                        "never {status}: {}",
                        self.lb.stderr()
                    );
                    sleep(LOOK);
                }
                times.push(written.elapsed());
            }
        }
        let mut all: Vec<_> = times.concat();
        report.percentiles("latency", "all changes", &mut all, Some((20.0, 100.0)));
        for (kind, times) in kinds.into_iter().zip(&mut times) {
            report.percentiles("latency", kind, times, None);
        }
    }

    /// No client polls here: what both processes use is for the changes alone.
    fn cost(&self, plan: &Plan, report: &mut Report) {
        let address = self.upstreams[0].address;
        let before = self.processes().map(Process::cpu);
        for number in 0..plan.cost_changes / 2 {
            let service = (number as usize * 389) % SERVICES;
            let extra = Extra {
                service,
                number: number as usize,
                address,
                path: "/cost".to_owned(),
            };
            extra.register(&self.api, "passing");
            sleep(Duration::from_millis(50));
            extra.deregister(&self.api);
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_millis(500));
        for (((name, process), before), goal) in ["lb", "agent"]
            .into_iter()
            .zip(self.processes())
            .zip(before)
            .zip([2.0, 20.0])
        {
            let per_change =
                (process.cpu() - before).as_secs_f64() * 1e3 / f64::from(plan.cost_changes);
            report.add(
                "cost",
                &format!("CPU of {name} per change"),
                per_change,
                "ms",
                Some(goal),
            );
        }
    }

    /// Instances under load come, leave, and die in the moment they leave.
    fn churn(&self, plan: &Plan, report: &mut Report) {
        let address = self.lb.address("http");
        let clients = std::thread::spawn({
            let duration = plan.churn + Duration::from_secs(1);
            move || load(address, duration)
        });
        let before = self.processes().map(Process::cpu);
        let (begun, period) = (Instant::now(), Duration::from_secs(1) / CHURN_PER_SECOND);
        let mut present: Vec<Option<(Extra, Upstream)>> = (0..LOADED).map(|_| None).collect();
        let (mut changes, mut late) = (0, 0);
        while begun.elapsed() < plan.churn {
            let service = changes % LOADED;
            match present[service].take() {
                Some((extra, upstream)) => {
                    extra.deregister(&self.api);
                    upstream.kill();
                }
                None => {
                    let upstream = Upstream::start("passing-by");
                    let extra = Extra {
                        service,
                        number: changes,
                        address: upstream.address,
                        path: format!("/api-{service}"),
                    };
                    extra.register(&self.api, "passing");
                    present[service] = Some((extra, upstream));
                }
            }
            changes += 1;
            let due = begun + period * u32::try_from(changes).expect("few changes");
            match due.checked_duration_since(Instant::now()) {
                Some(pause) => sleep(pause),
                None => late += 1,
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let outcome = clients.join().expect("the clients");
        report.add("churn", "changes", changes as f64, "", None);
        report.add("churn", "changes written late", f64::from(late), "", None);
        report.add("churn", "requests", outcome.requests() as f64, "", None);
        report.add(
            "churn",
            "requests to instances passing by",
            passing_by(&outcome),
            "",
            None,
        );
        report.add("churn", "failed", outcome.failed() as f64, "", Some(0.0));
        report.add(
            "churn",
            "p50 of a request",
            outcome.percentile(0.5).as_secs_f64() * 1e3,
            "ms",
            None,
        );
        report.add(
            "churn",
            "p99 of a request",
            outcome.percentile(0.99).as_secs_f64() * 1e3,
            "ms",
            None,
        );
        for ((name, process), before) in ["lb", "agent"]
            .into_iter()
            .zip(self.processes())
            .zip(before)
        {
            let share = (process.cpu() - before).as_secs_f64() / took * 100.0;
            report.add(
                "churn",
                &format!("CPU of {name}"),
                share,
                "% of a core",
                None,
            );
        }
        if outcome.failed() > 0 {
            println!(
                "statuses {:?}, errors {:?}",
                outcome.statuses, outcome.errors
            );
        }
        for (extra, upstream) in present.into_iter().flatten() {
            extra.deregister(&self.api);
            upstream.kill();
        }
    }

    fn idle(&self, plan: &Plan, report: &mut Report) {
        sleep(Duration::from_secs(2));
        let before = self.processes().map(Process::cpu);
        sleep(plan.idle);
        for (((name, process), before), goal) in ["lb", "agent"]
            .into_iter()
            .zip(self.processes())
            .zip(before)
            .zip([Some(0.5), None])
        {
            let share = (process.cpu() - before).as_secs_f64() / plan.idle.as_secs_f64() * 100.0;
            report.add(
                "idle",
                &format!("CPU of {name}"),
                share,
                "% of a core",
                goal,
            );
        }
        for (name, process) in ["lb", "agent"].into_iter().zip(self.processes()) {
            let mebibytes = process.resident_bytes() as f64 / f64::from(1 << 20);
            report.add("idle", &format!("memory of {name}"), mebibytes, "MiB", None);
        }
    }
}

fn load(address: SocketAddr, duration: Duration) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let per_second = REQUESTS_PER_SECOND / LOADED as u32;
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for service in 0..LOADED {
            let path = format!("/api-{service}");
            let load = Load {
                connections: 1,
                ..Load::new(address, "bench", &path, per_second)
            };
            clients.spawn(async move { load.run(duration).await });
        }
        let mut sum = Outcome::default();
        while let Some(outcome) = clients.join_next().await {
            sum.add(outcome.expect("a client"));
        }
        sum.latencies.sort_unstable();
        sum
    })
}

fn passing_by(outcome: &Outcome) -> f64 {
    outcome
        .instances
        .get("passing-by")
        .copied()
        .unwrap_or_default() as f64
}

/// One instance more of a service.
struct Extra {
    service: usize,
    number: usize,
    address: SocketAddr,
    path: String,
}

impl Extra {
    fn id(&self) -> String {
        format!(
            "_nomad-task-{}-group-web-api-{}-http",
            self.number, self.service
        )
    }

    fn register(&self, api: &Api<'_>, status: &str) {
        let (name, id) = (format!("api-{}", self.service), self.id());
        api.put(
            "/v1/catalog/register",
            &json!({"Node": NODE, "Address": "127.0.0.1", "SkipNodeUpdate": true,
                "Service": {"ID": id, "Service": name, "Address": self.address.ip(), "Port": self.address.port(),
                    "Tags": [format!("urlprefix-{}", self.path)]},
                "Check": check(&id, &name, status)}),
        );
    }

    fn deregister(&self, api: &Api<'_>) {
        api.put(
            "/v1/catalog/deregister",
            &json!({"Node": NODE, "ServiceID": self.id()}),
        );
    }
}

/// Registers all services, each instance with a check that passes.
fn fill(api: &Api<'_>, upstreams: &[Upstream]) {
    api.put(
        "/v1/catalog/register",
        &json!({"Node": NODE, "Address": "127.0.0.1"}),
    );
    let mut operations = Vec::new();
    for service in 0..SERVICES {
        for (number, upstream) in upstreams.iter().enumerate() {
            let (name, id) = (format!("api-{service}"), format!("api-{service}-{number}"));
            operations.push(json!({"Service": {"Verb": "set", "Node": NODE, "Service": {
                "ID": id, "Service": name, "Address": upstream.address.ip(), "Port": upstream.address.port(),
                "Tags": [format!("urlprefix-/{name}")]}}}));
            operations
                .push(json!({"Check": {"Verb": "set", "Check": check(&id, &name, "passing")}}));
        }
    }
    api.transact(&operations);
}
