//! A real Nomad agent, server and client in one, that registers its jobs at a real Consul agent
//! over mTLS.
//!
//! It runs tasks as plain processes (`raw_exec`), so it has to be root, and it needs `python3` for
//! the sample application. Its own API is plain HTTP on a loopback address.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::get;
use super::consul::ConsulAgent;
use super::turn::Turn;
use super::wait::{PATIENCE, try_wait};

const PORT: u16 = 4646;

/// A service that responds after 20 ms, tells its name in `x-instance`, and dies at once when told
/// to stop, also between the head of a response and its body, which it writes apart. It binds
/// `BIND` if that is set, and what Nomad takes for the node's address otherwise.
pub const APPLICATION: &str = r#"
import http.server, os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: os._exit(0))
name = os.environ["VERSION"] + "-" + os.environ["NOMAD_ALLOC_INDEX"] + "-" + os.environ["NOMAD_ALLOC_ID"][:8]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        if self.path != "/health":
            time.sleep(0.02)
        self.send_response(200)
        self.send_header("x-instance", name)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server((os.environ.get("BIND") or os.environ["NOMAD_IP_http"], int(os.environ["NOMAD_PORT_http"])), Handler).serve_forever()
"#;

/// A running agent. Dropped: its jobs are stopped, what it mounted is unmounted, its process ends.
pub struct NomadAgent {
    binary: PathBuf,
    child: Option<Child>,
    dir: TempDir,
    ip: String,
    _turn: Turn,
}

/// One version of the job `drill`: three instances of [`APPLICATION`] under `urlprefix-/drill`, no
/// `shutdown_delay`.
pub struct Job<'a> {
    /// What its instances call themselves.
    pub version: &'a str,
    /// Canaries before the update goes on (0: none, one instance is replaced after the other).
    pub canaries: u32,
}

/// Where `nomad` is, if a test can use it; else says on standard error what is missing.
pub fn find(test: &str) -> Option<PathBuf> {
    let binary = env::var_os("NOMAD_BIN").map_or_else(|| PathBuf::from("nomad"), PathBuf::from);
    let runs = |program: &Path, argument| {
        Command::new(program)
            .arg(argument)
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    let missing = [
        (
            !runs(&binary, "version"),
            "`nomad` (on PATH or in NOMAD_BIN)",
        ),
        (!runs(Path::new("python3"), "--version"), "`python3`"),
        (!is_root, "root's rights, which Nomad's client needs"),
    ];
    match missing
        .into_iter()
        .find_map(|(missing, what)| missing.then_some(what))
    {
        None => Some(binary),
        Some(what) => {
            // Not by `eprintln`, which is captured where a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {what}");
            None
        }
    }
}

impl NomadAgent {
    /// Starts one on the address of its Consul agent; ready for jobs.
    pub fn start(binary: PathBuf, consul: &ConsulAgent) -> Self {
        let turn = Turn::of("single Nomad agents");
        let dir = tempfile::tempdir().expect("temporary folder");
        let config = config(consul, dir.path());
        let child = start_agent(&binary, dir.path(), &config, APPLICATION);
        let agent = Self {
            binary,
            child: Some(child),
            dir,
            ip: consul.ip.clone(),
            _turn: turn,
        };
        agent.wait("a ready node", || {
            let nodes = agent.try_api("/v1/nodes")?;
            is_ready(&nodes).then_some(())
        });
        agent
    }

    /// Submits a version; does not wait for it.
    pub fn submit(&self, job: &Job<'_>) {
        let path = self.dir.path().join("job.hcl");
        let Job { version, canaries } = job;
        let app = self.dir.path().join("app.py");
        let text = format!(
            r#"job "drill" {{
  datacenters = ["dc1"]
  update {{
    max_parallel     = 1
    min_healthy_time = "1s"
    health_check     = "checks"
    canary           = {canaries}
  }}
  group "web" {{
    count = 3
    network {{
      port "http" {{}}
    }}
    service {{
      name = "drill"
      port = "http"
      tags = ["urlprefix-/drill"]
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
        args    = [{app:?}]
      }}
      env {{
        VERSION = {version:?}
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
        fs::write(&path, text).expect("write");
        self.run(&["job", "run", "-detach", &path.display().to_string()]);
    }

    /// Waits until the deployment of the newest version of the job has gone well.
    pub fn wait_deployed(&self, job_version: u64) {
        self.wait("a successful deployment", || {
            let deployment = self.deployment(job_version)?;
            assert_ne!(
                deployment["Status"],
                "failed",
                "{deployment}\n{}",
                self.log()
            );
            (deployment["Status"] == "successful").then_some(())
        });
    }

    /// Waits until the canaries of a version are healthy, and promotes them.
    pub fn promote(&self, job_version: u64) {
        let id = self.wait("healthy canaries", || {
            let deployment = self.deployment(job_version)?;
            let group = &deployment["TaskGroups"]["web"];
            let healthy = group["HealthyAllocs"].as_u64() >= group["DesiredCanaries"].as_u64();
            let id = deployment["ID"].as_str()?.to_owned();
            (healthy && group["DesiredCanaries"] != 0).then_some(id)
        });
        self.run(&["deployment", "promote", "-detach", &id]);
    }

    fn deployment(&self, job_version: u64) -> Option<Value> {
        self.try_api("/v1/job/drill/deployment")
            .filter(|deployment| deployment["JobVersion"] == job_version)
    }

    fn try_api(&self, path: &str) -> Option<Value> {
        let address = format!("{}:{PORT}", self.ip).parse().expect("an address");
        // Refused until it listens.
        std::net::TcpStream::connect(address).ok()?;
        serde_json::from_slice(&get(address, &self.ip, path).body).ok()
    }

    fn run(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().expect("nomad");
        assert!(
            output.status.success(),
            "nomad {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("NOMAD_ADDR", format!("http://{}:{PORT}", self.ip));
        command
    }

    /// For the agent, and for one deployment.
    fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        try_wait(PATIENCE * 2, what, look)
            .unwrap_or_else(|unseen| panic!("{unseen}\n{}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// In good order, so that nothing is mounted any more.
    fn stop_tasks(&self) {
        let _ = self
            .command(&["job", "stop", "-purge", "-detach", "drill"])
            .output();
        let running = |allocations: &Value| {
            allocations
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["ClientStatus"] == "running"))
        };
        // What is still there is killed.
        let _ = try_wait(Duration::from_secs(15), "the end of all tasks", || {
            let allocations = self.try_api("/v1/allocations");
            !allocations.is_some_and(|allocations| running(&allocations))
        });
    }
}

/// Nomad leaves a mount for each task.
fn unmount(folder: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let own = |line: &&str| {
        line.split(' ')
            .nth(1)
            .is_some_and(|place| Path::new(place).starts_with(folder))
    };
    for line in mounts.lines().filter(own) {
        if let Some(place) = line.split(' ').nth(1) {
            let _ = Command::new("umount").arg(place).output();
        }
    }
}

/// Ends an agent and all that it started, and unmounts what is below its folder.
pub fn end_descendants(mut agent: Child, folder: &Path) {
    let descendants = descendants(agent.id());
    let _ = agent.kill();
    let _ = agent.wait();
    // Executors and log collectors are made to outlive their agent.
    end_processes(&descendants, folder);
}

/// Ends what an agent left, and unmounts what is below its folder.
pub fn end_processes(ids: &[u32], folder: &Path) {
    for pid in ids {
        let _ = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .stderr(Stdio::null())
            .status();
    }
    unmount(folder);
}

impl Drop for NomadAgent {
    fn drop(&mut self) {
        self.stop_tasks();
        if let Some(child) = self.child.take() {
            end_descendants(child, self.dir.path());
        }
    }
}

/// Starts an agent with this configuration, whose folder also holds the application of its jobs.
pub fn start_agent(binary: &Path, dir: &Path, config: &Value, application: &str) -> Child {
    let path = dir.join("nomad.json");
    fs::write(&path, config.to_string()).expect("write");
    fs::write(dir.join("app.py"), application).expect("write");
    let log = File::create(dir.join("log")).expect("log");
    Command::new(binary)
        .args(["agent", "-config"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("nomad")
}

/// Whether the only node of `/v1/nodes` takes jobs.
pub fn is_ready(nodes: &Value) -> bool {
    nodes[0]["Status"] == "ready" && nodes[0]["Drivers"]["raw_exec"]["Healthy"] == true
}

/// Everything that a process started, and what that started.
pub fn descendants(root: u32) -> Vec<u32> {
    let processes: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // After the name in parentheses: state, then the parent.
            let parent = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            processes
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

fn config(consul: &ConsulAgent, dir: &Path) -> Value {
    let file = |name: &str| consul.certificates().path(name);
    let ip = &consul.ip;
    json!({
        "name": "drill", "region": "global", "datacenter": "dc1",
        "data_dir": dir.join("data"), "bind_addr": ip, "disable_update_check": true, "log_level": "WARN",
        "advertise": {"http": ip, "rpc": ip, "serf": ip},
        "server": {"enabled": true, "bootstrap_expect": 1, "raft_multiplier": 1},
        "client": {
            "enabled": true, "servers": [ip], "network_interface": "lo",
            // The ports of its tasks are on this address alone, so that agents side by side do not
            // meet.
            "host_network": [{"default": [{"cidr": format!("{ip}/32")}]}],
            "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
        },
        "plugin": [{"raw_exec": [{"config": [{"enabled": true}]}]}],
        "consul": {"address": format!("{ip}:8501"), "ssl": true, "verify_ssl": true, "ca_file": file("ca.pem"),
            "cert_file": file("client.pem"), "key_file": file("client-key.pem")},
    })
}
