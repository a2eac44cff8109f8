//! Vault for tests: a stand-in written from the documented HTTP API, and the real one where there
//! is a binary.
//!
//! Both take the same writes, so that a test says once what it wants of them.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::certs::Ca;
use super::wait::wait_until;
use super::web::{Answer, Asked, WebServer};

/// The token that may do anything.
pub const ROOT: &str = "root-token-of-a-test";

/// A Vault, with KV engines `secret/` (version 2) and `kv/` (version 1), and a CA at `pki/` with
/// the role `lb` for names below `test`.
pub struct Vault {
    pub url: String,
    kind: Kind,
}

enum Kind {
    StandIn(WebServer, Arc<StandIn>),
    Real(Child),
}

/// What the stand-in knows.
pub struct StandIn {
    ca: Ca,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By path, as in the API.
    entries: BTreeMap<String, Value>,
    tokens: BTreeSet<String>,
    /// Wrapping token and what is inside.
    wrapped: BTreeMap<String, String>,
    renewals: u64,
    /// A sealed Vault responds with 503.
    sealed: bool,
}

/// Where Vault or OpenBao is, if there is one; else says on standard error that the test is
/// skipped.
pub fn find(test: &str) -> Option<PathBuf> {
    let named = ["VAULT_BIN", "BAO_BIN"]
        .into_iter()
        .filter_map(env::var_os)
        .map(PathBuf::from);
    let runs = |program: &PathBuf| {
        Command::new(program)
            .arg("version")
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let found = named.chain(["vault", "bao"].map(PathBuf::from)).find(runs);
    if found.is_none() {
        // Not by `eprintln`, which is captured where a test passes.
        let what = "`vault` or `bao` (on PATH, or in VAULT_BIN or BAO_BIN)";
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {what}");
    }
    found
}

impl Vault {
    /// The stand-in.
    pub fn stand_in() -> Self {
        let stand_in = Arc::new(StandIn {
            ca: Ca::new("vault"),
            state: Mutex::default(),
        });
        stand_in
            .state
            .lock()
            .unwrap()
            .tokens
            .insert(ROOT.to_owned());
        let answering = Arc::clone(&stand_in);
        let server = WebServer::start(move |asked| answering.answer(asked));
        Self {
            url: format!("http://{}", server.address),
            kind: Kind::StandIn(server, stand_in),
        }
    }

    /// A real one in its development mode, in memory.
    pub fn real(binary: PathBuf) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(binary)
            .args([
                "server",
                "-dev",
                "-dev-no-store-token",
                "-dev-root-token-id",
                ROOT,
            ])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("vault");
        let vault = Self {
            url: format!("http://127.0.0.1:{port}"),
            kind: Kind::Real(child),
        };
        wait_until(format!("Vault at {}", vault.url), || {
            let health = vault.try_call("GET", "sys/health", None);
            health.is_some_and(|(status, _)| status == 200)
        });
        vault.write(
            "sys/mounts/kv",
            &json!({ "type": "kv", "options": { "version": "1" } }),
        );
        vault.write("sys/mounts/pki", &json!({ "type": "pki" }));
        vault.write(
            "pki/root/generate/internal",
            &json!({ "common_name": "vault", "ttl": "24h" }),
        );
        let role = json!({ "allowed_domains": ["test"], "allow_subdomains": true, "key_type": "ec", "key_bits": 256,
            "max_ttl": "12h" });
        vault.write("pki/roles/lb", &role);
        vault
    }

    /// Writes, and returns the response.
    pub fn write(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.try_call("POST", path, Some(body)).expect("a response");
        assert!(matches!(status, 200 | 204), "POST {path}: {status} {text}");
        if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap()
        }
    }

    /// A certificate's text of the CA at `pki/`.
    pub fn ca_pem(&self) -> String {
        let (status, text) = self
            .try_call("GET", "pki/ca/pem", None)
            .expect("a response");
        assert_eq!(status, 200, "{text}");
        text
    }

    fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, String)> {
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
        curl.args(["-H", &format!("X-Vault-Token: {ROOT}")]);
        if let Some(body) = body {
            curl.args([
                "-H",
                "Content-Type: application/json",
                "--data-binary",
                &body.to_string(),
            ]);
        }
        let output = curl
            .arg(format!("{}/v1/{path}", self.url))
            .output()
            .expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n')?;
        Some((
            code.parse().ok().filter(|_| output.status.success())?,
            body.to_owned(),
        ))
    }

    /// The stand-in's knowledge.
    pub fn inside(&self) -> &StandIn {
        match &self.kind {
            Kind::StandIn(_, inside) => inside,
            Kind::Real(_) => panic!("a real Vault tells nothing of itself"),
        }
    }

    /// The requests that the stand-in got.
    pub fn seen(&self) -> Vec<Asked> {
        match &self.kind {
            Kind::StandIn(server, _) => server.seen(),
            Kind::Real(_) => Vec::new(),
        }
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Kind::Real(child) = &mut self.kind {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl StandIn {
    /// Wraps a token.
    pub fn wrap(&self, wrapping: &str, inside: &str) {
        self.state
            .lock()
            .unwrap()
            .wrapped
            .insert(wrapping.to_owned(), inside.to_owned());
    }

    /// How often a token was renewed.
    pub fn renewals(&self) -> u64 {
        self.state.lock().unwrap().renewals
    }

    /// Seals it: it responds with nothing but 503.
    pub fn seal(&self, sealed: bool) {
        self.state.lock().unwrap().sealed = sealed;
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let (status, body) = self.json(asked);
        match body {
            Value::Null => (status, Vec::new()),
            Value::String(text) => (status, text.into_bytes()),
            body => (status, body.to_string().into_bytes()),
        }
    }

    fn json(&self, asked: &Asked) -> (u16, Value) {
        let refused = |status, words: &str| (status, json!({ "errors": [words] }));
        let mut state = self.state.lock().unwrap();
        if state.sealed {
            return refused(503, "Vault is sealed");
        }
        let target = asked.target.strip_prefix("/v1/").unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let token = asked.header("x-vault-token").unwrap_or_default().to_owned();
        if path == "sys/wrapping/unwrap" {
            return match state.wrapped.remove(&token) {
                Some(inside) => {
                    state.tokens.insert(inside.clone());
                    (200, json!({ "auth": { "client_token": inside } }))
                }
                None => refused(400, "wrapping token is not valid or does not exist"),
            };
        }
        if !state.tokens.contains(&token) {
            return refused(403, "permission denied");
        }
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let mount = |at: &str, version: &str| json!({ "data": { "path": at, "type": "kv", "options": { "version": version } } });
        match (&*asked.method, path) {
            ("GET", "auth/token/lookup-self") if token == ROOT => {
                (200, json!({ "data": { "ttl": 0 } }))
            }
            ("GET", "auth/token/lookup-self") => (
                200,
                json!({ "data": { "ttl": 1, "creation_ttl": 1, "renewable": true } }),
            ),
            ("POST", "auth/token/renew-self") => {
                state.renewals += 1;
                (
                    200,
                    json!({ "auth": { "renewable": true, "lease_duration": 1 } }),
                )
            }
            ("GET", path) if path.starts_with("sys/internal/ui/mounts/secret/") => {
                (200, mount("secret/", "2"))
            }
            ("GET", path) if path.starts_with("sys/internal/ui/mounts/kv/") => {
                (200, mount("kv/", "1"))
            }
            ("GET", "pki/ca/pem") => (200, Value::String(self.ca.pem.clone())),
            ("POST", "pki/issue/lb") => {
                let name = body["common_name"].as_str().unwrap_or_default();
                if !name.ends_with(".test") {
                    return refused(400, "common name not allowed by this role");
                }
                let pair = self.ca.pair(&[name]);
                let data = json!({ "certificate": pair.cert_pem, "issuing_ca": self.ca.pem, "private_key": pair.key_pem });
                (200, json!({ "data": data }))
            }
            ("POST", path) => {
                state.entries.insert(path.to_owned(), body);
                (204, Value::Null)
            }
            ("GET", path) if query == "list=true" => {
                let folder = format!("{}/", path.replace("secret/metadata/", "secret/data/"));
                let keys: Vec<&str> = state
                    .entries
                    .keys()
                    .filter_map(|key| key.strip_prefix(&*folder))
                    .collect();
                if keys.is_empty() {
                    refused(404, "")
                } else {
                    (200, json!({ "data": { "keys": keys } }))
                }
            }
            ("GET", path) => match state.entries.get(path) {
                Some(entry) => (200, json!({ "data": entry })),
                None => refused(404, ""),
            },
            _ => refused(405, "unsupported operation"),
        }
    }
}
