//! What a driver does with a cluster: it submits jobs by the real command line, updates them, and
//! watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use serde_json::Value;

use super::cluster::{NODES, Nine};
use crate::support::client::{Load, Outcome, RunningLoad, get};
use crate::support::lb::Lb;
use crate::support::nomad::APPLICATION;

/// Requests per second, at each of the two places: what debug builds and fifteen agents on two
/// cores carry.
const RATE: u32 = 100;

/// Load through two routers at once: the system job's on the first client, and one outside of the
/// cluster.
pub(super) struct Loads {
    outside: RunningLoad,
    inside: RunningLoad,
    what: String,
}

/// Starts it.
pub(super) fn load(nine: &Nine, outside: &Lb, path: &str, what: &str) -> Loads {
    let start = |address| Load::new(address, "drill.test", path, RATE).start();
    eprintln!("--- {what} ---");
    Loads {
        outside: start(outside.address("http")),
        inside: start(nine.lb_at("nomad-client-0")),
        what: what.to_owned(),
    }
}

impl Loads {
    /// Ends it; no request may have failed at either place. What responded outside.
    pub(super) fn none_failed(self) -> Outcome {
        let (outside, inside) = (self.outside.stop(), self.inside.stop());
        for (place, outcome) in [("outside", &outside), ("on a client", &inside)] {
            eprintln!(
                "{}, lb {place}: {} failed of {}, p50 {:?}, p99 {:?}, max {:?}",
                self.what,
                outcome.failed(),
                outcome.requests(),
                outcome.percentile(0.5),
                outcome.percentile(0.99),
                outcome.percentile(1.0),
            );
        }
        for (place, outcome) in [("outside", &outside), ("on a client", &inside)] {
            // Neither "no route" nor "no instance".
            let good = outcome.statuses.get(&200).copied().unwrap_or_default();
            assert!(
                outcome.requests() > 0,
                "{} at lb {place}: no request was made",
                self.what
            );
            assert_eq!(
                (good, outcome.failed()),
                (outcome.requests(), 0),
                "{} at lb {place}: {:?} {:?}",
                self.what,
                outcome.statuses,
                outcome.errors
            );
        }
        outside
    }
}

/// Submits a version of the service `drill`: three instances of an application that dies the moment
/// it is told to, without `shutdown_delay`. Does not wait.
pub(super) fn submit(nine: &Nine, version: &str, canaries: u32) {
    let text = format!(
        r#"job "drill" {{
  datacenters = ["dc1"]
  type = "service"
  update {{
    max_parallel     = 1
    min_healthy_time = "1s"
    health_check     = "checks"
    canary           = {canaries}
  }}
  group "web" {{
    count = 3
    spread {{
      attribute = "${{node.unique.name}}"
    }}
    network {{
      port "http" {{}}
    }}
    service {{
      name    = "drill"
      port    = "http"
      address = "${{meta.bind}}"
      tags    = ["urlprefix-/drill"]
      check {{
        type     = "http"
        path     = "/health"
        interval = "1s"
        timeout  = "1s"
      }}
    }}
    task "app" {{
      driver = "raw_exec"
      config {{
        command = "python3"
        args    = ["local/app.py"]
      }}
      template {{
        destination = "local/app.py"
        data        = <<-PYTHON
{APPLICATION}
        PYTHON
      }}
      env {{
        VERSION = {version:?}
        BIND    = "${{meta.bind}}"
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
  }}
}}
"#
    );
    let path = nine.path("drill.nomad.hcl");
    fs::write(&path, text).unwrap();
    nine.nomad(&["job", "run", "-detach", &path.display().to_string()]);
}

/// Waits until the deployment of the newest version of the job has gone well.
pub(super) fn wait_deployed(nine: &Nine, job_version: u64) {
    nine.wait(
        &format!("a successful deployment of version {job_version}"),
        || {
            let deployment = deployment(nine, job_version)?;
            assert_ne!(deployment["Status"], "failed", "{deployment}");
            (deployment["Status"] == "successful").then_some(())
        },
    );
}

/// Waits until the canaries of a version are healthy, and promotes them.
pub(super) fn promote(nine: &Nine, job_version: u64) {
    let id = nine.wait("healthy canaries", || {
        let deployment = deployment(nine, job_version)?;
        let group = &deployment["TaskGroups"]["web"];
        let healthy = group["HealthyAllocs"].as_u64() >= group["DesiredCanaries"].as_u64();
        let id = deployment["ID"].as_str()?.to_owned();
        (healthy && group["DesiredCanaries"] != 0).then_some(id)
    });
    nine.nomad(&["deployment", "promote", "-detach", &id]);
}

fn deployment(nine: &Nine, job_version: u64) -> Option<Value> {
    nine.nomad_api("/v1/job/drill/deployment")
        .filter(|deployment| deployment["JobVersion"] == job_version)
}

/// Running allocations of a job: id, and name of the node.
pub(super) fn running(nine: &Nine, job: &str) -> Option<BTreeMap<String, String>> {
    let allocations = nine.nomad_api(&format!("/v1/job/{job}/allocations"))?;
    let live = allocations
        .as_array()?
        .iter()
        .filter(|one| one["ClientStatus"] == "running");
    let live = live.filter(|one| one["DesiredStatus"] == "run");
    Some(
        live.filter_map(|one| Some((text(&one["ID"])?, text(&one["NodeName"])?)))
            .collect(),
    )
}

/// Waits until a job runs so many times, whatever the nodes, and Consul finds as many of its
/// instances healthy.
pub(super) fn wait_running(nine: &Nine, job: &str, count: usize) -> BTreeMap<String, String> {
    nine.wait(&format!("{count} times {job}"), || {
        let found = running(nine, job)?;
        let healthy = nine.consul_api(&format!("/v1/health/service/{job}?passing"))?;
        (found.len() == count && healthy.as_array()?.len() == count).then_some(found)
    })
}

/// The tasks' own processes, by allocation.
pub(super) fn task_processes(nine: &Nine, job: &str) -> BTreeSet<(u32, String)> {
    let allocations = running(nine, job).expect("Nomad responds");
    let processes = nine.processes();
    let of = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let id = environment
            .split('\0')
            .find_map(|line| line.strip_prefix("NOMAD_ALLOC_ID="))?
            .to_owned();
        allocations.contains_key(&id).then_some((*pid, id))
    };
    let found: BTreeSet<(u32, String)> = processes.keys().filter_map(of).collect();
    assert_eq!(
        found
            .iter()
            .map(|(_, id)| id)
            .collect::<BTreeSet<_>>()
            .len(),
        allocations.len(),
        "{processes:?}"
    );
    found
}

/// `lb run --config STATE/lb.toml`, as `up` says.
pub(super) fn outside(nine: &Nine) -> Lb {
    let config = fs::read_to_string(nine.state().join("lb.toml")).unwrap();
    Lb::start_with(
        &config,
        &[
            "--listener",
            "127.0.0.1:0",
            "--admin.address",
            "127.0.0.1:0",
        ],
        &[],
    )
}

/// Waits until every router serves a path: each hears of a service at its own time.
pub(super) fn wait_served(nine: &Nine, outside: &Lb, path: &str) {
    let mut places: Vec<SocketAddr> = NODES[6..].iter().map(|client| nine.lb_at(client)).collect();
    places.push(outside.address("http"));
    for place in places {
        nine.wait(&format!("{place} serves {path}"), || {
            (ask(place, path).0 == 200).then_some(())
        });
    }
}

/// One GET through a router: status and body.
pub(super) fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    if std::net::TcpStream::connect(address).is_err() {
        return (0, String::new());
    }
    let answer = get(address, "drill.test", path);
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

/// Id of a Nomad node.
pub(super) fn node_id(nine: &Nine, name: &str) -> String {
    let nodes = nine.nomad_api("/v1/nodes").expect("Nomad responds");
    let nodes = nodes.as_array().expect("a list").iter();
    let mut live = nodes.filter(|node| node["Name"] == name && node["Status"] == "ready");
    live.next()
        .and_then(|node| text(&node["ID"]))
        .unwrap_or_else(|| panic!("{name} is not ready"))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
