//! A stand-in for an agent, over plain HTTP/1.1, for what a real one cannot be made to do on
//! demand. It knows the paths that watches read, blocks as Consul does, and can be told to
//! misbehave.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// What goes wrong, with every response until it is set back.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// `X-Consul-Index: 0`.
    IndexZero,
    /// No index at all.
    NoIndex,
    /// A 200 whose JSON ends in the middle.
    Truncated,
    /// Requests are read and get no response.
    Hang,
    /// This status, with `Retry-After` in seconds if given; and with the misleading
    /// `X-Consul-Index: 1` of Consul 1.8.
    Status(u16, Option<u64>),
    /// 200 and nothing, from any server; the leader knows better.
    EmptyUnlessDefault,
    /// 200 and nothing, for any service; `consul` is not listed.
    Empty,
    /// `consul` is not listed, and neither is the service of this name, as for a token for some
    /// services only.
    Without(String),
    /// Health responses are empty, the list is whole.
    EmptyHealth,
    /// Stale responses say so: last contact in ms, and known leader. Default reads fail with 500.
    Leaderless(u64),
    /// Stale responses are this old (ms); default reads get none.
    FrozenLeader(u64),
    /// Stale responses are this old (ms), and empty; default reads are right.
    Old(u64),
}

/// What a token may not see, and what tells so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acl {
    /// Services that are left out of lists and have no instances.
    pub hidden: BTreeSet<String>,
    /// Responses that something was left out of say so, as those of Consul 1.11.
    pub header: bool,
    /// Configuration entries of these services are refused, those of others are not there, as in
    /// Consul 1.5; else there are no such paths.
    pub entries: bool,
    /// The response at `/v1/acl/token/self`; none: there is no such path.
    pub token: Option<(u16, &'static str)>,
}

impl Acl {
    /// Hides these services.
    pub fn hiding(names: &[&str]) -> Self {
        Self {
            hidden: names.iter().map(|&name| name.to_owned()).collect(),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    index: u64,
    services: BTreeMap<String, Vec<u16>>,
    /// Tags of services that have others than the usual one.
    tags: BTreeMap<String, Vec<String>>,
    critical: BTreeSet<String>,
    /// The KV store.
    keys: BTreeMap<String, String>,
    broken: HashMap<String, Fault>,
    fault: Fault,
    acl: Option<Acl>,
    /// How often a snapshot was restored, and what was before.
    restored: Option<(u32, Box<State>)>,
}

/// The stand-in. Ends with its handle.
pub struct FakeConsul {
    /// Where it listens.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    requests: Arc<Mutex<Vec<String>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// What stands before the paths of requests, if anything does: as if a proxy took it away.
pub const PREFIX: &str = "/behind/a/proxy";

impl FakeConsul {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = watch::Sender::new(State {
            index: 100,
            ..State::default()
        });
        let (requests, authorizations) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(Mutex::new(Vec::new())),
        );
        let task = tokio::spawn(accept(
            listener,
            state.clone(),
            requests.clone(),
            authorizations.clone(),
        ));
        Self {
            address,
            state,
            requests,
            authorizations,
            task,
        }
    }

    /// Ends as a killed agent does: connections break, and new ones are refused.
    pub async fn down(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Listens again where it did before.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the same port");
        let (requests, authorizations) = (self.requests.clone(), self.authorizations.clone());
        self.task = tokio::spawn(accept(
            listener,
            self.state.clone(),
            requests,
            authorizations,
        ));
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets a service to instances on these ports, and raises the index.
    pub fn set(&self, service: &str, ports: &[u16]) {
        self.state.send_modify(|state| {
            state.services.insert(service.to_owned(), ports.to_vec());
            state.index += 1;
        });
    }

    /// Gives a service these tags in place of the usual one.
    pub fn set_tags(&self, service: &str, tags: &[String]) {
        self.state.send_modify(|state| {
            state.tags.insert(service.to_owned(), tags.to_vec());
            state.index += 1;
        });
    }

    /// The node check of this service's instances turns critical: registered, but sick.
    pub fn set_critical(&self, service: &str) {
        self.state.send_modify(|state| {
            state.critical.insert(service.to_owned());
            state.index += 1;
        });
    }

    /// Removes a service.
    pub fn remove(&self, service: &str) {
        self.state.send_modify(|state| {
            state.services.remove(service);
            state.index += 1;
        });
    }

    /// Misbehaves at requests for keys.
    pub fn break_keys(&self, fault: Fault) {
        self.break_service("/v1/kv/", fault);
    }

    /// Sets a key of the KV store.
    pub fn set_key(&self, key: &str, value: &str) {
        self.state.send_modify(|state| {
            state.keys.insert(key.to_owned(), value.to_owned());
            state.index += 1;
        });
    }

    /// Misbehaves from now on; blocked queries end that way too.
    pub fn fault(&self, fault: Fault) {
        self.state.send_modify(|state| {
            state.fault = fault;
            state.index += 1;
        });
    }

    /// From now on the token is one with these rights; blocked queries end.
    pub fn set_acl(&self, acl: Acl) {
        self.state.send_modify(|state| {
            state.acl = Some(acl);
            state.index += 1;
        });
    }

    /// Misbehaves at requests for the instances of this service.
    pub fn break_service(&self, service: &str, fault: Fault) {
        self.state.send_modify(|state| {
            state.broken.insert(service.to_owned(), fault);
            state.index += 1;
        });
    }

    /// Sets the index, and a service in the same moment, without waking what blocks on a higher
    /// one.
    pub fn turn_back(&self, index: u64, service: &str, ports: &[u16]) {
        self.state.send_modify(|state| {
            state.services.insert(service.to_owned(), ports.to_vec());
            state.index = index;
        });
    }

    /// Restores a snapshot: every blocked query returns what it waited for unchanged, index and
    /// all, and only then is this the present state, with a lower index.
    pub fn restore(&self, index: u64, service: &str, ports: &[u16]) {
        let old = self.state.borrow().clone();
        self.state.send_modify(|state| {
            state.services.insert(service.to_owned(), ports.to_vec());
            state.index = index;
            state.restored = Some((
                state.restored.take().map_or(1, |(times, _)| times + 1),
                Box::new(old),
            ));
        });
    }

    /// `Authorization` of all requests so far; empty where a request had none.
    pub fn authorizations(&self) -> Vec<String> {
        self.authorizations.lock().expect("lock").clone()
    }

    /// Path and query of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("lock").clone()
    }
}

impl Drop for FakeConsul {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    state: watch::Sender<State>,
    requests: Arc<Mutex<Vec<String>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
) {
    // They end with the listener.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (state, requests, authorizations) =
            (state.clone(), requests.clone(), authorizations.clone());
        connections.spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let auth = request
                    .headers()
                    .get("authorization")
                    .and_then(|value| value.to_str().ok());
                authorizations
                    .lock()
                    .expect("lock")
                    .push(auth.unwrap_or_default().to_owned());
                requests
                    .lock()
                    .expect("lock")
                    .push(request.uri().to_string());
                let behind = request
                    .uri()
                    .to_string()
                    .strip_prefix(PREFIX)
                    .map(|rest| rest.parse().expect("a path"));
                if let Some(uri) = behind {
                    *request.uri_mut() = uri;
                }
                answer(request, state.subscribe())
            });
            // A client that goes away ends its connection with an error that is not a fault.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    mut state: watch::Receiver<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query: HashMap<_, _> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let stale = query.contains_key("stale");
    let index: u64 = query
        .get("index")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let wait = query
        .get("wait")
        .and_then(|text| text.strip_suffix("ms"))
        .and_then(|text| text.parse().ok());
    let wait = Duration::from_millis(wait.unwrap_or(0));
    if index > 0 {
        let times = |state: &State| state.restored.as_ref().map_or(0, |(times, _)| *times);
        let before = times(&state.borrow());
        let woken = timeout(
            wait,
            state.wait_for(|state| state.index > index || times(state) > before),
        )
        .await;
        if let Ok(Ok(now)) = woken
            && times(&now) > before
            && let Some((_, old)) = &now.restored
        {
            return Ok(respond(old, request.uri().path(), stale));
        }
    }
    let service = request.uri().path().strip_prefix("/v1/health/service/");
    let mut now = state.borrow().clone();
    if let Some(fault) = service.and_then(|name| now.broken.get(name)) {
        now.fault = fault.clone();
    }
    if let Some(prefix) = request.uri().path().strip_prefix("/v1/kv/") {
        if let Some(fault) = now.broken.get("/v1/kv/") {
            now.fault = fault.clone();
        }
        match &now.fault {
            Fault::Empty => {
                return Ok(keys(
                    &State {
                        keys: BTreeMap::new(),
                        ..now
                    },
                    prefix,
                ));
            }
            Fault::EmptyUnlessDefault if stale => {
                return Ok(keys(
                    &State {
                        keys: BTreeMap::new(),
                        ..now
                    },
                    prefix,
                ));
            }
            Fault::NoIndex => {
                let nothing = Response::builder()
                    .status(404)
                    .body(Full::new(Bytes::from("404 page not found")));
                return Ok(nothing.expect("a valid response"));
            }
            Fault::None | Fault::EmptyUnlessDefault => return Ok(keys(&now, prefix)),
            _ => {}
        }
    }
    if let Some(acl) = &now.acl
        && let Some(answer) = of_rights(acl, request.uri().path())
    {
        return Ok(answer);
    }
    if now.fault == Fault::Hang || matches!(now.fault, Fault::FrozenLeader(_)) && !stale {
        std::future::pending::<()>().await;
    }
    Ok(respond(&now, request.uri().path(), stale))
}

/// What tells of rights; none: the path has nothing to do with them.
fn of_rights(acl: &Acl, path: &str) -> Option<Response<Full<Bytes>>> {
    let (status, text) = match path.strip_prefix("/v1/config/service-defaults/") {
        Some(_) if !acl.entries => (404, "404 page not found".to_owned()),
        Some(name) if acl.hidden.contains(name) => (403, "Permission denied".to_owned()),
        Some(name) => (
            404,
            format!("Config entry not found for \"service-defaults\" / \"{name}\""),
        ),
        None if path == "/v1/acl/token/self" => {
            let (status, text) = acl.token.unwrap_or((404, ""));
            (status, text.to_owned())
        }
        None if path.starts_with("/v1/coordinate/") => (404, "404 page not found".to_owned()),
        None => return None,
    };
    Some(
        Response::builder()
            .status(status)
            .body(Full::new(Bytes::from(text)))
            .expect("a valid response"),
    )
}

fn respond(state: &State, path: &str, stale: bool) -> Response<Full<Bytes>> {
    let service = path.strip_prefix("/v1/health/service/");
    let hidden = match state.fault {
        Fault::Empty => true,
        Fault::EmptyUnlessDefault | Fault::Old(_) => stale,
        Fault::EmptyHealth => service.is_some(),
        _ => false,
    };
    let body = match service {
        _ if hidden => {
            if path != "/v1/catalog/services" {
                json!([])
            } else {
                json!({})
            }
        }
        Some(name) if is_hidden(state, name) => json!([]),
        Some(name) => {
            let check = if state.critical.contains(name) {
                "critical"
            } else {
                "passing"
            };
            health(
                name,
                state.services.get(name).map_or(&[], Vec::as_slice),
                check,
                &tags(state, name),
            )
        }
        None if path.starts_with("/v1/health/state/") => checks(state, path.ends_with("/critical")),
        None if path == "/v1/catalog/nodes" => json!([{"Node": "fake"}]),
        None if path.starts_with("/v1/catalog/node/") => node(state),
        None => list(state),
    };
    let mut text = body.to_string();
    if state.fault == Fault::Truncated {
        text.truncate(text.len() / 2 + 1);
    }
    let mut response = Response::builder()
        .header("X-Consul-KnownLeader", "true")
        .header("X-Consul-LastContact", "0");
    response = match state.fault {
        Fault::IndexZero => response.header("X-Consul-Index", "0"),
        Fault::NoIndex => response,
        _ => response.header("X-Consul-Index", state.index.to_string()),
    };
    let left_out = match service {
        Some(name) => state.services.contains_key(name) && is_hidden(state, name),
        None => state
            .services
            .keys()
            .map(String::as_str)
            .chain(["consul"])
            .any(|name| is_hidden(state, name)),
    };
    if left_out && state.acl.as_ref().is_some_and(|acl| acl.header) {
        response = response.header("X-Consul-Results-Filtered-By-ACLs", "true");
    }
    match state.fault {
        Fault::Status(code, after) => {
            response = Response::builder()
                .status(code)
                .header("X-Consul-Index", "1")
                .header("X-Consul-KnownLeader", "false");
            if let Some(after) = after {
                response = response.header("Retry-After", after.to_string());
            }
            text = "a fault on purpose".to_owned();
        }
        Fault::Leaderless(_) if !stale => {
            response = Response::builder()
                .status(500)
                .header("X-Consul-Index", "1");
            text = "No cluster leader".to_owned();
        }
        Fault::Leaderless(age) => {
            response = Response::builder()
                .header("X-Consul-KnownLeader", "false")
                .header("X-Consul-LastContact", age.to_string())
                .header("X-Consul-Index", state.index.to_string());
        }
        Fault::Old(age) | Fault::FrozenLeader(age) if stale => {
            response = Response::builder()
                .header("X-Consul-KnownLeader", "true")
                .header("X-Consul-LastContact", age.to_string())
                .header("X-Consul-Index", state.index.to_string());
        }
        _ => {}
    }
    response
        .body(Full::new(Bytes::from(text)))
        .expect("a valid response")
}

/// The keys that begin with `prefix`, as in a recursive read; none: 404.
fn keys(state: &State, prefix: &str) -> Response<Full<Bytes>> {
    let found = state.keys.iter().filter(|(key, _)| key.starts_with(prefix));
    let found: Vec<Value> = found
        .map(|(key, value)| json!({"Key": key, "Value": BASE64_STANDARD.encode(value)}))
        .collect();
    let response = Response::builder().header("X-Consul-Index", state.index.to_string());
    let response = if found.is_empty() {
        response.status(404)
    } else {
        response
    };
    let body = if found.is_empty() {
        String::new()
    } else {
        Value::Array(found).to_string()
    };
    response
        .body(Full::new(Bytes::from(body)))
        .expect("a valid response")
}

/// Checks in a state: those that are critical, or none.
fn checks(state: &State, critical: bool) -> Value {
    let names = state.critical.iter().filter(|_| critical);
    let check = |name: &String| json!({"Node": "fake", "CheckID": format!("service:{name}"), "ServiceName": name});
    Value::Array(names.map(check).collect())
}

/// What the only node has. Its versions are made of the ports.
fn node(state: &State) -> Value {
    let instances = state
        .services
        .iter()
        .flat_map(|(name, ports)| ports.iter().map(move |port| (name, port)));
    let service = |(name, port): (&String, &u16)| {
        (
            format!("{name}-{port}"),
            json!({"Service": name, "ModifyIndex": port}),
        )
    };
    json!({"Node": {"Node": "fake"}, "Services": instances.map(service).collect::<serde_json::Map<_, _>>()})
}

fn is_hidden(state: &State, service: &str) -> bool {
    state
        .acl
        .as_ref()
        .is_some_and(|acl| acl.hidden.contains(service))
}

fn list(state: &State) -> Value {
    let mut list = json!({});
    let hidden = if let Fault::Without(name) = &state.fault {
        Some(name)
    } else {
        None
    };
    if hidden.is_none() && !is_hidden(state, "consul") {
        list["consul"] = json!([]);
    }
    for name in state
        .services
        .keys()
        .filter(|name| Some(*name) != hidden && !is_hidden(state, name))
    {
        list[name] = json!(tags(state, name));
    }
    list
}

/// Tags of the instances of a service.
fn tags(state: &State, name: &str) -> Vec<String> {
    let usual = || vec![format!("urlprefix-/{name}")];
    state.tags.get(name).cloned().unwrap_or_else(usual)
}

fn health(name: &str, ports: &[u16], check: &str, tags: &[String]) -> Value {
    let entries = ports.iter().map(|port| {
        json!({
            "Node": {"Node": "fake", "Address": "127.0.0.1"},
            "Service": {"ID": format!("{name}-{port}"), "Service": name, "Address": "", "Port": port,
                "Tags": tags, "Weights": {"Passing": 1, "Warning": 1}},
            "Checks": [{"CheckID": "serfHealth", "Status": check, "ServiceID": ""},
                {"CheckID": format!("service:{name}-{port}"), "Status": check, "ServiceID": format!("{name}-{port}")}],
        })
    });
    Value::Array(entries.collect())
}
