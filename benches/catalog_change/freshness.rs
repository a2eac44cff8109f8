//! How soon a change reaches traffic over both transports, by the number of services that are
//! watched: few enough for a connection each, one more than used to fit, many, and far more than an
//! agent grants connections.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;

use crate::shared::api::{Api, NODE, check};
use crate::shared::report::Report;
use crate::support::client::RawClient;
use crate::support::consul::ConsulAgent;
use crate::support::drill::consul_section;
use crate::support::lb::Lb;
use crate::support::process::Process;
use crate::support::upstream::Upstream;

const SERVICES: [usize; 5] = [14, 15, 60, 200, 1000];
/// New services that come one after another.
const NEW: usize = 60;
/// Changes of one service's tag, one after another.
const TAGS: usize = 40;
/// New services that come at once.
const BURST: usize = 50;
/// Changes of others', a second.
const CHURN_PER_SECOND: u32 = 50;
/// Pause between two looks.
const LOOK: Duration = Duration::from_micros(500);
/// What is not seen in this time is a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// All transports and sizes; `rounds`: times four single changes.
pub(crate) fn run(runtime: &Runtime, rounds: usize, report: &mut Report) {
    // Numbers among the arguments narrow it.
    let wanted: Vec<usize> = std::env::args()
        .filter_map(|word| word.parse().ok())
        .collect();
    for tls in [true, false] {
        for services in SERVICES
            .into_iter()
            .filter(|services| wanted.is_empty() || wanted.contains(services))
        {
            let agent = if tls {
                ConsulAgent::start()
            } else {
                ConsulAgent::start_plain()
            };
            let phase = format!("{}-{services}", if tls { "https" } else { "http" });
            Freshness::new(runtime, agent, services).measure(&phase, rounds, report);
        }
    }
}

struct Freshness<'a> {
    agent: ConsulAgent,
    api: Api<'a>,
    lb: Lb,
    client: RawClient,
    upstream: Upstream,
    services: usize,
}

impl<'a> Freshness<'a> {
    fn new(runtime: &'a Runtime, agent: ConsulAgent, services: usize) -> Self {
        let api = Api::connect(runtime, &agent);
        let upstream = Upstream::start("u");
        let node = json!({"Node": {"Verb": "set", "Node": {"Node": NODE, "Address": "127.0.0.1"}}});
        let service = |number: usize| {
            set(
                &format!("s{number}"),
                upstream.address,
                &format!("urlprefix-/s{number}"),
            )
        };
        let operations: Vec<_> = std::iter::once(node)
            .chain((0..services).flat_map(service))
            .collect();
        api.transact(&operations);
        let section = if agent.is_tls() {
            consul_section(&agent, "").replace("wait = \"2s\"", "")
        } else {
            format!("[consul]\naddress = {:?}\n", agent.address())
        };
        let listeners =
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
        let lb = Lb::start(&format!(
            "{section}{listeners}[log]\nlevel = \"warn,lb::serve=info\"\n"
        ));
        lb.wait_ready();
        // What was read before all watches stood is read again.
        sleep(Duration::from_secs(2));
        let client = RawClient::connect(lb.address("http"));
        Self {
            agent,
            api,
            lb,
            client,
            upstream,
            services,
        }
    }

    fn measure(&mut self, phase: &str, rounds: usize, report: &mut Report) {
        let mut single = self.single(rounds);
        report.percentiles(phase, "single changes", &mut single, Some((30.0, 250.0)));
        let mut new: Vec<_> = (0..NEW)
            .map(|number| self.new_service(&format!("new-{number:03}")))
            .collect();
        report.percentiles(
            phase,
            "new services, back to back",
            &mut new,
            Some((20.0, 250.0)),
        );
        let mut tags: Vec<_> = (0..TAGS).map(|number| self.tag(number)).collect();
        report.percentiles(
            phase,
            "tags of one, back to back",
            &mut tags,
            Some((20.0, 250.0)),
        );
        report.add(
            phase,
            &format!("burst of {BURST} services, the last"),
            millis(self.burst()),
            "ms",
            Some(1000.0),
        );
        let mut amid = self.amid_others(rounds);
        report.percentiles(
            phase,
            "single changes amid others'",
            &mut amid,
            Some((50.0, 500.0)),
        );
        self.cost(phase, report);
        let port = if self.agent.is_tls() { 8501 } else { 8500 };
        let agent = SocketAddr::new(self.agent.ip.parse::<IpAddr>().expect("an address"), port);
        let connections = Process(self.lb.pid()).connections_to(agent);
        report.add(
            phase,
            "connections to the agent",
            connections as f64,
            "",
            Some(100.0),
        );
    }

    /// An instance more under a path of its own, critical, passing, gone; apart from each other.
    fn single(&mut self, rounds: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for round in 0..rounds {
            let (service, path) = (
                format!("s{}", (round * 613) % self.services),
                format!("/extra-{round:03}"),
            );
            for (status, wanted) in [
                ("passing", 200),
                ("critical", 503),
                ("passing", 200),
                ("", 404),
            ] {
                sleep(Duration::from_millis(20 + fastrand::u64(0..30)));
                let written = Instant::now();
                self.extra(&service, &path, status);
                self.wait(&path, wanted, written);
                times.push(written.elapsed());
            }
        }
        times
    }

    fn extra(&self, service: &str, path: &str, status: &str) {
        if status.is_empty() {
            self.api.put(
                "/v1/catalog/deregister",
                &json!({"Node": NODE, "ServiceID": "extra"}),
            );
            return;
        }
        let address = self.upstream.address;
        self.api.put(
            "/v1/catalog/register",
            &json!({"Node": NODE, "Address": "127.0.0.1", "SkipNodeUpdate": true,
                "Service": {"ID": "extra", "Service": service, "Address": address.ip(), "Port": address.port(),
                    "Tags": [format!("urlprefix-{path}")]},
                "Check": check("extra", service, status)}),
        );
    }

    fn new_service(&mut self, name: &str) -> Duration {
        let written = Instant::now();
        self.api.transact(&set(
            name,
            self.upstream.address,
            &format!("urlprefix-/{name}"),
        ));
        self.wait(&format!("/{name}"), 200, written);
        written.elapsed()
    }

    fn tag(&mut self, number: usize) -> Duration {
        let written = Instant::now();
        self.api.transact(&set(
            "s0",
            self.upstream.address,
            &format!("urlprefix-/tag-{number:03}"),
        ));
        self.wait(&format!("/tag-{number:03}"), 200, written);
        written.elapsed()
    }

    fn burst(&mut self) -> Duration {
        let names: Vec<_> = (0..BURST)
            .map(|number| format!("burst-{number:03}"))
            .collect();
        let written = Instant::now();
        let service =
            |name: &String| set(name, self.upstream.address, &format!("urlprefix-/{name}"));
        self.api
            .transact(&names.iter().flat_map(service).collect::<Vec<_>>());
        names
            .iter()
            .for_each(|name| self.wait(&format!("/{name}"), 200, written));
        written.elapsed()
    }

    /// Single changes while a service without routing tags changes all the time, and so do its
    /// checks.
    fn amid_others(&mut self, rounds: usize) -> Vec<Duration> {
        let period = Duration::from_secs(1) / CHURN_PER_SECOND;
        let mut times = Vec::new();
        let mut due = Instant::now();
        for change in 0..rounds * 4 {
            let path = format!("/amid-{change:03}");
            let mut written = None;
            let begun = Instant::now();
            let mut others = 0_u32;
            loop {
                let now = Instant::now();
                if now >= due {
                    due += period;
                    others += 1;
                    let id = format!("noise-{}", fastrand::u32(0..40));
                    let status = if fastrand::bool() {
                        "passing"
                    } else {
                        "critical"
                    };
                    self.api.put(
                        "/v1/catalog/register",
                        &json!({"Node": NODE, "Address": "127.0.0.1", "SkipNodeUpdate": true,
                            "Service": {"ID": id, "Service": "noise", "Port": 1 + fastrand::u16(0..1000), "Tags": ["x"]},
                            "Check": check(&id, "noise", status)}),
                    );
                }
                match written {
                    None if others >= 3 => {
                        written = Some(Instant::now());
                        self.extra("s1", &path, "passing");
                    }
                    Some(written) if self.status(&path) == 200 => {
                        times.push(written.elapsed());
                        break;
                    }
                    _ => sleep(LOOK),
                }
                assert!(
                    begun.elapsed() < LIMIT,
                    "never seen: {path}: {}",
                    self.lb.stderr()
                );
            }
        }
        self.extra("s1", "", "");
        times
    }

    /// CPU of both processes for a change, without requests that look for it.
    fn cost(&self, phase: &str, report: &mut Report) {
        const CHANGES: u32 = 100;
        let processes = [Process(self.lb.pid()), Process(self.agent.pid())];
        sleep(Duration::from_secs(6));
        let before = processes.map(Process::cpu);
        for change in 0..CHANGES / 2 {
            let service = format!("s{}", (change as usize * 389) % self.services);
            self.extra(&service, "/cost", "passing");
            sleep(Duration::from_millis(50));
            self.extra(&service, "/cost", "");
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_millis(500));
        for (((name, process), before), goal) in ["lb", "agent"]
            .into_iter()
            .zip(processes)
            .zip(before)
            .zip([None, Some(20.0)])
        {
            let each = millis(process.cpu() - before) / f64::from(CHANGES);
            report.add(
                phase,
                &format!("CPU of {name} per change"),
                each,
                "ms",
                goal,
            );
        }
    }

    fn wait(&mut self, path: &str, wanted: u16, since: Instant) {
        while self.status(path) != wanted {
            assert!(
                since.elapsed() < LIMIT,
                "never {wanted}: {path}: {}",
                self.lb.stderr()
            );
            sleep(LOOK);
        }
    }

    fn status(&mut self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.client
            .send(&request)
            .response()
            .expect("a response")
            .status
    }
}

/// The operations that register the only instance of a service, with a check that passes.
fn set(name: &str, address: SocketAddr, tag: &str) -> [serde_json::Value; 2] {
    let service = json!({"ID": name, "Service": name, "Address": address.ip(), "Port": address.port(), "Tags": [tag]});
    [
        json!({"Service": {"Verb": "set", "Node": NODE, "Service": service}}),
        json!({"Check": {"Verb": "set", "Check": check(name, name, "passing")}}),
    ]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
