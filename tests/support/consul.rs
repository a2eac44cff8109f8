//! A real Consul agent for tests, on a loopback address of its own.
//!
//! `consul` must be on PATH. Each agent has its own 127.x.y.z, so that tests run side by side on
//! the usual ports. TLS agents have no plain port and demand client certificates of a CA that lives
//! as long as the test. Calls to the API go through `curl`, so that the tests do not depend on the
//! client that they test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lb::catalog::CheckStatus;
use lb::config::ConsulConfig;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::loopback::free_address;
use super::wait::{PATIENCE, try_wait};

/// The token with all rights of agents with ACLs.
pub const MASTER_TOKEN: &str = "00000000-0000-0000-0000-00000000aaaa";
/// TTL of checks registered here: longer than any test.
const TTL: &str = "30m";

/// A CA and what it signed, in files.
pub struct Certificates {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// A fresh CA and a client certificate.
    pub fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        let ca = params.self_signed(&key).expect("CA");
        fs::write(dir.path().join("ca.pem"), ca.pem()).expect("write");
        let certificates = Self {
            dir,
            issuer: Issuer::new(params, key),
        };
        certificates.issue("client", &["client.test".to_owned()]);
        Arc::new(certificates)
    }

    /// Writes NAME.pem and NAME-key.pem.
    pub fn issue(&self, name: &str, names: &[String]) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(names.to_vec()).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("write");
        fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).expect("write");
    }

    /// Path of a file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

/// How an agent is to be.
#[derive(Clone, Default)]
pub struct Options {
    /// HTTPS only, with client certificates; else plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
    /// ACLs with default policy deny.
    pub acl: bool,
    /// Not a server: joins these addresses.
    pub client_of: Vec<String>,
    /// Servers expected (0: one).
    pub servers: usize,
    /// Other servers to join.
    pub join: Vec<String>,
    /// Most connections of one client (0: Consul's default).
    pub connections_max: usize,
}

/// A registration.
pub struct Registration<'a> {
    /// Name.
    pub service: &'a str,
    /// Id.
    pub id: &'a str,
    /// Port.
    pub port: u16,
    /// Tags.
    pub tags: &'a [&'a str],
}

/// A running agent. Its process ends with it.
pub struct ConsulAgent {
    child: Child,
    dir: TempDir,
    /// Its address, for everything.
    pub ip: String,
    options: Options,
    token: Option<String>,
}

impl ConsulAgent {
    /// One server over mTLS.
    pub fn start() -> Self {
        Self::start_with(Options {
            certificates: Some(Certificates::new()),
            ..Options::default()
        })
    }

    /// One server over plain HTTP.
    pub fn start_plain() -> Self {
        Self::start_with(Options::default())
    }

    /// One agent of this kind, ready.
    pub fn start_with(options: Options) -> Self {
        let agent = Self::launch(free_address(), options);
        agent.wait_ready();
        agent
    }

    /// Three servers over mTLS, ready.
    pub fn cluster() -> Vec<Self> {
        let certificates = Certificates::new();
        let addresses: Vec<_> = (0..3).map(|_| free_address()).collect();
        let servers: Vec<_> = addresses
            .iter()
            .map(|ip| {
                let join = addresses
                    .iter()
                    .filter(|other| *other != ip)
                    .cloned()
                    .collect();
                let options = Options {
                    certificates: Some(certificates.clone()),
                    servers: 3,
                    join,
                    ..Options::default()
                };
                Self::launch(ip.clone(), options)
            })
            .collect();
        for server in &servers {
            server.wait_ready();
        }
        servers
    }

    /// An agent without data of its own, in front of these servers.
    pub fn client_of(servers: &[Self]) -> Self {
        Self::start_with(Options {
            certificates: servers[0].options.certificates.clone(),
            client_of: servers.iter().map(|server| server.ip.clone()).collect(),
            ..Options::default()
        })
    }

    fn launch(ip: String, options: Options) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = agent_config(&ip, dir.path(), &options);
        fs::write(dir.path().join("agent.json"), config.to_string()).expect("write");
        let child = run(dir.path());
        let token = options.acl.then(|| MASTER_TOKEN.to_owned());
        Self {
            child,
            dir,
            ip,
            options,
            token,
        }
    }

    /// Waits until the agent knows a leader and is itself in the catalog.
    pub fn wait_ready(&self) {
        let what = format!("agent {} ready", self.ip);
        let ready = try_wait(PATIENCE, what, || {
            let leader = self.try_api("GET", "/v1/status/leader", None);
            matches!(leader, Ok((200, body)) if body.len() > 4)
                && matches!(self.try_api("GET", "/v1/health/service/consul?passing", None), Ok((200, body)) if body.len() > 4)
        });
        ready.unwrap_or_else(|unseen| panic!("{unseen}\n{}", self.log()));
    }

    /// What the agent logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// URL of its API.
    pub fn address(&self) -> String {
        if self.options.certificates.is_some() {
            format!("https://{}:8501", self.ip)
        } else {
            format!("http://{}:8500", self.ip)
        }
    }

    /// Its certificates.
    pub fn certificates(&self) -> &Certificates {
        self.options.certificates.as_deref().expect("a TLS agent")
    }

    /// A configuration to read from it, with short times.
    pub fn config(&self) -> ConsulConfig {
        let file = |name: &str| {
            self.options
                .certificates
                .as_ref()
                .map(|certificates| certificates.path(name))
        };
        ConsulConfig {
            ca_file: file("ca.pem"),
            cert_file: file("client.pem"),
            key_file: file("client-key.pem"),
            token: self.token.clone().map(Into::into),
            ..plain_config(&self.address())
        }
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.options.certificates.is_some()
    }

    /// Id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Calls the API; panics unless the status is 200.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        match self.try_api(method, path, body) {
            Ok((200, text)) => text,
            other => panic!("{method} {path} at {}: {other:?}", self.ip),
        }
    }

    /// Sets a key of the KV store; returns what Consul did.
    pub fn put_key(&self, key: &str, value: &str) -> String {
        match self.call("PUT", &format!("/v1/kv/{key}"), Some(value)) {
            Ok((200, text)) => text,
            other => panic!("key {key} at {}: {other:?}", self.ip),
        }
    }

    /// Calls the API; status and body.
    pub fn try_api(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), String> {
        self.call(method, path, body.map(Value::to_string).as_deref())
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String), String> {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
        ]);
        if let Some(certificates) = &self.options.certificates {
            curl.arg("--cacert").arg(certificates.path("ca.pem"));
            curl.arg("--cert").arg(certificates.path("client.pem"));
            curl.arg("--key").arg(certificates.path("client-key.pem"));
        }
        if let Some(token) = &self.token {
            curl.args(["-H", &format!("X-Consul-Token: {token}")]);
        }
        if let Some(body) = body {
            // A file for each call: some tests call from several threads.
            static CALLS: AtomicU32 = AtomicU32::new(0);
            let file = self
                .dir
                .path()
                .join(format!("body-{}", CALLS.fetch_add(1, Ordering::Relaxed)));
            fs::write(&file, body).expect("write");
            curl.arg("--data-binary")
                .arg(format!("@{}", file.display()));
        }
        let output = curl
            .arg(format!("{}{path}", self.address()))
            .output()
            .expect("curl");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').ok_or("no status")?;
        Ok((code.parse().map_err(|_| "bad status")?, body.to_owned()))
    }

    /// Registers an instance on 127.0.0.1 with a passing TTL check `check:ID`.
    pub fn register(&self, registration: &Registration<'_>) {
        let Registration {
            service,
            id,
            port,
            tags,
        } = registration;
        let check = json!({"CheckID": format!("check:{id}"), "TTL": TTL, "Status": "passing"});
        let body = json!({"Name": service, "ID": id, "Address": "127.0.0.1", "Port": port, "Tags": tags, "Check": check});
        self.api("PUT", "/v1/agent/service/register", Some(&body));
    }

    /// Removes an instance.
    pub fn deregister(&self, id: &str) {
        self.api("PUT", &format!("/v1/agent/service/deregister/{id}"), None);
    }

    /// Sets the TTL check of an instance.
    pub fn set_check(&self, id: &str, status: CheckStatus) {
        let word = match status {
            CheckStatus::Passing => "passing",
            CheckStatus::Warning => "warning",
            CheckStatus::Critical | CheckStatus::Maintenance => "critical",
        };
        self.api(
            "PUT",
            &format!("/v1/agent/check/update/check:{id}"),
            Some(&json!({"Status": word})),
        );
    }

    /// Maintenance of the whole node.
    pub fn node_maintenance(&self, enable: bool) {
        self.api(
            "PUT",
            &format!("/v1/agent/maintenance?enable={enable}"),
            None,
        );
    }

    /// Maintenance of one instance.
    pub fn service_maintenance(&self, id: &str, enable: bool) {
        self.api(
            "PUT",
            &format!("/v1/agent/service/maintenance/{id}?enable={enable}"),
            None,
        );
    }

    /// Registers services `PREFIX-0…` with `instances` each in the catalog, on a node that no agent
    /// owns.
    pub fn register_many(&self, prefix: &str, services: usize, instances: usize) {
        let node =
            json!({"Node": {"Verb": "set", "Node": {"Node": "elsewhere", "Address": "127.0.0.1"}}});
        self.api("PUT", "/v1/txn", Some(&json!([node])));
        let operations: Vec<_> = (0..services)
            .flat_map(|service| (0..instances).map(move |instance| (service, instance)))
            .map(|(service, instance)| {
                let name = format!("{prefix}-{service}");
                let registration = json!({"ID": format!("{name}-{instance}"), "Service": name, "Address": "127.0.0.1",
                    "Port": 1000 + instance, "Tags": [format!("urlprefix-/{name}")]});
                json!({"Service": {"Verb": "set", "Node": "elsewhere", "Service": registration}})
            })
            .collect();
        // A transaction takes 64 operations.
        for chunk in operations.chunks(64) {
            self.api("PUT", "/v1/txn", Some(&json!(chunk)));
        }
    }

    /// Makes a policy with these rules and a token that has it; returns the ids of policy and
    /// token.
    pub fn create_token(&self, name: &str, rules: &str) -> (String, String) {
        let policy = self.api(
            "PUT",
            "/v1/acl/policy",
            Some(&json!({"Name": name, "Rules": rules})),
        );
        let token = self.api(
            "PUT",
            "/v1/acl/token",
            Some(&json!({"Policies": [{"Name": name}]})),
        );
        let field = |text: &str, key: &str| {
            let value: Value = serde_json::from_str(text).expect("JSON");
            value[key].as_str().expect("a string").to_owned()
        };
        (field(&policy, "ID"), field(&token, "SecretID"))
    }

    /// Gives a policy other rules.
    pub fn set_rules(&self, policy: &str, name: &str, rules: &str) {
        let body = json!({"ID": policy, "Name": name, "Rules": rules});
        self.api("PUT", &format!("/v1/acl/policy/{policy}"), Some(&body));
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.api("GET", "/v1/status/leader", None)
            .contains(&format!("\"{}:", self.ip))
    }

    /// Ends the process at once; the data stays for [`ConsulAgent::restart`].
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Freezes the process.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    /// Starts it again after [`ConsulAgent::kill`], on the same data.
    pub fn restart(&mut self) {
        self.child = run(self.dir.path());
        self.wait_ready();
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }
}

impl Drop for ConsulAgent {
    fn drop(&mut self) {
        // Ends a frozen process as well.
        self.kill();
    }
}

/// Times and rules for tests; no certificates.
pub fn plain_config(address: &str) -> ConsulConfig {
    ConsulConfig {
        addresses: vec![address.to_owned()].into(),
        ca_file: None,
        ca_pem: None,
        ca_path: None,
        cert_file: None,
        cert_pem: None,
        key_file: None,
        key_pem: None,
        server_name: None,
        skip_verify: false,
        token: None,
        token_file: None,
        namespace: None,
        partition: None,
        datacenter: None,
        kv_path: None,
        stale: true,
        max_stale: Duration::from_secs(5),
        wait: Duration::from_secs(50),
        resync: Duration::from_secs(300),
        confirm_percent: 50,
        max_connections: 16,
        ..ConsulConfig::default()
    }
}

fn run(dir: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("log");
    Command::new("consul")
        .args(["agent", "-config-file"])
        .arg(dir.join("agent.json"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("`consul` must be on PATH for these tests")
}

fn agent_config(ip: &str, dir: &Path, options: &Options) -> Value {
    let tls = options.certificates.is_some();
    let mut config = json!({
        "datacenter": "dc1",
        "node_name": format!("node-{}", ip.replace('.', "-")),
        "data_dir": dir.join("data"),
        "bind_addr": ip,
        "client_addr": ip,
        "ports": {"http": if tls { -1 } else { 8500 }, "https": if tls { 8501 } else { -1 }, "dns": -1, "grpc": -1, "serf_wan": -1},
        "performance": {"raft_multiplier": 1},
        // Many programs of one test share an address; 200 is the default.
        "limits": {"http_max_conns_per_client": 2000},
        "disable_update_check": true,
        "log_level": "warn",
        "rejoin_after_leave": true,
    });
    let merge = |config: &mut Value, more: Value| {
        if let (Value::Object(config), Value::Object(more)) = (config, more) {
            config.extend(more);
        }
    };
    if options.client_of.is_empty() {
        merge(
            &mut config,
            json!({"server": true, "bootstrap_expect": options.servers.max(1)}),
        );
    }
    let join: Vec<_> = options.join.iter().chain(&options.client_of).collect();
    if !join.is_empty() {
        merge(
            &mut config,
            json!({"retry_join": join, "retry_interval": "1s"}),
        );
    }
    if let Some(certificates) = &options.certificates {
        let name = format!("agent-{ip}");
        certificates.issue(
            &name,
            &[
                ip.to_owned(),
                "localhost".to_owned(),
                "server.dc1.consul".to_owned(),
            ],
        );
        merge(
            &mut config,
            json!({
                "ca_file": certificates.path("ca.pem"),
                "cert_file": certificates.path(&format!("{name}.pem")),
                "key_file": certificates.path(&format!("{name}-key.pem")),
                "verify_incoming": true, "verify_outgoing": true, "verify_server_hostname": true,
            }),
        );
    }
    if options.connections_max > 0 {
        merge(
            &mut config,
            json!({"limits": {"http_max_conns_per_client": options.connections_max}}),
        );
    }
    if options.acl {
        let tokens = json!({"master": MASTER_TOKEN, "agent": MASTER_TOKEN});
        merge(
            &mut config,
            json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": tokens}}),
        );
    }
    config
}
