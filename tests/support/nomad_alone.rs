//! A real Nomad agent, server and client in one, without Consul: jobs register at Nomad itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{RawResponse, exchange};
use super::loopback::free_address;
use super::nomad::{descendants, end_descendants, end_processes, is_ready, start_agent};
use super::turn::Turn;
use super::wait::{PATIENCE, try_wait};

const PORT: u16 = 4646;
const SECOND: u64 = 1_000_000_000;

/// Fails at `/health` until the file `WAITS_FOR` is there, if that is set, and says whose instance
/// it is elsewhere.
const APPLICATION: &str = r#"
import http.server, os
name = os.environ["NOMAD_ALLOC_ID"][:8]
waits_for = os.environ.get("WAITS_FOR")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        up = not waits_for or os.path.exists(waits_for)
        self.send_response(200 if up else 503)
        self.send_header("x-instance", name)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server((os.environ["NOMAD_IP_http"], int(os.environ["NOMAD_PORT_http"])), Handler).serve_forever()
"#;

/// Whether the agent wants tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acl {
    /// It does; the test has that of management.
    On,
    /// It does not.
    Off,
}

/// A running agent. Dropped: everything that it started ends.
pub struct Agent {
    child: Mutex<Option<Child>>,
    /// What a killed agent left.
    left: Mutex<Vec<u32>>,
    dir: TempDir,
    ip: String,
    token: Option<String>,
    _turn: Turn,
}

/// A service of a job: a group of the same name, with an HTTP check.
pub struct Group<'a> {
    name: &'a str,
    count: u32,
    path: String,
    waits_for: Option<&'a Path>,
}

impl<'a> Group<'a> {
    /// One instance under `urlprefix-/NAME`.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            count: 1,
            path: format!("/{name}"),
            waits_for: None,
        }
    }

    /// So many instances.
    pub fn times(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Under another path.
    pub fn under(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Up once this file is there.
    pub fn waits_for(mut self, file: &'a Path) -> Self {
        self.waits_for = Some(file);
        self
    }
}

impl Agent {
    /// Starts one; ready for jobs.
    pub fn start(binary: PathBuf, acl: Acl) -> Self {
        let turn = Turn::of("single Nomad agents");
        let dir = tempfile::tempdir().expect("temporary folder");
        let ip = free_address();
        let config = config(&ip, dir.path(), acl);
        let child = start_agent(&binary, dir.path(), &config, APPLICATION);
        let mut agent = Self {
            child: Mutex::new(Some(child)),
            left: Mutex::default(),
            dir,
            ip,
            token: None,
            _turn: turn,
        };
        if acl == Acl::On {
            let token = agent.wait("the first token", || {
                let response = agent.send("POST", "/v1/acl/bootstrap", None)?;
                let body: Value = serde_json::from_slice(&response.body).ok()?;
                body["SecretID"].as_str().map(str::to_owned)
            });
            agent.token = Some(token);
        }
        agent.wait("a ready node", || {
            let response = agent.send("GET", "/v1/nodes", None)?;
            let nodes: Value = serde_json::from_slice(&response.body).ok()?;
            is_ready(&nodes).then_some(())
        });
        agent
    }

    /// Its API.
    pub fn address(&self) -> String {
        format!("http://{}:{PORT}", self.ip)
    }

    /// A folder that lasts as long as the agent.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Submits a job of the namespace `default`; does not wait for it.
    pub fn submit(&self, name: &str, env: Value, groups: &[Group<'_>]) {
        self.submit_to("default", name, env, groups);
    }

    /// Submits a job; does not wait for it.
    pub fn submit_to(&self, namespace: &str, name: &str, env: Value, groups: &[Group<'_>]) {
        let app = self.dir.path().join("app.py");
        let group = |group: &Group<'_>| {
            let mut env = env.clone();
            if let Some(file) = group.waits_for {
                env["WAITS_FOR"] = json!(file);
            }
            json!({
                "Name": group.name, "Count": group.count,
                "RestartPolicy": {"Attempts": 10, "Delay": SECOND, "Interval": 60 * SECOND, "Mode": "delay"},
                "ShutdownDelay": 2 * SECOND,
                "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
                "Services": [{
                    "Name": group.name, "Provider": "nomad", "PortLabel": "http",
                    "Tags": [format!("urlprefix-{}", group.path)],
                    "Checks": [{"Name": "alive", "Type": "http", "Path": "/health",
                        "Interval": SECOND, "Timeout": SECOND}],
                }],
                "Tasks": [{
                    "Name": "app", "Driver": "raw_exec", "Env": env,
                    "Config": {"command": "python3", "args": [app]},
                    "Resources": {"CPU": 20, "MemoryMB": 32},
                }],
            })
        };
        let groups: Vec<Value> = groups.iter().map(group).collect();
        let job = json!({"Job": {
            "ID": name, "Name": name, "Namespace": namespace, "Type": "service", "Datacenters": ["dc1"],
            "Update": {"MaxParallel": 1, "MinHealthyTime": SECOND, "HealthCheck": "checks"},
            "TaskGroups": groups,
        }});
        self.api(
            "POST",
            &format!("/v1/jobs?namespace={namespace}"),
            Some(&job),
        );
    }

    /// Waits until the deployment of a version of a job has gone well.
    pub fn wait_deployed(&self, job: &str, version: u64) {
        self.wait("a successful deployment", || {
            let deployment = self.api("GET", &format!("/v1/job/{job}/deployment"), None);
            let is_it = deployment["JobVersion"] == version;
            assert!(!is_it || deployment["Status"] != "failed", "{deployment}");
            (is_it && deployment["Status"] == "successful").then_some(())
        });
    }

    /// Kills the process of one instance of a job; Nomad starts it again.
    pub fn kill_task(&self, job: &str) {
        let allocations = self.api("GET", &format!("/v1/job/{job}/allocations"), None);
        let all = allocations.as_array().expect("a list");
        let running = all.iter().find(|it| it["ClientStatus"] == "running");
        let id = running.expect("an instance")["ID"]
            .as_str()
            .expect("an id")
            .to_owned();
        let app = self.dir.path().join("app.py");
        let is_it = |pid: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let (line, env) = (read("cmdline"), read("environ"));
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            arguments.get(1) == Some(&app.as_os_str().as_encoded_bytes())
                && String::from_utf8_lossy(&env).contains(&format!("NOMAD_ALLOC_ID={id}"))
        };
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let mut ids = processes.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
        let pid = ids.find(is_it).expect("its process");
        let killed = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
        assert!(killed.expect("kill").success());
    }

    /// Kills the agent; its tasks run on.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap().take().expect("a running agent");
        *self.left.lock().unwrap() = descendants(child.id());
        child.kill().expect("kill");
        child.wait().expect("its end");
    }

    /// Calls the API with the token of management, and reads JSON.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let response = self.send(method, path, body).expect("a response");
        assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
        serde_json::from_slice(&response.body).unwrap_or(Value::Null)
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Option<RawResponse> {
        let address = format!("{}:{PORT}", self.ip).parse().expect("an address");
        // Refused until it listens.
        std::net::TcpStream::connect(address).ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = self
            .token
            .as_ref()
            .map(|token| format!("x-nomad-token: {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: nomad\r\nconnection: close\r\n{}content-length: {}\r\n\r\n{body}",
            token.unwrap_or_default(),
            body.len()
        );
        exchange(address, request)
    }

    fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        try_wait(PATIENCE * 2, what, look).unwrap_or_else(|unseen| {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            panic!("{unseen}\n{log}")
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let whole = std::sync::PoisonError::into_inner;
        match self.child.get_mut().unwrap_or_else(whole).take() {
            Some(child) => end_descendants(child, self.dir.path()),
            None => {
                let left = self.left.lock().unwrap_or_else(|it| it.into_inner());
                end_processes(&left, self.dir.path());
            }
        }
    }
}

fn config(ip: &str, dir: &Path, acl: Acl) -> Value {
    json!({
        "name": "alone", "region": "global", "datacenter": "dc1",
        "data_dir": dir.join("data"), "bind_addr": ip, "disable_update_check": true, "log_level": "WARN",
        "advertise": {"http": ip, "rpc": ip, "serf": ip},
        "acl": {"enabled": acl == Acl::On},
        "server": {"enabled": true, "bootstrap_expect": 1, "raft_multiplier": 1},
        "client": {
            "enabled": true, "servers": [ip], "network_interface": "lo",
            "host_network": [{"default": [{"cidr": format!("{ip}/32")}]}],
            "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"},
        },
        "plugin": [{"raw_exec": [{"config": [{"enabled": true}]}]}],
    })
}
