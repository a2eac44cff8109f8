//! A Consul agent for `lb demo --consul`: TLS only, client certificates demanded, loopback only,
//! nothing kept.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};

use super::certificates::{self, Certificates, PrivateFolder};
use super::sample::HEALTH_PATH;
use super::services::{Registration, SampleService};
use crate::config::ConsulConfig;
use crate::http_client::trust::Trust;
use crate::http_client::{Client, Limits, Request};

/// How long the agent may take to elect itself.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks at it meanwhile.
const START_STEP: Duration = Duration::from_millis(100);
/// Bounds of one request to it.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(5),
    bytes: 1 << 20,
};
/// Lines of its log shown when it fails.
const LOG_LINES: usize = 8;

/// The running agent. Dropped: killed, its folder removed.
pub(super) struct Agent {
    child: Mutex<Child>,
    address: SocketAddr,
    client: Client,
    certificates: Certificates,
    folder: PrivateFolder,
}

impl Agent {
    /// Starts `consul` and waits until it leads itself.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = PrivateFolder::create()?;
        let certificates = certificates::make(&folder)?;
        let ports = free_ports()?;
        let config = folder.write(
            "agent.json",
            &agent_config(&certificates, ports).to_string(),
        )?;
        let log = File::create_new(folder.path().join("agent.log"))?;
        let mut command = Command::new("consul");
        command.args(["agent", "-dev", "-config-file"]).arg(&config);
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        // A group of its own: Ctrl-C is ours to handle, the agent ends after the router.
        command.process_group(0);
        let child = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no `consul` on PATH: install Consul, or run `lb demo` without --consul")
            }
            child => child.context("cannot start consul")?,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0]));
        let client = client(&certificates)?;
        let agent = Self {
            child: Mutex::new(child),
            address,
            client,
            certificates,
            folder,
        };
        agent.wait_for_leader().await?;
        Ok(agent)
    }

    /// How the router reaches it.
    pub(super) fn config(&self) -> ConsulConfig {
        ConsulConfig {
            addresses: vec![format!("https://{}", self.address)].into(),
            ca_file: Some(self.certificates.ca_file.clone()),
            cert_file: Some(self.certificates.client.cert_file.clone()),
            key_file: Some(self.certificates.client.key_file.clone()),
            ..ConsulConfig::default()
        }
    }

    /// A `curl` line, short enough to be copied from a terminal, that gets `path` of the agent's
    /// API.
    ///
    /// # Errors
    /// When the file with its options cannot be written.
    pub(super) fn curl(&self, path: &str) -> anyhow::Result<String> {
        let (ca, client) = (&self.certificates.ca_file, &self.certificates.client);
        let options = format!(
            "cacert = {ca:?}\ncert = {:?}\nkey = {:?}\nurl = \"https://{}{path}\"\n",
            client.cert_file, client.key_file, self.address
        );
        let file = self.folder.write("curl.conf", &options)?;
        Ok(format!("curl -K {}", file.display()))
    }

    /// Registers an instance with a health check that Consul runs.
    pub(super) async fn register(
        &self,
        service: &SampleService,
        instance: &Registration,
    ) -> anyhow::Result<()> {
        let body = registration(service, instance).to_string();
        self.put("/v1/agent/service/register", body).await
    }

    pub(super) async fn deregister(&self, id: &str) -> anyhow::Result<()> {
        self.put(&format!("/v1/agent/service/deregister/{id}"), String::new())
            .await
    }

    async fn put(&self, path: &str, body: String) -> anyhow::Result<()> {
        let (status, text) = self
            .request(Method::PUT, path, body)
            .await
            .with_context(|| format!("consul: {path}"))?;
        if status != StatusCode::OK {
            bail!("consul: PUT {path}: {status}: {}", text.trim());
        }
        Ok(())
    }

    async fn wait_for_leader(&self) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let ended = self
                .child
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .try_wait()?;
            if let Some(status) = ended {
                bail!("consul ended at once ({status}):\n{}", self.end_of_log());
            }
            let response = self
                .request(Method::GET, "/v1/status/leader", String::new())
                .await;
            // An empty string, quoted, while there is none.
            if matches!(&response, Ok((StatusCode::OK, leader)) if leader.trim().len() > 2) {
                return Ok(());
            }
            if begun.elapsed() > START_TIMEOUT {
                bail!(
                    "consul has no leader after {START_TIMEOUT:?}:\n{}",
                    self.end_of_log()
                );
            }
            tokio::time::sleep(START_STEP).await;
        }
    }

    fn end_of_log(&self) -> String {
        let text =
            std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> anyhow::Result<(StatusCode, String)> {
        let url = format!("https://{}{path}", self.address).parse()?;
        let request = Request {
            method,
            headers: vec![(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )],
            body: Bytes::from(body),
            ..Request::get(url)
        };
        let response = self.client.send_once(request, LIMITS).await?;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        Ok((response.status(), text))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ports for HTTPS, Serf and the server. Another program might take one before the agent does; it
/// then says so.
fn free_ports() -> std::io::Result<[u16; 3]> {
    let mut listeners = Vec::with_capacity(3);
    let mut ports = [0; 3];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// Keys known to every Consul since 1.4, so that old and new binaries take them alike.
fn agent_config(certificates: &Certificates, [https, serf, server]: [u16; 3]) -> serde_json::Value {
    serde_json::json!({
        "node_name": "demo",
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": { "http": -1, "https": https, "dns": -1, "grpc": -1, "serf_lan": serf, "serf_wan": -1, "server": server },
        "ca_file": certificates.ca_file,
        "cert_file": certificates.agent.cert_file,
        "key_file": certificates.agent.key_file,
        "verify_incoming": true,
        "verify_outgoing": true,
        "disable_update_check": true,
        "log_level": "WARN",
    })
}

fn registration(service: &SampleService, instance: &Registration) -> serde_json::Value {
    serde_json::json!({
        "ID": instance.id,
        "Name": service.name,
        "Address": "127.0.0.1",
        "Port": instance.port,
        "Tags": service.tags(),
        "Check": {
            "Name": "answers",
            "HTTP": format!("http://127.0.0.1:{}{HEALTH_PATH}", instance.port),
            "Interval": "1s",
            "Timeout": "1s",
        },
    })
}

fn client(certificates: &Certificates) -> anyhow::Result<Client> {
    let shown = &certificates.client;
    let trust = Trust {
        ca_file: Some(&certificates.ca_file),
        pair: Some((&shown.cert_file, &shown.key_file)),
        ..Trust::default()
    };
    Ok(Client::new(&*trust.client_config()?, None)?)
}
